"""Where flat tables come from: files, folders, data frames and data sets."""

import uuid
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.fingerprint import get_temporary_cache_files_directory

from hf_seqrl.data.sources import MOST_BYTES_IN_MEMORY, parquet_files, uncompressed_bytes
from hf_seqrl.private_api import selected_rows

_CSV_BLOCK_BYTES = 16 << 20  # read at a time, and looked at to tell the types of the columns


def open_table(source: str | Path | pd.DataFrame | Dataset, columns: Sequence[str] | None = None) -> pa.Table:
    """A table from a `.csv` or `.parquet` file or a folder of them, a pandas data frame or a `datasets.Dataset`.

    Files of more than 256 MB are memory-mapped: CSV is written to disk as it is read, and Parquet goes through the cache
    of `datasets`.

    Args:
        source: The table, one row a step.
        columns: Those that are needed, where they are known.

    Raises:
        ValueError: a folder holds no such file, or the types of a large CSV file change on the way.
    """
    if isinstance(source, Dataset):
        return _table_of(source, columns)
    if isinstance(source, pd.DataFrame):
        return pa.Table.from_pandas(source, preserve_index=False)
    path = Path(source)
    tables = [_read_csv(file) for file in _csv_files(path)]
    if files := parquet_files(path):
        tables.append(_read_parquet(files, columns))
    if not tables:
        raise ValueError(f"the folder {path} holds no .parquet and no .csv file.")
    return pa.concat_tables(tables, promote_options="default")


def holds_tables(path: Path) -> bool:
    """Whether this is a `.csv` or `.parquet` file, or a folder of them."""
    return bool(_csv_files(path) or parquet_files(path))


def _csv_files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.glob("*.csv"))
    return [path] if path.suffix == ".csv" else []


def _table_of(dataset: Dataset, columns: Sequence[str] | None) -> pa.Table:
    if needed := _needed(columns, dataset.column_names):
        dataset = dataset.select_columns(needed)
    dataset = dataset.with_format("arrow")
    if selected_rows(dataset) is not None:  # a selection or a shuffle, which would be gathered in memory
        dataset = dataset.flatten_indices()
    return dataset[:]


def _read_parquet(files: list[Path], columns: Sequence[str] | None) -> pa.Table:
    needed = _needed(columns, pq.read_schema(files[0]).names)
    if sum(map(uncompressed_bytes, files)) > MOST_BYTES_IN_MEMORY:
        return _table_of(Dataset.from_parquet([str(file) for file in files], columns=needed), None)
    return pa.concat_tables([pq.read_table(file, columns=needed) for file in files], promote_options="default")


def _needed(columns: Sequence[str] | None, available: Sequence[str]) -> list[str] | None:
    """The columns to read; `None` for all, also where one is missing, so that the complaint can name what there is."""
    return list(columns) if columns is not None and set(columns) <= set(available) else None


def _read_csv(file: Path) -> pa.Table:
    if file.stat().st_size <= MOST_BYTES_IN_MEMORY:
        return pyarrow.csv.read_csv(file)
    directory = Path(get_temporary_cache_files_directory())
    path = directory / f"csv-{uuid.uuid4().hex}.arrow"
    try:
        with (
            pyarrow.csv.open_csv(file, pyarrow.csv.ReadOptions(block_size=_CSV_BLOCK_BYTES)) as rows,
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
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
