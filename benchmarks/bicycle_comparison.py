"""Everything rides: every method of the package on the same bicycle data, in one table and one plot.

    python benchmarks/bicycle_comparison.py --output_dir bicycle-comparison --grids 5 10 20

For each grid, three data sets are collected (a random policy, policies along a REINFORCE run, half of each) and every
method is trained on each by `train_agent` and judged by `rollout`, which are what `hf-seqrl train` and
`hf-seqrl evaluate` call. Each figure is written to `cells/` as soon as it is known, and what is there is not computed
again: a run that was stopped goes on, and parts can run side by side.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bicycle_report import EVALUATION_SEED, write_report
from datasets import Dataset, load_from_disk
from devices import add_device_option
from transformers import TrainingArguments

from hf_seqrl import Agent, collect, rollout
from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import returns_of_episodes
from hf_seqrl.envs.bicycle_optimum import optimal_return
from hf_seqrl.envs.bicycle_rules import BicycleConfig
from hf_seqrl.evaluation.results import return_statistics
from hf_seqrl.models.registry import family_of
from hf_seqrl.training.run import Judgement, train_agent

ENV_IDS = {5: "hf_seqrl/BicycleGrid-v0", 10: "hf_seqrl/BicycleGrid10x10-v0", 20: "hf_seqrl/BicycleGrid20x20-v0"}
NUM_EPISODES = {5: 2000, 10: 1000, 20: 1000}  # of each data set
DATA_SETS = ("random", "along", "mix")
CHECKPOINTS = (5, 10, 20, 40)  # updates of the REINFORCE run whose policies ride the data set "along"


@dataclass(frozen=True)
class Method:
    """A family with its options, the training arguments that differ from the family's, and how the agent acts.
    `asks_for_return`: whether the return to reach is told to it."""

    title: str
    family: str
    options: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    acting: dict[str, Any] = field(default_factory=dict)
    asks_for_return: bool = False


def methods(grid: int) -> dict[str, Method]:
    """What is compared, by the name of its cells."""
    small = {"recipe": "paper", "context_length": 5, "hidden_size": 64, "n_layer": 2}
    fast = {"max_steps": 500, "learning_rate": 1e-3}
    horizon = min(grid, 10)
    planner = {"horizon": horizon, "bins": "uniform", "n_layer": 2, "n_embd": 64, "sequence_transitions": horizon + 1}
    return {
        "dt": Method("Decision Transformer", "decision_transformer", small, fast, asks_for_return=True),
        "tt": Method(
            "Trajectory Transformer, planning",
            "trajectory_transformer",
            planner,
            {"max_steps": 500, "learning_rate": 1e-3, "per_device_train_batch_size": 32},
            {"cdf_act": None},  # the paper's 0.6 keeps one action of six where the data act at random
        ),
        "seq2seq": Method(
            "Encoder-decoder Transformer",
            "trajectory_seq2seq",
            {"conditioning": "return", "context_length": 5},
            fast,
            asks_for_return=True,
        ),
        "bc": Method("Behavior cloning", "decision_transformer", {**small, "conditioning": "none"}, fast),
        "bc10": Method(
            "Behavior cloning, best 10 %",
            "decision_transformer",
            {**small, "conditioning": "none", "best_fraction": 0.1},
            fast,
        ),
    }


@dataclass(frozen=True)
class World:
    """A grid, and whether episodes start in the corner or in any cell."""

    grid: int
    starts: str

    @property
    def env_id(self) -> str:
        return ENV_IDS[self.grid]

    @property
    def env_kwargs(self) -> dict[str, Any]:
        return {"random_starts": self.starts == "anywhere"}

    @property
    def optimum(self) -> float:
        return optimal_return(BicycleConfig(self.grid, **self.env_kwargs))

    @property
    def name(self) -> str:
        return f"{self.grid}-{self.starts}"


def train(
    family_name: str, dataset: Dataset | None, options: dict, training: dict, folder: Path, seed: int, device: str
) -> Agent:
    """As `hf-seqrl train` does, without its evaluation; a finished agent is taken as it is."""
    if (folder / "config.json").exists():
        return Agent.from_pretrained(folder)
    family = family_of(family_name)
    arguments = {"save_strategy": "no", "disable_tqdm": True, "logging_steps": 100, "seed": seed}
    arguments["use_cpu"] = device == "cpu"
    return train_agent(
        family,
        dataset,
        family.options_class(**options),
        TrainingArguments(str(folder), **{**family.training_defaults, **arguments, **training}),
        judgement=Judgement(num_episodes=0),
        resume=True,
    )


def judged(agent: Agent, world: World, method: Method, num_episodes: int) -> dict[str, Any]:
    """The figures of one cell: returns in raw units, shares from 0 to 1."""
    result = rollout(
        Agent(agent.model, agent.processor, **method.acting),
        world.env_id,
        num_episodes=num_episodes,
        target_return=world.optimum if method.asks_for_return else None,
        num_envs=num_episodes,
        seed=EVALUATION_SEED,
        env_kwargs=world.env_kwargs,
    )
    return {
        **return_statistics(result.returns, result.lengths),
        "target_return": world.optimum if method.asks_for_return else None,
        "success_rate": float(result.terminated.mean()),
        "returns": result.returns.tolist(),
        "training_seconds": agent.run.seconds,
        "evaluation_seconds": result.seconds,
    }


def reinforce(world: World, folder: Path, seed: int, num_episodes: int, device: str) -> dict[str, Any]:
    """Trains the policy network, whose checkpoints stay in `folder`, and judges it."""
    options = {"env_id": world.env_id, "env_kwargs": json.dumps(world.env_kwargs)}
    agent = train("policy_gradient", None, options, {"save_strategy": "steps", "save_steps": 5}, folder, seed, device)
    return judged(agent, world, Method("REINFORCE", "policy_gradient"), num_episodes)


def data_set(name: str, world: World, reinforce_folder: Path, folder: Path) -> Dataset:
    """The episodes of `name`, collected once and kept in `folder`."""
    if not folder.exists():
        along = [
            (0.5 / len(CHECKPOINTS), Agent.from_pretrained(reinforce_folder / f"checkpoint-{k}", deterministic=False))
            for k in CHECKPOINTS
        ]
        policies = {"random": [(1.0, "random")], "along": along, "mix": [(0.5, "random"), *along]}[name]
        dataset = collect(
            policies,
            world.env_id,
            num_episodes=NUM_EPISODES[world.grid],
            num_envs=64,
            env_kwargs=world.env_kwargs,
        )
        dataset.save_to_disk(folder)
    return load_from_disk(folder)


def describe(dataset: Dataset) -> dict[str, Any]:
    columns = TrajectoryColumns(dataset)
    returns = returns_of_episodes(columns)
    return {
        "episodes": columns.num_episodes,
        "steps": columns.num_steps,
        "mean_return": float(returns.mean()),
        "best_return": float(returns.max()),
        "arrived": float((returns > -200).mean()),
    }


def run_cells(arguments: argparse.Namespace, world: World, seed: int) -> None:
    """Everything of one world and seed that is not known yet."""
    root = arguments.output_dir / f"{world.name}-seed{seed}"
    cells = arguments.output_dir / "cells"
    cells.mkdir(parents=True, exist_ok=True)

    def known(data: str, method: str) -> Path:
        return cells / f"{world.name}-{data}-{method}-seed{seed}.json"

    def keep(data: str, method: str, title: str, figures: dict[str, Any]) -> None:
        facts = {"grid": world.grid, "starts": world.starts, "data": data, "method": method, "title": title}
        known(data, method).write_text(json.dumps({**facts, "seed": seed, **figures}, indent=1))
        print(f"{world.name} seed {seed} {data}: {title} {figures['mean_return']:.1f}", flush=True)

    if not known("own", "reinforce").exists():
        figures = reinforce(world, root / "reinforce", seed, arguments.num_episodes, arguments.device)
        keep("own", "reinforce", "REINFORCE", figures)
    for data in arguments.data:
        dataset = data_set(data, world, root / "reinforce", root / f"data-{data}")
        for name in arguments.methods:
            if known(data, name).exists():
                continue
            method = methods(world.grid)[name]
            folder = root / f"agent-{data}-{name}"
            agent = train(method.family, dataset, method.options, method.training, folder, seed, arguments.device)
            figures = judged(agent, world, method, arguments.num_episodes)
            keep(data, name, method.title, {"data_set": describe(dataset), **figures})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/bicycle-comparison"))
    parser.add_argument("--grids", type=int, nargs="+", default=[5, 10, 20], choices=ENV_IDS)
    parser.add_argument("--starts", nargs="+", default=["anywhere"], choices=["anywhere", "corner"])
    parser.add_argument("--data", nargs="+", default=list(DATA_SETS), choices=DATA_SETS)
    parser.add_argument("--methods", nargs="*", default=list(methods(5)), choices=list(methods(5)))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--num_episodes", type=int, default=100, help="of each evaluation")
    add_device_option(parser)
    arguments = parser.parse_args()
    for grid in arguments.grids:
        for starts in arguments.starts:
            for seed in arguments.seeds:
                run_cells(arguments, World(grid, starts), seed)
    print(write_report(arguments.output_dir))


if __name__ == "__main__":
    main()
