"""Which method suits a data set: trains those that fit it under one budget, judges them alike, and says what to use.

The work is a grid of cells, one for each method and seed. A cell is the folder of an agent and, when it is done, a file with what
was measured; a comparison that was stopped goes on with the cells that are missing. Processes that compare in the same folder, on one
machine or several, share the cells out: each holds the lock of the cell that it works on, and a lock ends with its process.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, fields, replace
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.description import content_fingerprint
from hf_seqrl.data.durable import check_writable, remove_leftovers, removed_if_empty, sole_writer, write_whole
from hf_seqrl.data.environment_ids import trusted_env_id
from hf_seqrl.data.metadata import metadata_of
from hf_seqrl.data.returns import returns_differ, returns_of_episodes
from hf_seqrl.data.sampling import held_out_split
from hf_seqrl.evaluation.offline import evaluate_offline
from hf_seqrl.evaluation.results import bootstrap_interval
from hf_seqrl.evaluation.rollout import rollout
from hf_seqrl.hub.agent import Agent
from hf_seqrl.hub.checkpoint import CONFIG_NAME, finish_update
from hf_seqrl.models.registry import ModelFamily, Prepared, TrainingMethod, family_named, family_names
from hf_seqrl.training.checkpoints import read_record
from hf_seqrl.training.comparison import Comparison, MethodResult
from hf_seqrl.training.run import Judgement, TrainingInterrupted, train_agent
from hf_seqrl.training.shared_work import refuse_joined_processes, share_out
from hf_seqrl.training.trainer import TrajectoryTrainer

_PLAN_NAME, _CELL_NAME, _RESULT_NAME, _PLOT_NAME = "plan.json", "cell.json", "comparison.json", "comparison.png"
_TRIAL_UPDATES, _WARM_UP = 15, 5
_FEWEST_UPDATES = 20


@dataclass(frozen=True)
class _Entry:
    """A method of a family, and where its runs are."""

    family: ModelFamily
    method: TrainingMethod

    @property
    def folder(self) -> str:
        words = "".join(letter if letter.isalnum() else " " for letter in self.method.title.lower())
        return "-".join(words.split())

    @property
    def stages(self) -> list[tuple[str | None, ModelFamily]]:
        """What is trained in turn: models that the method needs, by the option that takes their folder, and the agent."""
        return [
            *((option, family_named(name)) for option, name in self.method.trained_first.items()),
            (None, self.family),
        ]


def methods_for(dataset: Dataset) -> dict[str, tuple[ModelFamily, TrainingMethod]]:
    """The methods of all families that fit a data set, by their titles."""
    offered = [family_named(name) for name in family_names()]
    return {method.title: (family, method) for family in offered for method in family.methods if method.suits(dataset)}


def compare(
    dataset: Dataset,
    output_dir: str | Path,
    *,
    env_id: str | None = None,
    methods: Sequence[str] | None = None,
    num_seeds: int = 3,
    budget: float | None = None,
    max_steps: int | None = None,
    num_episodes: int = 20,
    eval_seed: int = 1000,
    offline: bool | None = None,
    eval_fraction: float = 0.2,
    dataset_name: str | None = None,
    command: str | None = None,
    say: Callable[[str], None] = print,
) -> Comparison:
    """Train the methods that fit a data set, judge them alike, and recommend one.

    The last weights of every run count, never the best by the test. With an environment the agents are judged by episodes in
    it, at their first target return; without one, or with `offline`, by [`~hf_seqrl.evaluation.offline.evaluate_offline`] on episodes
    that are held out of the training. The agent of the first seed of the recommended method is saved in `output_dir/agent`.

    Started several times with the same arguments, on one machine or on several that share `output_dir`, the processes share
    the runs out, and each returns the whole comparison. The runs of a process that has died are taken over by the others.

    Args:
        dataset (`datasets.Dataset`): Trajectories, one row an episode.
        output_dir: Receives the runs, `comparison.json`, `comparison.png` and `agent`. A comparison that was stopped there goes on.
        env_id (`str`, *optional*): Where to judge; defaults to the environment of the data set, if it can be made.
        methods (list of `str`, *optional*): Titles, see `methods_for`; defaults to all that fit.
        num_seeds (`int`, *optional*, defaults to 3): Runs of each method.
        budget (`float`, *optional*): Seconds of training, all runs together, shared out equally. A method makes as many updates as
            fit into its share, by a short trial, and no more than its recipe's.
        max_steps (`int`, *optional*): Updates of each run; by default those of each family's recipe.
        num_episodes (`int`, *optional*, defaults to 20): Episodes of each run in the environment.
        eval_seed (`int`, *optional*, defaults to 1000): Of the first episode.
        offline (`bool`, *optional*): Whether to estimate by held-out episodes as well; always without an environment.
        eval_fraction (`float`, *optional*, defaults to 0.2): Share of the episodes that is held out for that.
        dataset_name, command (`str`, *optional*): For the cards.
        say: Takes lines on the progress.

    Raises:
        ValueError: An unknown method, neither an environment nor returns that differ, a comparison with other settings in `output_dir`,
            or processes that `torchrun` has joined.
        TrainingInterrupted: A signal came; what was reached is kept, and the same call goes on.
    """
    refuse_joined_processes()
    check_writable(output_dir)
    root = Path(output_dir)
    env_id = env_id or trusted_env_id(metadata_of(dataset).env_id, "the data set")
    offline = env_id is None or bool(offline)
    training, held_out = held_out_split(dataset, eval_fraction) if offline else (dataset, None)
    if offline and held_out is None:
        raise ValueError(
            f"the data set has {dataset.num_rows} episode and eval_fraction is {eval_fraction}: nothing is held out to judge by."
        )
    if env_id is None and held_out is not None and not returns_differ(held_out):
        raise ValueError(
            "all held-out episodes have the same return, so that no method can be told from another by it: name an environment to judge "
            "in (env_id), or the column of the rewards."
        )
    judging = _Judging(env_id, num_episodes, eval_seed, held_out)
    entries = _entries(training, methods)
    settings = {"num_seeds": num_seeds, "budget": budget, "max_steps": max_steps, "offline": offline}
    with (
        removed_if_empty(root),
        sole_writer(root, wait=True),
    ):  # another process may be measuring how long an update takes
        plan = _plan(root, training, entries, {**settings, **judging.settings()}, say)
    work = partial(
        _cell, plan=plan, dataset=training, judging=judging, dataset_name=dataset_name, command=command, say=say
    )
    folders = {
        (number, seed): root / entry.folder / f"seed-{seed}"
        for seed in range(num_seeds)
        for number, entry in enumerate(entries)
    }
    cells = share_out(folders, lambda cell, folder: work(entries[cell[0]], cell[1], folder), say)
    with sole_writer(root, wait=True):
        comparison = Comparison(
            methods=tuple(
                _merged(entry, plan, [cells[number, seed] for seed in range(num_seeds)])
                for number, entry in enumerate(entries)
            ),
            data_returns=_data_returns(dataset),
            env_id=env_id,
            num_episodes=num_episodes if env_id else 0,
            num_seeds=num_seeds,
            random_returns=_random_returns(env_id, num_episodes, eval_seed),
        )
        comparison.save(root / _RESULT_NAME)
        comparison.plot(root / _PLOT_NAME)
        _save_chosen(root, entries, comparison)
    return comparison


@dataclass(frozen=True)
class _Judging:
    env_id: str | None
    num_episodes: int
    eval_seed: int
    held_out: Dataset | None

    def settings(self) -> dict[str, Any]:
        return {"env_id": self.env_id, "num_episodes": self.num_episodes, "eval_seed": self.eval_seed}

    def judge(self, agent: Agent, folder: Path) -> dict[str, Any]:
        """What the agent achieves; it also goes into its card."""
        measured: dict[str, Any] = {}
        discount = None
        if self.held_out is not None:
            agent.offline_evaluation = evaluate_offline(agent, self.held_out)
            discount, best = agent.offline_evaluation.discount, agent.offline_evaluation.best
            measured["value"] = None if best is None else best.value
            measured["lower_bound"] = None if best is None else best.lower_bound
            measured["advantage_lower_bound"] = None if best is None else best.advantage_lower_bound
        if self.env_id is not None:
            agent.evaluation = rollout(
                agent,
                self.env_id,
                num_episodes=self.num_episodes,
                target_return=agent.target_returns[0] if agent.target_returns else None,
                num_envs=min(20, self.num_episodes),
                seed=self.eval_seed,
                discount=discount,
            )
            measured["returns"] = agent.evaluation.returns.tolist()
        agent.save_pretrained(folder)
        return measured


def _entries(dataset: Dataset, titles: Sequence[str] | None) -> list[_Entry]:
    offered = methods_for(dataset)
    for title in titles or ():
        if title not in offered:
            raise ValueError(f"no method {title!r} fits these data: expected one of {', '.join(map(repr, offered))}.")
    if not offered:
        raise ValueError("no method fits these data.")
    return [_Entry(*offered[title]) for title in (titles or offered)]


def _plan(
    root: Path, dataset: Dataset, entries: Sequence[_Entry], settings: dict[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """The updates of each stage of each method; written before the first run, and read when the comparison goes on."""
    settings = {
        **settings,
        "methods": [entry.method.title for entry in entries],
        "data": content_fingerprint(TrajectoryColumns.of(dataset)),
    }
    path = root / _PLAN_NAME
    remove_leftovers(path)
    if path.exists():
        plan = read_record(path, "settings", "updates")
        other = sorted(name for name, value in settings.items() if plan["settings"].get(name) != value)
        if other:
            raise ValueError(
                f"{root} holds a comparison with other settings ({', '.join(other)}): choose another output folder, or repeat the settings."
            )
        return plan
    runs = settings["num_seeds"] * len(entries)
    share = None if settings["budget"] is None else settings["budget"] / runs
    updates = {
        entry.folder: [
            _updates(entry, stage, dataset, share, settings["max_steps"]) for stage in range(len(entry.stages))
        ]
        for entry in entries
    }
    plan = {"settings": settings, "updates": updates}
    write_whole(path, json.dumps(plan, indent=2) + "\n")
    say(f"{len(entries)} methods, {settings['num_seeds']} seeds: {', '.join(settings['methods'])}")
    return plan


def _updates(entry: _Entry, stage: int, dataset: Dataset, share: float | None, max_steps: int | None) -> int:
    _, family = entry.stages[stage]
    options = family.options_class(**(entry.method.options if family is entry.family else {}))
    if share is None and max_steps is not None:
        return max_steps
    prepared = family.prepare(dataset, options)
    recipe = {"max_steps": 1000, **family.training_defaults, **prepared.training}
    most = recipe["max_steps"] if max_steps is None else max_steps
    if share is None:
        return most
    seconds = _seconds_per_update(family, prepared)
    return int(np.clip(share / len(entry.stages) / seconds, min(_FEWEST_UPDATES, most), most))


class _Clock(TrainerCallback):
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter())


def _seconds_per_update(family: ModelFamily, prepared: Prepared) -> float:
    """By a trial of a few updates."""
    clock = _Clock()
    with TemporaryDirectory() as folder:
        arguments = _arguments(family, folder, _TRIAL_UPDATES, 0)
        trainer = TrajectoryTrainer(
            prepared.model,
            arguments,
            prepared.data_collator,
            prepared.train_dataset,
            processing_class=prepared.processor,
            callbacks=[clock],
        )
        with redirect_stdout(StringIO()):
            trainer.train()
    return (clock.times[-1] - clock.times[_WARM_UP - 1]) / (len(clock.times) - _WARM_UP)


def _arguments(family: ModelFamily, folder: str | Path, updates: int, seed: int) -> TrainingArguments:
    quiet = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_steps": max(1, updates // 5)}
    return TrainingArguments(
        str(folder), **{**family.training_defaults, **quiet, "max_steps": updates, "seed": seed, "log_level": "error"}
    )


def _cell(
    entry: _Entry,
    seed: int,
    folder: Path,
    plan: Mapping[str, Any],
    dataset: Dataset,
    judging: _Judging,
    dataset_name: str | None,
    command: str | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Train and judge one run, or read what was measured of it."""
    done = folder / _CELL_NAME
    remove_leftovers(done)
    if done.exists():
        return read_record(done, "seconds")
    options, agents = dict(entry.method.options), []
    for (option, family), updates in zip(entry.stages, plan["updates"][entry.folder]):
        place = folder if option is None else folder.with_name(f"seed-{seed}-{option}")
        own = options if option is None else {}
        agents.append(_trained(family, dataset, own, place, updates, seed, judging.env_id, dataset_name, command))
        if option is not None:
            options[option] = str(place)
    agent, seconds = agents[-1], sum(one.run.seconds or 0.0 for one in agents if one.run is not None)
    measured = {"seconds": seconds, **judging.judge(agent, folder)}
    write_whole(done, json.dumps(measured) + "\n")
    say(f"{entry.method.title}, seed {seed}: {_in_words(measured)}, trained in {seconds:.1f} s")
    return measured


