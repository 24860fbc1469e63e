"""From the log of a ward to a policy, judged from the log alone, then checked exactly. This is no medical advice.

    pip install --no-deps icu-sepsis==2.0.1
    python examples/icu_sepsis.py            # with the extra onnx

The patients are those of ICU-Sepsis (Choudhary et al., 2024, MIT license): a Markov decision process of 716 states, estimated from
intensive care records, together with the clinicians' policy. Here it is only what writes the log, and what checks the result: the
agents see a table with one row every four hours, 47 standardized measurements, two doses in words, and whether the patient survived.
Since the process is known, the survival under a policy without memory is computed exactly; agents with a memory are simulated, with a 95 %
interval. Neither is possible in a real ward, and that a policy does well in this model says nothing about patients.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import jobs
import numpy as np
import pandas as pd

from hf_seqrl import (
    Agent,
    Constrained,
    ExportedActor,
    Runner,
    evaluate_offline,
    judge_offline,
    load_trajectories,
)
from hf_seqrl.models.actor import Actor

DOSES = ["none", "low", "medium", "high", "highest"]
SURVIVED_FROM_LOG = 1.0  # the return to ask for
WEIGHTED = "cloning weighted by a critic"


class Ward:
    """The Markov decision process: who is admitted, what becomes of them, what clinicians give.

    Args:
        path: The file `dynamics.npz` of the package icu_sepsis.
    """

    def __init__(self, path: Path) -> None:
        data = np.load(path)
        self.transitions, self.rewards = data["tx_mat"], data["r_mat"]  # (states, 25, states)
        self.admissions, self.clinicians = data["d_0"], data["expert_policy"]  # (states,), (states, 25)
        self.measurements = data["state_cluster_centers"].astype(np.float32)  # (states, 47)
        stays = np.einsum("sas->s", self.transitions) >= self.transitions.shape[1] - 1e-6
        leaves = self.transitions[:, :, stays].sum((1, 2))
        self.ended = leaves >= self.transitions.shape[1] - 1e-6  # discharged or dead: nothing follows

    def survival(self, policy: np.ndarray) -> float:
        """The probability to survive under a policy `(states, 25)` of probabilities."""
        living = ~self.ended
        step = np.einsum("sa,sat->st", policy, self.transitions)[np.ix_(living, living)]
        reward = np.einsum("sa,sat,sat->s", policy, self.transitions, self.rewards)[living]
        values = np.linalg.solve(np.eye(living.sum()) - step, reward)
        return float(self.admissions[living] @ values)

    def best(self, rounds: int = 1000) -> float:
        """The survival under the best policy, which needs the process."""
        values = np.zeros(len(self.admissions))
        for _ in range(rounds):
            values = np.where(self.ended, 0.0, (self.transitions * (self.rewards + values)).sum(-1).max(1))
        return float(self.admissions @ values)

    def admit(self, patients: int, rng: np.random.Generator) -> np.ndarray:
        return rng.choice(len(self.admissions), patients, p=self.admissions)

    def treat(self, states: np.ndarray, doses: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The next states and the rewards `(patients,)`."""
        reached = self.transitions[states, doses].cumsum(-1)
        following = (reached < rng.random((len(states), 1)) * reached[:, -1:]).sum(-1)
        return following, self.rewards[states, doses, following]


def write_log(ward: Ward, patients: int, seed: int) -> pd.DataFrame:
    """What the clinicians did to so many patients: one row every four hours."""
    rng = np.random.default_rng(seed)
    states, names, rows, hour = ward.admit(patients, rng), np.arange(patients), [], 0
    while len(states):
        drawn = ward.clinicians[states].cumsum(-1)
        doses = (drawn < rng.random((len(states), 1)) * drawn[:, -1:]).sum(-1)
        following, rewards = ward.treat(states, doses, rng)
        ended = ward.ended[following]
        table = pd.DataFrame(ward.measurements[states], columns=columns_of(ward))
        table["fluids"], table["vasopressors"] = ([DOSES[dose] for dose in part] for part in divmod(doses, 5))
        table["patient"], table["hour"], table["survived"], table["ended"] = names, hour, rewards, ended
        rows.append(table)
        states, names, hour = following[~ended], names[~ended], hour + 4
    return pd.concat(rows)


def columns_of(ward: Ward) -> list[str]:
    return [f"measured_{i:02d}" for i in range(ward.measurements.shape[1])]


def doses_of(agent, words: np.ndarray) -> np.ndarray:
    """The number 0 to 24 of actions in codes `(n, 2)`, by the words that the codes stand for."""
    categories = agent.task.categories
    places = [np.array([DOSES.index(word) for word in categories[name]]) for name in ("fluids", "vasopressors")]
    return places[0][words[:, 0]] * 5 + places[1][words[:, 1]]


def exact_survival(ward: Ward, actor: Actor) -> float:
    """Of an agent without memory that takes the likeliest action of each state."""
    actor.reset(len(ward.admissions))
    policy = np.zeros_like(ward.clinicians)
    policy[np.arange(len(policy)), doses_of(actor, actor.act(ward.measurements))] = 1.0
    return ward.survival(policy)


def simulated_survival(ward: Ward, agent, patients: int, target: float | None, seed: int) -> tuple[float, float]:
    """The share of patients that survive, and the half width of its 95 % interval."""
    rng = np.random.default_rng(seed)
    states, total = ward.admit(patients, rng), 0.0
    agent.reset(patients, target_return=target, seed=seed)
    while len(states):
        doses = doses_of(agent, agent.act(ward.measurements[states]))
        states, rewards = ward.treat(states, doses, rng)
        total += rewards.sum()
        agent.observe(rewards, np.zeros(len(states), bool))
        goes_on = np.flatnonzero(~ward.ended[states])
        states = states[goes_on]
        if len(states):
            agent.select(goes_on)
    share = total / patients
    return share, 1.96 * np.sqrt(share * (1 - share) / patients)


