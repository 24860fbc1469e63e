"""What behavior cloning by a multilayer perceptron reaches on the data sets: all of the data, the best tenth, weighted by return.

    python benchmarks/cloning_quality.py hopper-medium-replay cartpole-mixed --data ../shared/data --seeds 0 1 2

Trains as `hf-seqrl train cloning` does, once for every method and seed, takes the last weights, and plays 20 episodes (for a
conditioned policy, for each target). Results are added to the JSON file; what is there is not measured again. CPU seconds are
those of the training with its data, on one thread.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from hf_seqrl import load_trajectories, rollout, train_agent
from hf_seqrl.models.registry import family_named
from hf_seqrl.training.run import Judgement

EPISODES, FIRST_SEED = 20, 1000
METHODS = {
    "all": {"weighting": "none"},
    "best 10 %": {"weighting": "none", "best_fraction": 0.1},
    "weighted": {"weighting": "return"},
    "return-conditioned": {"weighting": "return", "conditioning": "return"},
}


def measure(dataset: Any, method: str, seed: int) -> dict[str, Any]:
    """One run: returns by target (`"none"` for a policy that takes none) and the CPU seconds of training."""
    family = family_named("cloning")
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, **family.training_defaults, seed=seed, use_cpu=True, disable_tqdm=True, logging_strategy="no"
        )
        began = time.process_time()
        options = family.options_class(**METHODS[method])
        agent = train_agent(family, dataset, options, arguments, judgement=Judgement(num_episodes=0))
        seconds = time.process_time() - began
    returns = {}
    for target in agent.target_returns or [None]:
        asked = {} if target is None else {"target_return": target}
        result = rollout(agent, agent.env_id, num_episodes=EPISODES, num_envs=EPISODES, seed=FIRST_SEED, **asked)
        returns["none" if target is None else f"{target:.6g}"] = [round(value, 2) for value in result.returns.tolist()]
    return {"returns": returns, "cpu_seconds": round(seconds, 1)}


def summary(rows: list[dict[str, Any]]) -> str:
    """One line a data set, method and target: the mean return, that of each seed, and CPU seconds."""
    lines = []
    for name, method in dict.fromkeys((row["data"], row["method"]) for row in rows):
        runs = [row for row in rows if (row["data"], row["method"]) == (name, method)]
        for target in runs[0]["returns"]:
            means = [sum(run["returns"][target]) / EPISODES for run in runs]
            seconds = sum(run["cpu_seconds"] for run in runs) / len(runs)
            asked = "" if target == "none" else f", asked for {target}"
            each = ", ".join(f"{mean:.1f}" for mean in means)
            lines.append(f"{name:22} {method + asked:34} {sum(means) / len(means):9.1f}  ({each})  {seconds:.0f} s")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/cloning_quality.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(arguments.output.read_text()) if arguments.output.exists() else []
    done = {(row["data"], row["method"], row["seed"]) for row in rows}
    for name in arguments.names:
        dataset = load_trajectories(arguments.data / name)
        for seed in arguments.seeds:
            for method in arguments.methods:
                if (name, method, seed) not in done:
                    rows.append({"data": name, "method": method, "seed": seed} | measure(dataset, method, seed))
                    arguments.output.write_text(json.dumps(rows, indent=1) + "\n")
                    print(summary(rows[-1:]), flush=True)
    print(summary(rows))


if __name__ == "__main__":
    main()
