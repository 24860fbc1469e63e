"""Opening a source of trajectories as a data set that streams: nothing is copied or downloaded as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset

from hf_seqrl.data.column_values import episode_lengths
from hf_seqrl.data.damaged_files import named_if_damaged, read_saved_folder
from hf_seqrl.data.metadata import TrajectoryMetadata, metadata_from_json, metadata_of, statistics_beside
from hf_seqrl.data.opening import choose_split, is_saved_folder
from hf_seqrl.data.source_kinds import looks_like_a_file, paths_of
from hf_seqrl.data.sources import (
    METADATA_NAME,
    parquet_files,
    read_description,
    read_hub,
    statistics_in_file,
)

StreamSource: TypeAlias = str | Path | Sequence[str | Path] | Dataset | DatasetDict | IterableDataset

_MOST_SHARDS = 256  # of a memory-mapped data set, which can be cut anywhere
_ROWS_AT_ONCE = 64  # of a Parquet file; a whole row group, the default, may be large


@dataclass(frozen=True)
class OpenedStream:
    """A source of trajectories.

    Attributes:
        rows: One row an episode.
        metadata: What was saved with them.
        statistics: What was stored as statistics of the whole data set, unchecked; `None` where there is nothing.
        num_episodes, num_steps: Of the source, where they can be counted without reading it.
    """

    rows: IterableDataset
    metadata: TrajectoryMetadata
    statistics: Any = None
    num_episodes: int | None = None
    num_steps: int | None = None


def open_stream(
    source: StreamSource, name: str | None = None, split: str | None = None, revision: str | None = None
) -> OpenedStream:
    """The rows of a source, and what was saved with them.

    Args:
        source: A folder that `save_trajectories` or `datasets` wrote, `.parquet` files or a folder of them, a URL that fsspec opens
            (`s3://bucket/data/*.parquet`), the id of a data set on the Hub, or a data set of `datasets`.
        name, split, revision: As in `load_trajectories`.

    Raises:
        ValueError: the source has another form; the message says how to make one of these.
        FileNotFoundError: it does not exist.
    """
    if isinstance(source, str) and "://" in source and not source.startswith("minari://"):
        pattern = source if source.endswith(".parquet") else source.rstrip("/") + "/**/*.parquet"
        return OpenedStream(_parquet([pattern]), TrajectoryMetadata())
    is_folder = is_pushed = False
    if isinstance(source, str | Path) and is_saved_folder(Path(source)):
        is_folder = True
        source = read_saved_folder(Path(source), thorough=False)
    elif paths := paths_of(source):
        if files := [file for path in paths for file in parquet_files(path)]:
            return _of_parquet(files)
        _refuse_other_files(paths)
        source = read_hub(str(source), name, split, revision, streaming=True)
        is_pushed = name is None and split in (None, "train")  # what `push_trajectories` writes
    if isinstance(source, DatasetDict | IterableDatasetDict):
        source = choose_split(source, split)
    if isinstance(source, Dataset):
        rows = source.to_iterable_dataset(num_shards=min(len(source), _MOST_SHARDS))
        counts = (len(source), _steps_of(source)) if is_folder else (None, None)
        return OpenedStream(rows, metadata_of(source), statistics_beside(source) if is_folder else None, *counts)
    if isinstance(source, IterableDataset):
        return OpenedStream(source, metadata_of(source), statistics_beside(source) if is_pushed else None)
    raise ValueError(
        f"cannot stream trajectories from a {type(source).__name__}: expected a folder, Parquet files, a Hub id or a data set of "
        "`datasets` with one row per episode; save_trajectories(load_trajectories(source), folder) makes a folder that streams."
    )


def _refuse_other_files(paths: Sequence[Path]) -> None:
    """Raise unless what is named can only be the id of a data set on the Hub."""
    path = paths[0]
    if path.exists():
        raise ValueError(
            f"cannot stream trajectories from {path}: expected a folder that save_trajectories wrote, or Parquet files with one row "
            f"per episode; save_trajectories(load_trajectories({str(path)!r}, ...), folder) makes such a folder once."
        )
    if len(paths) > 1 or path.is_absolute() or looks_like_a_file(path) or str(path).count("/") > 1:
        raise FileNotFoundError(
            f"{path} does not exist: expected a file, a folder, or the id of a data set on the Hub."
        )


def _parquet(files: list[str]) -> IterableDataset:
    return load_dataset("parquet", data_files=files, split="train", streaming=True, batch_size=_ROWS_AT_ONCE)


def _of_parquet(files: Sequence[Path]) -> OpenedStream:
    """Files, with what stands in the folder of the first, or in that above it (a downloaded data set of the Hub)."""
    rows = _parquet([str(file) for file in files])
    for folder in (files[0].parent, files[0].parent.parent):
        if (file := folder / METADATA_NAME).exists():
            metadata = metadata_from_json(file.read_text(encoding="utf-8"))
            return OpenedStream(rows, metadata, statistics_in_file(file), *_counts_of(files))
        if (folder / "episodes.json").exists():
            return OpenedStream(rows, read_description(folder / "episodes.json"))
    return OpenedStream(rows, TrajectoryMetadata())


def _counts_of(files: Sequence[Path]) -> tuple[int, int]:
    """The number of episodes and of steps of Parquet files, from what stands at their ends."""
    episodes, steps = 0, 0
    for file in files:
        with named_if_damaged(file):
            footer = pq.read_metadata(file)
        episodes += footer.num_rows
        for group in map(footer.row_group, range(footer.num_row_groups)):
            columns = map(group.column, range(group.num_columns))
            steps += sum(column.num_values for column in columns if column.path_in_schema.split(".")[0] == "rewards")
    return episodes, steps


def _steps_of(source: Dataset) -> int | None:
    if "rewards" not in source.column_names:
        return None
    return sum(int(episode_lengths([chunk], "rewards").sum()) for chunk in source.data.column("rewards").chunks)
