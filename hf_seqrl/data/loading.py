"""Trajectories from wherever they are, in one schema."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset, DatasetDict, Features, IterableDataset, List, Value, load_from_disk
from gymnasium.spaces import Space

from hf_seqrl.data.metadata import d4rl_reference_returns, metadata_of, with_metadata
from hf_seqrl.data.minari_source import is_minari, read_minari
from hf_seqrl.data.sources import SUFFIXES as HDF5_SUFFIXES
from hf_seqrl.data.sources import (
    dataset_from_arrays,
    is_parquet,
    lerobot_columns,
    read_d4rl,
    read_hub,
    read_parquet,
    read_stream,
)
from hf_seqrl.data.spaces import space_to_dict
from hf_seqrl.data.table_files import holds_tables, open_table
from hf_seqrl.data.tables import StepTableColumns, episodes_from_table
from hf_seqrl.data.validation import validate_trajectories
from hf_seqrl.data.writing import dataset_from_episodes

TrajectorySource = (
    str
    | Path
    | Dataset
    | DatasetDict
    | IterableDataset
    | pd.DataFrame
    | Mapping[str, Any]
    | Sequence[Mapping[str, Any]]
)

_INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_OTHER_FLOATS = {"float16", "float64"}


def load_trajectories(
    source: TrajectorySource,
    name: str | None = None,
    *,
    split: str | None = None,
    revision: str | None = None,
    episode: str | None = None,
    step: str | None = None,
    observation: str | Sequence[str] | None = None,
    action: str | Sequence[str] | None = None,
    reward: str | None = None,
    termination: str | None = None,
    truncation: str | None = None,
    env_id: str | None = None,
    observation_space: Space | Mapping[str, Any] | None = None,
    action_space: Space | Mapping[str, Any] | None = None,
    reference_returns: tuple[float, float] | None = None,
    max_episode_steps: int | None = None,
    provenance: dict[str, Any] | None = None,
    validate: bool = True,
) -> Dataset:
    """Open trajectories as a data set with one row an episode, checked, with their metadata attached.

    The columns are `observations` (vectors or images), `actions` (float vectors, integers or integer vectors), `rewards`,
    and `terminations` and `truncations`, or `dones` for `terminations` alone. Files of more than 256 MB and
    what `datasets` has saved stay on disk, memory-mapped. Other numbers than integer actions and
    images of bytes are cast to `float32` here, once.

    Args:
        source: One of
            - a `.parquet` file or a folder of them; metadata are read from an `episodes.json` beside them;
            - a folder that `save_trajectories` or `datasets` wrote, a `datasets.Dataset` or `DatasetDict`;
            - a dictionary of arrays: a list of episodes in each column, or one entry a step with `terminals` and
              `timeouts` (or `terminations` and `truncations`) to tell the episodes apart, as in D4RL's files;
            - a list of episodes, each a dictionary of arrays;
            - a table with one row a step: a `.csv` or `.parquet` file or folder, a pandas data frame or a
              `datasets.Dataset`, together with the names of its columns from `episode` on;
            - the id of a data set on the Hugging Face Hub, with one row an episode or LeRobot's with one row a step;
            - an `IterableDataset` (`load_dataset(..., streaming=True)`) with one row an episode: it is written to disk as it
              streams;
            - the id of a Minari data set, `minari://D4RL/door/human-v2`, or without `minari://` where it is on this machine;
            - an `.hdf5` file of D4RL.
        name (`str`, *optional*): The configuration of a data set on the Hub.
        split (`str`, *optional*): Which split; by default the only one, or `train`.
        revision (`str`, *optional*): The branch, tag or commit of a data set on the Hub.
        episode (`str`, *optional*): In a table with one row a step, the column that tells the episodes apart.
        step (`str`, *optional*): In such a table, the column to sort an episode's steps by.
        observation, action (`str` or list of `str`, *optional*): One column, or several columns of numbers; of a Minari
            data set with Dict observations, the entries to take.
        reward, termination, truncation (`str`, *optional*): Columns. Without `episode`, these five rename columns of a data
            set with one row an episode.
        env_id (`str`, *optional*): The gymnasium id. This and the following override what the source says.
        observation_space, action_space (*optional*): Spaces, or their `space_to_dict`.
        reference_returns (`tuple`, *optional*): Raw returns (random, expert); by default those of D4RL, where it has any.
        max_episode_steps (`int`, *optional*): The time limit, in steps.
        provenance (`dict`, *optional*): How the episodes were made.
        validate (`bool`, *optional*, defaults to `True`): Whether to check every value (a pass over the data).

    Raises:
        ValueError: the data are not sound (see `validate_trajectories`), or the source is of no known kind.
        FileNotFoundError: a path does not exist.

    Example:
        >>> dataset = load_trajectories([{"observations": [[0.0], [0.5]], "actions": [0, 1], "rewards": [1.0, 1.0],
        ...                               "terminations": [False, True]}], env_id="CartPole-v1")
        >>> len(dataset), dataset.column_names
        (1, ['observations', 'actions', 'rewards', 'terminations'])
    """
    names = {
        "observation": observation,
        "action": action,
        "reward": reward,
        "termination": termination,
        "truncation": truncation,
    }
    if episode is not None:
        columns = StepTableColumns(episode=episode, step=step, **names)
        opened = _open(source, name, split, revision) if _needs_datasets(source) else source
        dataset = episodes_from_table(open_table(opened, columns.all), columns)
    elif is_minari(source):
        dataset = read_minari(source, observation)
    else:
        dataset = _with_one_row_an_episode(_open(source, name, split, revision), names)
    metadata = metadata_of(dataset).updated(
        env_id=env_id,
        observation_space=observation_space and space_to_dict(observation_space),
        action_space=action_space and space_to_dict(action_space),
        reference_returns=reference_returns,
        max_episode_steps=max_episode_steps,
        provenance=provenance,
    )
    if metadata.reference_returns is None:
        metadata = metadata.updated(reference_returns=d4rl_reference_returns(metadata.env_id))
    dataset = with_metadata(_with_single_floats(dataset), metadata)
    if validate:
        validate_trajectories(dataset, metadata.observation_space, metadata.action_space)
    return dataset


def _open(source: TrajectorySource, name: str | None, split: str | None, revision: str | None) -> Dataset:
    if isinstance(source, str | Path):
        return _open_path(source, name, split, revision)
    if isinstance(source, Dataset):
        return source
    if isinstance(source, IterableDataset):
        return read_stream(source)
    if isinstance(source, DatasetDict):
        return _choose_split(source, split)
    if isinstance(source, pd.DataFrame):
        return Dataset.from_pandas(source, preserve_index=False)
    if isinstance(source, Mapping):
        return dataset_from_arrays(source)
    if isinstance(source, Sequence):
        return dataset_from_episodes(source)
    raise ValueError(
        f"cannot read trajectories from a {type(source).__name__}: expected a path, a Hub id, a Dataset, a data frame, a "
        "dictionary of arrays or a list of episodes."
    )


def _open_path(source: str | Path, name: str | None, split: str | None, revision: str | None) -> Dataset:
    path = Path(source)
    if is_parquet(path):
        return read_parquet(path)
    if path.is_dir():
        return _open_folder(path, split)
    if path.suffix in HDF5_SUFFIXES and path.exists():
        return read_d4rl(path)
    if path.exists():
        remedy = "name its columns (episode=...)" if path.suffix == ".csv" else "convert it to .parquet or .csv"
        raise ValueError(f"cannot read {path} as trajectories with one row an episode: {remedy}.")
    if (
        isinstance(source, Path)
        or path.is_absolute()
        or path.suffix in (".parquet", ".csv", *HDF5_SUFFIXES)
        or source.count("/") > 1
    ):
        raise FileNotFoundError(
            f"{path} does not exist: expected a file, a folder, or the id of a data set on the Hub."
        )
    loaded = read_hub(str(source), name, split, revision)
    return _choose_split(loaded, split) if isinstance(loaded, DatasetDict) else loaded


def _open_folder(path: Path, split: str | None) -> Dataset:
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        loaded = load_from_disk(str(path))
        return _choose_split(loaded, split) if isinstance(loaded, DatasetDict) else loaded
    raise ValueError(
        f"the folder {path} holds no trajectories: expected .parquet files or what save_trajectories wrote; for a folder of "
        ".csv files, name their columns (episode=...)."
    )


def _choose_split(splits: DatasetDict, split: str | None) -> Dataset:
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if (split or "train") not in splits:
        raise ValueError(f"there is no split {split or 'train'!r}: expected split to be one of {', '.join(splits)}.")
    return splits[split or "train"]


def _needs_datasets(source: TrajectorySource) -> bool:
    """Whether a table must be opened by way of `datasets`, not read as a file or frame."""
    if isinstance(source, str | Path):
        path = Path(source)
        return not (path.exists() and (path.is_file() or holds_tables(path)))
    return isinstance(source, DatasetDict)


def _with_one_row_an_episode(dataset: Dataset, names: Mapping[str, str | Sequence[str] | None]) -> Dataset:
    columns = lerobot_columns(dataset.column_names) if not any(names.values()) else None
    return (
        _renamed(dataset, names) if columns is None else episodes_from_table(open_table(dataset, columns.all), columns)
    )


def _renamed(dataset: Dataset, names: Mapping[str, str | Sequence[str] | None]) -> Dataset:
    for role, given in names.items():
        if isinstance(given, str):
            if given not in dataset.column_names:
                available = ", ".join(dataset.column_names)
                raise ValueError(
                    f"there is no column {given!r}, which was named as {role}: expected one of {available}."
                )
            dataset = dataset.rename_column(given, f"{role}s") if given != f"{role}s" else dataset
        elif given is not None:
            raise ValueError(
                f"{role}={given!r} names several columns: give also episode=... (a table with one row a step)."
            )
    return dataset


def _with_single_floats(dataset: Dataset) -> Dataset:
    """The same data set with `float32` in place of other numbers, but for integer actions and for images of bytes."""
    features = dataset.features.copy()
    for column, kept in (("observations", {"uint8"}), ("actions", _INTEGERS), ("rewards", set())):
        if column in features:
            is_number = isinstance(getattr(features[column], "feature", None), Value)  # such as the number of a state
            features[column] = _single(features[column], _INTEGERS if is_number and column == "observations" else kept)
    return dataset if features == dataset.features else dataset.cast(Features(features))


def _single(feature: Any, kept: set[str]) -> Any:
    if isinstance(feature, List):
        return List(_single(feature.feature, kept), length=feature.length)
    is_number = isinstance(feature, Value) and (feature.dtype in _INTEGERS or feature.dtype in _OTHER_FLOATS)
    return Value("float32") if is_number and feature.dtype not in kept else feature
