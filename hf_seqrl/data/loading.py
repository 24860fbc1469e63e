"""Trajectories from wherever they are."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, load_from_disk

from hf_seqrl.data.metadata import TrajectoryMetadata, d4rl_reference_returns, metadata_of, with_metadata


def load_trajectories(source: Any, *, env_id: str | None = None) -> Dataset:
    """Read trajectories."""
    if isinstance(source, Dataset):
        dataset = source
    elif (Path(source) / "dataset_info.json").exists():
        dataset = load_from_disk(str(source))
    else:
        dataset = _read_parquet(Path(source))
    metadata = metadata_of(dataset).updated(env_id=env_id)
    metadata = TrajectoryMetadata(reference_returns=d4rl_reference_returns(metadata.env_id)).updated(**vars(metadata))
    return with_metadata(dataset, metadata)


def _read_parquet(path: Path) -> Dataset:
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    table = pa.concat_tables([pq.read_table(file) for file in files]).combine_chunks()
    description = files[0].parent / "episodes.json"
    metadata = TrajectoryMetadata()
    if description.exists():
        info = json.loads(description.read_text())["info"]
        metadata = TrajectoryMetadata(env_id=info["env"], provenance=info)
    return with_metadata(Dataset(table), metadata)
