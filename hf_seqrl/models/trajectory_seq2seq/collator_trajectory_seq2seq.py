"""Histories as the sources and targets that an encoder-decoder trains on."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hf_seqrl.data.windows import gathered_windows
from hf_seqrl.models.trajectory_seq2seq.losses_trajectory_seq2seq import IGNORED_LABEL
from hf_seqrl.models.trajectory_seq2seq.processing_trajectory_seq2seq import TrajectorySeq2SeqProcessor

if TYPE_CHECKING:
    from datasets import Dataset


class TrajectorySeq2SeqDataCollator:
    """Encodes a batch of windows of any trajectory data set.

    It takes what `EpisodeHistories`, `StepHistories` or `TrajectoryWindows` yield, or rows of the data set itself (with
    `remove_unused_columns=False`). Windows of `TrajectoryWindows` begin at every step; for the task `"next_action"` it
    draws by torch's generator where in each of them the history ends.

    Args:
        dataset (`datasets.Dataset`, *optional*): The trajectories; needed where no processor is given.
        processor (`TrajectorySeq2SeqProcessor`, *optional*): Made from the data set by default.
    """

    return_tensors = "pt"

    def __init__(self, dataset: "Dataset | None" = None, processor: TrajectorySeq2SeqProcessor | None = None) -> None:
        if dataset is None and processor is None:
            raise ValueError("TrajectorySeq2SeqDataCollator() was given nothing: expected a dataset or a processor.")
        self.processor = TrajectorySeq2SeqProcessor.from_dataset(dataset) if processor is None else processor

    def __call__(self, features: Mapping | Sequence[Mapping]) -> dict[str, Tensor]:
        """A batch as `TrajectorySeq2SeqModel.forward` takes it.

        Returns:
            `states`, `actions`, `attention_mask`, where asked for `returns_to_go`, and `labels` with, for continuous
            targets, `target_values`; all padded on the right.
        """
        windows, lengths = _right_padded(_as_windows(features))
        if self.processor.task == "next_action":
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
            returns_to_go: `(batch,)`, raw, still wanted at the last state.
        """
        reads_actions = self.processor.task != "actions"
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
        if processor.task == "next_action":
            last = np.arange(len(lengths)), lengths - 1
            actions, encoded_actions = actions[last][:, None], encoded_actions[last][:, None]
            num_actions = np.ones_like(lengths)
        symbols, values = processor.encode_target(processor.actions_of, actions, encoded_actions)
        num_tokens = num_actions * symbols.shape[-1]
        if processor.task == "history":
            state_symbols, state_values = processor.encode_target(processor.observations_of, observations, states)
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
