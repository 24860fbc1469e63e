"""The processor of the encoder-decoder, which encodes sources and targets, and its data collator."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from torch import Tensor

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import return_statistics_of, returns_to_go
from hf_seqrl.data.spaces import action_size, encode_actions, group_sizes, refuse_hybrid
from hf_seqrl.data.task import Task
from hf_seqrl.data.task_inference import task_of
from hf_seqrl.data.windows import gathered_windows
from hf_seqrl.models.processor import TrajectoryProcessor
from hf_seqrl.models.trajectory_seq2seq.configuration_trajectory_seq2seq import TrajectorySeq2SeqConfig
from hf_seqrl.models.trajectory_seq2seq.outputs import IGNORED_LABEL

if TYPE_CHECKING:
    from datasets import Dataset

TARGETS = ("history", "actions", "next_action")
Target = Literal["history", "actions", "next_action"]


class TrajectorySeq2SeqProcessor(TrajectoryProcessor):
    """Encodes histories; saved with the weights.

    Discrete entries become indices, `MultiDiscrete` ones concatenated one-hot vectors, `Box` ones flat vectors (of which
    observations are normalized). In a target a `Discrete` entry is one symbol, a `MultiDiscrete` one a symbol for each
    component, a `Box` one a VALUE symbol with its vector.

    Args:
        task (`Task` or `dict`, *optional*): See [`~hf_seqrl.models.processor.TrajectoryProcessor`]. A string is used as
            `target`, which was called `task` in earlier versions.
        target (`str`, *optional*, defaults to `"next_action"`):
            The decoder's output. `"history"`: `s_0 a_0 ... s_h` from itself. `"actions"`: `a_0 ... a_h` from
            `s_0 s_1 ... s_h`. `"next_action"`: `a_h` from `s_0 a_0 ... s_h`, as in an agent.
        context_length (`int`, *optional*, defaults to 10): The maximum number of states in a history.
        shared_vocabulary (`bool`, *optional*, defaults to `True`):
            Whether states and actions share one vocabulary, or the target has its own.
        conditioning (`str`, *optional*, defaults to `"none"`):
            With `"return"` the first token of the source is the return-to-go.
        state_mean, state_std (`list[float]` of length `state_size`, *optional*): Of flattened `Box` observations.
        action_shift, action_scale, return_shift, return_scale, target_returns, env_id, observation_space, action_space,
            max_episode_steps, reference_returns (*optional*): See [`~hf_seqrl.models.processor.TrajectoryProcessor`].
    """

    def __init__(
        self,
        task: Task | Mapping[str, Any] | str | None = None,
        target: Target = "next_action",
        context_length: int = 10,
        shared_vocabulary: bool = True,
        conditioning: Literal["none", "return"] = "none",
        state_mean: list[float] | np.ndarray | None = None,
        state_std: list[float] | np.ndarray | None = None,
        action_shift: list[float] | np.ndarray | None = None,
        action_scale: list[float] | np.ndarray | None = None,
        return_shift: float = 0.0,
        return_scale: float = 1.0,
        target_returns: list[float] | None = None,
        env_id: str | None = None,
        observation_space: dict[str, Any] | None = None,
        action_space: dict[str, Any] | None = None,
        max_episode_steps: int | None = None,
        reference_returns: list[float] | None = None,
    ) -> None:
        if isinstance(task, str):
            task, target = None, task
        super().__init__(
            task,
            env_id=env_id,
            observation_space=observation_space,
            action_space=action_space,
            max_episode_steps=max_episode_steps,
            reference_returns=reference_returns,
            action_shift=action_shift,
            action_scale=action_scale,
            conditioning=conditioning,
            return_shift=return_shift,
            return_scale=return_scale,
            target_returns=target_returns,
        )
        if target not in TARGETS:
            raise ValueError(f"target is {target!r}: expected one of {', '.join(TARGETS)}.")
        if context_length < 1:
            raise ValueError(f"context_length is {context_length}: expected at least 1 step.")
        self.target = target
        self.context_length = int(context_length)
        self.shared_vocabulary = shared_vocabulary
        self.state_mean = self.state_std = None
        if state_mean is not None and state_std is not None:
            self.state_mean, self.state_std = self._standardization(state_mean, state_std, "state")

    @classmethod
    def from_dataset(
        cls,
        dataset: "Dataset",
        target: Target = "next_action",
        context_length: int | None = None,
        env_id: str | None = None,
        **overrides: Any,
    ) -> "TrajectorySeq2SeqProcessor":
        """The processor of a data set; its statistics are read block by block.

        Args:
            dataset: The trajectories.
            target: See the constructor.
            context_length: States in a history; by default 10 for `"next_action"`, else the longest episode.
            env_id: The environment, where the data set does not name it.
            overrides: Any argument of the constructor.
        """
        target = overrides.pop("task", target)
        columns = TrajectoryColumns.of(dataset)
        task, _ = task_of(columns.metadata, columns, env_id, overrides)
        longest = int(np.diff(columns.episode_offsets).max())
        arguments: dict[str, Any] = {
            "task": task,
            "target": target,
            "context_length": context_length or (10 if target == "next_action" else longest),
        }
        refuse_hybrid(task.actions, "an encoder-decoder")
        arguments |= cls._scaling_of(task, columns, "state", standardize_actions=False)
        if overrides.get("conditioning") == "return":
            discount = overrides.get("discount", 1.0)
            found = return_statistics_of(columns, returns_to_go(columns, discount), discount)
            shift, scale = found.scaling()
            arguments |= {"return_shift": 0.0 if "return_scale" in overrides else shift, "return_scale": scale}
            arguments["target_returns"] = found.targets
            arguments["task"] = task.updated(return_range=(found.low, found.high), high_return=found.upper)
        return cls(**(arguments | overrides))

    def encode_states(self, observations: np.ndarray) -> np.ndarray:
        """Raw observations `(..., *observation_shape)` to indices `(...)` or float32 vectors `(..., state_size)`."""
        if self.state_mean is None or not isinstance(self.task.observations, Box):
            return _source_entries(self.task.observations, observations)
        return self.observation_vectors(np.asarray(observations), self.state_mean, self.state_std)

    def encode_actions(self, actions: np.ndarray) -> np.ndarray:
        """Raw actions `(..., *action_shape)` to indices `(...)` or vectors `(..., action_size)`."""
        if isinstance(self.task.actions, Discrete):
            return _source_entries(self.task.actions, actions)
        return super().encode_actions(actions)

    def encode_target(self, space: Space, raw: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Encode entries of a space as a target.

        Args:
            space: The observation or the action space.
            raw: `(batch, n, *shape)`, the entries.
            vectors: `(batch, n, size)`, their encoded vectors; read for `Box` spaces only.

        Returns:
            Symbols `(batch, n, k)`, `k` an entry, and vectors `(batch, n, k, value_size)`, NaN where there is none.
        """
        if isinstance(space, Box):
            values = np.full((*raw.shape[:2], 1, self.value_size), np.nan, dtype=np.float32)
            values[..., 0, : vectors.shape[-1]] = vectors
            return np.full((*raw.shape[:2], 1), self.num_symbols, dtype=np.int64), values
        symbols = (raw - space.start).reshape(*raw.shape[:2], -1).astype(np.int64)
        return symbols, np.full((*symbols.shape, self.value_size), np.nan, dtype=np.float32)

    @cached_property
    def num_symbols(self) -> int:
        """Number of discrete symbols of the target."""
        everything = self.target == "history" or self.shared_vocabulary
        groups = group_sizes(self.task.actions) + (group_sizes(self.task.observations) if everything else [])
        return max(groups, default=0)

    @cached_property
    def value_size(self) -> int:
        """Dimension of the vectors of the target; 0 where it has none."""
        written = [self.task.actions] + ([self.task.observations] if self.target == "history" else [])
        return max((action_size(space) for space in written if isinstance(space, Box)), default=0)

    @property
    def eos_token_id(self) -> int:
        """The symbol at the end of a target."""
        return self.num_symbols + (self.value_size > 0)

    @property
    def tokenizer(self) -> SimpleNamespace:
        """The special symbols, which `Trainer.train` copies from a processor's tokenizer to the model's config.

        transformers before 5.20 copied missing ones too, as `None`.
        """
        eos = self.eos_token_id
        return SimpleNamespace(eos_token_id=eos, pad_token_id=eos + 1, bos_token_id=eos + 2)

    def model_config(self, **overrides: Any) -> TrajectorySeq2SeqConfig:
        """The configuration of a model for this task; `overrides` are keys of the config, such as `backbone`."""
        tokens_per_action = max(len(group_sizes(self.task.actions)), 1)
        tokens_per_state = max(len(group_sizes(self.task.observations)), 1)
        per_step = tokens_per_action + (tokens_per_state if self.target == "history" else 0)
        steps = 1 if self.target == "next_action" else self.context_length
        arguments = {
            "state_size": action_size(self.task.observations),
            "action_size": action_size(self.task.actions),
            "continuous_states": isinstance(self.task.observations, Box),
            "continuous_actions": isinstance(self.task.actions, Box),
            "return_conditioning": self.conditioning == "return",
            "target_size": self.num_symbols,
            "value_size": self.value_size,
            "max_target_length": per_step * steps + 1,
        }
        return TrajectorySeq2SeqConfig(**(arguments | overrides))


