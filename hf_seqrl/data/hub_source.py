"""Data sets on the Hub: those of this package with their metadata, LeRobot's with one row a step, and plain ones."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset, load_dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from hf_seqrl.data.metadata import TrajectoryMetadata, metadata_of, with_metadata
from hf_seqrl.data.streaming import dataset_from_stream
from hf_seqrl.data.tables import StepTableColumns

METADATA_NAME = "trajectories.json"

# column of a LeRobot data set -> its role
_LEROBOT = {
    "episode": "episode_index",
    "step": "frame_index",
    "observation": "observation.state",
    "action": "action",
    "reward": "next.reward",
    "termination": "next.done",
}


def read_hub(repo_id: str, name: str | None, split: str | None, revision: str | None) -> Dataset | DatasetDict:
    """A data set from the Hub; metadata that `push_trajectories` left there are attached.

    Raises:
        FileNotFoundError: there is none of that name that this account may see.
    """
    try:
        loaded = load_dataset(repo_id, name, split=split, revision=revision)
    except DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"{error} There is no such file or folder here either: check the name, and for a private data set log in with a "
            "token that may read it, `hf auth login`."
        ) from error
    metadata = _metadata_at(repo_id, revision)
    if metadata is None:
        return loaded
    if isinstance(loaded, DatasetDict):
        return DatasetDict({split: with_metadata(part, metadata) for split, part in loaded.items()})
    return with_metadata(loaded, metadata)


def write_metadata(dataset: Dataset, folder: str | Path) -> None:
    """Leave the metadata of a data set as a file that `read_hub` finds."""
    text = json.dumps(metadata_of(dataset).to_dict(), indent=2) + "\n"
    Path(folder, METADATA_NAME).write_text(text, encoding="utf-8")


def read_stream(rows: IterableDataset) -> Dataset:
    """Episodes, one a row, from a data set that streams; they are kept on disk, not in memory."""
    return dataset_from_stream(_arrays(row) for row in rows)


def lerobot_columns(column_names: Sequence[str]) -> StepTableColumns | None:
    """The roles of the columns of a LeRobot data set, `None` for any other.

    Raises:
        ValueError: it holds no rewards.

    Example:
        >>> lerobot_columns(["observation.state", "action", "episode_index", "next.reward"]).reward
        'next.reward'
    """
    if not {"episode_index", "observation.state", "action"} <= set(column_names):
        return None
    if "next.reward" not in column_names:
        raise ValueError(
            "this LeRobot data set holds no column 'next.reward': expected rewards; name another column, "
            "load_trajectories(..., episode='episode_index', observation='observation.state', action='action', reward=...)."
        )
    return StepTableColumns(**{role: name for role, name in _LEROBOT.items() if name in column_names})


def _metadata_at(repo_id: str, revision: str | None) -> TrajectoryMetadata | None:
    try:
        path = hf_hub_download(repo_id, METADATA_NAME, repo_type="dataset", revision=revision)
    except EntryNotFoundError:
        return None
    return TrajectoryMetadata.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))


def _arrays(row: dict) -> dict[str, np.ndarray]:
    return {name: np.asarray(values) for name, values in row.items() if isinstance(values, list | np.ndarray)}
