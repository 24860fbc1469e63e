"""Online fine-tuning: an agent plays, its episodes join the data, and training goes on.

The idea is that of the Online Decision Transformer (Zheng et al., 2022): offline training first, then rounds of exploration in
which the episodes are relabeled with the returns that they achieved. Here the loss stays what it was offline, exploration is noise
on the actions, and good episodes are drawn more often by `hf_seqrl.data.sampling`.
"""

import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets, load_from_disk
from gymnasium.spaces import Box
from transformers import PrinterCallback, TrainingArguments, set_seed

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.durable import remove_leftovers, removed_if_empty, sole_writer, whole_folder
from hf_seqrl.data.metadata import metadata_of, with_metadata
from hf_seqrl.data.returns import returns_of_episodes
from hf_seqrl.data.sampling import return_temperature, return_weights
from hf_seqrl.evaluation.collect import collect
from hf_seqrl.evaluation.policies import NoisyPolicy, noisy
from hf_seqrl.hub.agent import Agent
from hf_seqrl.hub.checkpoint import CONFIG_NAME, finish_update, weights_checksum
from hf_seqrl.hub.run_record import RunRecord
from hf_seqrl.training.checkpoints import as_recorded, check_finished, check_settings, forget_settings
from hf_seqrl.training.recipe import content_fingerprint, record_run
from hf_seqrl.training.run import Judgement, finished_agent, judge
from hf_seqrl.training.trainer import TrajectoryTrainer

_ROUNDS, _EPISODES, _WEIGHTS, _REPORT = "rounds", "episodes", "agent", "round.json"


@dataclass(frozen=True)
class OnlineOptions:
    """How an agent is fine-tuned in its environment.

    Attributes:
        rounds: How often it collects and trains.
        episodes_per_round: Episodes that it plays in a round.
        updates_per_round: Updates of its weights in a round.
        learning_rate: Constant.
        batch_size: Windows an update.
        noise: Exploration: each episode draws from 0 to `noise` the chance of a random action or, for a `Box`, the standard
            deviation of what is added to its actions, in half ranges of the bounds.
        target_return: Raw return that exploration asks for; by default the best of all episodes so far and a tenth of their range
            more. Not for agents that take none.
        max_episodes: So many episodes are kept, the data set's first episodes going first; `None` for all.
        uniform_share: Share of the windows that are drawn from all steps alike; the others from good episodes more often.
        num_envs: Environments side by side.
        seed: Of the episodes, and of the order of the data.

    Raises:
        ValueError: a number is out of its range.
    """

    rounds: int = 10
    episodes_per_round: int = 20
    updates_per_round: int = 200
    learning_rate: float = 1e-3
    batch_size: int = 64
    noise: float = 0.2
    target_return: float | None = None
    max_episodes: int | None = None
    uniform_share: float = 0.1
    num_envs: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rounds", "episodes_per_round", "updates_per_round", "batch_size", "num_envs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected at least 1.")
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise is {self.noise}: expected a number between 0 and 1.")
        if self.max_episodes is not None and self.max_episodes < self.episodes_per_round:
            raise ValueError(
                f"max_episodes is {self.max_episodes}: expected at least the {self.episodes_per_round} episodes of a round."
            )