def _trained(
    family: ModelFamily,
    dataset: Dataset,
    options: Mapping[str, Any],
    folder: Path,
    updates: int,
    seed: int,
    env_id: str | None,
    dataset_name: str | None,
    command: str | None,
) -> Agent:
    finish_update(folder)
    if (folder / CONFIG_NAME).exists():  # killed while it was judged
        return Agent.from_pretrained(str(folder))
    known = {field.name for field in fields(family.options_class)}
    given = {**options, **({"env_id": env_id} if env_id and "env_id" in known else {})}
    with redirect_stdout(
        StringIO()
    ):  # `Trainer` prints its logs, and the lines of the comparison would be lost among them
        try:
            return train_agent(
                family,
                dataset,
                family.options_class(**given),
                _arguments(family, folder, updates, seed),
                judgement=Judgement(env_id, num_episodes=0, replay=False),
                resume=True,  # a run that was interrupted left a checkpoint
                left_to_data=("learning_rate",),
                dataset_name=dataset_name,
                command=command,
            )
        except TrainingInterrupted as error:
            raise TrainingInterrupted("stopped, and a checkpoint was saved: repeat the command to go on.") from error


def _in_words(measured: Mapping[str, Any]) -> str:
    parts = []
    if "returns" in measured:
        parts.append(f"mean return {np.mean(measured['returns']):.1f}")
    if "value" in measured:
        known = measured["value"] is not None
        parts.append(f"estimated return {measured['value']:.4g}" if known else "no estimate")
    return ", ".join(parts)


