"""What Decision Transformers reach on real data sets: achieved against target return, with seeds and intervals.

    python benchmarks/decision_transformer_quality.py cartpole-mixed --data ../shared/data --seeds 0 --output outputs/quality

Trains as `hf-seqrl train decision-transformer` does, by the recipe of the table below, once for every seed, and plays 20
episodes for every target. Each agent, with its card and evaluation, stays under the output folder; what is there is not
trained again. `--cloning` trains filtered behavior cloning instead: the best tenth of the data, no conditioning.
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import TrainingArguments

from hf_seqrl import Agent, load_trajectories
from hf_seqrl.models.decision_transformer.training import (
    TRAINING_DEFAULTS,
    DecisionTransformerOptions,
)
from hf_seqrl.models.registry import family_of
from hf_seqrl.training.run import Judgement, train_agent

EPISODES, FIRST_SEED = 20, 1000


@dataclass(frozen=True)
class Recipe:
    """How a data set is learned and asked."""

    updates: int
    targets: list[float]  # raw return units
    return_scale: float = 1000.0
    learning_rate: float = 1e-4
    options: dict = field(default_factory=dict)


RECIPES = {
    "hopper-medium": Recipe(5_000, [3600, 1800]),
    "hopper-medium-replay": Recipe(10_000, [3600, 2400, 1800, 1200, 600]),
    "cartpole-mixed": Recipe(1_000, [500, 200, 50], return_scale=100, learning_rate=3e-4),
    # on all of the data it plays the second best of the policies that made them, whatever it is asked for
    "mountaincar-mixed": Recipe(
        1_500, [-84, -100], return_scale=20, learning_rate=1e-3, options={"best_fraction": 0.3}
    ),
}


def train(name: str, data: Path, seed: int, cloning: bool, bf16: bool, folder: Path) -> Agent:
    """The agent of one run, trained and judged."""
    recipe = RECIPES[name]
    chosen = {"conditioning": "none", "best_fraction": 0.1} if cloning else {"target_returns": recipe.targets}
    options = DecisionTransformerOptions(return_scale=recipe.return_scale, **(recipe.options | chosen))
    arguments = TrainingArguments(
        str(folder),
        **TRAINING_DEFAULTS | {"learning_rate": recipe.learning_rate},
        max_steps=recipe.updates,
        bf16=bf16,
        seed=seed,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=recipe.updates // 20,
        save_strategy="no",
    )
    targets = None if cloning else recipe.targets
    judgement = Judgement(num_episodes=EPISODES, target_returns=targets, num_envs=EPISODES, seed=FIRST_SEED)
    family = family_of("decision_transformer")
    dataset = load_trajectories(data / name)
    return train_agent(family, dataset, options, arguments, judgement=judgement, dataset_name=name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["cartpole-mixed"], help=f"of {', '.join(RECIPES)}")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cloning", action="store_true")
    parser.add_argument("--fp32", action="store_true", help="train in fp32 instead of bf16")
    parser.add_argument("--output", type=Path, default=Path("outputs/quality"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.names:
        for seed in arguments.seeds:
            method = "cloning" if arguments.cloning else "dt"
            folder = arguments.output / f"{name}-{method}-seed{seed}"
            if (folder / "config.json").exists():
                agent = Agent.from_pretrained(folder)
            else:
                agent = train(name, arguments.data, seed, arguments.cloning, not arguments.fp32, folder)
            print(f"{name}, {method}, seed {seed}\n{agent.evaluation.table()}\n")


if __name__ == "__main__":
    main()
