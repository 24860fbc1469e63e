"""Why a Decision Transformer that reads absolute time acts worse: its action errors by step, on training and held-out episodes.

    python benchmarks/time_embedding.py hopper-medium-replay --seeds 0 1

A quarter of the episodes is held out. The default recipe is trained on the others, without time and with it; nothing else
differs.
Errors are squared errors of the actions, at steps that are drawn as in training, good episodes more often. `other_time` is the
error on held-out episodes if every step is told to be 100 steps later or earlier: what the model reads of time alone. Rows are
appended to a file of JSON lines.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from devices import add_device_option, recorded_device
from transformers import TrainingArguments

from hf_seqrl import load_trajectories, train_agent
from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import SHORTEST_REMAINDER, returns_of_episodes
from hf_seqrl.data.sampling import effective_episodes, held_out_split, return_temperature, return_weights
from hf_seqrl.data.windows import StepHistories
from hf_seqrl.models.registry import family_named
from hf_seqrl.training.run import Judgement

BINS = (0, 50, 100, 200, 400, 700, 1000)  # first steps; the last one ends
HELD_OUT, NUM_STEPS, SHIFT, BATCH = 0.25, 10_000, 100, 2048


def measure(data: Path, timesteps: str, seed: int, device: str) -> dict[str, Any]:
    """One training: by bin of `BINS` the errors, and how many episodes as they are drawn reach the bin."""
    training, held_out = held_out_split(load_trajectories(data), HELD_OUT)
    returns, lengths = _returns_and_lengths(training)
    temperature = return_temperature(returns, lengths)
    family = family_named("decision-transformer")
    options = family.options_class(timesteps=timesteps, return_temperature=temperature)
    with tempfile.TemporaryDirectory() as folder:
        settings = family.training_defaults | {"save_strategy": "no", "logging_strategy": "no", "report_to": "none"}
        arguments = TrainingArguments(folder, **settings, seed=seed, use_cpu=device == "cpu", disable_tqdm=True)
        agent = train_agent(family, training, options, arguments, judgement=Judgement(num_episodes=0))
    row = (
        {"data": data.name, "timesteps": timesteps, "seed": seed} | recorded_device(arguments.device) | {"bins": BINS}
    )
    row["episodes"] = _episodes_that_reach(returns, lengths, temperature)
    for name, dataset, shifts in (
        ("training", training, [0]),
        ("held_out", held_out, [0]),
        ("other_time", held_out, [-SHIFT, SHIFT]),
    ):
        errors = np.mean([_errors(agent, dataset, temperature, shift) for shift in shifts], axis=0)
        row[name] = [round(float(error), 5) for error in errors]
    return row


def _returns_and_lengths(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    columns = TrajectoryColumns.of(dataset)
    return returns_of_episodes(columns), np.diff(columns.episode_offsets)


def _episodes_that_reach(returns: np.ndarray, lengths: np.ndarray, temperature: float) -> list[float]:
    """Effective episodes that have a step in the middle of each bin."""
    weights, middles = return_weights(returns, lengths, temperature), np.add(BINS[:-1], BINS[1:]) / 2
    reach = [lengths > middle for middle in middles]
    return [
        round(effective_episodes(weights[there], np.ones(there.sum())), 1) if there.any() else 0 for there in reach
    ]


def _errors(agent: Any, dataset: Dataset, temperature: float, shift: int) -> np.ndarray:
    """The mean error in each bin, for steps drawn in proportion to their weights."""
    returns, lengths = _returns_and_lengths(dataset)
    weights = np.repeat(return_weights(returns, lengths, temperature), lengths)
    steps = np.random.default_rng(0).choice(len(weights), NUM_STEPS, p=weights / weights.sum())
    histories, family = StepHistories(dataset, agent.processor), family_named("decision-transformer")
    errors, times = [], []
    for part in np.split(steps, range(BATCH, NUM_STEPS, BATCH)):
        batch = histories.gather(part)
        times.append(part - histories.columns.episode_offsets[histories.columns.episode_of(part)])
        told = {**batch, "timesteps": np.maximum(batch["timesteps"] + shift, 0)}
        if agent.processor.return_form == "pace":  # what is read of the return stays as it was
            told["returns_to_go"] = _same_pace(agent.processor, batch, told["timesteps"])
        errors.append(family.action_losses(agent.model, agent.processor, told))
    places = np.digitize(np.concatenate(times), BINS) - 1
    errors = np.concatenate(errors)
    return np.array([errors[places == place].mean() for place in range(len(BINS) - 1)])


def _same_pace(processor: Any, batch: dict[str, np.ndarray], timesteps: np.ndarray) -> np.ndarray:
    remaining = [
        np.maximum(processor.time_limit - t, SHORTEST_REMAINDER * processor.time_limit)
        for t in (batch["timesteps"], timesteps)
    ]
    return batch["returns_to_go"] * (remaining[1] / remaining[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="folders below --data")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/time_embedding.jsonl"))
    add_device_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in arguments.seeds:
        for name in arguments.names:
            for timesteps in ("none", "absolute"):
                row = measure(arguments.data / name, timesteps, seed, arguments.device)
                with arguments.output.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
