"""What planning with a Trajectory Transformer reaches on real data sets: returns with intervals, seconds an action.

    python benchmarks/trajectory_transformer_quality.py cartpole-mixed --data ../shared/data --output outputs/quality

Trains as `hf-seqrl train trajectory-transformer` does, by the recipe of the table below, and plays 20 episodes. The agent,
with its card and evaluation, stays under the output folder; what is there is not trained again. Pendulum's returns
depend on where an episode starts more than on anything else: the optimum of each start, found by dynamic programming,
stands beside them.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from devices import add_device_option
from transformers import TrainingArguments

from hf_seqrl import Agent, load_trajectories
from hf_seqrl.models.registry import family_of
from hf_seqrl.models.trajectory_transformer.training import (
    TRAINING_DEFAULTS,
    TrajectoryTransformerOptions,
)
from hf_seqrl.training.run import Judgement, train_agent

EPISODES, FIRST_SEED = 20, 1000


@dataclass(frozen=True)
class Recipe:
    """How a data set is learned, and how plans are made."""

    updates: int
    batch_size: int
    learning_rate: float
    options: dict


# Classic control is Markov: plans that see one transition before the one they grow cannot imitate their own past, which
# is what longer histories of a mixed data set teach. Values of a short discount are learned in minutes.
CLASSIC_CONTROL = {
    "n_layer": 3,
    "n_embd": 64,
    "dropout": 0.0,
    "sequence_transitions": 3,
    "bins": "uniform",
    "max_truncation_bias": 0.3,
    "max_context_transitions": 2,
}
RECIPES = {
    "cartpole-mixed": Recipe(
        updates=1_500,
        batch_size=128,
        learning_rate=2e-3,
        options={
            **CLASSIC_CONTROL,
            "discount": 0.98,
            "termination_penalty": -20.0,
            "horizon": 3,
            "beam_width": 8,
        },
    ),
    "pendulum-mixed": Recipe(
        updates=4_000,
        batch_size=128,
        learning_rate=2e-3,
        options={
            **CLASSIC_CONTROL,
            "action_weight": 1.0,
            "discount": 0.95,
            "horizon": 5,
            "beam_width": 16,
            "cdf_act": 0.0,  # the data's actions are noisy, and what is good is seldom what is likely
            "eval_fraction": 0.1,
        },
    ),
    "hopper-medium": Recipe(
        updates=6_000,
        batch_size=64,
        learning_rate=1e-3,
        options={
            "n_layer": 3,
            "n_embd": 96,
            "dropout": 0.0,
            "sequence_transitions": 5,
            "termination_penalty": -100.0,
            "horizon": 5,
            "beam_width": 8,
            "eval_fraction": 0.1,
        },
    ),
}


def train(name: str, data: Path, seed: int, folder: Path, device: str) -> Agent:
    """The agent of one run, trained and judged."""
    recipe = RECIPES[name]
    arguments = TrainingArguments(
        str(folder),
        **TRAINING_DEFAULTS
        | {"learning_rate": recipe.learning_rate, "per_device_train_batch_size": recipe.batch_size},
        max_steps=recipe.updates,
        seed=seed,
        use_cpu=device == "cpu",
        logging_steps=recipe.updates // 20,
        save_strategy="no",
    )
    return train_agent(
        family_of("trajectory_transformer"),
        load_trajectories(data / name),
        TrajectoryTransformerOptions(**recipe.options),
        arguments,
        judgement=Judgement(num_episodes=EPISODES, num_envs=EPISODES, seed=FIRST_SEED),
        dataset_name=name,
    )


def pendulum_optimum(seeds: np.ndarray, angles: int = 181, speeds: int = 161, steps: int = 200) -> np.ndarray:
    """The greatest return from each seed's start, `(n,)`, up to the grid's error of about one percent.

    Dynamic programming backwards over an angle-by-speed grid, interpolated, with 21 torques.
    """
    import gymnasium as gym

    starts = []
    for seed in seeds:
        env = gym.make("Pendulum-v1")
        env.reset(seed=int(seed))
        starts.append(env.unwrapped.state)
    grid = np.meshgrid(
        np.linspace(-np.pi, np.pi, angles, endpoint=False),
        np.linspace(-8, 8, speeds),
        np.linspace(-2, 2, 21),
        indexing="ij",
    )
    angle, speed, torque = grid
    cost = angle**2 + 0.1 * speed**2 + 0.001 * torque**2
    speed = np.clip(speed + (15 * np.sin(angle) + 3 * torque) * 0.05, -8, 8)
    corners, weights = _corners(angle + speed * 0.05, speed, angles, speeds)
    value = np.zeros(angles * speeds)
    for _ in range(steps):
        following = sum(weight * value[corner] for corner, weight in zip(corners, weights))
        value = (following - cost).max(-1).ravel()
    corners, weights = _corners(*np.asarray(starts).T, angles, speeds)
    return sum(weight * value[corner] for corner, weight in zip(corners, weights))


def _corners(angle: np.ndarray, speed: np.ndarray, angles: int, speeds: int) -> tuple[list, list]:
    """The four grid points around each state, as flat indices, and their shares."""
    row, row_share = np.divmod((angle + np.pi) % (2 * np.pi) / (2 * np.pi) * angles, 1)
    column = np.minimum((speed + 8) / 16 * (speeds - 1), speeds - 1 - 1e-9)
    column, column_share = np.divmod(column, 1)
    row, column = row.astype(int) % angles, column.astype(int)
    below = (row + 1) % angles
    corners = [row * speeds + column, row * speeds + column + 1, below * speeds + column, below * speeds + column + 1]
    weights = [
        (1 - row_share) * (1 - column_share),
        (1 - row_share) * column_share,
        row_share * (1 - column_share),
        row_share * column_share,
    ]
    return corners, weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["cartpole-mixed"], help=f"of {', '.join(RECIPES)}")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/quality"))
    add_device_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.names:
        for seed in arguments.seeds:
            folder = arguments.output / f"{name}-tt-seed{seed}"
            if (folder / "config.json").exists():
                agent = Agent.from_pretrained(folder)
            else:
                agent = train(name, arguments.data, seed, folder, arguments.device)
            result = agent.evaluation
            print(f"{name}, seed {seed}\n{result.table()}")
            print(f"{1 / result.steps_per_second:.3f} s an action, median return {np.median(result.returns):.1f}")
            if name == "pendulum-mixed":
                best = pendulum_optimum(FIRST_SEED + np.arange(EPISODES))
                print(f"optimum of the same starts: mean {best.mean():.1f}, median {np.median(best):.1f}")


if __name__ == "__main__":
    main()
