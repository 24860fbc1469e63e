"""What the jobs `stock_keeping.py` and `chemical_process.py` share: from a log to agents, their judgement, and the table."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import TrainingArguments

from hf_seqrl import Agent, ExportedActor, OfflineEvaluation, evaluate_offline, judge_offline, train_agent
from hf_seqrl.evaluation.results import bootstrap_interval
from hf_seqrl.models.registry import family_named
from hf_seqrl.training.run import Judgement

SEQUENCE = "Decision Transformer"
HEAD = (
    "| policy | judged from the log | achieved | 95 % interval | of each training |\n| --- | --- | ---: | --- | --- |"
)


def parser(description: str | None, episodes: int, output_dir: str) -> argparse.ArgumentParser:
    """The options of a job."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--episodes", type=int, default=episodes, help=f"in the log (default: {episodes})")
    made.add_argument("--checked", type=int, default=500, help="episodes of the check (default: 500)")
    made.add_argument("--updates", type=int, help="default: those of each family")
    made.add_argument("--judging_updates", type=int, help="of the judgement from the log; default: by the horizon")
    made.add_argument("--seeds", type=int, default=2, help="trainings of each agent (default: 2)")
    made.add_argument("--output_dir", type=Path, default=Path(output_dir))
    return made


def train(family: str, dataset: Dataset, folder: Path, updates: int | None, seed: int, **options: Any) -> Agent:
    """An agent by the family's defaults, but for these options."""
    found = family_named(family)
    given = {} if updates is None else {"max_steps": updates}
    arguments = TrainingArguments(
        **found.training_defaults
        | {"output_dir": str(folder), "seed": seed, "save_strategy": "no", "report_to": "none"}
        | {"disable_tqdm": True, "logging_steps": 10_000, "use_cpu": True}
        | given
    )
    return train_agent(
        found,
        dataset,
        found.options_class(**options),
        arguments,
        judgement=Judgement(num_episodes=0),
        left_to_data={"max_steps", "learning_rate"} - given.keys(),
    )


def train_all(dataset: Dataset, folder: Path, updates: int | None, seed: int) -> dict[str, Agent]:
    """The agents that are compared, by their names in the table."""
    train("critic", dataset, folder / "critic", updates, seed, discount=1.0)
    critic = {"critic": str(folder / "critic"), "weighting": "none", "advantage_beta": 3.0}
    return {
        "cloning all": train("cloning", dataset, folder / "clone", updates, seed, weighting="none"),
        "cloning, good episodes more often": train("cloning", dataset, folder / "clone-good", updates, seed),
        "cloning weighted by a critic": train("cloning", dataset, folder / "clone-critic", updates, seed, **critic),
        SEQUENCE: train("decision-transformer", dataset, folder / "dt", updates, seed),
    }


def compare(
    parts: DatasetDict,
    options: argparse.Namespace,
    achieved: Callable[[Any], np.ndarray],
    references: dict[str, np.ndarray],
) -> Path:
    """Train, judge from the log, check, export, check what was exported, and print all of it.

    Args:
        parts: Episodes to train on and episodes that are held out.
        options: See [`parser`].
        achieved: The returns of a policy in the simulator, of the same episodes for each.
        references: Such returns of other policies, by their names in the table.

    Returns:
        The folder of the exported Decision Transformer.
    """
    returns: dict[str, list[np.ndarray]] = {}
    judged: dict[str, OfflineEvaluation] = {}
    for seed in range(options.seeds):
        agents = train_all(parts["train"], options.output_dir / f"seed-{seed}", options.updates, seed)
        for name, agent in agents.items():
            if seed == 0:
                judged[name] = evaluate_offline(agent, parts["test"], critic_steps=options.judging_updates)
            returns.setdefault(name, []).append(achieved(agent))
    print(judge_offline(agents[SEQUENCE], parts["test"]).table())
    print(judged[SEQUENCE].report())

    exported = agents[SEQUENCE].export(options.output_dir / "onnx", overwrite=True)
    difference = np.abs(achieved(ExportedActor(exported)) - returns[SEQUENCE][-1]).max()
    print(
        f"\nexported: {options.checked} returns, none differs by more than {difference:.1g} from the original's\n\n{HEAD}"
    )
    for name, one in references.items():
        print(row(name, "", [one]))
    for name, trainings in returns.items():
        print(row(name, estimate(judged[name]), trainings))
    return exported


def row(name: str, judgement: str, trainings: list[np.ndarray]) -> str:
    """A line of the table. The interval is over episodes, of the mean of the trainings."""
    mean = np.mean(trainings, axis=0)
    low, high = bootstrap_interval(mean) or (mean[0], mean[0])
    each = ", ".join(f"{one.mean():.1f}" for one in trainings) if len(trainings) > 1 else ""
    return f"| {name} | {judgement} | {mean.mean():.1f} | {low:.1f} .. {high:.1f} | {each} |"


def estimate(judged: OfflineEvaluation) -> str:
    """The return that the log promises, and whether that is more than its policies achieved."""
    best = judged.best
    if best is None or best.interval is None:
        return "no number can be given"
    return f"{best.value:.1f} ({best.interval[0]:.1f} .. {best.interval[1]:.1f}), {judged.verdict}"
