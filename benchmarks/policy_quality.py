"""What the package's recipes get out of data sets: one row a data set, method and seed.

    python benchmarks/policy_quality.py hopper-medium-replay cartpole-mixed --methods dt cloning --seeds 0 1 2
    python benchmarks/policy_quality.py hopper-medium-replay --methods dt --option timesteps=absolute --seeds 0
    python benchmarks/policy_quality.py    # the table of all rows

Trains as `hf-seqrl train` does and takes the last weights. Plays 20 episodes for each target return from starts 1000-1019, on
which recipes were compared, and 20 from starts 5000-5019, on which nothing was chosen. Rows are appended to a file of JSON
lines; what is there is not measured again. CPU seconds are those of the training with its data, on one thread.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from devices import add_device_option, recorded_device
from transformers import TrainingArguments

from hf_seqrl import RolloutResult, load_trajectories, rollout, train_agent
from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import returns_of_episodes
from hf_seqrl.evaluation.results import bootstrap_interval
from hf_seqrl.models.registry import family_named
from hf_seqrl.training.run import Judgement

EPISODES, STARTS = 20, (1000, 5000)
# name -> family, its options, training arguments
METHODS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "dt": ("decision-transformer", {}, {}),
    "dt paper": ("decision-transformer", {"recipe": "paper"}, {"learning_rate": 1e-4}),
    "cloning": ("cloning", {}, {}),
    "cloning all": ("cloning", {"weighting": "none"}, {}),
    "cloning best 10 %": ("cloning", {"best_fraction": 0.1}, {}),
    "cloning conditioned": ("cloning", {"conditioning": "return"}, {}),
}
TITLES = {"dt": "Decision Transformer", "dt paper": "the paper's recipe", "cloning best 10 %": "cloning the best 10 %"}
# in place of the best return of the data
TARGETS = {"hopper-medium-replay": [3500, 1200], "cartpole-mixed": [500, 200, 50]}


def measure(
    data: Path,
    method: str,
    seed: int,
    options: Mapping[str, Any] = {},
    arguments: Mapping[str, Any] = {},
    targets: Sequence[float] | None = None,
    keep: Path | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """One run: what was trained, raw returns by first start and target (`"none"` for a policy that takes none), CPU seconds.

    Args:
        data: A folder of trajectories.
        method: A key of `METHODS`.
        seed: Of the training.
        options, arguments: Of the family and of the training, in place of the method's.
        targets: Raw target returns; by default those of `TARGETS`, or the first of the agent.
        device: Of the training and the episodes.
        keep: A folder below which the agent is saved, with the episodes from the first starts on its card.
    """
    name, own_options, own_arguments = METHODS[method]
    family, dataset = family_named(name), load_trajectories(data)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (keep or Path(temporary)) / f"{data.name}-{method}-seed{seed}".replace(" ", "-")
        settings = family.training_defaults | {"save_strategy": "no"} | own_arguments | dict(arguments)
        training = TrainingArguments(
            str(folder), **settings, seed=seed, use_cpu=device == "cpu", disable_tqdm=True, logging_strategy="no"
        )
        began = time.process_time()
        chosen = family.options_class(**own_options | dict(options))
        changed = {"options": dict(options), "arguments": dict(arguments)}
        agent = train_agent(
            family,
            dataset,
            chosen,
            training,
            judgement=Judgement(num_episodes=0),
            left_to_data={"max_steps", "learning_rate"} - own_arguments.keys() - arguments.keys(),
            dataset_name=f"./data/{data.name}",
            command=_command(
                data.name, name, folder.name, seed, {**own_options, **options, **own_arguments, **arguments}, device
            ),
        )
        seconds = time.process_time() - began
        asked = (targets or TARGETS.get(data.name) or agent.target_returns[:1]) if agent.target_returns else None
        lanes = EPISODES * len(asked or [None])
        played = {start: rollout(agent, agent.env_id, EPISODES, asked, lanes, seed=start) for start in STARTS}
        if keep is not None:
            agent.evaluation = played[STARTS[0]]
            agent.save_pretrained(folder)
    row = {"data": data.name, "method": method, "seed": seed} | {key: value for key, value in changed.items() if value}
    row |= recorded_device(training.device)
    returns = {str(start): _by_target(result) for start, result in played.items()}
    return row | {"updates": training.max_steps, "returns": returns, "cpu_seconds": round(seconds, 1)}


def _command(data: str, family: str, folder: str, seed: int, changed: Mapping[str, Any], device: str) -> str:
    """What trains and judges the same agent."""
    options = [f"--{name} {value}" for name, value in changed.items()]
    given = [
        f"--dataset ./data/{data} --output_dir runs/{folder} --eval_seed {STARTS[0]} --use_cpu {device == 'cpu'} --seed {seed}"
    ]
    return " ".join([f"hf-seqrl train {family}", *given, "--save_strategy no", *options])


def _by_target(result: RolloutResult) -> dict[str, list[float]]:
    """Raw returns by target; `"none"` for a policy that takes none."""
    return {
        "none" if target is None else f"{target:.6g}": [round(value, 2) for value in part.returns.tolist()]
        for target, part in result.by_target().items()
    }


def identity(row: Mapping[str, Any]) -> str:
    """Equal for rows that measure the same."""
    what = [row[name] for name in ("data", "method", "seed")] + [row.get("options"), row.get("arguments")]
    return json.dumps([*what, row.get("device", "cpu")])


def groups(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str, str, str], list[tuple[float, list[float]]]]:
    """By data set, method, what was changed, target and first start: CPU seconds and returns of each seed."""
    found = {}
    for row in rows:
        changed = {**row.get("options", {}), **row.get("arguments", {}), **recorded_device(row.get("device", "cpu"))}
        more = ", ".join(f"{k}={v}" for k, v in changed.items())
        for start, by_target in row["returns"].items():
            for target, returns in by_target.items():
                key = (row["data"], row["method"], more, target, start)
                found.setdefault(key, []).append((row["cpu_seconds"], returns))
    return found


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a data set, method, first start and target: the mean return, that of each seed, CPU minutes."""
    lines = []
    for (data, method, more, target, start), runs in groups(rows).items():
        means = [np.mean(returns) for _, returns in runs]
        minutes = np.mean([seconds for seconds, _ in runs]) / 60
        what = f"{method} {more}" + ("" if target == "none" else f", asked {target}")
        each = ", ".join(f"{mean:.1f}" for mean in means)
        lines.append(f"{data:22} {what:60} {start} {np.mean(means):9.1f}  ({each})  {minutes:.1f} CPU min")
    return "\n".join(lines)