def _merged(entry: _Entry, plan: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> MethodResult:
    offline = "value" in cells[0]
    return MethodResult(
        title=entry.method.title,
        updates=plan["updates"][entry.folder][-1],
        seconds=[cell["seconds"] for cell in cells],
        returns=[cell["returns"] for cell in cells] if "returns" in cells[0] else [],
        values=[cell["value"] for cell in cells] if offline else [],
        lower_bounds=[cell["lower_bound"] for cell in cells] if offline else [],
        advantage_lower_bounds=[cell["advantage_lower_bound"] for cell in cells] if offline else [],
    )


def _data_returns(dataset: Dataset) -> tuple[float, float, float] | None:
    returns = returns_of_episodes(TrajectoryColumns.of(dataset)).astype(np.float64)
    interval = bootstrap_interval(returns)
    return None if interval is None else (float(returns.mean()), *interval)


def _random_returns(env_id: str | None, num_episodes: int, seed: int) -> list[float]:
    if env_id is None:
        return []
    return rollout(
        "random", env_id, num_episodes=num_episodes, num_envs=min(20, num_episodes), seed=seed
    ).returns.tolist()


def _save_chosen(root: Path, entries: Sequence[_Entry], comparison: Comparison) -> None:
    """The agent of the first seed, which nobody selected by its results, with the comparison in its card."""
    entry = next(one for one in entries if one.method.title == comparison.chosen.title)
    agent = Agent.from_pretrained(str(root / entry.folder / "seed-0"))
    if agent.run is not None:
        agent.run = replace(agent.run, comparison=comparison.report())
    agent.save_pretrained(root / "agent")
