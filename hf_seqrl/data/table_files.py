"""Where flat tables come from: text files, workbooks, Parquet files, folders of them, data frames and data sets."""

import csv
import gzip
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.fingerprint import get_temporary_cache_files_directory

from hf_seqrl.data.column_values import as_array
from hf_seqrl.data.damaged_files import named_if_damaged
from hf_seqrl.data.sources import MOST_BYTES_IN_MEMORY, in_natural_order, parquet_files, uncompressed_bytes
from hf_seqrl.data.writing import dataset_from_steps
from hf_seqrl.installation import install_command
from hf_seqrl.private_api import selected_rows

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx", ".jsonl")
_SEPARATORS = (",", ";", "\t", "|")
_SNIFFED_BYTES = 1 << 16
_CSV_BLOCK_BYTES = 16 << 20  # read at a time, and looked at to tell the types of the columns


@dataclass(frozen=True)
class TableFormat:
    """How text files and workbooks are written; what is `None` is found out.

    Attributes:
        separator: Between the columns of a text file.
        decimal: The decimal point, `"."` or `","`.
        encoding: UTF-8 by default.
        sheet: Of a workbook; the first by default.
    """

    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    sheet: str | None = None


@dataclass
class StepTable:
    """A table with one row a step, and where its rows come from.

    Attributes:
        table: The rows; they may be memory-mapped.
        files: The names of its files.
        starts: The first row of each file, and the number of rows.
        is_text: Whether the files are lines of text below a header.
        guesses: What was found out about the format, by name.
    """

    table: pa.Table
    files: list[str] = field(default_factory=list)
    starts: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    is_text: bool = False
    guesses: dict[str, str] = field(default_factory=dict)

    def place(self, row: int) -> str:
        """A row as the user finds it.

        Example:
            >>> StepTable(pa.table({}), ["a.csv", "b.csv"], np.array([0, 5, 9]), True).place(6)
            'row 6 (line 3 of b.csv)'
        """
        if not self.files:
            return f"row {row}"
        file = int(np.searchsorted(self.starts, row, side="right")) - 1
        inside = row - int(self.starts[file])
        if self.is_text:
            return f"row {row} (line {inside + 2} of {self.files[file]})"
        return f"row {row}" if len(self.files) == 1 else f"row {row} (row {inside} of {self.files[file]})"

    def places(self, rows: np.ndarray) -> str:
        """Some rows in words: how many, and where the first are."""
        count, shown = len(rows), ", ".join(self.place(int(row)) for row in rows[:3])
        return f"{shown}{', ...' if count > 3 else ''}"


def open_table(
    source: str | Path | Sequence[str | Path] | pd.DataFrame | Dataset | Mapping[str, Any],
    columns: Sequence[str] | None = None,
    form: TableFormat | None = None,
) -> StepTable:
    """A table from a text file (`.csv`, `.tsv`, with `.gz` too), a `.jsonl`, `.xlsx` or `.parquet` file, a folder of files of one
    of these kinds, a list of files or folders, a pandas data frame, a dictionary of arrays or a `datasets.Dataset`.

    Files of more than 256 MB are memory-mapped: CSV is written to disk as it is read, and Parquet goes through the cache
    of `datasets`. The files of a folder follow one another in the natural order of their names.

    Args:
        source: The table, one row a step.
        columns: Those that are needed, where they are known.
        form: How text files are written.

    Raises:
        ValueError: a folder holds no such file or files of several kinds, or the types of a large CSV file change on the way.
    """
    form = form or TableFormat()
    if isinstance(source, Dataset):
        return StepTable(_table_of(source, columns))
    if isinstance(source, pd.DataFrame):
        return StepTable(_frame(source))
    if isinstance(source, Mapping):
        return StepTable(_table_of_arrays(source))
    paths = [Path(source)] if isinstance(source, str | Path) else [Path(path) for path in source]
    kind, files = _files_of_one_kind(paths)
    guesses: dict[str, str] = {}
    if kind == "parquet":
        tables = _parquet_tables(files, columns)
    else:
        tables = [_read(file, kind, form, guesses) for file in files]
    starts = np.cumsum([0, *map(len, tables)])
    try:
        table = pa.concat_tables(tables, promote_options="permissive" if len(tables) > 1 else "default")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(
            f"the files of {paths[0]} do not fit together ({error}): expected the same columns in each."
        ) from None
    _check_columns(tables, files)
    names = [file.name for file in files] if len(files) == len(tables) else []
    return StepTable(table, names, starts, kind == "text", guesses)


def kinds_of_files(path: Path) -> dict[str, list[Path]]:
    """The files of tables, by kind (`text`, `workbook`, `lines`, `parquet`): the file itself, or those of a folder."""
    files = in_natural_order(path.iterdir()) if path.is_dir() else [path]
    kinds: dict[str, list[Path]] = {}
    for file in files:
        if (kind := _kind(file)) and not (path.is_dir() and file.suffix == ".txt"):
            kinds.setdefault(kind, []).append(file)
    if parquet := parquet_files(path):
        kinds["parquet"] = parquet
    return kinds


