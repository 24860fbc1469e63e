"""Some rows of a table as arrays, without reading the others."""

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_seqrl.data.arrow import BadEntryError, PackedBits, entry_values


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
