"""A training run: from a family and its options to an evaluated agent with its records."""

import platform
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments, set_seed

from hf_seqrl.data.durable import check_writable, removed_if_empty, sole_writer
from hf_seqrl.data.environment_ids import trusted_env_id
from hf_seqrl.data.stream import TrajectoryStream
from hf_seqrl.evaluation.rollout import rollout
from hf_seqrl.hub.agent import Agent
from hf_seqrl.hub.checkpoint import CONFIG_NAME, finish_update
from hf_seqrl.hub.replay import rollout_and_replay
from hf_seqrl.models.registry import ModelFamily, Prepared
from hf_seqrl.training.callbacks import RolloutCallback
from hf_seqrl.training.checkpoints import (
    SaveOnInterrupt,
    Stopwatch,
    WholeCheckpoints,
    as_recorded,
    check_finished,
    check_settings,
    checkpoints,
    forget_settings,
    is_at_its_end,
    last_complete_checkpoint,
    remove_incomplete,
)
from hf_seqrl.training.recipe import settings_of
from hf_seqrl.training.streaming import prepare_stream
from hf_seqrl.training.trainer import TrajectoryTrainer


class TrainingInterrupted(KeyboardInterrupt):
    """A signal ended the training; the message names the checkpoint to resume from."""


@dataclass(frozen=True)
class Judgement:
    """The evaluation of an agent, during and after training.

    Attributes:
        env: A gymnasium id; `None` for the one of the data set.
        num_episodes: Episodes for each target return; 0 for no evaluation.
        target_returns: Raw units; `None` for those of the processor.
        num_envs: Number of parallel environments.
        seed: Of the first episode.
        replay: Whether the first episode of the judgement at the end, which asks for the first target, goes along as a
            film.
    """

    env: str | None = None
    num_episodes: int = 20
    target_returns: Sequence[float] | None = None
    num_envs: int = 20
    seed: int = 10_000
    replay: bool = True


def train_agent(
    family: ModelFamily,
    dataset: Dataset | TrajectoryStream | None,
    options: Any,
    arguments: TrainingArguments,
    *,
    judgement: Judgement = Judgement(),
    resume: bool = False,
    allow_changes: bool = False,
    resident: bool = False,
    left_to_data: Collection[str] = (),
    dataset_name: str | None = None,
    command: str | None = None,
) -> Agent:
    """Train, evaluate, and save an agent with its card into `arguments.output_dir`.

    Args:
        family (`ModelFamily`): What to train.
        dataset (`Dataset` or `TrajectoryStream`, *optional*): Trajectories; `None` for families that learn online. A stream
            has no length, so that `arguments.max_steps` has to be given.
        options: An instance of `family.options_class`.
        arguments (`TrainingArguments`): Their `output_dir` receives checkpoints, and at the end the agent.
        judgement (`Judgement`, *optional*): The evaluation at the end, and at every `eval_steps` where
            `eval_strategy` asks for it.
        resume (`bool`, *optional*, defaults to `False`): Go on from the last complete checkpoint; the weights in the end are
            those of a run that was not interrupted. Of a run that is finished, the agent is loaded.
        allow_changes (`bool`, *optional*, defaults to `False`): Whether a run may be resumed with other settings than those
            that it was started with.
        resident (`bool`, *optional*, defaults to `False`): Keep the encoded data on the training device; see `TrajectoryTrainer`.
        left_to_data (*optional*): Names among `arguments` that the family may set as it suits the data, such as `max_steps` and
            `learning_rate`; by default none.
        dataset_name, command (`str`, *optional*): For the card.

    Raises:
        FileExistsError: The output folder holds a finished agent or an unfinished run, and `resume` is false.
        InUseError: Another process trains in the output folder.
        ValueError: A size among the options is below 1, a resumed run has other settings than it was started with, or `max_steps`
            is missing for a stream.
        TrainingInterrupted: A signal came; a checkpoint was saved.
    """
    _check_sizes(options)
    if isinstance(dataset, TrajectoryStream) and arguments.max_steps <= 0:
        raise ValueError(
            "a stream has no length, so its epochs cannot be counted: give the number of updates, max_steps (--max_steps 10000)."
        )
    check_writable(arguments.output_dir)
    with ExitStack() as stack:
        if arguments.process_index == 0:
            stack.enter_context(removed_if_empty(arguments.output_dir))
            stack.enter_context(sole_writer(arguments.output_dir))
            finish_update(arguments.output_dir)
        first = arguments.process_index == 0
        settings = settings_of(family.name, options, arguments, dataset) if first else {}
        checkpoint = _agreed(arguments, lambda: _where_to_start(arguments.output_dir, resume, settings))
        if checkpoint == Path(arguments.output_dir):
            forget_settings(arguments.output_dir, resumable=not first)  # those that a kill left
            return finished_agent(checkpoint, judgement)
        if first:
            check_settings(arguments.output_dir, settings, allow_changes or not resume)
            remove_incomplete(arguments.output_dir)
        try:
            facts = {"dataset_name": dataset_name, "command": command, "settings": as_recorded(settings)}
            return _train(
                family,
                dataset,
                options,
                arguments,
                judgement,
                checkpoint,
                facts,
                resident=resident,
                left_to_data=left_to_data,
            )
        finally:
            if arguments.process_index == 0:
                finished = Path(arguments.output_dir, CONFIG_NAME).exists()
                forget_settings(arguments.output_dir, not finished and bool(checkpoints(arguments.output_dir)))