def _kind(file: Path) -> str | None:
    suffix = Path(file.name.removesuffix(".gz")).suffix.lower()
    if suffix == ".xlsx":
        return "workbook"
    if suffix in (".jsonl", ".ndjson"):
        return "lines"
    return "text" if suffix in (".csv", ".tsv", ".txt") else None


def folders_below(path: Path) -> str:
    """A hint at folders that hold tables, which are not read with this one."""
    folders = [folder.name for folder in sorted(path.iterdir()) if folder.is_dir()] if path.is_dir() else []
    return f"; its folders {', '.join(folders[:3])} are not read: give them as a list" if folders else ""


def _files_of_one_kind(paths: Sequence[Path]) -> tuple[str, list[Path]]:
    kinds: dict[str, list[Path]] = {}
    for path in paths:
        found = kinds_of_files(path)
        if not found:
            raise ValueError(
                f"{'the folder ' if path.is_dir() else ''}{path} holds no table: expected .csv, .tsv, .xlsx, .jsonl or "
                f".parquet{folders_below(path)}."
            )
        for kind, files in found.items():
            kinds.setdefault(kind, []).extend(files)
    path = paths[0]
    if len(kinds) > 1:
        examples = ", ".join(files[0].name for files in kinds.values())
        raise ValueError(
            f"the folder {path} holds tables of several kinds ({examples}), perhaps the same rows twice: expected one kind; move "
            "the others elsewhere, or name the files that count."
        )
    kind, files = next(iter(kinds.items()))
    stems = [file.name.removesuffix(".gz").rsplit(".", 1)[0] for file in files]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None and kind != "parquet" and len(paths) == 1:
        raise ValueError(f"the folder {path} holds {twice!r} more than once: expected each table once.")
    return kind, files


def _table_of(dataset: Dataset, columns: Sequence[str] | None) -> pa.Table:
    if needed := _needed(columns, dataset.column_names):
        dataset = dataset.select_columns(needed)
    dataset = dataset.with_format("arrow")
    if selected_rows(dataset) is not None:  # a selection or a shuffle, which would be gathered in memory
        dataset = dataset.flatten_indices()
    return dataset[:]


def _table_of_arrays(columns: Mapping[str, Any]) -> pa.Table:
    """Arrays with one entry per step as the columns of a table."""
    arrays = {name: as_array(values, f"column {name!r}") for name, values in columns.items()}
    lengths = {name: len(values) if values.ndim else 0 for name, values in arrays.items()}
    name = next((name for name in lengths if lengths[name] != next(iter(lengths.values()))), None)
    if name is not None:
        raise ValueError(
            f"column {name!r} has {lengths[name]} entries, column {next(iter(lengths))!r} has {next(iter(lengths.values()))}: "
            "expected one per step in each."
        )
    offsets = np.array([0, next(iter(lengths.values()), 0)])
    rows = dataset_from_steps(arrays, offsets).data.table
    return pa.table(
        {name: pa.chunked_array([rows.column(name).combine_chunks().flatten()]) for name in rows.column_names}
    )


def _frame(frame: pd.DataFrame) -> pa.Table:
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise ValueError(f"the table has the column {twice[0]!r} more than once: rename one of them.")
    levels = [name for name in frame.index.names if name is not None]
    if levels and not set(levels) & set(frame.columns):
        frame = frame.reset_index()  # an index with a name is a column, such as that of times
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
        raise ValueError(
            f"the data frame cannot be read ({error}): expected one kind of value in each column."
        ) from None


def _parquet_tables(files: list[Path], columns: Sequence[str] | None) -> list[pa.Table]:
    with named_if_damaged(files[0]):
        needed = _needed(columns, pq.read_schema(files[0]).names)
    if sum(map(uncompressed_bytes, files)) > MOST_BYTES_IN_MEMORY:
        return [_table_of(Dataset.from_parquet([str(file) for file in files], columns=needed), None)]
    return [pq.read_table(file, columns=needed) for file in files]


def _needed(columns: Sequence[str] | None, available: Sequence[str]) -> list[str] | None:
    """The columns to read; `None` for all, also where one is missing, so that the complaint can name what there is."""
    return list(columns) if columns is not None and set(columns) <= set(available) else None


def _check_columns(tables: list[pa.Table], files: list[Path]) -> None:
    """Refuse a folder in which a file has other columns than the first: they would be filled with nothing."""
    if len(files) != len(tables):
        return
    for table, file in zip(tables, files, strict=True):
        missing = set(tables[0].column_names) ^ set(table.column_names)
        if missing:
            raise ValueError(
                f"{file.name} and {files[0].name} have different columns ({', '.join(sorted(missing)[:5])}): expected the same in "
                "each file."
            )


