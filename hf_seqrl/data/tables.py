"""Flat tables, one row a step, made into one row an episode."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hf_seqrl.data.columns import BadEntryError, PackedBits, entry_values
from hf_seqrl.data.writing import PIECE_BYTES, dataset_from_pieces, dataset_from_steps


class TableRows:
    """Rows of a table, in an order of their own.

    Args:
        table: Where they stand; it may be memory-mapped.
        rows: `(rows,)`, which, as indices of the table.

    Example:
        >>> TableRows(pa.table({"x": [0.5, 1.5, 2.5]}), np.array([2, 0])).numbers("x")
        array([2.5, 0.5])
    """

    def __init__(self, table: pa.Table, rows: np.ndarray) -> None:
        self._rows, self._table = rows, _taken(table, rows)

    def __len__(self) -> int:
        return len(self._rows)

    def stacked(self, names: str | Sequence[str], vector: bool) -> np.ndarray:
        """One column, or several of numbers side by side `(rows, ...)`.

        Args:
            names: The column or columns.
            vector: Whether a single column of numbers becomes `(rows, 1)`.
        """
        if not isinstance(names, str):
            return np.stack([self.numbers(name) for name in names], axis=-1)
        values = self.numbers(names)
        # one column of floats is a vector of size 1; one column of integers a discrete action
        return values[:, None] if values.ndim == 1 and (vector or values.dtype.kind == "f") else values

    def flags(self, name: str) -> np.ndarray:
        """A column of booleans, or of zeros and ones, `(rows,)`.

        Raises:
            ValueError: there is another value.
        """
        values = self.numbers(name)
        good = np.isin(values, (0, 1))
        if not good.all():
            wrong = int(np.argmin(good))
            raise ValueError(
                f"column {name!r} has the value {values[wrong]} at row {self._rows[wrong]}: expected true or false (1 or 0)."
            )
        return values.astype(bool)

    def numbers(self, name: str) -> np.ndarray:
        """A column of numbers, or of lists of them, `(rows, ...)`.

        Raises:
            ValueError: a value is missing or is no number, or lists have different lengths.
        """
        column = self._table.column(name).combine_chunks()
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = _parsed_lists(column, name)
        try:
            values = entry_values(column)
        except BadEntryError as error:
            row = self._rows[error.entry]
            raise ValueError(
                f"column {name!r} of the table: row {row} {error.complaint}: {error.expectation}"
            ) from None
        return values[:] if isinstance(values, PackedBits) else values


def _taken(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """These rows, without a copy where they follow one another; pyarrow's own `take` would join all chunks first."""
    if np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        return table.slice(int(rows[0]), len(rows))
    places = np.argsort(rows, kind="stable")
    ascending = rows[places]
    batches, first = [], 0
    for batch in table.to_batches():
        low, high = np.searchsorted(ascending, (first, first + len(batch)))
        if high > low:
            batches.append(batch.take(pa.array(ascending[low:high] - first)))
        first += len(batch)
    back = np.empty(len(rows), np.int64)
    back[places] = np.arange(len(rows))
    return pa.Table.from_batches(batches).combine_chunks().take(pa.array(back))


def _parsed_lists(column: pa.Array, name: str) -> pa.Array:
    """Lists that a CSV file holds as text, `[0.1, 0.2]`."""
    try:
        return pa.array(json.loads(f"[{','.join(pc.fill_null(column, 'null').to_pylist())}]"))
    except ValueError:
        raise ValueError(
            f"column {name!r} holds text, in the first row {column[0].as_py()!r}: expected numbers, or lists like [0.1, 0.2]."
        ) from None


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

    @property
    def all(self) -> list[str]:
        """Every column that is named, once."""
        given = [getattr(self, field.name) for field in fields(self)]
        return list(
            dict.fromkeys(name for names in given for name in ([names] if isinstance(names, str) else names or []))
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


def episodes_from_table(table: pa.Table, names: StepTableColumns, piece_bytes: int = PIECE_BYTES) -> Dataset:
    """One row an episode, in the order in which the episodes first appear in the table.

    Args:
        table: One row a step; it may be memory-mapped.
        names: Its columns.
        piece_bytes: How much of the table is read at a time, but at least one episode. What takes several pieces is
            written to disk and memory-mapped.

    Raises:
        ValueError: a named column does not exist or has missing values, or an episode has a step twice.
    """
    names.check(table.column_names)
    table = table.select(names.all)
    order, episode_offsets = _episode_order(table, names)
    bounds = _piece_bounds(episode_offsets, max(1, int(piece_bytes * len(order) / max(1, table.nbytes))))
    pieces = _pieces(table, names, order, episode_offsets, bounds)
    return next(pieces) if len(bounds) == 2 else dataset_from_pieces(pieces)


def _pieces(
    table: pa.Table, names: StepTableColumns, order: np.ndarray, episode_offsets: np.ndarray, bounds: list[int]
) -> Iterator[Dataset]:
    for first, last in pairwise(bounds):
        offsets = episode_offsets[first : last + 1]
        rows = TableRows(table, order[offsets[0] : offsets[-1]])
        columns = {
            "observations": rows.stacked(names.observation, vector=True),
            "actions": rows.stacked(names.action, vector=False),
            "rewards": rows.numbers(names.reward).astype(np.float32, copy=False),
            **_endings(rows, names, offsets - offsets[0]),
        }
        yield dataset_from_steps(columns, offsets - offsets[0])


def _piece_bounds(episode_offsets: np.ndarray, most_rows: int) -> list[int]:
    """The first episode of each piece, and the number of episodes; a piece has at most so many rows, or one episode."""
    bounds, end = [0], len(episode_offsets) - 1
    while bounds[-1] < end:
        fitting = int(np.searchsorted(episode_offsets, episode_offsets[bounds[-1]] + most_rows, side="right")) - 1
        bounds.append(max(fitting, bounds[-1] + 1))
    return bounds


def _episode_order(table: pa.Table, names: StepTableColumns) -> tuple[np.ndarray, np.ndarray]:
    """The rows sorted by episode and step, and where each episode begins among them."""
    episodes = table.column(names.episode)
    if not len(episodes):
        raise ValueError("the table has no rows: expected at least one step.")
    if episodes.null_count:
        row = int(np.argmax(episodes.is_null().to_numpy()))
        raise ValueError(f"column {names.episode!r} has no value at row {row}: expected the episode of every step.")
    encoded = pc.dictionary_encode(episodes).combine_chunks()  # numbered in the order of their first rows
    codes, labels = encoded.indices.to_numpy(), encoded.dictionary
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


def _endings(rows: TableRows, names: StepTableColumns, episode_offsets: np.ndarray) -> dict[str, np.ndarray]:
    last = np.zeros(len(rows), bool)
    last[episode_offsets[1:] - 1] = True
    terminations = rows.flags(names.termination) if names.termination else np.zeros(len(rows), bool)
    truncations = rows.flags(names.truncation) if names.truncation else last & ~terminations
    return {"terminations": terminations, "truncations": truncations}
