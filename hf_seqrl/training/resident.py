"""Windows that stay on the training device: what the collator makes of the data is computed once, and batches are gathered there.

Between two updates the host then sends nothing but the numbers of the windows. All batches have one shape, as `torch.compile` and
CUDA graphs need it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_seqrl.data.windows import GatheredDataset, TrajectoryWindows

_BLOCK = 4096  # items that are collated at once
_CHECKED = 64  # items whose batch is compared with that of the collator

Collator = Callable[[Any], Mapping[str, Tensor]]


class ResidentBatch:
    """A finished batch, as the `DataLoader` passes it to the collator."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors


class ResidentWindows:
    """A data set whose batches are gathered on a device, equal bit for bit to those of its collator.

    Windows that the collator encodes step by step, such as those of a Decision Transformer, share the encoded steps: memory grows
    with the number of steps. The items of other data sets are kept whole.

    Args:
        items (`GatheredDataset`): Windows or transitions, as a family prepares them for training.
        collator: Makes a batch of them; a function of the items alone, each for itself.
        device: Where the encoded data stay.

    Raises:
        ValueError: The encoded data do not fit into the free memory, or the collator makes other batches of the same items, as
            one does that draws random numbers or pads to the longest item of a batch.
        TypeError: `items` is no `GatheredDataset`.
    """

    def __init__(self, items: GatheredDataset, collator: Collator, device: torch.device | str) -> None:
        if not isinstance(items, GatheredDataset):
            raise TypeError(
                f"the training data are a {type(items).__name__}: only windows and transitions of recorded data can stay on a device."
            )
        self.items = items
        self.dataset = getattr(items, "dataset", None)
        self.device = torch.device(device)
        self._rows = _Rows.of(items, collator, self.device)
        _check_memory(self._rows.count, self._rows.example, self.device)
        self._tables = _tables(self._rows, collator, self.device)
        self._check(collator)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.gather([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> list[ResidentBatch]:
        return [ResidentBatch(self.gather(indices))]

    def gather(self, indices: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
        """The batch that the collator would make of these items, on the device."""
        rows = self._rows.of_items(np.asarray(indices, np.int64)).to(self.device)
        return {name: table[rows] for name, table in self._tables.items()}

    @property
    def nbytes(self) -> int:
        """The memory that the encoded data take on the device."""
        return sum(table.nbytes for table in self._tables.values())

    def _check(self, collator: Collator) -> None:
        chosen = np.unique(np.linspace(0, len(self) - 1, _CHECKED).astype(np.int64))
        for indices in (chosen.tolist(), chosen[::-1][: len(chosen) // 2 + 1].tolist()):
            expected, found = collator(self.items.__getitems__(indices)), self.gather(indices)
            for name, values in expected.items():
                if not torch.equal(values, found[name].cpu()):
                    raise ValueError(
                        f"the collator does not make the same {name!r} of the same items: such batches cannot be computed ahead, so "
                        "leave resident out."
                    )


def collated(collator: Collator) -> Collator:
    """A collator that passes the batches of `ResidentWindows` on and leaves all others to `collator`."""

    def collate(features: Any) -> Mapping[str, Tensor]:
        first = features[0] if isinstance(features, Sequence) else None
        return first.tensors if isinstance(first, ResidentBatch) else collator(features)

    return collate


class _Rows:
    """Which rows of the tables make up an item: one row an item.

    Attributes:
        count: Number of rows.
        example: What the collator makes of the first item.
    """

    def __init__(self, items: GatheredDataset, example: Mapping[str, Tensor]) -> None:
        self.items, self.example = items, example
        self.count = len(items)

    @staticmethod
    def of(items: GatheredDataset, collator: Collator, device: torch.device) -> "_Rows":
        example = collator(items.__getitems__([0]))
        if type(items) is not TrajectoryWindows:
            return _Rows(items, example)
        length = items.context_length
        by_step = length > 1 and all(values.ndim > 1 and values.shape[1] == length for values in example.values())
        return _StepRows(items, example, collator, device) if by_step else _WindowRows(items, example)

    def collate(self, first: int, last: int, collator: Collator) -> Mapping[str, Tensor]:
        """What the collator makes of these rows."""
        return collator(self.items.__getitems__(range(first, last)))

    def of_items(self, indices: np.ndarray) -> Tensor:
        """The rows of these items."""
        return torch.from_numpy(indices)


class _WindowRows(_Rows):
    """One row for each window, by the step that it begins at, as windows may be drawn by weights."""

    items: TrajectoryWindows

    def collate(self, first: int, last: int, collator: Collator) -> Mapping[str, Tensor]:
        return collator(self.items.beginning_at(np.arange(first, last)))

    def of_items(self, indices: np.ndarray) -> Tensor:
        return torch.from_numpy(self.items.first_steps(indices))


class _StepRows(_Rows):
    """One row for each step of the data, and one for a padded step, the last: a window is `context_length` rows."""

    items: TrajectoryWindows

    def __init__(
        self, items: TrajectoryWindows, example: Mapping[str, Tensor], collator: Collator, device: torch.device
    ) -> None:
        super().__init__(items, {name: values[:, 0] for name, values in example.items()})
        self._steps = items.of_length(1)
        self._padding = collator(items.beginning_at(items.columns.episode_offsets[1:2] - 1))
        self.count = items.columns.num_steps + 1
        lengths = np.diff(items.columns.episode_offsets)
        ends = np.repeat(items.columns.episode_offsets[1:], lengths)
        self._ends = torch.from_numpy(ends).to(device)  # of the episode of each step
        self._places = torch.arange(items.context_length, device=device)

    def collate(self, first: int, last: int, collator: Collator) -> Mapping[str, Tensor]:
        real = min(last, self.count - 1)
        parts = [collator(self._steps.beginning_at(np.arange(first, real)))] if first < real else []
        parts += [self._padding] if last == self.count else []
        return {name: torch.cat([part[name][:, 0] for part in parts]) for name in parts[0]}

    def of_items(self, indices: np.ndarray) -> Tensor:
        first = torch.from_numpy(self.items.first_steps(indices)).to(self._ends.device)[:, None]  # (B, 1)
        missing = (first + len(self._places) - self._ends[first]).clamp(min=0)
        places = self._places - missing  # (B, T): steps since the window's first, negative if padded
        return torch.where(places < 0, self.count - 1, first + places)


def _tables(rows: _Rows, collator: Collator, device: torch.device) -> dict[str, Tensor]:
    tables = {
        name: torch.empty((rows.count, *values.shape[1:]), dtype=values.dtype, device=device)
        for name, values in rows.example.items()
    }
    for first in range(0, rows.count, _BLOCK):
        last = min(first + _BLOCK, rows.count)
        block = rows.collate(first, last, collator)
        for name, table in tables.items():
            if block[name].shape[1:] != table.shape[1:]:
                raise ValueError(
                    f"the collator makes {name!r} of shapes {tuple(table.shape[1:])} and {tuple(block[name].shape[1:])}: batches of one "
                    "shape are expected, so leave resident out."
                )
            table[first:last] = block[name]
    return tables


def _check_memory(count: int, example: Mapping[str, Tensor], device: torch.device) -> None:
    needed = count * sum(values[0].nbytes for values in example.values())
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    elif hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        return
    if needed > free:
        raise ValueError(
            f"the encoded data take {needed / 1e9:.1f} GB and {device} has {free / 1e9:.1f} GB left: leave resident out, or train on fewer "
            "episodes."
        )
