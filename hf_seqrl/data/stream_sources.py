"""Opening a source of trajectories as a data set that streams: nothing is copied or downloaded as a whole."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset

from hf_seqrl.data.damaged_files import read_saved_folder
from hf_seqrl.data.metadata import TrajectoryMetadata, metadata_from_json, metadata_of
from hf_seqrl.data.opening import choose_split, is_saved_folder
from hf_seqrl.data.source_kinds import looks_like_a_file, paths_of
from hf_seqrl.data.sources import METADATA_NAME, parquet_files, read_description, read_hub

StreamSource: TypeAlias = str | Path | Sequence[str | Path] | Dataset | DatasetDict | IterableDataset

_MOST_SHARDS = 256  # of a memory-mapped data set, which can be cut anywhere
_ROWS_AT_ONCE = 64  # of a Parquet file; a whole row group, the default, may be large


def open_stream(
    source: StreamSource, name: str | None = None, split: str | None = None, revision: str | None = None
) -> tuple[IterableDataset, TrajectoryMetadata]:
    """The rows of a source, and the metadata that were saved with them.

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
        return _parquet([pattern]), TrajectoryMetadata()
    if isinstance(source, str | Path) and is_saved_folder(Path(source)):
        source = read_saved_folder(Path(source), thorough=False)
    elif paths := paths_of(source):
        if files := [file for path in paths for file in parquet_files(path)]:
            return _parquet([str(file) for file in files]), _metadata_beside(files[0])
        _refuse_other_files(paths)
        source = read_hub(str(source), name, split, revision, streaming=True)
    if isinstance(source, DatasetDict | IterableDatasetDict):
        source = choose_split(source, split)
    if isinstance(source, Dataset):
        metadata = metadata_of(source)
        return source.to_iterable_dataset(num_shards=min(len(source), _MOST_SHARDS)), metadata
    if isinstance(source, IterableDataset):
        return source, metadata_of(source)
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


def _metadata_beside(file: Path) -> TrajectoryMetadata:
    """What stands in the folder of a Parquet file, or in that above it (a downloaded data set of the Hub)."""
    for folder in (file.parent, file.parent.parent):
        if (folder / METADATA_NAME).exists():
            return metadata_from_json((folder / METADATA_NAME).read_text(encoding="utf-8"))
        if (folder / "episodes.json").exists():
            return read_description(folder / "episodes.json")
    return TrajectoryMetadata()
