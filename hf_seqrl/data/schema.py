"""One schema for all sources: the shapes, kinds and precision in which the five columns of a data set are held.

A column that is in the schema already is not read here; the others are converted, by what the user stated or, where nothing
was stated, by a guess that is written down with its reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Space, Tuple

from hf_seqrl.data.columns import episode_lengths, step_values
from hf_seqrl.data.environment_ids import spaces_of_environment
from hf_seqrl.data.spaces import (
    continuous_bounds,
    continuous_entries,
    entry_names,
    flat_space,
    flat_values,
    space_from_dict,
    step_shape,
)
from hf_seqrl.data.task import Task
from hf_seqrl.data.writing import dataset_from_steps, loses_values
from hf_seqrl.private_api import selected_rows

OUT_OF_BOUNDS = ("refuse", "clip", "rescale")
_INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_OTHER_FLOATS = {"float16", "float64"}
_FLAGS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
_MOST_WORDS = 1000


@dataclass
class Conversion:
    """What becomes of the columns of a data set.

    Attributes:
        task: What is known about the task; conversions add to it.
        guesses: A sentence for everything that was guessed, by the name of the field or column.
        out_of_bounds: What to do about actions outside the bounds: `"refuse"`, `"clip"` or `"rescale"`.
        has_rewards: Whether a column of rewards is expected.
        keeps_observations: Whether observations stay the numbers of states that they are, because the data were saved so and
            nothing else is stated.
        values: The columns that were converted, with one entry per step.
        doubles: Columns that stay in float64.
    """

    task: Task
    guesses: dict[str, str] = field(default_factory=dict)
    out_of_bounds: str = "refuse"
    has_rewards: bool = True
    keeps_observations: bool = False
    values: dict[str, np.ndarray] = field(default_factory=dict)
    doubles: list[str] = field(default_factory=list)

    def space(self, name: str, is_odd: bool = True) -> Space | None:
        """The stated space; where the data look odd and none is stated, that of the environment."""
        stated = getattr(self.task, name)
        if stated is not None:
            return space_from_dict(stated)
        registered = spaces_of_environment(self.task.env_id) if is_odd else None
        return None if registered is None else registered[name]


def in_schema(dataset: Dataset, conversion: Conversion) -> Dataset:
    """The data set with its columns in the schema; `conversion` says afterwards what was found out on the way.

    Raises:
        ValueError: a column cannot be read as what was stated, or as anything.
    """
    if conversion.out_of_bounds not in OUT_OF_BOUNDS:
        raise ValueError(f"out_of_bounds is {conversion.out_of_bounds!r}: expected one of {', '.join(OUT_OF_BOUNDS)}.")
    if not len(dataset):
        return dataset
    dataset = _with_rewards(dataset, conversion)
    dataset = _with_one_ending(dataset, conversion)
    for name, convert in (("observations", _convert_observations), ("actions", _convert_actions)):
        if name in dataset.column_names:
            first = _first_steps(dataset, name)
            if first is not None:
                convert(dataset, first, conversion)
    if conversion.values:
        dataset = _replaced(dataset, conversion.values)
    return _with_narrow_floats(dataset, conversion)


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


# Rewards and ends


def _with_rewards(dataset: Dataset, conversion: Conversion) -> Dataset:
    if not conversion.has_rewards:
        lengths = episode_lengths(_table(dataset).column("actions").chunks, "actions")
        zeros = [pa.array(np.zeros(length, np.float32)) for length in lengths]
        conversion.task = conversion.task.updated(has_rewards=False)
        dataset = dataset.remove_columns([name for name in ("rewards",) if name in dataset.column_names])
        column = pa.array(zeros, type=pa.list_(pa.float32()))
        return dataset.add_column("rewards", column.to_pylist(), feature=List(Value("float32")))
    if "rewards" in dataset.column_names:
        first = _first_steps(dataset, "rewards")
        if first is not None and (first.ndim > 1 or first.dtype.kind == "O"):
            values = as_scalars(_steps(dataset, "rewards"), "rewards")
            if values.dtype.kind == "O":
                raise ValueError(
                    f"column 'rewards' holds text, such as {values[0]!r}: expected numbers; convert them."
                )
            conversion.values["rewards"] = values
    return dataset


def _with_one_ending(dataset: Dataset, conversion: Conversion) -> Dataset:
    for name in ("terminations", "truncations", "dones"):
        if name in dataset.column_names:
            first = _first_steps(dataset, name)
            if first is not None and (first.dtype != bool or first.ndim > 1):
                conversion.values[name] = as_flags(_steps(dataset, name), name)
    if not {"dones", "terminations"} <= set(dataset.column_names):
        return dataset
    flags = {
        name: conversion.values.get(name, None) if name in conversion.values else _steps(dataset, name)
        for name in ("dones", "terminations", "truncations")
        if name in dataset.column_names
    }
    check_dones(flags["dones"], flags["terminations"], flags.get("truncations"))
    conversion.values.pop("dones", None)
    return dataset.remove_columns("dones")


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


# Observations


def _convert_observations(dataset: Dataset, first: np.ndarray, conversion: Conversion) -> None:
    is_odd = first.dtype.kind in "iuO" and first.dtype != np.uint8
    space, shape = conversion.space("observation_space", is_odd), first.shape[1:]
    if first.dtype.kind == "O":
        raise ValueError(
            f"column 'observations' holds text, such as {first.flat[0]!r}: expected numbers; make it one-hot, or load a table "
            "with one row per step, whose columns of words are made one-hot."
        )
    if space is not None and not isinstance(space, Box):
        if conversion.keeps_observations:
            return
        flat = flat_space(space)
        if shape != flat.shape or shape == step_shape(space):
            values = _codes(_steps(dataset, "observations"), space, "observations")
            conversion.values["observations"] = flat_values(space, values)
        conversion.task = conversion.task.updated(
            observation_space=flat,
            source_observation_space=space,
            observation_names=conversion.task.observation_names or entry_names(space),
        )
    elif first.dtype == bool:
        conversion.values["observations"] = _steps(dataset, "observations").astype(np.float32)
    elif space is not None and shape != space.shape and _same_but_for_ones(shape, space.shape):
        values = _steps(dataset, "observations")
        conversion.values["observations"] = values.reshape(len(values), *space.shape)
    elif not shape and first.dtype.kind == "f":
        conversion.values["observations"] = _steps(dataset, "observations")[:, None]
    elif not shape:
        raise ValueError(
            "column 'observations' has one integer a step: give observation_space=Discrete(n) where it is the number of a "
            "state (it becomes one-hot), or observation_space=Box(low, high, (1,)) where it is a quantity."
        )


# Actions


def _convert_actions(dataset: Dataset, first: np.ndarray, conversion: Conversion) -> None:
    is_odd = _is_odd(first) or conversion.out_of_bounds != "refuse"
    space = conversion.space("action_space", is_odd)
    values = _worded(dataset, first, conversion)
    if space is None:
        if conversion.out_of_bounds != "refuse":
            raise ValueError(
                f"out_of_bounds={conversion.out_of_bounds!r} needs the bounds of the actions: give action_space=Box(low, high)."
            )
        if _is_odd(first):
            _guess_actions(_steps(dataset, "actions") if values is None else values, conversion)
        return
    shape = first.shape[1:]
    is_codes = not isinstance(space, Box | Tuple | Dict)
    if values is None and (_is_odd(first) or shape != step_shape(space) or (is_codes and first.dtype.kind == "f")):
        values = _steps(dataset, "actions")
    if isinstance(space, Box) and space.dtype.kind == "f" and first.dtype.kind in "iu" and values is None:
        values = _steps(dataset, "actions")
    if values is not None:
        values = _of_space(values, space)
    if conversion.out_of_bounds != "refuse":
        values = _within_bounds(_steps(dataset, "actions") if values is None else values, space, conversion)
    if values is not None:
        conversion.values["actions"] = values


def _is_odd(first: np.ndarray) -> bool:
    """Whether actions may be something else than they look like."""
    if first.dtype.kind in "Ob" or (first.dtype.kind == "f" and first.ndim == 1):
        return True
    if first.ndim != 2:
        return False
    return is_one_hot(first) if first.shape[1] > 1 else bool((first == np.rint(first)).all())


def is_one_hot(values: np.ndarray) -> bool:
    """Whether each row `(steps, choices)` has a 1 and otherwise zeros."""
    return values.shape[1] > 1 and bool(((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all())


def _worded(dataset: Dataset, first: np.ndarray, conversion: Conversion) -> np.ndarray | None:
    """Words and booleans as codes; the words are kept in the task."""
    if first.dtype.kind not in "Ob":
        return None
    values = _steps(dataset, "actions")
    names = conversion.task.action_names or ("action",)
    codes, categories = encode_words(values.reshape(len(values), -1), list(names))
    conversion.task = conversion.task.updated(
        action_names=names, categories={**(conversion.task.categories or {}), **categories}
    )
    return codes.reshape(values.shape)


def encode_words(values: np.ndarray, names: list[str]) -> tuple[np.ndarray, dict[str, list[Any]]]:
    """Words or booleans `(steps, columns)` as codes of the same shape, and the words of each column in the order of their
    codes: sorted, so that they do not depend on the order of the rows.

    Raises:
        ValueError: a column has so many different words that it is no category.
    """
    codes, categories = np.zeros(values.shape, np.int64), {}
    for number, column in enumerate(values.T):
        name = names[number] if number < len(names) else f"action[{number}]"
        words, codes[:, number] = np.unique(
            column.astype(str) if column.dtype == object else column, return_inverse=True
        )
        if len(words) > _MOST_WORDS:
            raise ValueError(
                f"column {name!r} has {len(words):,} different words: expected a category of at most {_MOST_WORDS:,}; is it an id?"
            )
        categories[name] = [False, True] if column.dtype == bool else words.tolist()
        if column.dtype == bool:
            codes[:, number] = column
    return codes, categories


def _guess_actions(values: np.ndarray, conversion: Conversion) -> None:
    kind, width = values.dtype.kind, values.shape[1] if values.ndim > 1 else 0
    if conversion.task.categories and kind == "i" and values.ndim == 1 and conversion.task.action_names:
        words = conversion.task.categories[conversion.task.action_names[0]]
        _discrete(values, len(words), f"the words {', '.join(map(str, words[:8]))}", conversion)
    elif width > 1:
        if is_one_hot(values):
            _discrete(values.argmax(axis=1), width, "every row has a 1 and otherwise zeros (one-hot)", conversion)
    elif kind in "iu" and width == 1:
        codes = values[:, 0]
        if codes.min() >= 0:
            _discrete(
                codes,
                int(codes.max()) + 1,
                "integers in a column of width 1, from the largest",
                conversion,
                state=False,
            )
    elif kind == "f" and _are_codes(values):
        codes = values.reshape(-1)
        _discrete(codes, int(codes.max()) + 1, "floats that are all whole numbers from 0 on", conversion)
    elif kind == "f" and not width:
        conversion.values["actions"] = values[:, None]
        conversion.guesses["actions"] = "vectors of size 1: there is one float a step"


def _discrete(codes: np.ndarray, count: int, because: str, conversion: Conversion, state: bool = True) -> None:
    conversion.values["actions"] = codes.astype(np.int64)
    conversion.guesses["action_space"] = f"Discrete({count}): {because}"
    if state:
        conversion.task = conversion.task.updated(action_space=Discrete(count))


def _are_codes(values: np.ndarray) -> bool:
    """Whether floats are the whole numbers 0, 1, ... without a gap, at least two of them."""
    if not np.isfinite(values).all() or not (values == np.rint(values)).all():
        return False
    used = np.unique(values)
    return len(used) > 1 and used[0] == 0 and used[-1] == len(used) - 1


def _of_space(values: np.ndarray, space: Space) -> np.ndarray:
    """Actions in the shape and kind of a known space."""
    shape = step_shape(space)
    if isinstance(space, Discrete) and values.ndim == 2 and values.shape[1] == space.n > 1 and is_one_hot(values):
        return values.argmax(axis=1) + int(space.start)
    if values.shape[1:] != shape and _same_but_for_ones(values.shape[1:], shape):
        values = values.reshape(len(values), *shape)
    if values.shape[1:] != shape:
        return values  # validation names the shapes
    if isinstance(space, Box):
        return values if space.dtype.kind != "f" or values.dtype.kind == "f" else values.astype(np.float32)
    return values if isinstance(space, Tuple | Dict) else _codes(values, space, "actions")


def _codes(values: np.ndarray, space: Space, name: str) -> np.ndarray:
    """Whole numbers of a discrete space, also from floats or booleans.

    Raises:
        ValueError: a number is not whole.
    """
    if isinstance(space, Tuple | Dict) or values.dtype.kind in "iu":
        return values
    if values.dtype.kind == "f" and not (values == np.rint(values)).all():
        wrong = np.unravel_index(int(np.argmax(values != np.rint(values))), values.shape)
        raise ValueError(f"column {name!r} is {values[wrong]} at step {wrong[0]}: expected whole numbers for {space}.")
    return values.astype(np.int8 if isinstance(space, MultiBinary) else np.int64)


def _within_bounds(values: np.ndarray, space: Space, conversion: Conversion) -> np.ndarray:
    """Actions moved (`"clip"`) or mapped (`"rescale"`) to the bounds of their space."""
    (low, high), entries = continuous_bounds(space), continuous_entries(space)
    shape = values.shape
    flat = values.reshape(len(values), -1).copy()
    numbers = flat[:, entries].astype(np.float64)
    outside = int(((numbers < low) | (numbers > high)).any(axis=1).sum())
    if not outside or not len(entries):
        return values
    if conversion.out_of_bounds == "clip":
        moved, what = np.clip(numbers, low, high), f"{outside} steps were clipped to the bounds of {space}"
    else:
        lowest, highest = numbers.min(axis=0), numbers.max(axis=0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError(f"out_of_bounds='rescale' needs finite bounds: the action space is {space}.")
        share = (numbers - lowest) / np.where(highest > lowest, highest - lowest, 1.0)
        moved = low + share * (high - low)
        what = f"rescaled from {lowest.tolist()} ... {highest.tolist()} to the bounds of {space}"
    flat[:, entries] = moved
    conversion.guesses["actions"] = f"{what}, as out_of_bounds={conversion.out_of_bounds!r} says"
    return flat.reshape(shape)


def _same_but_for_ones(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return [size for size in shape if size != 1] == [size for size in other if size != 1]


# Columns of a data set


def _table(dataset: Dataset) -> pa.Table:
    return dataset.data.table if selected_rows(dataset) is None else dataset.flatten_indices().data.table


def _steps(dataset: Dataset, name: str) -> np.ndarray:
    """All values of a column, one entry per step; text as objects."""
    parts, first = [], 0
    for chunk in _table(dataset).column(name).chunks:
        if len(chunk):
            parts.append(_values(chunk, name, first))
        first += len(chunk)
    return np.concatenate(parts)


def _first_steps(dataset: Dataset, name: str) -> np.ndarray | None:
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


def _replaced(dataset: Dataset, values: Mapping[str, np.ndarray]) -> Dataset:
    """The data set with other values in these columns; the others are not copied."""
    table = _table(dataset)
    lengths = episode_lengths(table.column(next(iter(values))).chunks, next(iter(values)))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    converted = dataset_from_steps(values, offsets).data.table
    for name in values:
        table = table.set_column(table.column_names.index(name), name, converted.column(name))
    return Dataset(table, info=_info_without_features(dataset), split=dataset.split)


def _info_without_features(dataset: Dataset) -> Any:
    info = dataset.info.copy()
    info.features = None
    return info


def _with_narrow_floats(dataset: Dataset, conversion: Conversion) -> Dataset:
    """The same data set with `float32` in place of other numbers, but for integer actions, images of bytes, and columns that
    would lose values."""
    features = dataset.features.copy()
    for column, kept in (("observations", {"uint8"}), ("actions", _INTEGERS), ("rewards", set())):
        if column not in features:
            continue
        if (
            column == "observations"
            and conversion.keeps_observations
            and _is_discrete(conversion.task.observation_space)
        ):
            kept = _INTEGERS
        narrow = _narrow(features[column], kept)
        if narrow != features[column] and column != "actions" and _loses(dataset, column):
            conversion.doubles.append(column)
            narrow = _narrow(features[column], kept, "float64")
        features[column] = narrow
    return dataset if features == dataset.features else dataset.cast(Features(features))


def _is_discrete(space: Mapping[str, Any] | None) -> bool:
    return space is not None and space["type"] in ("Discrete", "MultiDiscrete", "MultiBinary")


def _narrow(feature: Any, kept: set[str], to: str = "float32") -> Any:
    if isinstance(feature, List):
        return List(_narrow(feature.feature, kept, to), length=feature.length)
    is_number = isinstance(feature, Value) and (feature.dtype in _INTEGERS or feature.dtype in _OTHER_FLOATS)
    return Value(to) if is_number and feature.dtype not in kept else feature


def _loses(dataset: Dataset, name: str) -> bool:
    """Whether a column has values that float32 cannot tell apart; read chunk by chunk."""
    first = 0
    for chunk in dataset.data.table.column(name).chunks:
        try:
            values = step_values(chunk, name, first) if len(chunk) else np.zeros(0)
        except ValueError:
            return False  # validation names what is wrong
        if loses_values(values[:]):
            return True
        first += len(chunk)
    return False


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