def _source_entries(space: Space, raw: np.ndarray) -> np.ndarray:
    if isinstance(space, Discrete):
        return np.asarray(raw, dtype=np.int64) - int(space.start)
    return encode_actions(space, raw)


class TrajectorySeq2SeqDataCollator:
    """Encodes a batch of windows of any trajectory data set.

    It takes what `EpisodeHistories`, `StepHistories` or `TrajectoryWindows` yield, or rows of the data set itself (with
    `remove_unused_columns=False`). Windows of `TrajectoryWindows` begin at every step; for the target `"next_action"` the
    end of the history in each window is drawn with torch's generator.

    Args:
        dataset (`datasets.Dataset`, *optional*): The trajectories; required without a processor.
        processor (`TrajectorySeq2SeqProcessor`, *optional*): Made from the data set by default.
    """

    return_tensors = "pt"

    def __init__(self, dataset: "Dataset | None" = None, processor: TrajectorySeq2SeqProcessor | None = None) -> None:
        if dataset is None and processor is None:
            raise ValueError(
                "TrajectorySeq2SeqDataCollator() has neither a dataset nor a processor: pass one of them."
            )
        self.processor = TrajectorySeq2SeqProcessor.from_dataset(dataset) if processor is None else processor

    def __call__(self, features: Mapping | Sequence[Mapping]) -> dict[str, Tensor]:
        """A batch as `TrajectorySeq2SeqModel.forward` takes it.

        Returns:
            `states`, `actions`, `attention_mask`, with return conditioning `returns_to_go`, and `labels` with, for continuous
            targets, `target_values`; all padded on the right.
        """
        windows, lengths = _right_padded(_as_windows(features))
        if self.processor.target == "next_action":
            lengths = windows["history_lengths"] if "history_lengths" in windows else _drawn_prefixes(lengths)
        longest = int(lengths.max())
        observations = _without_padding(windows["observations"][:, :longest], lengths)
        actions = _without_padding(windows["actions"][:, :longest], lengths)
        states = self.processor.encode_states(observations)
        encoded_actions = self.processor.encode_actions(actions)
        returns_to_go = None
        if self.processor.conditioning == "return":
            returns_to_go = windows["returns_to_go"][np.arange(len(lengths)), lengths - 1]
        source = self.source(states, encoded_actions, lengths, returns_to_go)
        return source | self._target(observations, actions, states, encoded_actions, lengths)

    def source(
        self, states: np.ndarray, actions: np.ndarray, lengths: np.ndarray, returns_to_go: np.ndarray | None = None
    ) -> dict[str, Tensor]:
        """The encoder's inputs.

        Args:
            states: `(batch, T)` indices or `(batch, T, state_size)` vectors, encoded.
            actions: `(batch, T)` or `(batch, T - 1)` entries, encoded; those of a history's last state are not read.
            lengths: `(batch,)`, states in each history.
            returns_to_go: `(batch,)`, raw, at the last state.
        """
        reads_actions = self.processor.target != "actions"
        num_states = states.shape[1]
        tokens = (2 * lengths - 1 if reads_actions else lengths) + 1 + (returns_to_go is not None)
        width = (2 * num_states if reads_actions else num_states + 1) + (returns_to_go is not None)
        batch = {"states": states, "attention_mask": np.arange(width) < tokens[:, None]}
        if reads_actions:
            batch["actions"] = actions[:, : num_states - 1]
        if returns_to_go is not None:
            batch["returns_to_go"] = self.processor.scale_returns(returns_to_go)
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in batch.items()}

    def _target(
        self,
        observations: np.ndarray,
        actions: np.ndarray,
        states: np.ndarray,
        encoded_actions: np.ndarray,
        lengths: np.ndarray,
    ) -> dict[str, Tensor]:
        processor = self.processor
        num_actions = lengths
        if processor.target == "next_action":
            last = np.arange(len(lengths)), lengths - 1
            actions, encoded_actions = actions[last][:, None], encoded_actions[last][:, None]
            num_actions = np.ones_like(lengths)
        symbols, values = processor.encode_target(processor.task.actions, actions, encoded_actions)
        num_tokens = num_actions * symbols.shape[-1]
        if processor.target == "history":
            state_symbols, state_values = processor.encode_target(processor.task.observations, observations, states)
            symbols = np.concatenate([state_symbols, symbols], axis=2)  # s_t and a_t, one step beside the other
            values = np.concatenate([state_values, values], axis=2)
            num_tokens += lengths * state_symbols.shape[-1] - (symbols.shape[-1] - state_symbols.shape[-1])
        batch_size, width = len(lengths), symbols.shape[1] * symbols.shape[2]
        return self._closed(symbols.reshape(batch_size, width), values.reshape(batch_size, width, -1), num_tokens)

    def _closed(self, symbols: np.ndarray, values: np.ndarray, num_tokens: np.ndarray) -> dict[str, Tensor]:
        """Symbols `(batch, n)` with an EOS after the first `num_tokens` `(batch,)`, and nothing behind it."""
        width = int(num_tokens.max()) + 1
        symbols = np.pad(symbols, ((0, 0), (0, 1)))[:, :width]
        places, ends = np.arange(width), num_tokens[:, None]
        labels = np.where(places < ends, symbols, np.where(places == ends, self.processor.eos_token_id, IGNORED_LABEL))
        target = {"labels": torch.from_numpy(labels)}
        if self.processor.value_size:
            values = np.pad(values, ((0, 0), (0, 1), (0, 0)), constant_values=np.nan)[:, :width]
            values[places >= ends] = np.nan
            target["target_values"] = torch.from_numpy(values)
        return target