def _check_sizes(options: Any) -> None:
    """Refuse sizes below 1 by name; inside the model they end in divisions by zero."""
    for name in ("hidden_size", "n_layer", "n_head", "context_length"):
        size = getattr(options, name, None)
        if isinstance(size, int) and size < 1:
            raise ValueError(f"{name} is {size}: expected a number >= 1.")


def _train(
    family: ModelFamily,
    dataset: Dataset | TrajectoryStream | None,
    options: Any,
    arguments: TrainingArguments,
    judgement: Judgement,
    checkpoint: Path | None,
    facts: dict[str, Any],
    *,
    resident: bool,
    left_to_data: Collection[str],
) -> Agent:
    set_seed(arguments.seed)  # the weights are initialized in `prepare`
    streams = isinstance(dataset, TrajectoryStream)
    prepared = prepare_stream(family, dataset, options) if streams else family.prepare(dataset, options)
    suited = {name: value for name, value in prepared.training.items() if name in left_to_data}
    if suited:
        for name, value in suited.items():
            setattr(arguments, name, value)
        chosen = ", ".join(f"{name} {value}" for name, value in suited.items())
        prepared = replace(prepared, notes=(*prepared.notes, f"{chosen}: {prepared.training_because}."))
    if arguments.process_index == 0:
        for note in prepared.notes:
            print(f"chosen for these data: {note}")
    if not prepared.acts:
        judgement = replace(judgement, num_episodes=0)
    trainer = _trainer(prepared, arguments, judgement, resident, facts["dataset_name"])
    stopwatch = Stopwatch()
    if checkpoint is not None and is_at_its_end(checkpoint, arguments):  # `Trainer` would make one update more
        _restore(trainer, stopwatch, checkpoint, prepared.trainer_arguments.get("callbacks", ()))
    else:
        _run(trainer, stopwatch, checkpoint)
    record = replace(
        trainer.run_record(
            options=options, chosen=prepared.notes, command=facts["command"], seconds=stopwatch.seconds
        ),
        cpu_seconds=stopwatch.cpu_seconds,
        settings=facts["settings"],
    )
    critic = Agent.from_pretrained(prepared.critic) if prepared.critic is not None else None
    agent = Agent(trainer.accelerator.unwrap_model(trainer.model), prepared.processor, critic=critic)
    if trainer.is_world_process_zero():
        try:
            judge(agent, judgement, progress=not arguments.disable_tqdm)
        finally:  # the trained weights are kept if the evaluation fails or is interrupted
            agent.save_pretrained(arguments.output_dir, run=record)
    return agent


def _run(trainer: TrajectoryTrainer, stopwatch: Stopwatch, checkpoint: Path | None) -> None:
    interrupt = SaveOnInterrupt()
    for callback in (interrupt, stopwatch, WholeCheckpoints()):
        trainer.add_callback(callback)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        interrupt.stop_watching()
    if interrupt.interrupted:
        raise TrainingInterrupted(f"stopped at update {trainer.state.global_step}: go on with --resume.")