def finetune_online(
    agent: Agent,
    output_dir: str | Path,
    dataset: Dataset | None = None,
    env: str | None = None,
    options: OnlineOptions | None = None,
    *,
    judgement: Judgement | None = None,
    resume: bool = False,
    dataset_name: str | None = None,
    command: str | None = None,
    use_cpu: bool = False,
) -> Agent:
    """Fine-tune an agent with episodes of its own, and save it with its card.

    A round is a function of the weights, the data and the seed alone, and what it leaves is written whole: a run that was killed goes
    on with the round that it did not finish, and ends with the weights of an uninterrupted one. The episodes of all rounds stay in
    `output_dir/rounds`.

    Args:
        agent (`Agent`): Of a family that can be trained on with other data (`ModelFamily.make_batches`). Its weights change.
        output_dir (`str` or `Path`): Receives the rounds, and the agent in the end.
        dataset (`Dataset`, *optional*): The trajectories that it was trained on, or others; without them it learns from its own
            episodes alone.
        env (`str`, *optional*): A gymnasium id; defaults to the one of the agent.
        options (`OnlineOptions`, *optional*): How.
        judgement (`Judgement`, *optional*): The evaluation at the end.
        resume (`bool`, *optional*, defaults to `False`): Go on with the run in `output_dir`.
        dataset_name, command (`str`, *optional*): For the card.
        use_cpu (`bool`, *optional*, defaults to `False`): Whether an accelerator is left unused.

    Returns:
        The agent, with its evaluation and the record of the run.

    Raises:
        ValueError: The family cannot be trained on, no environment is known, or a resumed run has other settings.
        FileExistsError: The folder holds an agent or an unfinished run, and `resume` is false.
    """
    folder, env = Path(output_dir), env or agent.env_id
    options, judgement = options or OnlineOptions(), judgement or Judgement()
    if agent.family.make_batches is None:
        raise ValueError(f"a {agent.family.name} cannot be fine-tuned online: its family has no make_batches.")
    if env is None:
        raise ValueError("the agent does not name its environment: give one with env.")
    if (folder / CONFIG_NAME).exists() and not resume:
        raise FileExistsError(f"{folder} holds a finished agent: choose another output folder.")
    if any((folder / _ROUNDS).glob("round-*")) and not resume:
        raise FileExistsError(
            f"{folder} holds an unfinished run: go on with --resume, or choose another output folder."
        )
    with removed_if_empty(folder), sole_writer(folder):
        finish_update(folder)
        settings = _settings(agent, env, dataset, options)
        judgement = replace(judgement, env=judgement.env or env)
        tuning = _Tuning(agent, env, options, folder, use_cpu)
        if (folder / CONFIG_NAME).exists():
            check_finished(folder, settings)
            tuning.forget_weights()
            forget_settings(folder, resumable=False)
            return finished_agent(folder, judgement)
        check_settings(folder, settings, not resume)
        try:
            trainer, dataset = tuning.run(dataset)
        finally:
            forget_settings(folder, resumable=tuning.done > 0)
        record = _record(trainer, agent, dataset, dataset_name, options, command, tuning.reports())
        record = replace(record, settings=as_recorded(settings))
        tuned = Agent(agent.model, agent.processor, critic=agent.critic, **agent.candidates, **agent.acting_options)
        try:
            judge(tuned, judgement)
        finally:
            tuned.save_pretrained(folder, run=record)
        tuning.forget_weights()
        forget_settings(folder, resumable=False)
    return tuned


