"""The values of a column, one entry per step: read out of Arrow, and understood as flags, scalars or arrays."""

from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from hf_seqrl.data.columns import step_values
from hf_seqrl.private_api import selected_rows

_FLAGS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


def as_flags(values: Any, name: str) -> np.ndarray:
    """True or false `(steps,)` from booleans, zeros and ones, or the words `true` and `false`.

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
        wrong = np.array([word not in _FLAGS for word in words], bool)
        flags = np.array([_FLAGS.get(word, False) for word in words], bool)
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
    values = np.asarray(values)
    if values.ndim > 1 and int(np.prod(values.shape[1:])) == 1:
        values = values.reshape(len(values))
    if values.ndim != 1:
        raise ValueError(f"column {name!r} has shape {values.shape}: expected (steps,), one value per step.")
    return values


def as_array(values: Any, name: str) -> np.ndarray:
    """An array `(steps, ...)`, also from an object array of numbers or of arrays of one shape.

    Raises:
        ValueError: the values have different shapes.
    """
    try:
        array = np.asarray(values)
        if array.dtype != object or not array.size or isinstance(array.flat[0], str | bytes | bool | np.bool_):
            return array
        if any(value is None for value in array.flat):
            raise ValueError("a value is missing (None)")
        return np.asarray([np.asarray(value).tolist() for value in array])
    except ValueError as error:
        raise ValueError(f"column {name!r} is no array ({error}): expected the same size at every step.") from None


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


def whole_table(dataset: Dataset) -> pa.Table:
    return dataset.data.table if selected_rows(dataset) is None else dataset.flatten_indices().data.table


def all_steps(dataset: Dataset, name: str) -> np.ndarray:
    """All values of a column, one entry per step; text as objects."""
    parts, first = [], 0
    for chunk in whole_table(dataset).column(name).chunks:
        if len(chunk):
            parts.append(_values(chunk, name, first))
        first += len(chunk)
    return np.concatenate(parts)


def first_steps(dataset: Dataset, name: str) -> np.ndarray | None:
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
