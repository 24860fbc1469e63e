"""The columns of a trajectory data set as flat NumPy arrays over its Arrow buffers: one entry per step, without copies."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_seqrl.data.column_values import PackedBits, episode_lengths, step_values
from hf_seqrl.data.metadata import metadata_of
from hf_seqrl.private_api import selected_rows

if TYPE_CHECKING:
    from datasets import Dataset


StepValues = np.ndarray | PackedBits


class ChunkedSteps:
    """The steps of several chunks, one after the other.

    A memory-mapped Arrow file holds a record batch for every thousand episodes or so. Since all its batches lie in
    one stretch of memory, a step is found there by where it begins, whatever batch it belongs to.

    Args:
        chunks: The values of each chunk's steps, `(steps, *shape_per_step)` views of Arrow's memory.
        arrays: The Arrow arrays that they are views of.
    """

    def __init__(self, chunks: list[StepValues], arrays: list[pa.Array]) -> None:
        self._offsets = np.cumsum([0, *map(len, chunks)])
        self._elements_per_step = int(np.prod(chunks[0].shape[1:]))
        files = [_file_of(array) for array in arrays]
        addresses = [file.address for file in files]
        places = np.array([_first_element(chunk, file) for chunk, file in zip(chunks, files, strict=True)])
        self._shift_of_chunk = places - self._offsets[:-1] * self._elements_per_step
        self._file_of_chunk = np.unique(addresses, return_inverse=True)[1]
        firsts = [addresses.index(address) for address in sorted(set(addresses))]
        self._files = [_steps_at_every_element(files[chunk], chunks[chunk]) for chunk in firsts]

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The values of these steps, `(*indices.shape, *shape_per_step)`."""
        chunks = np.searchsorted(self._offsets, indices, side="right") - 1
        elements = indices * self._elements_per_step + self._shift_of_chunk[chunks]
        if len(self._files) == 1:
            return _gather(self._files[0], elements)
        taken = np.empty(indices.shape + self._files[0].shape[1:], self._files[0].dtype)
        files = self._file_of_chunk[chunks]
        for number in np.unique(files):
            here = files == number
            taken[here] = _gather(self._files[number], elements[here])
        return taken


def _file_of(array: pa.Array) -> pa.Buffer:
    """The memory-mapped file that an array's values lie in; for arrays in memory, their own buffer."""
    buffer = array.buffers()[-1]
    while buffer.parent is not None:
        buffer = buffer.parent
    return buffer


def _first_element(chunk: StepValues, file: pa.Buffer) -> int:
    """How many elements (bits for booleans) of the file come before the chunk."""
    if isinstance(chunk, PackedBits):
        return (chunk.address - file.address) * 8 + chunk.offset
    # Arrow aligns its buffers to 8 bytes, so that the distance is a whole number of elements
    return (chunk.__array_interface__["data"][0] - file.address) // chunk.itemsize


