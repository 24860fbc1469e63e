"""Some rows of a table as arrays, without reading the others."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_seqrl.data.column_values import FLAG_WORDS, BadEntryError, PackedBits, as_flags, entry_values


class TableRows:
    """Rows of a table, in an order of their own.

    Args:
        table: Where they stand; it may be memory-mapped.
        rows: `(rows,)`, which, as indices of the table.
        words: The words of categorical columns, by name.

    Example:
        >>> TableRows(pa.table({"x": [0.5, 1.5, 2.5]}), np.array([2, 0])).numbers("x")
        array([2.5, 0.5])
    """

    def __init__(self, table: pa.Table, rows: np.ndarray, words: dict[str, list[Any]] | None = None) -> None:
        self._rows, self._table, self._words = rows, _taken(table, rows), words or {}

    def __len__(self) -> int:
        return len(self._rows)

    def stacked(self, names: str | Sequence[str], vector: bool, one_hot: bool = False) -> np.ndarray:
        """One column, or several of numbers side by side `(rows, ...)`.

        Args:
            names: The column or columns.
            vector: Whether a single column of numbers becomes `(rows, 1)`.
            one_hot: Whether words become one-hot vectors, and not codes.
        """
        if not isinstance(names, str) or (one_hot and names in self._words):
            names = [names] if isinstance(names, str) else names
            columns = [column for name in names for column in self._side(name, one_hot)]
            return np.stack(columns, axis=-1)
        values = self.numbers(names)
        if values.dtype == bool:
            values = values.astype(np.int64)
        # one column of floats is a vector of size 1; one column of integers a discrete action
        return values[:, None] if values.ndim == 1 and (vector or values.dtype.kind == "f") else values

    def side_by_side(self, names: Sequence[str]) -> np.ndarray:
        """Columns of codes and numbers as float64 `(rows, columns)`."""
        return np.stack([self.numbers(name).astype(np.float64) for name in names], axis=-1)

    def flags(self, name: str) -> np.ndarray:
        """A column of booleans, of zeros and ones, or of the words true and false, `(rows,)`.

        Raises:
            ValueError: there is another value.
        """
        column = decoded(self._table.column(name)).combine_chunks()
        values = np.array(column.to_pylist(), dtype=object) if _is_text(column.type) else self.numbers(name)
        try:
            return as_flags(values, name)
        except ValueError:
            for value, row in zip(values, self._rows):
                if str(value).strip().lower() not in FLAG_WORDS:
                    raise ValueError(
                        f"column {name!r} has the value {value} at row {row}: expected true or false (1 or 0)."
                    ) from None
            raise

    def numbers(self, name: str) -> np.ndarray:
        """A column of numbers, of codes of words, or of lists of numbers, `(rows, ...)`.

        Raises:
            ValueError: a value is missing or is no number, or lists have different lengths.
        """
        column = decoded(self._table.column(name)).combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0)
        if name in self._words and not pa.types.is_boolean(column.type):
            return (
                pc.index_in(column, pa.array(self._words[name], column.type))
                .to_numpy(zero_copy_only=False)
                .astype(np.int64)
            )
        if _is_text(column.type):
            column = _parsed_lists(column, name)
        if pa.types.is_decimal(column.type):
            column = column.cast(pa.float64())
        try:
            values = entry_values(column)
        except BadEntryError as error:
            row = self._rows[error.entry]
            raise ValueError(
                f"column {name!r} of the table: row {row} {error.complaint}: {error.expectation}"
            ) from None
        return values[:] if isinstance(values, PackedBits) else values

    def _side(self, name: str, one_hot: bool) -> list[np.ndarray]:
        values = self.numbers(name)
        if one_hot and name in self._words and not isinstance(self._words[name][0], bool):
            return [(values == code).astype(np.float32) for code in range(len(self._words[name]))]
        if values.ndim > 1:
            raise ValueError(
                f"column {name!r} holds lists of {values.shape[1:]}: name it alone, or several columns of numbers."
            )
        return [values.astype(np.int64) if values.dtype == bool else values]


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A pandas category as its values."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


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


def codes_of(column: pa.ChunkedArray, labels: bool = False) -> Any:
    """Codes of the different values in the order in which they first appear, and the values themselves."""
    column = decoded(column)
    encoded = pc.dictionary_encode(column).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return (codes, encoded.dictionary) if labels else codes


def missing_values(column: pa.ChunkedArray) -> np.ndarray:
    """Where a column has no value: null, NaN, or text without a letter."""
    column = decoded(column)
    missing = column.is_null(nan_is_null=pa.types.is_floating(column.type)).to_numpy()
    if _is_text(column.type):
        missing = missing | pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True).to_numpy()
    return missing


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
