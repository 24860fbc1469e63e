"""One schema for all sources: the shapes, kinds and precision in which the five columns of a data set are held.

A column that is in the schema already is not read here.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value

from hf_seqrl.data.action_conversion import convert_actions
from hf_seqrl.data.column_values import (
    all_steps,
    as_flags,
    as_scalars,
    check_dones,
    episode_lengths,
    first_steps,
    step_values,
    whole_table,
)
from hf_seqrl.data.conversion import Conversion, convert_observations
from hf_seqrl.data.writing import dataset_from_steps, loses_values

OUT_OF_BOUNDS = ("refuse", "clip", "rescale")
_INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_OTHER_FLOATS = {"float16", "float64"}


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
    for name, convert in (("observations", convert_observations), ("actions", convert_actions)):
        if name in dataset.column_names:
            first = first_steps(dataset, name)
            if first is not None:
                convert(dataset, first, conversion)
    if conversion.values:
        dataset = _replaced(dataset, conversion.values)
    return _with_narrow_floats(dataset, conversion)


# Rewards and ends


def _with_rewards(dataset: Dataset, conversion: Conversion) -> Dataset:
    if not conversion.has_rewards:
        lengths = episode_lengths(whole_table(dataset).column("actions").chunks, "actions")
        zeros = [pa.array(np.zeros(length, np.float32)) for length in lengths]
        conversion.task = conversion.task.updated(has_rewards=False)
        dataset = dataset.remove_columns([name for name in ("rewards",) if name in dataset.column_names])
        column = pa.array(zeros, type=pa.list_(pa.float32()))
        return dataset.add_column("rewards", column.to_pylist(), feature=List(Value("float32")))
    if "rewards" in dataset.column_names:
        first = first_steps(dataset, "rewards")
        if first is not None and (first.ndim > 1 or first.dtype.kind == "O"):
            values = as_scalars(all_steps(dataset, "rewards"), "rewards")
            if values.dtype.kind == "O":
                raise ValueError(
                    f"column 'rewards' holds text, such as {values[0]!r}: expected numbers; convert them."
                )
            conversion.values["rewards"] = values
    return dataset


def _with_one_ending(dataset: Dataset, conversion: Conversion) -> Dataset:
    for name in ("terminations", "truncations", "dones"):
        if name in dataset.column_names:
            first = first_steps(dataset, name)
            if first is not None and (first.dtype != bool or first.ndim > 1):
                conversion.values[name] = as_flags(all_steps(dataset, name), name)
    if not {"dones", "terminations"} <= set(dataset.column_names):
        return dataset
    flags = {
        name: conversion.values.get(name, None) if name in conversion.values else all_steps(dataset, name)
        for name in ("dones", "terminations", "truncations")
        if name in dataset.column_names
    }
    check_dones(flags["dones"], flags["terminations"], flags.get("truncations"))
    conversion.values.pop("dones", None)
    return dataset.remove_columns("dones")


# Columns of a data set


def _replaced(dataset: Dataset, values: Mapping[str, np.ndarray]) -> Dataset:
    """The data set with other values in these columns; the others are not copied."""
    table = whole_table(dataset)
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
