"""`Trainer` for trajectories: evaluation by rollouts, and pushing with the card of an agent."""

import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from copy import copy
from dataclasses import fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import CommitInfo, HfApi
from torch import nn
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_utils import HubStrategy, TrainOutput, get_last_checkpoint
from transformers.utils import PushInProgress

from hf_seqrl.data.permutation import PermutationSampler
from hf_seqrl.data.secrets import masked
from hf_seqrl.data.window_stream import WindowStream
from hf_seqrl.evaluation.results import RolloutResult
from hf_seqrl.hub.agent import Agent
from hf_seqrl.hub.checkpoint import BELONGS_TO_WEIGHTS, weights_checksum, write_manifest
from hf_seqrl.hub.pushing import card_on_hub, open_destination
from hf_seqrl.hub.run_record import RunRecord
from hf_seqrl.models.allocator import keep_freed_memory
from hf_seqrl.models.registry import family_of
from hf_seqrl.private_api import training_batch_size, training_collator, wait_for_checkpoint_push
from hf_seqrl.training.callbacks import RolloutCallback, rollout_metrics, undisturbed
from hf_seqrl.training.checkpoints import SETTINGS_NAME
from hf_seqrl.training.precision import warn_if_bf16_is_slow
from hf_seqrl.training.recipe import record_run
from hf_seqrl.training.resident import ResidentWindows, collated
from hf_seqrl.training.streaming import StreamLoader, StreamPositions, load_position

_STAYS_HERE = ["_*", "checkpoint-*", "training_args.bin", SETTINGS_NAME]  # the third is a pickle
_LONG_ORDER = 2**22  # items: torch's list of them takes some 150 MB
_OF_CHECKPOINTS = ("trainer_state.json", "complete.json")


def check_arguments(args: TrainingArguments | None, model: nn.Module | None) -> None:
    """Refuse options of `TrainingArguments` that have no meaning for trajectories.

    Raises:
        ValueError: one of them is set; the message names it.
    """
    if args is None:
        return
    strategy = getattr(args, "train_sampling_strategy", None) or (
        "group_by_length" * getattr(args, "group_by_length", False)
    )
    if args.label_smoothing_factor:
        raise ValueError(
            f"label_smoothing_factor is {args.label_smoothing_factor}: a model of trajectories computes its loss itself, so leave "
            "it at 0 (the encoder-decoder has an option label_smoothing)."
        )
    if strategy in ("group_by_length", "batch_rebalance"):
        raise ValueError(
            f"{strategy} groups examples by their length, and windows are all of one length: leave it out."
        )
    if args.use_liger_kernel:
        raise ValueError("use_liger_kernel is set: Liger has kernels for language models only, so leave it out.")
    if args.neftune_noise_alpha is not None and model is not None:
        try:
            model.get_input_embeddings()
        except (AttributeError, NotImplementedError) as error:
            raise ValueError(
                f"neftune_noise_alpha is {args.neftune_noise_alpha}: a {type(model).__name__} has no embeddings that noise could "
                "be added to, so leave it out."
            ) from error


def _without_secrets(args: TrainingArguments) -> TrainingArguments:
    clean = copy(args)
    for field in fields(args):
        value = getattr(args, field.name)
        if type(value) in (str, list, dict) and field.name != "output_dir":
            setattr(clean, field.name, masked({field.name: value})[field.name])
    clean.hub_token = None
    return clean


def _length(sized: Any) -> int | None:
    try:
        return len(sized)
    except TypeError:  # a stream does not know
        return None