def _read(file: Path, kind: str, form: TableFormat, guesses: dict[str, str]) -> pa.Table:
    if kind == "workbook":
        with named_if_damaged(file):
            return _read_workbook(file, form)
    if kind == "lines":
        with named_if_damaged(file):
            return pyarrow.json.read_json(file)
    try:
        return _read_text(file, form, guesses)
    except pa.ArrowInvalid as error:
        hint = "; give encoding='latin-1' (or the right one)" if "UTF8" in str(error) else ""
        raise ValueError(f"{file} cannot be read ({error}){hint}.") from None


def _read_workbook(file: Path, form: TableFormat) -> pa.Table:
    try:
        frame = pd.read_excel(file, sheet_name=0 if form.sheet is None else form.sheet)
    except ImportError as error:
        raise ImportError(f"workbooks (.xlsx) need openpyxl: {install_command('excel')}") from error
    return _frame(frame)


def _read_text(file: Path, form: TableFormat, guesses: dict[str, str]) -> pa.Table:
    separator, decimal = _dialect(file, form, guesses)
    parse = pyarrow.csv.ParseOptions(delimiter=separator)
    convert = pyarrow.csv.ConvertOptions(decimal_point=decimal)
    encoding = form.encoding or "utf8"
    if file.stat().st_size <= MOST_BYTES_IN_MEMORY:
        return _as_text(pyarrow.csv.read_csv(file, pyarrow.csv.ReadOptions(encoding=encoding), parse, convert), file)
    options = pyarrow.csv.ReadOptions(block_size=_CSV_BLOCK_BYTES, encoding=encoding)
    directory = Path(get_temporary_cache_files_directory())
    path = directory / f"csv-{uuid.uuid4().hex}.arrow"
    try:
        with (
            pyarrow.csv.open_csv(file, options, parse, convert) as rows,
            pa.ipc.new_file(str(path), rows.schema) as writer,
        ):
            for batch in rows:
                writer.write_batch(batch)
    except pa.ArrowInvalid as error:
        path.unlink(missing_ok=True)
        raise ValueError(
            f"{file} cannot be read piece by piece ({error}): expected the types of its first megabytes throughout; write a "
            "column as 1.0 instead of 1 where fractions come later, or convert the file to .parquet."
        ) from error
    return _as_text(pa.ipc.open_file(pa.memory_map(str(path))).read_all(), file)


def _as_text(table: pa.Table, file: Path) -> pa.Table:
    """The table, unless it holds text that is not in the encoding."""
    for column in table.schema:
        if pa.types.is_binary(column.type):
            raise ValueError(
                f"column {column.name!r} of {file} holds text that is not UTF-8: give its encoding, for instance encoding='latin-1'."
            )
    return table


def _dialect(file: Path, form: TableFormat, guesses: dict[str, str]) -> tuple[str, str]:
    """Separator and decimal point, as they are stated or found in the first lines."""
    head = _head(file, form.encoding or "utf-8")
    separator = form.separator
    if separator is None:
        separator = "\t" if file.name.removesuffix(".gz").endswith(".tsv") else _separator(head)
        if separator != ",":
            guesses["separator"] = f"{separator!r}, which divides the first lines into equally many columns"
    if form.decimal is not None:
        return separator, form.decimal
    decimal = _decimal(head, separator, file)
    if decimal != ".":
        guesses["decimal"] = f"{decimal!r}, which stands in the numbers of the first lines"
    return separator, decimal


def _head(file: Path, encoding: str) -> list[str]:
    with named_if_damaged(file), gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        text = stream.read(_SNIFFED_BYTES)
    lines = text.decode(encoding, "replace").splitlines()
    return lines[:-1] if len(text) == _SNIFFED_BYTES and len(lines) > 1 else lines


def _separator(head: list[str]) -> str:
    """The separator that divides all the first lines into as many columns as the header, and into the most."""
    counts = {}
    for separator in _SEPARATORS:
        widths = [len(row) for row in csv.reader(head[:50], delimiter=separator) if row]
        if widths and len(set(widths)) == 1:
            counts[separator] = widths[0]
    best = max(counts, key=lambda one: counts[one], default=",")
    return best if counts.get(best, 1) > 1 else ","


def _decimal(head: list[str], separator: str, file: Path) -> str:
    if separator == ",":
        return "."
    cells = [cell.strip() for row in csv.reader(head[1:], delimiter=separator) for cell in row]
    commas = [cell for cell in cells if re.fullmatch(r"[+-]?\d+,\d+", cell)]
    if not commas:
        return "."
    points = [cell for cell in cells if re.fullmatch(r"[+-]?\d+\.\d+", cell)]
    if points or all(re.fullmatch(r"[+-]?\d{1,3},\d{3}", cell) for cell in commas):
        example = f"{commas[0]} and {points[0]}" if points else commas[0]
        raise ValueError(
            f"{file} holds numbers such as {example}: the comma may be a decimal point or divide thousands; give decimal=',' or "
            "decimal='.'."
        )
    return ","