def _steps_at_every_element(file: pa.Buffer, chunk: StepValues) -> StepValues:
    """The file as steps of the chunk's shape and type that overlap, one beginning at every element."""
    if isinstance(chunk, PackedBits):
        return PackedBits(pa.Array.from_buffers(pa.bool_(), file.size * 8, [None, file]))
    elements = np.frombuffer(file, chunk.dtype, file.size // chunk.itemsize)
    shape, strides = chunk.shape[1:], chunk.strides[1:]
    count = len(elements) - int(np.prod(shape)) + 1
    return np.lib.stride_tricks.as_strided(elements, (count, *shape), (chunk.itemsize, *strides), writeable=False)


def _gather(values: StepValues, indices: np.ndarray) -> np.ndarray:
    # ndarray.take would first make a contiguous copy of the whole file
    return values.take(indices) if isinstance(values, PackedBits) else values[indices]


_BLOCK_STEPS = 1 << 18  # how many steps a block of a column holds at most where blocks have to be copied
_MOST_UNPACKED_STEPS = 1 << 23  # up to here booleans take a byte each (8 MiB) for the sake of speed


class FlatColumn:
    """One number, vector or image for every step of the data set, the episodes one after the other.

    Args:
        chunks: The values of all stored steps, `(steps of the chunk, *shape_per_step)` each.
        arrays: The Arrow arrays that the chunks are views of.
        order: Where the steps of the data set stand among the stored ones.
        keep_double: Whether float64 stays, and is not read as float32.
    """

    def __init__(
        self, chunks: list[StepValues], arrays: list[pa.Array], order: "StepOrder", keep_double: bool = False
    ) -> None:
        self._chunks = chunks
        self._chunked = ChunkedSteps(chunks, arrays) if len(chunks) > 1 else None
        self._order = order
        self.shape_per_step: tuple[int, ...] = chunks[0].shape[1:]
        # what `take` returns: the stored dtype, but `float32` for every kind of float unless doubles are kept
        stays = chunks[0].dtype.kind != "f" or (keep_double and chunks[0].dtype == np.float64)
        self.dtype = chunks[0].dtype if stays else np.dtype(np.float32)

    def take(self, step_indices: np.ndarray) -> np.ndarray:
        """The values of these steps, `(*step_indices.shape, *shape_per_step)`."""
        return self.take_stored(self._order.stored(np.asarray(step_indices)))

    def take_stored(self, stored_indices: np.ndarray) -> np.ndarray:
        """As `take`, for indices that `StepOrder.stored` has already translated."""
        if self._chunked is not None:
            values = self._chunked.take(stored_indices)
        else:
            # "clip" spares NumPy a buffered copy that "raise" needs; the indices are in range
            values = self._chunks[0].take(stored_indices, axis=0, mode="clip")
        return values.astype(self.dtype, copy=False)

    def blocks(self) -> Iterator[np.ndarray]:
        """All values block by block, in the order of the data set and in the stored dtype; views where nothing has been
        selected or shuffled, for statistics that hold one block at a time."""
        if self._order.is_stored_order:
            yield from (chunk[:] for chunk in self._chunks if len(chunk))
        else:
            for start in range(0, self._order.num_steps, _BLOCK_STEPS):
                yield self.take(np.arange(start, min(start + _BLOCK_STEPS, self._order.num_steps)))


class TruncationColumn:
    """Truncations of a data set that stores terminations alone: an episode that did not terminate was cut short."""

    shape_per_step: tuple[int, ...] = ()
    dtype = np.dtype(bool)

    def __init__(self, terminations: FlatColumn, order: "StepOrder") -> None:
        self._terminations = terminations
        self._order = order

    def take(self, step_indices: np.ndarray) -> np.ndarray:
        """Whether the episode was cut after each of these steps, of the shape of `step_indices`."""
        step_indices = np.asarray(step_indices)
        last = self._order.episode_offsets[1:][self._order.episode_of(step_indices)] - 1
        return (step_indices == last) & ~self._terminations.take(step_indices)

    def blocks(self) -> Iterator[np.ndarray]:
        """All values, block by block."""
        for start in range(0, self._order.num_steps, _BLOCK_STEPS):
            yield self.take(np.arange(start, min(start + _BLOCK_STEPS, self._order.num_steps)))


class StepOrder:
    """Where the steps of a data set stand in its stored columns, also after `select` and `shuffle`.

    Args:
        stored_lengths (`(stored episodes,)`): The number of steps of each episode in the Arrow table.
        episodes (`(episodes,)`, *optional*): Which of them make up the data set, in its order; all by default.
    """

    def __init__(self, stored_lengths: np.ndarray, episodes: np.ndarray | None = None) -> None:
        stored_offsets = _offsets(stored_lengths)
        self.is_stored_order = episodes is None
        self.episode_offsets = stored_offsets if episodes is None else _offsets(stored_lengths[episodes])
        self._shift = None if episodes is None else stored_offsets[episodes] - self.episode_offsets[:-1]

    @property
    def num_steps(self) -> int:
        """The number of steps of the data set."""
        return int(self.episode_offsets[-1])

    def episode_of(self, step_indices: np.ndarray) -> np.ndarray:
        """The episode that each step belongs to."""
        return np.searchsorted(self.episode_offsets, step_indices, side="right") - 1

    def stored(self, step_indices: np.ndarray, episodes: np.ndarray | None = None) -> np.ndarray:
        """The place of each step in the stored columns. `episodes`: `episode_of(step_indices)`, where known."""
        if self._shift is None:
            return step_indices
        return step_indices + self._shift[self.episode_of(step_indices) if episodes is None else episodes]


_OPENED: "WeakKeyDictionary[Dataset, TrajectoryColumns]" = WeakKeyDictionary()


class TrajectoryColumns:
    """Flat views of the five columns of a trajectory data set.

    Args:
        dataset (`datasets.Dataset`): One row per episode, with the columns `observations`, `actions`, `rewards` and
            `terminations` (or `dones`); `truncations` are derived where they are missing.
        doubles: The columns that are read as float64 where they are stored so; by default those that the metadata name.

    `TrajectoryColumns.of(dataset)` opens a data set once, however many ask for it.

    Attributes:
        metadata: What travels with the data set.
        episode_offsets (`(num_episodes + 1,)`, `int64`): The first step of each episode, and the number of steps.

    Raises:
        ValueError: a column is missing, its lists have missing entries, an episode has columns of different lengths,
            or the steps have values of different shapes.

    Example:
        >>> from datasets import Dataset
        >>> columns = TrajectoryColumns(Dataset.from_dict({
        ...     "observations": [[[1.0], [2.0]], [[3.0]]], "actions": [[0, 1], [1]], "rewards": [[1.0, 1.0], [0.0]],
        ...     "dones": [[False, True], [False]]}))
        >>> columns.num_steps, columns.episode_offsets, columns.observations.take([0, 2])
        (3, array([0, 2, 3]), array([[1.],
               [3.]], dtype=float32))
        >>> columns.truncations.take([0, 1, 2])
        array([False, False,  True])
    """

    def __init__(self, dataset: "Dataset", doubles: Sequence[str] | None = None) -> None:
        if not len(dataset):
            raise ValueError("the data set has no episodes: expected at least one row.")
        self._table = dataset.data
        self.metadata = metadata_of(dataset)
        self._doubles = (self.metadata.doubles or ()) if doubles is None else doubles
        names = dataset.column_names
        # where both are there, `dones` may be true for truncated episodes too
        self._termination_name = "dones" if "dones" in names and "terminations" not in names else "terminations"
        required = ["observations", "actions", "rewards", self._termination_name]
        missing = [name for name in required if name not in dataset.column_names]
        if missing:
            raise ValueError(
                f"column {missing[0]!r} is missing: expected observations, actions, rewards and terminations (or dones), "
                f"found {', '.join(dataset.column_names)}; rename the columns, or give load_trajectories their names."
            )
        self._names = [*required, *(name for name in ["truncations"] if name in dataset.column_names)]
        self.order = StepOrder(self._common_lengths(), _selected_rows(dataset))
        self.episode_offsets = self.order.episode_offsets
        self.episode_of = self.order.episode_of
        self.num_steps = self.order.num_steps
        self.num_episodes = len(self.episode_offsets) - 1

    @classmethod
    def of(cls, dataset: "Dataset") -> "TrajectoryColumns":
        """The columns of a data set, kept as long as that is: they are views of its table and cost nothing to keep."""
        if dataset not in _OPENED:
            _OPENED[dataset] = cls(dataset)
        return _OPENED[dataset]

    @cached_property
    def observations(self) -> FlatColumn:
        """Vectors or images."""
        return self._column("observations")

    @cached_property
    def actions(self) -> FlatColumn:
        """Floats `(size,)`, one integer `()`, or several `(components,)` per step."""
        return self._column("actions")

    @cached_property
    def rewards(self) -> FlatColumn:
        """Raw rewards, one number per step."""
        return self._column("rewards")

    @cached_property
    def terminations(self) -> FlatColumn:
        """Whether the episode reached a terminal state with this step."""
        return self._column(self._termination_name)

    @cached_property
    def truncations(self) -> FlatColumn | TruncationColumn:
        """Whether the episode was cut short after this step."""
        if "truncations" in self._names:
            return self._column("truncations")
        return TruncationColumn(self.terminations, self.order)

    def further(self, name: str) -> FlatColumn:
        """Another column of the data set that has one entry per step, such as `propensities`.

        Raises:
            ValueError: it is missing, or an episode has more or fewer entries than steps.
        """
        if name not in self._table.column_names:
            raise ValueError(f"column {name!r} is missing: found {', '.join(self._table.column_names)}.")
        lengths = episode_lengths(self._chunks(name), name)
        expected = episode_lengths(self._chunks("rewards"), "rewards")
        if (lengths != expected).any():
            episode = int(np.argmax(lengths != expected))
            raise ValueError(
                f"column {name!r} of episode {episode} has {lengths[episode]} entries: expected {expected[episode]}, one for each "
                "of its steps."
            )
        return self._column(name)

    def _column(self, name: str) -> FlatColumn:
        chunks = [chunk for chunk in self._chunks(name) if len(chunk)]
        first_episodes = np.cumsum([0, *map(len, chunks)])
        values = [step_values(chunk, name, int(first)) for chunk, first in zip(chunks, first_episodes, strict=False)]
        shapes = [chunk.shape[1:] for chunk in values]
        if len(set(shapes)) > 1:
            other = next(number for number, shape in enumerate(shapes) if shape != shapes[0])
            raise ValueError(
                f"column {name!r} of episode {first_episodes[other]} has values of shape {shapes[other]} a step, episode "
                f"0 of {shapes[0]}: expected the same shape everywhere."
            )
        if isinstance(values[0], PackedBits) and self.num_steps <= _MOST_UNPACKED_STEPS:
            values = [np.concatenate([chunk[:] for chunk in values])]
        return FlatColumn(values, chunks, self.order, name in self._doubles)

    def _chunks(self, name: str) -> list[pa.Array]:
        return self._table.column(name).chunks

    def _common_lengths(self) -> np.ndarray:
        lengths = {name: episode_lengths(self._chunks(name), name) for name in self._names}
        expected = lengths["rewards"]
        if not expected.all():
            raise ValueError(
                f"episode {int(np.argmin(expected))} has no steps: expected at least one; drop the episode."
            )
        for name, actual in lengths.items():
            if (actual != expected).any():
                episode = int(np.argmax(actual != expected))
                raise ValueError(
                    f"column {name!r} of episode {episode} has {actual[episode]} steps, column 'rewards' has "
                    f"{expected[episode]}: expected as many in every column; drop a final observation that no action "
                    "followed, final_observations='drop'."
                )
        return expected


def _selected_rows(dataset: "Dataset") -> np.ndarray | None:
    rows = selected_rows(dataset)
    return None if rows is None else pc.cast(rows, pa.int64()).to_numpy()


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def episode_blocks(episode_offsets: np.ndarray, most_steps: int) -> Iterator[tuple[int, int]]:
    """First and last episode (exclusive) of runs of whole episodes with at most `most_steps` steps, or one longer episode.

    Example:
        >>> list(episode_blocks(np.array([0, 2, 4, 9, 10]), most_steps=4))
        [(0, 2), (2, 3), (3, 4)]
    """
    first, end = 0, len(episode_offsets) - 1
    while first < end:
        fitting = int(np.searchsorted(episode_offsets, episode_offsets[first] + most_steps, side="right")) - 1
        last = max(fitting, first + 1)
        yield first, last
        first = last
