"""NumPy views of Arrow's nested lists."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class PackedBits:
    """A view of an Arrow array of booleans, which holds eight of them in a byte.

    Example:
        >>> PackedBits(pa.array([True, False, True])).take(np.array([2, 1]))
        array([ True, False])
    """

    dtype = np.dtype(bool)

    def __init__(self, array: pa.BooleanArray) -> None:
        self._bytes = np.frombuffer(array.buffers()[1], np.uint8)
        self._offset = array.offset
        self._length = len(array)
        self.shape = (self._length,)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, steps: slice) -> np.ndarray:
        return self.take(np.arange(*steps.indices(self._length)))

    def take(self, indices: np.ndarray, axis: int = 0, mode: str = "raise") -> np.ndarray:
        """The booleans at these indices, as `numpy.ndarray.take` for one axis."""
        places = indices + self._offset
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


def step_values(chunk: pa.Array, name: str) -> np.ndarray | PackedBits:
    """The values of all steps of a chunk of episodes, `(steps, *shape_per_step)`, without copying them.

    Raises:
        ValueError: the steps' lists have different lengths, values are missing, or are no numbers.
    """
    values = _storage(_storage(chunk).flatten())
    shape = [len(values)]
    while _is_list(values.type):
        shape.append(_common_length(values, name))
        values = _storage(values.flatten())
    if values.null_count:
        missing = int(np.argmin(values.is_valid().to_numpy(zero_copy_only=False))) // int(np.prod(shape[1:]))
        raise ValueError(f"column {name!r} has a missing value (null) at step {missing} of its chunk: fill it in.")
    if pa.types.is_boolean(values.type) and len(shape) == 1:
        return PackedBits(values)
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise ValueError(f"column {name!r} holds {values.type}: expected numbers; convert it.")
    return values.to_numpy(zero_copy_only=True).reshape(shape)


def _common_length(lists: pa.Array, name: str) -> int:
    if pa.types.is_fixed_size_list(lists.type):
        return lists.type.list_size
    lengths = np.diff(lists.offsets.to_numpy())
    if lists.null_count or (lengths != lengths[0]).any():
        step = int(np.argmax(lengths != lengths[0]))
        raise ValueError(
            f"column {name!r} has {lengths[step]} values at step {step} of its chunk, {lengths[0]} at the first: "
            "expected the same number at every step."
        )
    return int(lengths[0])


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _storage(array: pa.Array) -> pa.Array:
    """What an extension array (`datasets.Array2D` ...) is made of."""
    return array.storage if isinstance(array, pa.ExtensionArray) else array
