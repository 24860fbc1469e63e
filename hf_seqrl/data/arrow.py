"""NumPy views of Arrow's nested lists."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class PackedBits:
    """A view of an Arrow array of booleans, which holds eight of them in a byte.

    Attributes:
        address, offset (`int`): The bits begin with bit `offset` of the byte at this address.

    Example:
        >>> PackedBits(pa.array([True, False, True])).take(np.array([2, 1]))
        array([ True, False])
    """

    dtype = np.dtype(bool)

    def __init__(self, array: pa.BooleanArray) -> None:
        buffer = array.buffers()[1]
        self._bytes = np.frombuffer(buffer, np.uint8)
        self.address = buffer.address
        self.offset = array.offset
        self._length = len(array)
        self.shape = (self._length,)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, steps: slice) -> np.ndarray:
        return self.take(np.arange(*steps.indices(self._length)))

    def take(self, indices: np.ndarray, axis: int = 0, mode: str = "raise") -> np.ndarray:
        """The booleans at these indices, as `numpy.ndarray.take` for one axis."""
        places = indices + self.offset
        return (self._bytes.take(places >> 3, mode=mode) >> (places & 7) & 1).astype(bool)


def episode_lengths(chunks: list[pa.Array], name: str) -> np.ndarray:
    """The number of steps of each episode of a column, `(episodes,)`.

    Raises:
        ValueError: an entry is missing, or is no list.
    """
    chunks = [_storage(chunk) for chunk in chunks]
    first = 0
    for chunk in chunks:
        if not _is_list(chunk.type):
            raise ValueError(f"column {name!r} holds {chunk.type}: expected a list, one entry a step, in each row.")
        if chunk.null_count:
            episode = first + int(np.argmin(chunk.is_valid().to_numpy(zero_copy_only=False)))
            raise ValueError(
                f"column {name!r} of episode {episode} is missing (null): drop the episode or fill it in."
            )
        first += len(chunk)
    return np.concatenate([pc.list_value_length(chunk).to_numpy() for chunk in chunks] or [np.zeros(0, np.int64)])


def step_values(chunk: pa.Array, name: str, first_episode: int = 0) -> np.ndarray | PackedBits:
    """The values of all steps of a chunk of episodes, `(steps, *shape_per_step)`, without copying them.

    Args:
        chunk: A list array, one list an episode.
        name: The column's name, for messages.
        first_episode: The number of the chunk's first episode, for messages.

    Raises:
        ValueError: the steps' values have different shapes, are missing, or are no numbers.
    """
    chunk = _storage(chunk)
    try:
        return entry_values(chunk.flatten())
    except BadEntryError as error:
        lengths = pc.list_value_length(chunk).to_numpy()
        episode = int(np.searchsorted(np.cumsum(lengths), error.entry, side="right"))
        step = error.entry - int(lengths[:episode].sum())
        raise ValueError(
            f"column {name!r} of episode {first_episode + episode} {error.complaint} at step {step}: {error.expectation}"
        ) from None


def entry_values(values: pa.Array) -> np.ndarray | PackedBits:
    """As `step_values`, for an array that has one entry a step."""
    values = _storage(values)
    shape = [len(values)]
    while _is_list(values.type):
        shape.append(_common_length(values, int(np.prod(shape[1:]))))
        values = _storage(values.flatten())
    if values.null_count:
        missing = int(np.argmin(values.is_valid().to_numpy(zero_copy_only=False)))
        raise BadEntryError(
            missing // int(np.prod(shape[1:])), "has no value (null)", "expected a number; fill it in."
        )
    if pa.types.is_boolean(values.type) and len(shape) == 1:
        return PackedBits(values)
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise BadEntryError(0, f"holds {values.type} values", "expected numbers; convert them.")
    return values.to_numpy(zero_copy_only=True).reshape(shape)


class BadEntryError(ValueError):
    """Something is wrong with one entry."""

    def __init__(self, entry: int, complaint: str, expectation: str) -> None:
        super().__init__(f"entry {entry} {complaint}: {expectation}")
        self.entry, self.complaint, self.expectation = entry, complaint, expectation


def _common_length(lists: pa.Array, lists_per_entry: int) -> int:
    if pa.types.is_fixed_size_list(lists.type):
        return lists.type.list_size
    lengths = np.diff(lists.offsets.to_numpy())
    if lists.null_count or (lengths != lengths[0]).any():
        usual = int(np.bincount(lengths).argmax())
        odd = int(np.argmax(lengths != usual))
        raise BadEntryError(
            odd // lists_per_entry,
            f"has {lengths[odd]} values",
            f"expected {usual}, as many as elsewhere; every step must have the same size.",
        )
    return int(lengths[0])


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _storage(array: pa.Array) -> pa.Array:
    """What an extension array (`datasets.Array2D` ...) is made of."""
    return array.storage if isinstance(array, pa.ExtensionArray) else array
