"""How far ahead a Trajectory Transformer sees: open-loop error against time on held-out episodes, as a plot.

    python benchmarks/trajectory_transformer_prediction.py --agent tt-hopper --dataset data/hopper-medium \
        --eval_fraction 0.1 --output hopper.png

The episodes are those that `hf-seqrl train trajectory-transformer --eval_fraction 0.1 --split_seed 0` held out. The
model sees `--context` transitions, then only the actions that were taken. Beside it: a constant (the last observation
seen) and a linear model of one step, fitted by least squares to the episodes trained on and applied again and again.
A window's error is the root mean square over entries, each in standard deviations of the training data. Two figures sum it
up: the root mean square over windows, which those rule where prediction went another way, and the median window.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from devices import add_device_option

from hf_seqrl import Agent, load_trajectories
from hf_seqrl.data.sampling import held_out_split
from hf_seqrl.models.trajectory_transformer.generation import predict_open_loop
from hf_seqrl.models.trajectory_transformer.processing_trajectory_transformer import TrajectoryTransformerProcessor
from hf_seqrl.models.trajectory_transformer.transitions import Transitions


def draw_windows(transitions: Transitions, length: int, num: int, seed: int) -> np.ndarray:
    """At most `num` windows `(num, length, transition_dim)` of raw transitions, drawn from all that fit an episode.

    Raises:
        ValueError: no episode is long enough.
    """
    columns = transitions.columns
    steps = np.arange(columns.num_steps)
    starts = steps[steps + length <= columns.episode_offsets[columns.episode_of(steps) + 1]]
    if len(starts) == 0:
        raise ValueError(f"No held-out episode has {length} steps: lower --steps, or raise --eval_fraction.")
    chosen = np.random.default_rng(seed).choice(starts, min(num, len(starts)), replace=False)
    return transitions.take(chosen[:, None] + np.arange(length))


def fit_linear_model(transitions: Transitions, inputs: int, outputs: int) -> np.ndarray:
    """Least squares `(inputs + 1, outputs)` from observation, action and one to the next observation."""
    gram, moment = np.zeros((inputs + 1, inputs + 1)), np.zeros((inputs + 1, outputs))
    steps = np.delete(np.arange(transitions.columns.num_steps), transitions.columns.episode_offsets[1:] - 1)
    for portion in np.array_split(steps, len(steps) // 65_536 + 1):
        given = np.pad(transitions.take(portion)[:, :inputs].astype(float), ((0, 0), (0, 1)), constant_values=1)
        gram += given.T @ given
        moment += given.T @ transitions.take(portion + 1)[:, :outputs]
    return np.linalg.lstsq(gram, moment, rcond=None)[0]


def roll_linear_model(weights: np.ndarray, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """From `observations` `(n, dim)` by `actions` `(n, steps, action_dim)` to `(n, steps, dim)`."""
    predicted = []
    for step in range(actions.shape[1]):
        observations = np.concatenate([observations, actions[:, step], np.ones((len(actions), 1))], 1) @ weights
        predicted.append(observations)
    return np.stack(predicted, 1)


def predict_with_model(
    agent: Agent, windows: np.ndarray, context: int, steps: int, observation_dim: int, action_dim: int
) -> np.ndarray:
    """`(n, steps, observation_dim)`."""
    discretizer = agent.processor.discretizer
    tokens = discretizer.encode(windows[:, : context + 1]).flatten(1)
    tokens = tokens[:, : context * windows.shape[2] + observation_dim]
    actions = windows[:, context : context + steps, observation_dim : observation_dim + action_dim]
    portions = [
        predict_open_loop(agent.model, discretizer, own, steps, torch.from_numpy(own_actions)).observations
        for own, own_actions in zip(tokens.split(64), np.array_split(actions, range(64, len(actions), 64)))
    ]
    return torch.cat(portions).cpu().numpy()


def errors(arguments: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """The error of each model at each step, summed up in two ways."""
    agent = Agent.from_pretrained(arguments.agent, device=arguments.device)
    processor: TrajectoryTransformerProcessor = agent.processor
    parts = held_out_split(load_trajectories(arguments.dataset), arguments.eval_fraction, arguments.split_seed)
    trained, held_out = (Transitions(part, processor.discount) for part in parts)
    observation_dim, action_dim = processor.observation_dim, processor.action_dim
    context, steps = arguments.context, arguments.steps
    windows = draw_windows(held_out, context + steps + 1, arguments.num_windows, arguments.seed)
    truth = windows[:, context + 1 :, :observation_dim]
    last = windows[:, context, :observation_dim]
    actions = windows[:, context : context + steps, observation_dim : observation_dim + action_dim]
    weights = fit_linear_model(trained, observation_dim + action_dim, observation_dim)
    predictions = {
        "Trajectory Transformer": predict_with_model(agent, windows, context, steps, observation_dim, action_dim),
        "linear model": roll_linear_model(weights, last, actions),
        "constant": np.repeat(last[:, None], steps, axis=1),
    }
    sample = trained.take(np.linspace(0, trained.columns.num_steps - 1, 10_000).astype(int))[:, :observation_dim]
    scale = np.maximum(sample.std(0), 1e-6)
    squares = {name: (((predicted - truth) / scale) ** 2).mean(2) for name, predicted in predictions.items()}
    return {
        "root mean square": {name: np.sqrt(square.mean(0)).tolist() for name, square in squares.items()},
        "median": {name: np.sqrt(np.median(square, 0)).tolist() for name, square in squares.items()},
    }


def plot(curves: dict[str, dict[str, list[float]]], title: str, path: Path) -> None:
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axes, (summary, models) in zip(panels, curves.items()):
        for name, curve in models.items():
            axes.plot(range(1, len(curve) + 1), curve, label=name)
        axes.set(xlabel="steps ahead", title=f"{summary} over windows")
    of_interest = (curves["root mean square"][name] for name in ("Trajectory Transformer", "constant"))
    panels[0].set(ylabel="error (standard deviations)", ylim=(0, 1.2 * max(map(max, of_interest))))
    panels[0].legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=100, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--agent", required=True, help="folder or Hub id of a trained Trajectory Transformer")
    parser.add_argument("--dataset", required=True, help="what it was trained on")
    parser.add_argument("--eval_fraction", type=float, default=0.1)
    parser.add_argument("--split_seed", type=int, default=0)
    parser.add_argument("--context", type=int, default=4, help="transitions seen before the prediction")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--num_windows", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="draws the windows")
    parser.add_argument("--output", type=Path, default=Path("prediction.png"), help="the plot")
    parser.add_argument("--figures", type=Path, help="the figures as JSON (default: beside the plot)")
    add_device_option(parser)
    arguments = parser.parse_args()
    curves = errors(arguments)
    for summary, models in curves.items():
        print(f"{summary}\n{'steps ahead':>12} " + " ".join(f"{name:>22}" for name in models))
        for step in sorted({1, 5, 10, 20, 30, 40, arguments.steps}):
            if step <= arguments.steps:
                print(f"{step:12} " + " ".join(f"{curve[step - 1]:22.3f}" for curve in models.values()))
    plot(curves, f"{Path(arguments.dataset).name}: open-loop prediction", arguments.output)
    figures = arguments.figures or arguments.output.with_suffix(".json")
    figures.write_text(json.dumps(curves, indent=2) + "\n")


if __name__ == "__main__":
    main()
