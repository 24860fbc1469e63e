"""How good are estimates without a simulator? Agents of different quality whose true values are known, judged from recorded
episodes.

    python benchmarks/off_policy_evaluation.py bicycle icu-sepsis --replicates 20
    python benchmarks/off_policy_evaluation.py cartpole pendulum

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
from off_policy_worlds import bicycle, icu_sepsis, policies_of

from hf_seqrl import balance_cartpole, collect, evaluate_offline, noisy, stochastic
from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import discounted_returns
from hf_seqrl.evaluation.behavior import PROPENSITIES
from hf_seqrl.evaluation.policies import swing_up_pendulum

RESULTS = Path(__file__).parent / "results" / "off_policy_evaluation.json"
TRUTH_EPISODES = 200
METHODS = ("fqe", "wdr", "dr", "wis", "pdis")


def tabular(world, replicates, num_episodes, num_bootstrap):
    """Truths, which agents are near the policy behind the data, and the evaluations of each replicate."""
    policies = policies_of(world)
    truths = {name: world.values(policy)[1] for name, (policy, _) in policies.items()}
    near = {name: is_near for name, (_, is_near) in policies.items()}
    behavior = world.values(world.behavior)[1]
    runs = []
    for replicate in range(replicates):
        dataset = world.episodes(num_episodes, seed=2000 + replicate)
        agents = {
            name: stochastic(lambda seen, policy=policy: policy[world.state_of(seen)])
            for name, (policy, _) in policies.items()
        }
        runs.append(judged(agents, dataset, seed=replicate, discount=1.0, num_bootstrap=num_bootstrap))
        print(f"replicate {replicate + 1} of {replicates}", flush=True)
    return truths, near, behavior, runs


def judged(agents, dataset, **options):
    return {name: evaluate_offline(agent, dataset, **options) for name, agent in agents.items()}


def rolled_out(env_id, agents, near, behavior, num_episodes, replicates, options):
    """As `tabular`, with values by rollouts."""
    truths = {name: mean_return(agent, env_id, options["discount"]) for name, agent in agents.items()}
    print({name: round(value, 2) for name, value in truths.items()}, flush=True)
    runs = []
    for replicate in range(replicates):
        dataset = collect(behavior, env_id, num_episodes=num_episodes, seed=50_000 + 1000 * replicate)
        if env_id == "CartPole-v1":
            dataset = with_propensities(dataset, epsilon=0.5)
        runs.append({})
        for name, agent in agents.items():
            began = time.perf_counter()
            runs[-1][name] = evaluate_offline(agent, dataset, seed=replicate, **options)
            print(
                f"{name}: {runs[-1][name]!r}, true {truths[name]:.4g}, {time.perf_counter() - began:.0f} s", flush=True
            )
    return truths, near, mean_return(behavior, env_id, options["discount"]), runs


def mean_return(policy, env_id, discount):
    columns = TrajectoryColumns(collect(policy, env_id, num_episodes=TRUTH_EPISODES, num_envs=50, seed=90_000))
    rewards = columns.rewards.take(np.arange(columns.num_steps))
    returns = discounted_returns(rewards, columns.episode_offsets, discount)
    return float(returns[columns.episode_offsets[:-1]].mean())


def with_propensities(dataset, epsilon):
    """The probabilities of the actions of `noisy(balance_cartpole, epsilon)`."""
    columns = TrajectoryColumns(dataset)
    steps = np.arange(columns.num_steps)
    chosen = balance_cartpole(columns.observations.take(steps)) == columns.actions.take(steps)
    values = np.where(chosen, 1 - epsilon / 2, epsilon / 2)
    return dataset.add_column(
        PROPENSITIES, [part.tolist() for part in np.split(values, columns.episode_offsets[1:-1])]
    )


def cartpole(replicates, methods):
    feedback = lambda *gains: lambda seen: (seen @ np.array(gains) > 0).astype(np.int64)  # noqa: E731
    agents = {
        f"epsilon {epsilon:g}": noisy(balance_cartpole, epsilon) for epsilon in (0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9, 1)
    }
    agents |= {
        "best": balance_cartpole,
        "angle only": feedback(0, 0, 1.0, 0),
        "velocity only": feedback(0, 0, 0, 1.0),
        "no position": feedback(0, 0, 3.0, 1.0),
        "wrong way": feedback(0, 0, -1.0, -1.0),
        "always left": feedback(0, 0, 0, 0),
    }
    near = {
        name: name in ("epsilon 0.3", "epsilon 0.4", "epsilon 0.5", "epsilon 0.6", "epsilon 0.7") for name in agents
    }
    options = {"discount": 0.97, "methods": methods, "critic_steps": 4000}
    return rolled_out("CartPole-v1", agents, near, noisy(balance_cartpole, 0.5), 300, replicates, options)


def pendulum(replicates, methods):
    scaled = lambda share, sigma=0.0: noisy(lambda seen: share * swing_up_pendulum(seen), sigma=sigma)  # noqa: E731
    agents = {f"{share:g} of the torque": scaled(share) for share in (-0.5, 0, 0.25, 0.4, 0.5, 0.6, 0.75, 1)}
    agents |= {f"noise {sigma:g}": scaled(1, sigma) for sigma in (0.5, 1, 2)}
    agents |= {"half, noise 1": scaled(0.5, 1), "random": "random"}
    near = {name: name in ("noise 0.5", "noise 1", "1 of the torque", "0.75 of the torque") for name in agents}
    options = {"discount": 0.97, "methods": methods, "critic_steps": 4000, "max_unsupported": 1.0}
    behavior = noisy(swing_up_pendulum, epsilon=0.3, sigma=1.0)
    return rolled_out("Pendulum-v1", agents, near, behavior, 100, replicates, options)


def figures_of(method, truths, near, behavior, runs):
    """The figures of one method over all replicates."""
    names, values = list(truths), np.array(list(truths.values()))
    spread = values.max() - values.min()
    errors, correlations, regrets, held = [], [], [], {True: [], False: []}
    answered, wrong, decided = 0, 0, 0
    for run in runs:
        found = [run[name].best if method == "most trusted" else run[name][method] for name in names]
        given = np.array([one is not None and one.value is not None for one in found])
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
    parser.add_argument("data", nargs="+", choices=["bicycle", "icu-sepsis", "cartpole", "pendulum"])
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, help="on CartPole and Pendulum (default: all that fit)"
    )
    parser.add_argument("--replicates", type=int, default=1)
    parser.add_argument("--num_episodes", type=int, default=2000, help="of a tabular world")
    parser.add_argument("--num_bootstrap", type=int, default=100, help="bootstrap samples on a tabular world")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.data:
        if name in ("bicycle", "icu-sepsis"):
            world = bicycle() if name == "bicycle" else icu_sepsis()
            outcome = tabular(world, options.replicates, options.num_episodes, options.num_bootstrap)
        else:
            outcome = {"cartpole": cartpole, "pendulum": pendulum}[name](options.replicates, options.methods)
        truths, near, behavior, runs = outcome
        methods = [
            method for method in METHODS if any(one.method == method for one in next(iter(runs[0].values())).estimates)
        ]
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