def _restore(
    trainer: TrajectoryTrainer, stopwatch: Stopwatch, checkpoint: Path, callbacks: Iterable[TrainerCallback]
) -> None:
    """Restore the end of a run that was killed while its agent was evaluated or saved.

    Args:
        callbacks: Those of the family, which may change the weights at the end of a training.
    """
    model, arguments = trainer.accelerator.unwrap_model(trainer.model), trainer.args
    trainer.state = state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    best = state.best_model_checkpoint if arguments.load_best_model_at_end else None
    weights = type(model).from_pretrained(str(best or checkpoint)).state_dict()
    model.load_state_dict(weights)
    for callback in callbacks:
        callback.on_train_begin(arguments, state, trainer.control, model=model)
        callback.on_train_end(arguments, state, trainer.control, model=model)
    stopwatch.restore(state)


def judge(agent: Agent, judgement: Judgement, progress: bool = True) -> None:
    """Evaluate an agent and record its replay, unless there is no environment or no episode to run."""
    env_id = judgement.env or trusted_env_id(agent.env_id, "this agent")
    if env_id is None or judgement.num_episodes == 0:
        return
    options = {
        "num_episodes": judgement.num_episodes,
        "target_return": judgement.target_returns or agent.target_returns or None,
        "num_envs": judgement.num_envs,
        "seed": judgement.seed,
        "progress": progress,
    }
    if judgement.replay:
        agent.evaluation, agent.replay = rollout_and_replay(agent, env_id, **options)
    else:
        agent.evaluation = rollout(agent, env_id, **options)


def finished_agent(folder: str | Path, judgement: Judgement) -> Agent:
    """The agent of a run that is finished."""
    agent, told = Agent.from_pretrained(folder), f"the run in {folder} is finished: there is nothing to resume."
    if agent.evaluation is None and judgement.num_episodes:
        told += f" Its evaluation was interrupted, or not asked for: hf-seqrl evaluate {folder} --save does it now."
    if PartialState().is_main_process:
        print(told)
    return agent


def _where_to_start(output_dir: str, resume: bool, settings: dict[str, Any]) -> Path | None:
    """The checkpoint to go on from, `None` for a new run, or `output_dir` itself where the run is finished."""
    if Path(output_dir, CONFIG_NAME).exists():
        if resume:
            check_finished(output_dir, settings)
            return Path(output_dir)
        raise FileExistsError(
            f"{output_dir} holds a finished agent: choose another output folder, or remove that one to train again."
        )
    if resume:
        return last_complete_checkpoint(output_dir)
    if checkpoints(output_dir):
        raise FileExistsError(
            f"{output_dir} holds an unfinished run: go on with --resume, or choose another output folder."
        )
    return None


def _agreed(arguments: TrainingArguments, find: Callable[[], Path | None]) -> Path | None:
    """The checkpoint that the first process finds: by the time the others look, it may have removed incomplete ones."""
    if arguments.world_size == 1:
        return find()
    [checkpoint] = broadcast_object_list([find() if arguments.process_index == 0 else None])
    if checkpoint is not None and not checkpoint.is_dir():
        raise FileNotFoundError(
            f"process {arguments.process_index} of {arguments.world_size} on {platform.node()} does not see {checkpoint}, from which the first "
            "process resumes: give an --output_dir on a file system that all machines share, or --save_on_each_node True from the start."
        )
    return checkpoint


def _trainer(
    prepared: Prepared,
    arguments: TrainingArguments,
    judgement: Judgement,
    resident: bool,
    dataset_name: str | None,
) -> TrajectoryTrainer:
    callbacks = list(prepared.trainer_arguments.get("callbacks", ()))
    if judgement.num_episodes and (judgement.env or prepared.processor.env_id):
        callbacks.append(
            RolloutCallback(
                judgement.env,
                num_episodes=judgement.num_episodes,
                target_return=judgement.target_returns,
                num_envs=judgement.num_envs,
                seed=judgement.seed,
            )
        )
    optimizer = prepared.make_optimizer(arguments) if prepared.make_optimizer else None
    return _trainer_class(prepared.trainer_class)(
        prepared.model,
        arguments,
        prepared.data_collator,
        prepared.train_dataset,
        prepared.eval_dataset,
        processing_class=prepared.processor,
        dataset_name=dataset_name,
        resident=resident,
        optimizers=(optimizer, None),
        **{**prepared.trainer_arguments, "callbacks": callbacks},
    )


def _trainer_class(own: type[Trainer] | None) -> type[TrajectoryTrainer]:
    """Combine a family's own trainer with `TrajectoryTrainer`."""
    return TrajectoryTrainer if own is None else type(own.__name__, (TrajectoryTrainer, own), {"__doc__": own.__doc__})
