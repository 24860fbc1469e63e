"""Parquet files with one row an episode, and the `episodes.json` that may stand beside them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.fingerprint import Hasher

from hf_seqrl.data.metadata import TrajectoryMetadata, with_metadata

MOST_BYTES_IN_MEMORY = 256 << 20


def is_parquet(path: Path) -> bool:
    """Whether this is a `.parquet` file, or a folder of them (that of a downloaded Hub data set, with `data/`, too)."""
    return bool(parquet_files(path))


def read_parquet(path: Path) -> Dataset:
    """The episodes of a `.parquet` file or of all files in a folder, in the order of their names.

    Up to 256 MB (uncompressed) are read straight into memory; more goes through the cache of `datasets`, where it is
    memory-mapped. An `episodes.json` beside the files gives the environment and the provenance.
    """
    files = parquet_files(path)
    if sum(map(uncompressed_bytes, files)) > MOST_BYTES_IN_MEMORY:
        dataset = Dataset.from_parquet([str(file) for file in files])
    else:
        table = pa.concat_tables([pq.read_table(file) for file in files]).combine_chunks()
        dataset = Dataset(table, fingerprint=_fingerprint(files))
    description = files[0].parent / "episodes.json"
    return with_metadata(dataset, _read_description(description)) if description.exists() else dataset


def parquet_files(path: Path) -> list[Path]:
    """The file itself, or the files of a folder, those of a downloaded Hub data set (`data/`, LeRobot's `data/chunk-000/`) too."""
    if path.is_file():
        return [path] if path.suffix == ".parquet" else []
    return sorted(path.glob("*.parquet")) or sorted(path.glob("data/**/*.parquet"))


def uncompressed_bytes(file: Path) -> int:
    """How much memory its columns would take, about."""
    metadata = pq.read_metadata(file)
    return sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))


def _fingerprint(files: list[Path]) -> str:
    """By what `datasets` recognises the data in its cache; its own way reads all of them, which takes as long as loading."""
    return Hasher.hash([(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files])


def _read_description(path: Path) -> TrajectoryMetadata:
    """`{"info": {"env": gymnasium id, ...}, "episodes": [...]}`; `info` is kept as the provenance."""
    try:
        info = dict(json.loads(path.read_text())["info"])
        return TrajectoryMetadata(env_id=info.pop("env"), provenance=info)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"cannot read {path} ({error!r}): expected {{'info': {{'env': a gymnasium id, ...}}, ...}}; mend or remove it."
        ) from None
