"""Where data sets with one row an episode come from: dictionaries of arrays, Parquet files, D4RL's HDF5 files, the Hub."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, IterableDataset, load_dataset
from datasets.exceptions import DatasetNotFoundError
from datasets.fingerprint import Hasher
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from hf_seqrl.data.metadata import TrajectoryMetadata, metadata_of, with_metadata
from hf_seqrl.data.tables import StepTableColumns
from hf_seqrl.data.writing import dataset_from_episodes, dataset_from_steps, dataset_from_stream

_NAMES = {"terminals": "terminations", "timeouts": "truncations"}  # D4RL's names


def dataset_from_arrays(columns: Mapping[str, Any]) -> Dataset:
    """One row an episode from a dictionary of arrays.

    Args:
        columns: Either in each column a list of episodes; or in each column one entry a step, and an episode ends with
            every step whose `terminations` (`terminals`, `dones`) or `truncations` (`timeouts`) is true, and with the
            last step. Entries that are not one a step (D4RL's `metadata`, `infos`) are left out.

    Raises:
        ValueError: a column is missing, or columns have different lengths.

    Example:
        >>> dataset = dataset_from_arrays({"observations": np.zeros((3, 2)), "actions": np.zeros((3, 1)),
        ...     "rewards": np.ones(3), "terminals": np.array([False, True, False])})
        >>> dataset["rewards"][:], dataset["truncations"][:]
        ([[1.0, 1.0], [1.0]], [[False, False], [True]])
    """
    columns = {_NAMES.get(name, name): values for name, values in columns.items()}
    if "rewards" not in columns or not len(columns["rewards"]):
        raise ValueError(f"there is no column 'rewards' with values: found {', '.join(columns)}.")
    if np.ndim(columns["rewards"][0]):
        return dataset_from_episodes(_rows(columns))
    return _split_at_ends(columns)


def _rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    counts = {name: len(values) for name, values in columns.items()}
    for name, count in counts.items():
        if count != counts["rewards"]:
            raise ValueError(
                f"column {name!r} has {count} episodes, column 'rewards' has {counts['rewards']}: expected as many."
            )
    return [{name: values[row] for name, values in columns.items()} for row in range(counts["rewards"])]


def _split_at_ends(columns: Mapping[str, Any]) -> Dataset:
    steps = {name: np.asarray(columns[name]) for name in ("observations", "actions", "rewards") if name in columns}
    ending = "dones" if "dones" in columns else "terminations"
    if ending not in columns:
        raise ValueError(
            f"there is no column 'terminations' (or 'terminals', 'dones') to tell the episodes apart: found {', '.join(columns)}."
        )
    terminations = np.asarray(columns[ending]).astype(bool)
    ends = terminations | np.asarray(columns.get("truncations", np.zeros(len(terminations)))).astype(bool)
    ends[-1] = True
    steps |= {"terminations": terminations, "truncations": ends & ~terminations}
    return dataset_from_steps(steps, np.concatenate([[0], np.flatnonzero(ends) + 1]))


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


SUFFIXES = (".hdf5", ".h5")
_READ_STEPS = 1 << 16  # steps that are read at once, at least; an episode is read whole
_NEEDED = ("observations", "actions", "rewards", "terminals")


def read_d4rl(path: Path) -> Dataset:
    """The episodes of a D4RL file, read and written piece by piece.

    An episode ends where `terminals` or `timeouts` is true, and with the file. What is not one entry a step
    (`infos`, `metadata`) and `next_observations` are left out.

    Raises:
        ImportError: h5py is not installed.
        ValueError: a column is missing.
    """
    h5py = _h5py()
    with h5py.File(path) as file:
        missing = [name for name in _NEEDED if name not in file]
        if missing:
            raise ValueError(
                f"{path} has no {missing[0]!r}: expected the columns of D4RL ({', '.join(_NEEDED)} and perhaps timeouts), "
                f"found {', '.join(file)}."
            )
        return dataset_from_stream(_episodes(file))


def _episodes(file: Any) -> Iterator[dict[str, np.ndarray]]:
    terminations = file["terminals"][:].astype(bool).reshape(-1)
    ends = terminations.copy()
    if "timeouts" in file:
        ends |= file["timeouts"][:].astype(bool).reshape(-1)
    ends[-1:] = True
    offsets = np.concatenate([[0], np.flatnonzero(ends) + 1])
    first = 0
    while first < len(offsets) - 1:
        # whole episodes: as many as fit into one reading, at least one
        last = max(np.searchsorted(offsets, offsets[first] + _READ_STEPS, side="right") - 1, first + 1)
        start, end = offsets[first], offsets[last]
        steps = {name: file[name][start:end] for name in ("observations", "actions", "rewards")}
        steps["rewards"] = steps["rewards"].reshape(-1)
        steps |= {"terminations": terminations[start:end], "truncations": (ends & ~terminations)[start:end]}
        for low, high in zip(offsets[first:last] - start, offsets[first + 1 : last + 1] - start):
            yield {name: values[low:high] for name, values in steps.items()}
        first = last


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 files need h5py: pip install h5py") from error
    return h5py


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
