"""The values of a column, one entry per step: read out of Arrow without copies, and understood as flags, scalars or arrays."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_seqrl.private_api import selected_rows

if TYPE_CHECKING:
    from datasets import Dataset

FLAG_WORDS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False),
}


def as_flags(values: Any, name: str) -> np.ndarray:
    """True or false `(steps,)` from booleans, zeros and ones, or the words `true`, `false`, `yes` and `no`.

    Raises:
        ValueError: there is another value.

    Example:
        >>> as_flags(np.array([["False"], ["True"]]), "terminals")
        array([False,  True])
    """
    values = as_scalars(values, name)
    if values.dtype == bool:
        return values
    if values.dtype.kind in "SUO":
        words = [_text(value).strip().lower() for value in values]
        wrong = np.array([word not in FLAG_WORDS for word in words], bool)
        flags = np.array([FLAG_WORDS.get(word, False) for word in words], bool)
    else:
        wrong, flags = ~np.isin(values, (0, 1)), values == 1
    if wrong.any():
        place = int(np.argmax(wrong))
        raise ValueError(
            f"column {name!r} has the value {values[place]!s} at step {place}: expected true or false (1 or 0)."
        )
    return flags


def as_scalars(values: Any, name: str) -> np.ndarray:
    """One value per step `(steps,)`, also from `(steps, 1)`.

    Raises:
        ValueError: there are more values per step.
    """
    values = as_array(values, f"column {name!r}")
    if values.ndim > 1 and int(np.prod(values.shape[1:])) == 1:
        values = values.reshape(len(values))
    if values.ndim != 1:
        raise ValueError(f"column {name!r} has shape {values.shape}: expected (steps,), one value per step.")
    return values


def as_array(values: Any, name: str) -> np.ndarray:
    """An array `(steps, ...)`, also from a tensor, and from an object array of numbers or of arrays of one shape.

    Args:
        values: The entries, one per step.
        name: For messages: `column 'rewards'`.

    Raises:
        ValueError: the values have different shapes, are masked, or are no plain numbers, flags or words.
    """
    if np.ma.is_masked(values):
        raise ValueError(
            f"{name} is a masked array with {np.ma.count_masked(values)} masked values: expected a value at every step; fill "
            "them in."
        )
    if hasattr(values, "detach"):  # a tensor, perhaps on a device, or in a precision that NumPy does not have
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() and values.element_size() < 4 else values
    try:
        array = np.asarray(values)
        if array.dtype == object and array.size and not isinstance(array.flat[0], str | bytes | bool | np.bool_):
            if any(value is None for value in array.flat):
                raise ValueError("a value is missing (None)")
            array = np.asarray([np.asarray(value).tolist() for value in array])
        elif array.dtype == object and len({isinstance(value, str | bytes) for value in array.flat}) > 1:
            raise ValueError("text stands beside other values")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} is no array ({error}): expected the same size at every step.") from None
    if array.dtype.kind in "cV":
        raise ValueError(f"{name} holds {array.dtype} values: expected numbers.")
    return array


def check_dones(dones: np.ndarray, terminations: np.ndarray, truncations: np.ndarray | None) -> None:
    """Check that columns `dones` and `terminations` agree.

    Raises:
        ValueError: `dones` is neither `terminations` nor `terminations` and `truncations` together.
    """
    ended = terminations if truncations is None else terminations | truncations
    if truncations is None and not (terminations & ~dones).any():
        return  # what is done and not terminated was truncated
    if not (np.array_equal(dones, ended) or np.array_equal(dones, terminations)):
        step = int(np.argmax(dones != ended))
        raise ValueError(
            f"columns 'dones' and 'terminations' contradict each other at step {step}: expected dones to be true where "
            "terminations or truncations are; leave one of them out."
        )


def whole_table(dataset: "Dataset") -> pa.Table:
    return dataset.data.table if selected_rows(dataset) is None else dataset.flatten_indices().data.table


def all_steps(dataset: "Dataset", name: str) -> np.ndarray:
    """All values of a column, one entry per step; text as objects."""
    parts, first = [], 0
    for chunk in whole_table(dataset).column(name).chunks:
        if len(chunk):
            parts.append(_values(chunk, name, first))
        first += len(chunk)
    return np.concatenate(parts)


def first_steps(dataset: "Dataset", name: str) -> np.ndarray | None:
    """The values of the first episode; `None` where they are not sound, which validation will name."""
    column = dataset.data.table.column(name)
    chunk = next((chunk for chunk in column.chunks if len(chunk)), None)
    try:
        values = None if chunk is None else _values(chunk.slice(0, 1), name, 0)
    except (ValueError, IndexError, pa.ArrowException):
        return None
    return values if values is not None and len(values) else None


def _values(chunk: pa.Array, name: str, first: int) -> np.ndarray:
    chunk = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
    kind = chunk.type
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    if pa.types.is_boolean(kind):
        return step_values(_cast_leaves(chunk, pa.uint8()), name, first)[:].astype(bool)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)):
        return step_values(chunk, name, first)[:]
    words = np.array(chunk.flatten().to_pylist(), dtype=object)
    missing = [place for place, word in enumerate(words.reshape(len(words), -1)) if any(part is None for part in word)]
    if missing:
        raise ValueError(
            f"column {name!r} has no value (null) at {len(missing)} steps, the first of them {missing[0]}: fill it in."
        )
    return words


def _cast_leaves(array: pa.Array, leaf: pa.DataType) -> pa.Array:
    def cast(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(cast(kind.value_type), kind.list_size)
        return pa.list_(cast(kind.value_type)) if pa.types.is_list(kind) or pa.types.is_large_list(kind) else leaf

    return array.cast(cast(array.type))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


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

    def take(self, indices: np.ndarray, axis: int = 0, mode: Literal["raise", "wrap", "clip"] = "raise") -> np.ndarray:
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
            raise ValueError(f"column {name!r} holds {chunk.type}: expected a list, one entry per step, in each row.")
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
        chunk: A list array, one list per episode.
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
    """As `step_values`, for an array that has one entry per step."""
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