def markdown(rows: Sequence[Mapping[str, Any]], data: Path) -> str:
    """The table of docs/results.md."""
    lines, before = [], ("",) * 4
    for (name, method, more, target, start), runs in groups(rows).items():
        pooled = np.concatenate([returns for _, returns in runs])
        low, high = bootstrap_interval(pooled)
        mean_of_data = returns_of_episodes(TrajectoryColumns.of(load_trajectories(data / name))).mean()
        each = ", ".join(f"{np.mean(returns):.0f}" for _, returns in runs)
        here = (
            f"{name} ({mean_of_data:.0f})",
            ", ".join(filter(None, (TITLES.get(method, method), more))),
            "" if target == "none" else target,
        )
        shown = [cell if here[: k + 1] != before[: k + 1] else "" for k, cell in enumerate(here)]
        cells = [*shown[:2], here[2], start, f"{pooled.mean():.1f}" + (f" ({each})" if len(runs) > 1 else "")]
        cells += [f"{low:.1f} .. {high:.1f}", f"{len(runs)} x {len(runs[0][1])}"]
        lines.append(f"| {' | '.join(cells)} | {np.mean([seconds for seconds, _ in runs]) / 60:.1f} |")
        before = here
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="folders below --data; without one, the table of what was measured")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--methods", nargs="+", default=["dt", "cloning"], choices=METHODS)
    parser.add_argument("--option", nargs="+", default=[], metavar="NAME=VALUE", help="options of the family")
    parser.add_argument("--argument", nargs="+", default=[], metavar="NAME=VALUE", help="fields of TrainingArguments")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/policy_quality.jsonl"))
    parser.add_argument("--keep", type=Path, help="save the agents below this folder")
    add_device_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = (
        [json.loads(line) for line in arguments.output.read_text().splitlines()] if arguments.output.exists() else []
    )
    done = {identity(row) for row in rows}
    given = [
        {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in texts)}
        for texts in (arguments.option, arguments.argument)
    ]
    for seed in arguments.seeds:
        for name in arguments.names:
            for method in arguments.methods:
                asked = {"data": name, "method": method, "seed": seed}
                asked |= {key: value for key, value in zip(("options", "arguments"), given, strict=True) if value}
                asked |= recorded_device(arguments.device)
                if identity(asked) in done:
                    continue
                rows.append(
                    measure(arguments.data / name, method, seed, *given, keep=arguments.keep, device=arguments.device)
                )
                with arguments.output.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(summary(rows[-1:]), flush=True)
    print(summary(rows) if arguments.names else markdown(rows, arguments.data))


if __name__ == "__main__":
    main()