class TrajectoryTrainer(Trainer):
    """transformers' `Trainer` with some additions; the plain one trains the same weights, unless the data set is very large.

    - `evaluate()` needs no data where a `RolloutCallback` judges the model in its environment, and what the callback
      measures reaches the experiment trackers.
    - `push_to_hub()` writes the card of an agent, filled with the run and with the last rollout, and the files that
      belong to it (`evaluation.json`, `results.json`, the plot), where `Trainer` would write a bare card.
    - `run_record()` returns the record of the training.
    - `train()` warns where bf16 is slower than fp32, as on a CPU without instructions for it.
    - The windows of a `TrajectoryStream` are shared out over processes and dataloader workers, and a resumed run goes on with the
      windows that were next.
    - Freed memory stays with the process (see [`~hf_seqrl.models.allocator.keep_freed_memory`]).

    Args:
        model, args, data_collator, train_dataset, eval_dataset, callbacks, kwargs: As for `Trainer`. Give the processor
            as `processing_class`: it is saved with every checkpoint.
        dataset_name (`str`, *optional*): By which the trajectories were loaded, for the card.
        resident (`bool`, *optional*, defaults to `False`): Keep the encoded training data on the device and gather batches there, for
            data that fit into its memory: see [`~hf_seqrl.training.resident.ResidentWindows`]. The batches are the same, bit for bit.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        *,
        callbacks: list[TrainerCallback] | None = None,
        dataset_name: str | None = None,
        resident: bool = False,
        **kwargs: Any,
    ) -> None:
        check_arguments(args, model)
        keep_freed_memory()
        self.dataset_name = dataset_name
        self._judged_weights: int | None = None
        self._only_rollouts = eval_dataset is None and any(isinstance(one, RolloutCallback) for one in callbacks or ())
        if self._only_rollouts:
            eval_dataset = []  # Trainer refuses to evaluate without a data set
        if isinstance(train_dataset, WindowStream):
            callbacks = [StreamPositions(train_dataset), *(callbacks or [])]
        super().__init__(model, args, data_collator, train_dataset, eval_dataset, callbacks=callbacks, **kwargs)
        if not torch.accelerator.is_available():
            self.args.dataloader_pin_memory = False  # torch would warn of it at every run
        if resident:
            self._keep_resident()

    def _keep_resident(self) -> None:
        if isinstance(self.train_dataset, WindowStream):
            raise ValueError(
                "resident keeps all data on the device, and a stream reads them while it trains: leave one out."
            )
        if self.args.dataloader_num_workers:
            raise ValueError(
                f"dataloader_num_workers is {self.args.dataloader_num_workers}: resident windows are gathered on the device by the process "
                "that trains, so leave it at 0."
            )
        self.args.dataloader_pin_memory = False  # nothing is left to copy to the device
        self.train_dataset = ResidentWindows(self.train_dataset, self.data_collator, self.args.device)
        self.data_collator = collated(self.data_collator)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As `Trainer.train`; warns if bf16 is slow on this machine's CPU."""
        on_cpu = self.accelerator.device.type == "cpu"
        if on_cpu and self.accelerator.mixed_precision == "bf16" and self.is_local_process_zero():
            warn_if_bf16_is_slow(self.model)
        if isinstance(self.train_dataset, WindowStream):
            self._place_stream(self.train_dataset, resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _place_stream(self, windows: WindowStream, resume_from_checkpoint: str | bool | None) -> None:
        windows.num_processes, windows.process_index = self.args.world_size, self.args.process_index
        windows.load_state_dict(None)
        if resume_from_checkpoint:
            chosen = resume_from_checkpoint
            checkpoint = get_last_checkpoint(self.args.output_dir) if chosen is True else chosen
            if checkpoint is not None:  # else Trainer says so
                load_position(windows, checkpoint, self.args.process_index)
        self.args.ignore_data_skip = True  # Trainer would read all batches again that were seen

    def get_train_dataloader(self) -> DataLoader:
        """As `Trainer.get_train_dataloader`; a loader without a single batch is an error.

        Raises:
            ValueError: `dataloader_drop_last` leaves no batch: `Trainer` would end after no update and save the weights.
        """
        if isinstance(self.train_dataset, WindowStream):
            return self._stream_loader(self.train_dataset)
        loader = super().get_train_dataloader()
        if self.args.dataloader_drop_last and _length(loader) == 0:
            raise ValueError(
                f"dataloader_drop_last is set and the {_length(self.train_dataset)} training examples fill no batch of "
                f"{self.args.train_batch_size} on each of {self.args.world_size} processes, so nothing would be learned: give "
                "--dataloader_drop_last False or a smaller --per_device_train_batch_size."
            )
        return loader

    def _stream_loader(self, windows: WindowStream) -> StreamLoader:
        """Past `accelerate`, which would let one process read for all: each one reads its own part of the stream."""
        return StreamLoader(
            windows,
            training_collator(self),
            batch_size=training_batch_size(self),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """As `Trainer`'s, without a list of all items where it would be long."""
        length = _length(self.train_dataset if train_dataset is None else train_dataset)
        if length is None or length < _LONG_ORDER or self.args.train_sampling_strategy != "random":
            return super()._get_train_sampler(train_dataset)
        return PermutationSampler(length, self.args.seed if self.args.data_seed is None else self.args.data_seed)

    @property
    def evaluation(self) -> RolloutResult | None:
        """The result of the last rollout of a `RolloutCallback`."""
        results = [one.result for one in self._rollout_callbacks() if one.result is not None]
        return results[-1] if results else None

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """As `Trainer.evaluate`; without an evaluation data set, rollouts only."""
        if eval_dataset is None and self._only_rollouts:
            metrics: dict[str, float] = {}
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        else:
            metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if self.evaluation is not None:
            self._judged_weights = weights_checksum(self.accelerator.unwrap_model(self.model))
        self._tell_trackers()
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `Trainer.save_model`, without tokens, keys and passwords in `training_args.bin`."""
        args, self.args = self.args, _without_secrets(self.args)
        try:
            super().save_model(output_dir or args.output_dir, _internal_call=True)
        finally:
            self.args = args
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def run_record(self, **facts: Any) -> RunRecord:
        """The record of the training, after `train()`; `facts` as for `record_run`."""
        dataset = getattr(self.train_dataset, "dataset", None)  # an online run has none
        family = family_of(self.model.config.model_type)
        sampled = isinstance(self.train_dataset, WindowStream)
        return record_run(self, family.name, dataset, dataset_name=self.dataset_name, sampled=sampled, **facts)

    def create_model_card(self, model_name: str | None = None, **metadata: Any) -> None:
        """Write the agent's card, training record and results into the output folder, instead of `Trainer`'s card.

        Args:
            model_name (`str`, *optional*): The name of the agent if it has no repository yet.
            metadata: Entries for the card's metadata block, for instance `license` or `language`.
        """
        if not self.is_world_process_zero():
            return
        former_card = None
        if self.hub_model_id is not None:
            former_card = card_on_hub(self.hub_model_id, token=self.args.hub_token, revision=self.args.hub_revision)
        self._agent().write_documents(
            self.args.output_dir, repo_id=self.hub_model_id or model_name, former_card=former_card, **metadata
        )

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        *,
        replay: bool = True,
        **metadata: Any,
    ) -> CommitInfo | Future | None:
        """As `Trainer.push_to_hub`, in one commit with the card of an agent, and errors that say what to do.

        Results, replay and weights of an agent that was there before go away in the same commit, and a card that somebody
        has edited stays, as with `Agent.push_to_hub`. Checkpoints and `training_args.bin`, a pickle, are not pushed.

        Args:
            commit_message, blocking, token, revision, private: As for `Trainer.push_to_hub`.
            replay (`bool`, *optional*, defaults to `True`): Whether to record a video of an episode.
            metadata: As for `create_model_card`.

        Raises:
            OSError: The Hub cannot be reached or rejects the push, or the repository changed meanwhile; then nothing is uploaded.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.save_model(_internal_call=True)  # all processes take part in it
        if not self.is_world_process_zero():
            return None
        wait_for_checkpoint_push(self)
        destination = open_destination(
            self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).absolute().name,
            private=private if private is not None else self.args.hub_private_repo,
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
        )
        self.hub_model_id = destination.repo_id
        agent = self._agent()
        if replay:
            with undisturbed(agent.model):
                agent.record_replay()
        metadata.pop("model_name", None)  # the repository has a name
        agent.write_documents(
            self.args.output_dir, repo_id=destination.repo_id, former_card=destination.card, **metadata
        )
        write_manifest(self.args.output_dir)
        commit = partial(
            destination.commit, self.args.output_dir, commit_message, list(BELONGS_TO_WEIGHTS), _STAYS_HERE
        )
        return commit() if blocking else destination.api.run_as_future(commit)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Where `Trainer` pushes during training: the agent goes to the Hub as one that is not finished, past the output
        folder, and without `training_args.bin`."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if not self.args.hub_always_push and self.push_in_progress is not None and not self.push_in_progress.is_done():
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        message = f"Training in progress, step {self.state.global_step}"
        pushes = [partial(self._push_unfinished, self._unfinished_agent(checkpoint_folder), message)]
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            one = self.args.hub_strategy == HubStrategy.CHECKPOINT
            place = "last-checkpoint" if one else Path(checkpoint_folder).name
            pushes.append(partial(self._upload, checkpoint_folder, f"{message}, checkpoint", path_in_repo=place))
        api = HfApi(token=self.args.hub_token)
        jobs = [api.run_as_future(push) for push in pushes]
        if self.push_in_progress is None or self.push_in_progress.is_done():
            self.push_in_progress = PushInProgress(jobs)
        else:
            self.push_in_progress.jobs.extend(jobs)

    def _unfinished_agent(self, checkpoint_folder: str) -> TemporaryDirectory:
        """A folder with the agent of a checkpoint and a card that says so."""
        folder = TemporaryDirectory()
        for path in Path(checkpoint_folder).iterdir():
            if path.is_dir() or (path.suffix in (".json", ".safetensors") and path.name not in _OF_CHECKPOINTS):
                (shutil.copytree if path.is_dir() else shutil.copyfile)(path, Path(folder.name, path.name))
        agent = self._agent(planned_updates=self.state.max_steps)
        agent.write_documents(folder.name, repo_id=self.hub_model_id)
        write_manifest(folder.name)
        return folder

    def _push_unfinished(self, folder: TemporaryDirectory, message: str) -> CommitInfo:
        with folder:
            return self._upload(folder.name, message, delete_patterns=list(BELONGS_TO_WEIGHTS))

    def _upload(self, folder: str, message: str, **options: Any) -> CommitInfo:
        return HfApi(token=self.args.hub_token).upload_folder(
            repo_id=self.hub_model_id,
            folder_path=folder,
            commit_message=message,
            revision=self.args.hub_revision,
            ignore_patterns=_STAYS_HERE,
            **options,
        )

    def _agent(self, **facts: Any) -> Agent:
        """The current agent, with the results of the last evaluation if they are of the same weights."""
        if self.processing_class is None:
            raise ValueError(
                "the card of an agent describes its processor: give it to the trainer (processing_class=processor)."
            )
        agent = Agent(self.accelerator.unwrap_model(self.model), self.processing_class)
        agent.run = self.run_record(**facts)
        if self._judged_weights == weights_checksum(agent.model):
            agent.evaluation = self.evaluation
        elif self.evaluation is not None and not facts:
            warnings.warn(
                "the last evaluation judged other weights than these, so the card has no results: call trainer.evaluate() "
                "first.",
                stacklevel=3,
            )
        return agent

    def _rollout_callbacks(self) -> list[RolloutCallback]:
        return [one for one in self.callback_handler.callbacks if isinstance(one, RolloutCallback)]

    def _tell_trackers(self) -> None:
        """`Trainer` logs an evaluation before its callbacks add to it."""
        trackers = tuple(get_reporting_integration_callbacks(self.args.report_to))
        logs = {
            name: value for one in self._rollout_callbacks() for name, value in rollout_metrics(one.result).items()
        }
        for callback in self.callback_handler.callbacks:
            if logs and isinstance(callback, trackers):
                callback.on_log(self.args, self.state, self.control, logs=logs, model=self.model)