def only_what_clinicians_give(ward: Ward, agent: Agent):
    """A rule: doses that no clinician gives in this state are replaced with those that most give there."""
    order = [[agent.actor.task.categories[name].index(dose) for dose in DOSES] for name in ("fluids", "vasopressors")]
    known = {row.tobytes(): state for state, row in enumerate(ward.measurements)}

    def usual_doses(actions, observations, previous):
        states = np.array([known[row.astype(np.float32).tobytes()] for row in observations])
        unusual = ward.clinicians[states, doses_of(agent.actor, actions)] <= 0
        most = ward.clinicians[states].argmax(-1)
        usual = np.stack([np.take(order[0], most // 5), np.take(order[1], most % 5)], axis=-1)
        return np.where(unusual[:, None], usual, actions)

    return usual_doses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dynamics", help="dynamics.npz of icu_sepsis (default: of the installed package)")
    parser.add_argument("--patients", type=int, default=5000, help="in the log")
    parser.add_argument("--simulated", type=int, default=5000, help="patients of the check of agents with a memory")
    parser.add_argument("--updates", type=int, help="default: those of each family")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each agent")
    parser.add_argument("--output_dir", default="outputs/icu-sepsis")
    options = parser.parse_args()
    ward, folder = Ward(_dynamics(options.dynamics)), Path(options.output_dir)
    log = write_log(ward, options.patients, seed=0)
    folder.mkdir(parents=True, exist_ok=True)
    log.to_parquet(folder / "log.parquet", index=False)
    dataset = load_trajectories(
        folder / "log.parquet",
        episode="patient",
        step="hour",
        observation=columns_of(ward),
        action=["fluids", "vasopressors"],
        reward="survived",
        termination="ended",
    ).train_test_split(0.1, seed=0)
    print(f"{options.patients} patients, {len(log)} rows; {log.survived.sum() / options.patients:.3f} survived")

    found: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        place = folder / f"seed-{seed}"
        jobs.train("critic", dataset["train"], place / "critic", options.updates, seed, discount=1.0)
        recipes = {
            "cloning all": {"weighting": "none"},
            "cloning those who survived": {"min_return": SURVIVED_FROM_LOG},
            WEIGHTED: {"weighting": "none", "critic": str(place / "critic"), "advantage_beta": 3.0},
        }
        for name, recipe in recipes.items():
            agent = jobs.train(
                "cloning", dataset["train"], place / name.replace(" ", "-"), options.updates, seed, **recipe
            )
            found.setdefault(name, []).append(exact_survival(ward, agent.actor))
            guarded = Constrained(agent, only_what_clinicians_give(ward, agent))
            share, _ = simulated_survival(ward, guarded, options.simulated, None, seed)
            found.setdefault(f"{name}, only usual doses (simulated)", []).append(share)
        sequence = jobs.train("decision-transformer", dataset["train"], place / "dt", options.updates, seed)
        name = "Decision Transformer asked for survival (simulated)"
        share, _ = simulated_survival(ward, sequence.actor, options.simulated, SURVIVED_FROM_LOG, seed)
        found.setdefault(name, []).append(share)
    print(judge_offline(sequence, dataset["test"]).table())
    weighted = Agent.from_pretrained(folder / "seed-0" / WEIGHTED.replace(" ", "-"))
    print(evaluate_offline(weighted, dataset["test"]).report())

    width = 1.96 * np.sqrt(0.78 * 0.22 / options.simulated)
    even = np.full_like(ward.clinicians, 1 / 25)
    print("\n| policy | survival | of each training |\n| --- | ---: | --- |")
    for name, value in (("clinicians", ward.clinicians), ("any dose at random", even), ("best possible", None)):
        print(f"| {name} | {ward.best() if value is None else ward.survival(value):.3f} | |")
    for name, values in found.items():
        print(f"| {name} | {np.mean(values):.3f} | {', '.join(f'{value:.3f}' for value in values)} |")
    print(f"Exact, but for the simulated ones: 95 % interval +-{width:.3f} each.")
    exported = weighted.export(folder / "onnx", overwrite=True)
    print(f"{WEIGHTED}, exported: {exact_survival(ward, ExportedActor(exported)):.3f}; one patient:")
    treat_one_patient(ward, Runner(exported))


def treat_one_patient(ward: Ward, runner: Runner) -> None:
    """What a ward would see of it: measurements by name in, doses in words out."""
    rng = np.random.default_rng(1)
    runner.begin()
    state = ward.admit(1, rng)
    while not ward.ended[state[0]]:
        doses = runner.step(dict(zip(columns_of(ward), ward.measurements[state[0]].tolist())))
        print(f"hour {4 * runner.timestep:3d}: fluids {doses['fluids']}, vasopressors {doses['vasopressors']}")
        given = DOSES.index(doses["fluids"]) * 5 + DOSES.index(doses["vasopressors"])
        state, rewards = ward.treat(state, np.array([given]), rng)
        runner.observe(reward=float(rewards[0]))
    print("survived" if rewards[0] else "died")


def _dynamics(path: str | None) -> Path:
    if path is not None:
        return Path(path)
    package = find_spec("icu_sepsis")
    if package is None or package.origin is None:
        raise SystemExit("The ward is not installed: pip install --no-deps icu-sepsis==2.0.1")
    return Path(package.origin).parent / "envs" / "assets" / "dynamics.npz"


if __name__ == "__main__":
    main()
