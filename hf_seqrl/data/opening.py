"""Opening a source of trajectories, whatever it is, as a data set with one row per episode."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset, DatasetDict, IterableDataset

from hf_seqrl.data.array_reading import HDF5_SUFFIXES, ArrayReading
from hf_seqrl.data.arrays import (
    cut_rows,
    dataset_from_arrays,
    read_d4rl,
    read_episodes,
    without_final_observations,
)
from hf_seqrl.data.column_options import DEFAULT_REWARD
from hf_seqrl.data.composite_spaces import entry_names, flat_space
from hf_seqrl.data.damaged_files import named_if_damaged, read_saved_folder
from hf_seqrl.data.durable import remove_leftovers
from hf_seqrl.data.environment_ids import time_limit
from hf_seqrl.data.metadata import TrajectoryMetadata, metadata_of, with_metadata
from hf_seqrl.data.source_kinds import looks_like_a_file, paths_of
from hf_seqrl.data.sources import is_parquet, read_hub, read_parquet, read_stream
from hf_seqrl.data.spaces import space_from_dict
from hf_seqrl.data.table_columns import lerobot_columns
from hf_seqrl.data.table_files import folders_below, kinds_of_files, open_table
from hf_seqrl.data.tables import episodes_from_table

TrajectorySource: TypeAlias = (
    str
    | Path
    | Dataset
    | DatasetDict
    | IterableDataset
    | pd.DataFrame
    | Mapping[str, Any]
    | Sequence[Mapping[str, Any]]
    | Sequence[str | Path]
)


@dataclass
class Opening:
    """How a source is opened: the part of a data set, and how its arrays and columns are read."""

    name: str | None
    split: str | None
    revision: str | None
    stated: TrajectoryMetadata
    reading: ArrayReading
    thorough: bool = True

    def rows(self, source: TrajectorySource) -> Dataset:
        """A source that is no table, with one row per episode."""
        dataset = self.open(source)
        if _is_arrays(source):
            return dataset
        dataset = _with_one_row_an_episode(dataset, self.reading.names)
        if self.reading.final_observations == "drop":
            dataset = with_metadata(without_final_observations(dataset), metadata_of(dataset))
        return with_metadata(cut_rows(dataset, self.reading), metadata_of(dataset)) if self.reading.cut else dataset

    def open(self, source: TrajectorySource) -> Dataset:
        if isinstance(source, str | Path):
            return self._path(source)
        if isinstance(source, Dataset):
            return source
        if isinstance(source, IterableDataset):
            return read_stream(source)
        if isinstance(source, DatasetDict):
            return choose_split(source, self.split)
        if isinstance(source, pd.DataFrame):
            return _from_frame(source)
        if isinstance(source, Mapping):
            return self._arrays(dataset_from_arrays, source)
        if paths := paths_of(source):
            return self._files(paths)
        if isinstance(source, Sequence):
            return self._arrays(read_episodes, source)
        raise ValueError(
            f"cannot read trajectories from a {type(source).__name__}: expected a path, a Hub id, a Dataset, a data frame, a "
            "dictionary of arrays or a list of episodes."
        )

    def _path(self, source: str | Path) -> Dataset:
        path = Path(source)
        with suppress(OSError):  # a folder that may only be read
            remove_leftovers(path)
        if is_parquet(path):
            return read_parquet(path)
        if path.is_dir():
            return _open_folder(path, self.split, self.thorough)
        if path.suffix in HDF5_SUFFIXES and path.exists():
            return self._arrays(read_d4rl, path)
        if path.suffix == ".npz" and path.exists():
            with named_if_damaged(path), np.load(path) as file:
                arrays = dict(file)
            return self._arrays(dataset_from_arrays, arrays)
        if path.exists():
            remedy = (
                f"name its columns (episode=...); `hf-seqrl info {path.name}` proposes them"
                if kinds_of_files(path)
                else "convert it to .parquet or .csv"
            )
            raise ValueError(f"cannot read {path} as trajectories with one row per episode: {remedy}.")
        if isinstance(source, Path) or path.is_absolute() or looks_like_a_file(path) or source.count("/") > 1:
            raise FileNotFoundError(
                f"{path} does not exist: expected a file, a folder, or the id of a data set on the Hub."
            )
        loaded = read_hub(str(source), self.name, self.split, self.revision)
        return choose_split(loaded, self.split) if isinstance(loaded, DatasetDict) else loaded

    def _files(self, paths: Sequence[Path]) -> Dataset:
        wrong = next((path for path in paths if not path.exists() or not is_parquet(path)), None)
        if wrong is not None:
            raise ValueError(
                f"{wrong} of the list is no .parquet file with one row per episode: expected one; for tables with one row per step "
                "name their columns (episode=...)."
            )
        return read_parquet(*paths)

    def _arrays(self, read: Callable[[Any, ArrayReading], Dataset], source: Any) -> Dataset:
        """Arrays, with what was found out about them as metadata."""
        reading, stated = self.reading, self.stated
        reading.limit = stated.max_episode_steps or time_limit(stated.env_id)
        reading.observation_space, reading.action_space = (
            None if space is None else space_from_dict(space)
            for space in (stated.observation_space, stated.action_space)
        )
        dataset = read(source, reading)
        found: dict[str, Any] = {"action_space": reading.spaces.get("actions"), "guesses": reading.guesses}
        if space := reading.spaces.get("observations"):
            found |= {
                "observation_space": flat_space(space),
                "source_observation_space": space,
                "observation_names": entry_names(space),
            }
        return with_metadata(dataset, TrajectoryMetadata(**found))


def _is_arrays(source: TrajectorySource) -> bool:
    """Whether the columns of a source have been renamed and cut as its arrays were read."""
    if isinstance(source, str | Path):
        return Path(source).suffix in (".npz", *HDF5_SUFFIXES) and Path(source).exists()
    is_array = isinstance(source, Mapping | Sequence) and not isinstance(source, DatasetDict)
    return is_array and not paths_of(source)


def _from_frame(frame: pd.DataFrame) -> Dataset:
    try:
        return Dataset.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # Arrow takes no arrays of several dimensions as cells
        return read_episodes(frame.to_dict("records"))


def is_saved_folder(path: Path) -> bool:
    """Whether `datasets` wrote this folder, which it memory-maps."""
    return (path / "state.json").exists() or (path / "dataset_dict.json").exists()


def _open_folder(path: Path, split: str | None, thorough: bool) -> Dataset:
    if is_saved_folder(path):
        loaded = read_saved_folder(path, thorough)
        return choose_split(loaded, split) if isinstance(loaded, DatasetDict) else loaded
    raise ValueError(
        f"the folder {path} holds no trajectories: expected .parquet files or what save_trajectories wrote; for a folder of "
        f".csv files, name their columns (episode=...){folders_below(path)}."
    )


def choose_split(splits: Mapping[str, Any], split: str | None) -> Any:
    """The split that is named; by default the only one, or `train`.

    Raises:
        ValueError: there is none of that name.
    """
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if (split or "train") not in splits:
        raise ValueError(f"there is no split {split or 'train'!r}: expected split to be one of {', '.join(splits)}.")
    return splits[split or "train"]


def _with_one_row_an_episode(dataset: Dataset, names: Mapping[str, str | Sequence[str] | None]) -> Dataset:
    named = any(value for role, value in names.items() if role != "reward" or value != DEFAULT_REWARD)
    columns = lerobot_columns(dataset.column_names, names["reward"] is not None) if not named else None
    if columns is None:
        return _renamed(dataset, names)
    return episodes_from_table(open_table(dataset, columns.plain), columns)


def _renamed(dataset: Dataset, names: Mapping[str, str | Sequence[str] | None]) -> Dataset:
    for role, given in names.items():
        if isinstance(given, str):
            if given == f"{role}s":
                continue
            if given not in dataset.column_names:
                available = ", ".join(dataset.column_names)
                raise ValueError(
                    f"there is no column {given!r}, which was named as {role}: expected one of {available}."
                )
            # what is named takes the place of what has the name by chance
            aside = [f"{role}s"] + (["dones"] if role == "termination" else [])
            dataset = dataset.remove_columns(
                [name for name in aside if name in dataset.column_names and name != given]
            )
            dataset = dataset.rename_column(given, f"{role}s")
        elif given is not None:
            raise ValueError(
                f"{role}={given!r} names several columns: give also episode=... (a table with one row per step)."
            )
    return dataset
