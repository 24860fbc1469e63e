"""Flat tables, one row a step, as people's logs are: made into one row an episode."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from datasets import Dataset

from hf_seqrl.data.arrow import PackedBits, entry_values
from hf_seqrl.data.building import dataset_from_steps


@dataclass(frozen=True)
class StepTableColumns:
    """The names of the columns of a table with one row a step.

    Attributes:
        episode: Which episode the step belongs to: numbers or names.
        observation, action: One column of lists or numbers, or several columns of numbers.
        reward: Raw rewards.
        step: By which to sort the steps of an episode, numbers or times; without it the table's order counts.
        termination, truncation: Whether the episode ended with this step by itself, or was cut. Without a termination
            column no episode counts as terminated, without a truncation column every other one counts as truncated.
    """

    episode: str
    observation: str | Sequence[str]
    action: str | Sequence[str]
    reward: str
    step: str | None = None
    termination: str | None = None
    truncation: str | None = None

    def __post_init__(self) -> None:
        absent = [name for name in ("observation", "action", "reward") if getattr(self, name) is None]
        if absent:
            raise ValueError(
                f"no column is named for {absent[0]!r}: a table with one row a step needs the names of its episode, "
                "observation, action and reward columns, for instance observation='state' or observation=['x', 'y']."
            )

    def check(self, available: Sequence[str]) -> None:
        """Raise a `ValueError` for the first name that is none of the `available` columns."""
        for field in fields(self):
            names = getattr(self, field.name)
            for name in [names] if isinstance(names, str) else names or []:
                if name not in available:
                    raise ValueError(
                        f"the table has no column {name!r}, which was named as {field.name}: expected one of "
                        f"{', '.join(available)}."
                    )


def read_table(source: str | Path | pd.DataFrame | Dataset) -> pa.Table:
    """A table from a `.csv` or `.parquet` file or a folder of them, a pandas data frame or a `datasets.Dataset`."""
    if isinstance(source, Dataset):
        return source.with_format("arrow")[:]
    if isinstance(source, pd.DataFrame):
        return pa.Table.from_pandas(source, preserve_index=False)
    path = Path(source)
    if path.is_dir():
        files = sorted([*path.glob("*.parquet"), *path.glob("*.csv")])
        if not files:
            raise ValueError(f"the folder {path} holds no .parquet and no .csv file.")
        return pa.concat_tables([read_table(file) for file in files], promote_options="default")
    return pyarrow.csv.read_csv(path) if path.suffix == ".csv" else pq.read_table(path)


def episodes_from_table(table: pa.Table, names: StepTableColumns) -> Dataset:
    """One row an episode, in the order in which the episodes first appear in the table.

    Raises:
        ValueError: a named column does not exist or has missing values, or an episode has a step twice.
    """
    names.check(table.column_names)
    order, episode_offsets = _episode_order(table, names)
    columns = {
        "observations": _stacked(table, names.observation, vector=True),
        "actions": _stacked(table, names.action, vector=False),
        "rewards": _one_column(table, names.reward),
        **_endings(table, names, order, episode_offsets),
    }
    return dataset_from_steps({name: values[order] for name, values in columns.items()}, episode_offsets)


def _episode_order(table: pa.Table, names: StepTableColumns) -> tuple[np.ndarray, np.ndarray]:
    """The rows sorted by episode and step, and where each episode begins among them."""
    episodes = table.column(names.episode)
    if not len(episodes):
        raise ValueError("the table has no rows: expected at least one step.")
    if episodes.null_count:
        row = int(np.argmax(episodes.is_null().to_numpy()))
        raise ValueError(f"column {names.episode!r} has no value at row {row}: expected the episode of every step.")
    codes, labels = pd.factorize(episodes.to_pandas())
    if names.step is None:
        order = np.argsort(codes, kind="stable")
    else:
        steps = table.column(names.step).to_numpy()
        order = np.lexsort((steps, codes))
        same = (codes[order][1:] == codes[order][:-1]) & (steps[order][1:] == steps[order][:-1])
        if same.any():
            row = order[1:][same][0]
            raise ValueError(
                f"episode {labels[codes[row]]} has step {steps[row]} more than once (row {row}): expected each step once; "
                "drop duplicates, or check the episode column."
            )
    return order, np.concatenate([[0], np.cumsum(np.bincount(codes))])


def _endings(
    table: pa.Table, names: StepTableColumns, order: np.ndarray, episode_offsets: np.ndarray
) -> dict[str, np.ndarray]:
    last = np.zeros(len(order), bool)
    last[order[episode_offsets[1:] - 1]] = True
    terminations = _flags(table, names.termination) if names.termination else np.zeros(len(order), bool)
    truncations = _flags(table, names.truncation) if names.truncation else last & ~terminations
    return {"terminations": terminations, "truncations": truncations}


def _flags(table: pa.Table, name: str) -> np.ndarray:
    values = _one_column(table, name)
    if not np.isin(values, (0, 1)).all():
        row = int(np.argmin(np.isin(values, (0, 1))))
        raise ValueError(f"column {name!r} has the value {values[row]} at row {row}: expected true or false (1 or 0).")
    return values.astype(bool)


def _stacked(table: pa.Table, names: str | Sequence[str], vector: bool) -> np.ndarray:
    """`(rows, ...)`; `vector`: whether a single column of numbers becomes `(rows, 1)`."""
    if not isinstance(names, str):
        return np.stack([_one_column(table, name) for name in names], axis=-1)
    values = _one_column(table, names)
    # one column of floats is a vector of size 1; one column of integers a discrete action
    return values[:, None] if values.ndim == 1 and (vector or values.dtype.kind == "f") else values


def _one_column(table: pa.Table, name: str) -> np.ndarray:
    column = table.column(name).combine_chunks()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = _parsed_lists(column, name)
    try:
        values = entry_values(column)
    except ValueError as error:
        raise ValueError(f"column {name!r} of the table: {error}") from None
    return values[:] if isinstance(values, PackedBits) else values


def _parsed_lists(column: pa.Array, name: str) -> pa.Array:
    """Lists that a CSV file holds as text, `[0.1, 0.2]`."""
    try:
        return pa.array(json.loads(f"[{','.join(pc.fill_null(column, 'null').to_pylist())}]"))
    except ValueError:
        raise ValueError(
            f"column {name!r} holds text, in the first row {column[0].as_py()!r}: expected numbers, or lists like [0.1, 0.2]."
        ) from None