def _as_windows(features: Mapping | Sequence[Mapping]) -> dict[str, np.ndarray]:
    """Gathered windows as they are; rows of a data set, padded on the left to the longest of them."""
    if isinstance(features, Mapping) or "rewards" not in features[0] or "attention_mask" in features[0]:
        return gathered_windows(features)
    lengths = [len(row["rewards"]) for row in features]
    columns = {name: [np.asarray(row[name]) for row in features] for name in ("observations", "actions")}
    columns["returns_to_go"] = [np.cumsum(row["rewards"][::-1])[::-1].astype(np.float32) for row in features]
    columns["attention_mask"] = [np.ones(length, dtype=np.int64) for length in lengths]
    return {name: np.stack([_padded_left(values, max(lengths)) for values in rows]) for name, rows in columns.items()}


def _padded_left(values: np.ndarray, length: int) -> np.ndarray:
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
    return np.pad(values, ((length - len(values), 0), *((0, 0),) * (values.ndim - 1)))


def _right_padded(windows: dict[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Left-padded windows with their padding moved to the right, and their lengths in steps `(batch,)`."""
    mask = windows["attention_mask"]
    lengths = mask.sum(axis=1)
    width = mask.shape[1]
    if (lengths == width).all():
        return dict(windows), lengths
    places = (np.arange(width) + (width - lengths)[:, None]) % width  # (batch, width), rotated
    rows = np.arange(len(places))[:, None]
    moved = {name: windows[name][rows, places] for name in ("observations", "actions", "returns_to_go")}
    return {**windows, **moved}, lengths


def _drawn_prefixes(lengths: np.ndarray) -> np.ndarray:
    """A number of steps between 1 and each length, uniformly, by torch's generator."""
    draws = torch.rand(len(lengths)).numpy()
    return np.minimum((draws * lengths).astype(np.int64) + 1, lengths)


def _without_padding(entries: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Entries `(batch, T, ...)` with those behind each history's end replaced by its first, which its space contains."""
    behind = np.arange(entries.shape[1]) >= lengths[:, None]
    if not behind.any():
        return entries
    return np.where(behind.reshape(behind.shape + (1,) * (entries.ndim - 2)), entries[:, :1], entries)
