"""How good are estimates without a simulator? Agents of different quality whose true values are known, judged from recorded
episodes.

    python benchmarks/off_policy_evaluation.py bicycle icu-sepsis --replicates 20
    python benchmarks/off_policy_evaluation.py cartpole pendulum
    python benchmarks/off_policy_evaluation.py hopper --hopper_medium_replay data/hopper-medium-replay

The values are exact on the bicycle and on ICU-Sepsis (`pip install --no-deps icu-sepsis`: only its tables are read), by dynamic programming; elsewhere they
are means of `TRUTH_EPISODES` rollouts. Every replicate is a data set of its own, drawn by the policy behind the data, that no
agent was made from. For each method: the share of agents that it gives a number for; the mean absolute error, in ranges of
the agents' true values; Spearman's rank correlation of the estimates with the values; how much is lost by taking the agent that
looks best (regret, in the same ranges); how often the 95 % interval holds the value, for agents near the policy behind the data
and for others; and how often a verdict (better or worse than the data) is wrong. The results are written to
`results/off_policy_evaluation.json`.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
from off_policy_controllers import cartpole, hopper, pendulum
from off_policy_worlds import bicycle, icu_sepsis, policies_of

from hf_seqrl import evaluate_offline, rollout, stochastic
from hf_seqrl.evaluation.offline import MAX_UNSUPPORTED

RESULTS = Path(__file__).parent / "results" / "off_policy_evaluation.json"
TRUTH_EPISODES = 200
METHODS = ("fqe", "wdr", "dr", "wis", "pdis")
NOTHING_REFUSED = "fqe, nothing refused"


def tabular(world, replicates, first_seed, **options):
    """Truths, which agents are near the policy behind the data, and the evaluations of each replicate."""
    policies = policies_of(world)
    truths = {name: world.values(policy)[1] for name, (policy, _) in policies.items()}
    near = {name: is_near for name, (_, is_near) in policies.items()}
    behavior = world.values(world.behavior)[1]
    runs, num_episodes = [], options.pop("num_episodes")
    for replicate in range(replicates):
        dataset = world.episodes(num_episodes, seed=first_seed + replicate)
        agents = {
            name: stochastic(lambda seen, policy=policy: policy[world.state_of(seen)])
            for name, (policy, _) in policies.items()
        }
        runs.append(judged(agents, dataset, seed=replicate, discount=1.0, **options))
        print(f"replicate {replicate + 1} of {replicates}", flush=True)
    return truths, near, behavior, runs


def judged(agents, dataset, **options):
    return {name: evaluate_offline(agent, dataset, **options) for name, agent in agents.items()}


def rolled_out(setting, methods):
    """As `tabular`, with values by rollouts. Nothing is refused for hardly known actions: `figures_of` does that."""
    options = {"max_unsupported": 1.0, "methods": methods, **setting.options}
    value = lambda policy: mean_return(policy, setting.env_id, options["discount"])  # noqa: E731
    truths = {name: value(agent) for name, agent in setting.agents.items()}
    print({name: round(truth, 2) for name, truth in truths.items()}, flush=True)
    runs = []
    for replicate, dataset in enumerate(setting.datasets):
        runs.append({})
        for name, agent in setting.agents.items():
            began = time.process_time()
            runs[-1][name] = found = evaluate_offline(agent, dataset, seed=replicate, **options)
            known = f"{100 * (found.overlap.unsupported or 0):.0f} % hardly known"
            print(
                f"{name}: {found!r}, true {truths[name]:.4g}, {known}, {time.process_time() - began:.0f} s", flush=True
            )
    behavior = setting.behavior if isinstance(setting.behavior, float) else value(setting.behavior)
    return truths, {name: name in setting.near for name in truths}, behavior, runs


def mean_return(policy, env_id, discount):
    result = rollout(policy, env_id, num_episodes=TRUTH_EPISODES, num_envs=50, seed=90_000, discount=discount)
    return float(result.discounted_returns.mean())


def figures_of(method, truths, near, behavior, runs):
    """The figures of one method over all replicates."""
    names, values = list(truths), np.array(list(truths.values()))
    spread = values.max() - values.min()
    errors, correlations, regrets, held = [], [], [], {True: [], False: []}
    answered, wrong, decided = 0, 0, 0
    for run in runs:
        found = [run[name].best if method == "most trusted" else run[name][method.partition(",")[0]] for name in names]
        known = np.array([(run[name].overlap.unsupported or 0) <= MAX_UNSUPPORTED for name in names])
        given = np.array([one is not None and one.value is not None for one in found])
        given &= known | (method == NOTHING_REFUSED)
        answered += int(given.sum())
        estimates = np.array([one.value for one, is_given in zip(found, given) if is_given])
        errors += (np.abs(estimates - values[given]) / spread).tolist()
        for name, one, is_given in zip(names, found, given):
            if is_given:
                held[near[name]].append(one.interval[0] <= truths[name] <= one.interval[1])
                decided += one.verdict != "undecided"
                wrong += {"better": truths[name] <= behavior, "worse": truths[name] >= behavior}.get(
                    one.verdict, False
                )
        if given.sum() > 2:
            correlations.append(spearman(estimates, values[given]))
            regrets.append((values.max() - values[given][estimates.argmax()]) / spread)
    mean = lambda part: float(np.mean(part)) if len(part) else None  # noqa: E731
    return {
        "answered": answered / (len(runs) * len(names)),
        "error": mean(errors),
        "rank_correlation": mean(correlations),
        "regret": mean(regrets),
        "coverage_near": mean(held[True]),
        "answers_near": len(held[True]),
        "coverage_far": mean(held[False]),
        "answers_far": len(held[False]),
        "verdicts": decided,
        "wrong_verdicts": int(wrong),
    }


def shown(evaluation):
    """The figures of one evaluation, rounded."""
    rounded = lambda values: None if values is None else [round(value, 4) for value in values]  # noqa: E731
    estimates = {one.method: rounded(one.value and [one.value, *one.interval]) for one in evaluation.estimates}
    overlap = evaluation.overlap
    return {
        "estimates": estimates,
        "unsupported": overlap.unsupported,
        "effective_episodes": overlap.effective_episodes,
        "verdict": evaluation.verdict,
    }


def spearman(first, second):
    ranks = [
        np.searchsorted(np.sort(part), part, side="left") + np.searchsorted(np.sort(part), part, side="right")
        for part in (first, second)
    ]
    return float(np.corrcoef(*ranks)[0, 1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", choices=["bicycle", "icu-sepsis", "cartpole", "pendulum", "hopper"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default: all that fit")
    parser.add_argument("--hopper_medium_replay", type=Path, help="folder of that data set, for hopper")
    parser.add_argument("--replicates", type=int, default=1)
    parser.add_argument("--first_seed", type=int, default=2000, help="of the episodes of a tabular world")
    parser.add_argument("--num_episodes", type=int, default=2000, help="of a tabular world")
    parser.add_argument("--num_bootstrap", type=int, default=100, help="bootstrap samples on a tabular world")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.data:
        if name in ("bicycle", "icu-sepsis"):
            world = bicycle() if name == "bicycle" else icu_sepsis()
            outcome = tabular(
                world,
                options.replicates,
                options.first_seed,
                num_episodes=options.num_episodes,
                num_bootstrap=options.num_bootstrap,
                methods=options.methods,
            )
        elif name == "hopper":
            outcome = rolled_out(hopper(options.replicates, options.hopper_medium_replay), options.methods)
        else:
            outcome = rolled_out(
                {"cartpole": cartpole, "pendulum": pendulum}[name](options.replicates), options.methods
            )
        truths, near, behavior, runs = outcome
        methods = [
            method for method in METHODS if any(one.method == method for one in next(iter(runs[0].values())).estimates)
        ]
        if "fqe" in methods and name not in ("bicycle", "icu-sepsis"):
            methods.insert(1, NOTHING_REFUSED)
        results[name] = {
            "replicates": len(runs),
            "num_episodes": next(iter(runs[0].values())).num_episodes,
            "truths": truths,
            "near": near,
            "behavior": behavior,
            "methods": {method: figures_of(method, *outcome) for method in [*methods, "most trusted"]},
            "first_replicate": {agent: shown(evaluation) for agent, evaluation in runs[0].items()},
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        for method, figures in results[name]["methods"].items():
            print(name, method, {key: value if value is None else round(value, 3) for key, value in figures.items()})


if __name__ == "__main__":
    main()
