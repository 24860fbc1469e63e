"""Data sets with one row an episode from Parquet files and from the Hub."""

import json
import re
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset
from datasets.exceptions import DatasetNotFoundError
from datasets.fingerprint import Hasher
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled

from hf_seqrl.data.damaged_files import named_if_damaged
from hf_seqrl.data.lookup import look_up, nearest, offline
from hf_seqrl.data.metadata import (
    STATISTICS,
    TrajectoryMetadata,
    metadata_from_json,
    metadata_of,
    with_metadata,
    without_whole,
)
from hf_seqrl.data.returns import statistics_to_store
from hf_seqrl.data.writing import dataset_from_stream

MOST_BYTES_IN_MEMORY = 256 << 20
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")


def is_parquet(path: Path) -> bool:
    """Whether this is a `.parquet` file, or a folder of them (that of a downloaded Hub data set, with `data/`, too)."""
    return bool(parquet_files(path))


def read_parquet(*paths: Path) -> Dataset:
    """The episodes of `.parquet` files, or of all files in a folder, in the order of their names.

    Up to 256 MB (uncompressed) are read straight into memory; more goes through the cache of `datasets`, where it is
    memory-mapped. An `episodes.json` beside the files gives the environment and the provenance.
    """
    files = [file for path in paths for file in parquet_files(path)]
    if sum(map(uncompressed_bytes, files)) > MOST_BYTES_IN_MEMORY:
        dataset = Dataset.from_parquet([str(file) for file in files])
    else:
        table = pa.concat_tables(map(_read_file, files)).combine_chunks()
        dataset = Dataset(table, fingerprint=_fingerprint(files))
    description = files[0].parent / "episodes.json"
    return with_metadata(dataset, read_description(description)) if description.exists() else dataset


def _read_file(file: Path) -> pa.Table:
    with named_if_damaged(file):
        return pq.read_table(file)


def parquet_files(path: Path) -> list[Path]:
    """The file itself, or the files of a folder, those of a downloaded Hub data set (`data/`, LeRobot's `data/chunk-000/`) too."""
    if path.is_file():
        return [path] if path.suffix == ".parquet" else []
    files = in_natural_order(path.glob("*.parquet")) or in_natural_order(path.glob("data/**/*.parquet"))
    _check_shards(files)
    return files


def in_natural_order(files: Iterable[Path]) -> list[Path]:
    """Files by their names, in which numbers count as numbers.

    Example:
        >>> [file.name for file in in_natural_order([Path("part-10.csv"), Path("part-2.csv")])]
        ['part-2.csv', 'part-10.csv']
    """
    return sorted(
        files, key=lambda file: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(file))]
    )


def _check_shards(files: list[Path]) -> None:
    """Refuse a folder in which some of the shards `...-00000-of-00003` are missing."""
    shards: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if match := _SHARD.search(file.stem):
            name = str(file.parent / file.stem[: match.start()])
            shards.setdefault((name, int(match[2])), set()).add(int(match[1]))
    for (name, count), present in shards.items():
        if missing := sorted(set(range(count)) - present):
            raise ValueError(
                f"{Path(name).name} has {count} shards, and {len(missing)} of them are missing: {', '.join(map(str, missing[:5]))}; "
                "complete the download, or rename the files that there are."
            )


def uncompressed_bytes(file: Path) -> int:
    """How much memory its columns would take, about.

    Raises:
        ValueError: it is no Parquet file.
    """
    with named_if_damaged(file):
        metadata = pq.read_metadata(file)
    return sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))


def _fingerprint(files: list[Path]) -> str:
    """The fingerprint of the data in the cache of `datasets`; its own way reads all values, which takes as long as loading."""
    return Hasher.hash([(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files])


def read_description(path: Path) -> TrajectoryMetadata:
    """`{"info": {"env": gymnasium id, ...}, "episodes": [...]}`; `info` is kept as the provenance."""
    try:
        info = dict(json.loads(path.read_text())["info"])
        return TrajectoryMetadata(env_id=info.pop("env"), provenance=info)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"cannot read {path} ({error!r}): expected {{'info': {{'env': a gymnasium id, ...}}, ...}}; mend or remove it."
        ) from None


METADATA_NAME = "trajectories.json"


def read_hub(
    repo_id: str, name: str | None, split: str | None, revision: str | None, streaming: bool = False
) -> Dataset | DatasetDict | IterableDataset | IterableDatasetDict:
    """A data set from the Hub; metadata that `push_trajectories` left there are attached.

    Args:
        repo_id, name, split, revision: As in `load_trajectories`.
        streaming: Whether it is read from the Hub while it is used, and not downloaded.

    Raises:
        FileNotFoundError: there is none of that name that this account may see.
    """
    reachable = look_up(repo_id, "data set")
    try:
        with nullcontext() if reachable else offline():
            loaded = load_dataset(repo_id, name, split=split, revision=revision, streaming=streaming)
    except (DatasetNotFoundError, OfflineModeIsEnabled, ConnectionError) as error:
        if not reachable:
            raise FileNotFoundError(
                f"there is no data set at {repo_id!r}: no such file or folder here, nothing of that name from an earlier "
                f"download, and the Hub cannot be reached.{nearest(repo_id)}"
            ) from error
        raise FileNotFoundError(
            f"{error} There is no such file or folder here either: check the name, and for a private data set log in with a "
            "token that may read it, `hf auth login`."
        ) from error
    with nullcontext() if reachable else offline():
        file = _metadata_at(repo_id, revision)
    if file is None:
        return loaded
    metadata, statistics = metadata_from_json(file.read_text(encoding="utf-8")), statistics_in_file(file)
    if isinstance(loaded, dict):
        return type(loaded)({split: with_metadata(part, metadata, statistics) for split, part in loaded.items()})
    return with_metadata(loaded, metadata, statistics)


def write_metadata(dataset: Dataset, folder: str | Path) -> None:
    """Leave the metadata of a data set as a file that `read_hub` finds, with the statistics for those who stream it."""
    values = metadata_of(without_whole(dataset)).to_dict()
    if (statistics := statistics_to_store(dataset)) is not None:
        values[STATISTICS] = statistics
    Path(folder, METADATA_NAME).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def statistics_in_file(file: Path) -> Any:
    """The statistics that `write_metadata` left in a file, as they stand there; `None` where there are none."""
    return json.loads(file.read_text(encoding="utf-8")).get(STATISTICS)


def read_stream(rows: IterableDataset) -> Dataset:
    """Episodes, one a row, from a data set that streams; they are kept on disk, not in memory."""
    return dataset_from_stream(_arrays(row) for row in rows)


def _metadata_at(repo_id: str, revision: str | None) -> Path | None:
    try:
        return Path(hf_hub_download(repo_id, METADATA_NAME, repo_type="dataset", revision=revision))
    except EntryNotFoundError:
        return None


def _arrays(row: dict) -> dict[str, np.ndarray]:
    return {name: np.asarray(values) for name, values in row.items() if isinstance(values, list | np.ndarray)}