class _Tuning:
    """The rounds of a run in its folder."""

    def __init__(self, agent: Agent, env: str, options: OnlineOptions, folder: Path, use_cpu: bool) -> None:
        self.agent, self.env, self.options = agent, env, options
        self.folder, self.use_cpu = folder / _ROUNDS, use_cpu

    @property
    def done(self) -> int:
        """The number of finished rounds."""
        return len(list(self.folder.glob("round-*")))

    def run(self, dataset: Dataset | None) -> tuple[TrajectoryTrainer, Dataset]:
        """Play all rounds that are missing; returns the last trainer and all data."""
        pieces, done = [] if dataset is None else [dataset], self.done
        for number in range(done):
            remove_leftovers(self._place(number))
            pieces.append(load_from_disk(str(self._place(number) / _EPISODES)))
        if done:
            self._take_weights(self._place(done - 1) / _WEIGHTS, pieces)
        for number in range(done, self.options.rounds):
            trainer = self._round(number, pieces)
        if done >= self.options.rounds:  # killed while the agent was judged or saved
            trainer = self._trainer(_joined(pieces), 0)
        return trainer, _joined(pieces)

    def reports(self) -> list[dict[str, Any]]:
        """What each round achieved."""
        return [json.loads((place / _REPORT).read_text()) for place in sorted(self.folder.glob("round-*"))]

    def forget_weights(self) -> None:
        for place in self.folder.glob("round-*"):
            shutil.rmtree(place / _WEIGHTS, ignore_errors=True)

    def _round(self, number: int, pieces: list[Dataset]) -> TrajectoryTrainer:
        """Collect, train, and write both down; the new episodes are added to `pieces`."""
        began, options = time.monotonic(), self.options
        target = _target(self.agent, pieces, options)
        first = options.seed + number * options.episodes_per_round
        collected = collect(
            _exploring(self.agent, options.noise),
            self.env,
            num_episodes=options.episodes_per_round,
            num_envs=options.num_envs,
            seed=first,
            target_return=target,
        )
        with whole_folder(self._place(number)) as place:
            collected.save_to_disk(str(place / _EPISODES))
            pieces.append(load_from_disk(str(place / _EPISODES)).with_format(None))
            _widen_returns(self.agent, pieces)
            seed = options.seed + number
            set_seed(seed)
            trainer = self._trainer(_joined(pieces, options.max_episodes), seed)
            loss = trainer.train().training_loss
            self.agent.model.save_pretrained(place / _WEIGHTS)
            self.agent.processor.save_pretrained(place / _WEIGHTS)
            returns = returns_of_episodes(TrajectoryColumns.of(collected))
            report: dict[str, Any] = {
                "round": number,
                "mean_return": float(returns.mean()),
                "best_return": float(returns.max()),
            }
            report |= {"target_return": target, "loss": loss, "seconds": time.monotonic() - began}
            (place / _REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        pieces[-1] = load_from_disk(str(self._place(number) / _EPISODES))
        if number:
            shutil.rmtree(self._place(number - 1) / _WEIGHTS, ignore_errors=True)
        told = f"round {number + 1} of {options.rounds}: mean return {returns.mean():.1f}, best {returns.max():.1f}"
        print(told + (f", asked for {target:.6g}" if target is not None else ""))
        return trainer

    def _trainer(self, dataset: Dataset, seed: int) -> TrajectoryTrainer:
        columns = TrajectoryColumns.of(dataset)
        returns, lengths = returns_of_episodes(columns), np.diff(columns.episode_offsets)
        temperature = return_temperature(returns, lengths)
        weights = None
        if temperature is not None:
            weights = return_weights(returns, lengths, temperature, self.options.uniform_share)
        assert self.agent.family.make_batches is not None  # `finetune_online` has seen to it
        windows, collator = self.agent.family.make_batches(dataset, self.agent.processor, weights)
        arguments = TrainingArguments(
            str(self.folder.parent),
            max_steps=self.options.updates_per_round,
            learning_rate=self.options.learning_rate,
            lr_scheduler_type="constant",
            per_device_train_batch_size=self.options.batch_size,
            remove_unused_columns=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=self.use_cpu,
            seed=seed,
        )
        trainer = TrajectoryTrainer(
            self.agent.model, arguments, collator, windows, processing_class=self.agent.processor
        )
        trainer.remove_callback(PrinterCallback)  # a line a round is enough
        return trainer

    def _place(self, number: int) -> Path:
        return self.folder / f"round-{number:04d}"

    def _take_weights(self, folder: Path, pieces: list[Dataset]) -> None:
        if not folder.exists():
            raise ValueError(f"{folder} is missing: the run cannot be resumed. Start over in another folder.")
        model = self.agent.model
        model.load_state_dict(type(model).from_pretrained(str(folder)).state_dict())
        _widen_returns(self.agent, pieces)


def _exploring(agent: Agent, noise: float) -> NoisyPolicy:
    """The agent with noise of a level that each episode draws."""
    space = agent.processor.task.actions
    if not isinstance(space, Box):
        return noisy(agent, epsilon=(0.0, noise))
    bounded = np.isfinite(space.high) & np.isfinite(space.low)
    half_range = float(np.mean((space.high - space.low)[bounded])) / 2 if bounded.any() else 1.0
    return noisy(agent, sigma=(0.0, noise * half_range))


def _target(agent: Agent, pieces: list[Dataset], options: OnlineOptions) -> float | None:
    """What exploration asks for, raw."""
    if not agent.is_conditioned or options.target_return is not None:
        return options.target_return
    if not pieces:
        return None  # the agent's own default
    returns = np.concatenate([returns_of_episodes(TrajectoryColumns.of(piece)) for piece in pieces])
    return float(returns.max() + 0.1 * np.ptp(returns))


def _widen_returns(agent: Agent, pieces: list[Dataset]) -> None:
    """Have the processor know the returns of the new episodes."""
    returns = np.concatenate([returns_of_episodes(TrajectoryColumns.of(piece)) for piece in pieces])
    agent.processor.widen_returns(returns)
    agent.actor.target_returns, agent.actor.task = agent.processor.target_returns, agent.processor.task


def _joined(pieces: list[Dataset], max_episodes: int | None = None) -> Dataset:
    """One data set, the newest episodes last; of at most so many episodes, which are the last ones."""
    first = pieces[0]
    names = [name for name in first.column_names if all(name in piece.column_names for piece in pieces)]
    features = first.select_columns(names).features
    parts = [piece.select_columns(names) for piece in pieces]
    joined = concatenate_datasets([part if part.features == features else part.cast(features) for part in parts])
    if max_episodes is not None and joined.num_rows > max_episodes:
        joined = joined.select(range(joined.num_rows - max_episodes, joined.num_rows))
    return with_metadata(joined, metadata_of(first))


def _settings(agent: Agent, env: str, dataset: Dataset | None, options: OnlineOptions) -> dict[str, Any]:
    """What a resumed run must share with the one that it goes on with."""
    data = None if dataset is None else content_fingerprint(TrajectoryColumns.of(dataset))
    return {"weights": weights_checksum(agent.model), "env": env, "data": data, **asdict(options)}


def _record(
    trainer: TrajectoryTrainer,
    agent: Agent,
    dataset: Dataset,
    dataset_name: str | None,
    options: OnlineOptions,
    command: str | None,
    reports: list[dict[str, Any]],
) -> RunRecord:
    record = record_run(
        trainer, agent.family.name, dataset, dataset_name=dataset_name, options=options, command=command
    )
    return replace(
        record,
        updates=options.rounds * options.updates_per_round,
        seed=options.seed,
        seconds=sum(report["seconds"] for report in reports),
        final_loss=reports[-1]["loss"],
        options=record.options | {"returns_of_the_rounds": [report["mean_return"] for report in reports]},
    )
