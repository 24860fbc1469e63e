"""Trajectory data sets from NumPy arrays: in memory, streamed to disk, and as a folder that is written completely or not at all."""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.fingerprint import generate_random_fingerprint, get_temporary_cache_files_directory

from hf_seqrl.data.column_values import as_array
from hf_seqrl.data.columns import episode_blocks
from hf_seqrl.data.durable import whole_folder
from hf_seqrl.data.metadata import metadata_of, with_metadata, without_whole
from hf_seqrl.data.returns import statistics_to_store

_LOST_SHARE = 1e-3  # of neighboring values that differ
SAVED_MARK = "dataset_dict.json"  # is in every folder that `save_trajectories` wrote
_DATA_FILES = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: train/*.arrow
---
"""  # what `load_dataset` reads of a saved folder
_VALUES_PER_CHUNK = 1 << 28  # Arrow's list offsets are 32-bit integers


def loses_values(values: np.ndarray) -> bool:
    """Whether float32 would make different neighboring values equal: times in seconds since 1970, counters, large ids.

    Differences that are as small as rounding errors of the magnitude do not count.

    Example:
        >>> loses_values(1.7e9 + 10.0 * np.arange(6)), loses_values(np.linspace(0, 1, 6))
        (True, False)
    """
    if values.dtype.kind not in "fiu" or values.dtype.itemsize < 4 or values.dtype == np.float32 or len(values) < 2:
        return False
    values = values.reshape(len(values), -1)
    singles = values.astype(np.float32)
    differ = values[1:] != values[:-1]
    lost = differ & (singles[1:] == singles[:-1])
    if not lost.any():
        return False
    wide = values.astype(np.float64)
    spread, magnitude = wide.max(axis=0) - wide.min(axis=0), np.abs(wide).max(axis=0)
    whole = (wide == np.rint(wide)).all(axis=0)
    matters = (spread > 1e-9 * magnitude) | whole
    return bool((matters & (lost.sum(axis=0) > _LOST_SHARE * differ.sum(axis=0))).any())


def dataset_from_steps(steps: Mapping[str, np.ndarray], episode_offsets: np.ndarray) -> Dataset:
    """A data set with one row per episode from arrays with one entry per step, all episodes one after the other.

    Args:
        steps: `observations` `(steps, ...)`, `actions` `(steps,)` or `(steps, size)`, `rewards` `(steps,)`,
            `terminations` and `truncations` `(steps,)`, and whatever other column has one entry per step. Floats become
            `float32` unless that makes different values equal (see `loses_values`); images stay `uint8`.
        episode_offsets (`(episodes + 1,)`): Where each episode begins; the last entry is the number of steps.

    Example:
        >>> dataset = dataset_from_steps({"rewards": np.array([1.0, 2.0, 3.0])}, np.array([0, 2, 3]))
        >>> dataset["rewards"][:]
        [[1.0, 2.0], [3.0]]
    """
    for name, values in steps.items():
        if len(values) != episode_offsets[-1]:
            raise ValueError(
                f"column {name!r} has {len(values)} steps, the episodes have {episode_offsets[-1]}: expected one entry per step."
            )
    steps = {name: _narrow(values, name) for name, values in steps.items()}
    bounds = list(_chunk_bounds(steps, episode_offsets))
    columns = {
        name: pa.chunked_array([_episodes(values, episode_offsets[first : last + 1]) for first, last in bounds])
        for name, values in steps.items()
    }
    return Dataset(pa.table(columns), fingerprint=generate_random_fingerprint())


def dataset_from_episodes(episodes: Sequence[Mapping[str, np.ndarray]]) -> Dataset:
    """A data set from episodes that are mappings of column names to arrays with one entry per step.

    Raises:
        ValueError: an episode lacks a column or has no steps, or its arrays have other shapes than the first's.

    Example:
        >>> dataset_from_episodes([{"rewards": [1.0, 2.0]}, {"rewards": [3.0]}])["rewards"][:]
        [[1.0, 2.0], [3.0]]
    """
    if not len(episodes):
        raise ValueError("the list of episodes is empty: expected at least one.")
    arrays = {name: [_column_of(episodes, name, number) for number in range(len(episodes))] for name in episodes[0]}
    lengths = np.array([len(values) for values in next(iter(arrays.values()))])
    for name, parts in arrays.items():
        _check_parts(name, parts, next(iter(arrays)), lengths)
    return dataset_from_steps(
        {name: np.concatenate(parts) for name, parts in arrays.items()}, np.concatenate([[0], np.cumsum(lengths)])
    )


def _column_of(episodes: Sequence[Mapping], name: str, number: int) -> np.ndarray:
    if name not in episodes[number]:
        raise ValueError(f"episode {number} has no column {name!r}: expected the columns of the first episode.")
    values = as_array(episodes[number][name], f"column {name!r} of episode {number}")
    return values if values.ndim else values[None]


def _check_parts(name: str, parts: list[np.ndarray], first_name: str, lengths: np.ndarray) -> None:
    are_words = [part.dtype.kind in "SUO" for part in parts]
    if any(are_words) and not all(are_words):
        raise ValueError(
            f"column {name!r} holds text in episode {are_words.index(True)} and numbers in episode {are_words.index(False)}: "
            "expected the same kind everywhere."
        )
    for number, part in enumerate(parts):
        if not len(part):
            raise ValueError(f"episode {number} has no steps: expected at least one; drop the episode.")
        if len(part) != lengths[number]:
            raise ValueError(
                f"column {name!r} of episode {number} has {len(part)} steps, column {first_name!r} has {lengths[number]}: "
                "expected as many in every column; drop a final observation that no action followed, final_observations='drop'."
            )
        if part.shape[1:] != parts[0].shape[1:]:
            raise ValueError(
                f"column {name!r} of episode {number} has values of shape {part.shape[1:]} a step, episode 0 of "
                f"{parts[0].shape[1:]}: expected the same shape everywhere."
            )


def _chunk_bounds(steps: Mapping[str, np.ndarray], episode_offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last episode (exclusive) of chunks that hold as many values as Arrow can count."""
    values_per_step = max(int(np.prod(values.shape[1:])) for values in steps.values())
    return episode_blocks(episode_offsets, max(1, _VALUES_PER_CHUNK // values_per_step))


def _narrow(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype.kind != "f" or values.dtype == np.float32 or (name != "actions" and loses_values(values)):
        return values
    return values.astype(np.float32)


def _episodes(values: np.ndarray, offsets: np.ndarray) -> pa.Array:
    values = values[offsets[0] : offsets[-1]]
    # what is more than a vector gets lists of fixed size: their shape is kept, and no offsets are stored
    array = pa.array(np.ascontiguousarray(values).reshape(-1))
    for size in values.shape[:0:-1]:
        starts = np.arange(0, len(array) + 1, size, dtype=np.int32)
        fixed = values.ndim > 2
        array = pa.FixedSizeListArray.from_arrays(array, size) if fixed else pa.ListArray.from_arrays(starts, array)
    return pa.ListArray.from_arrays(pa.array((offsets - offsets[0]).astype(np.int32)), array)


PIECE_BYTES = 64 << 20  # what is held in memory before it is written


def dataset_from_stream(
    episodes: Iterable[Mapping[str, np.ndarray]], cache_dir: str | Path | None = None, piece_bytes: int = PIECE_BYTES
) -> Dataset:
    """A memory-mapped data set of episodes, written with only a few in memory.

    Args:
        episodes: Mappings of column names to arrays with one entry per step.
        cache_dir: Where the Arrow file is kept; by default in a temporary folder of this process.
        piece_bytes: Bytes that are gathered before they are written.

    Raises:
        ValueError: there is no episode, or one has other columns or shapes than the first.
    """
    pieces = (dataset_from_episodes(piece) for piece in _pieces(episodes, piece_bytes))
    return dataset_from_pieces(pieces, cache_dir)


def dataset_from_pieces(pieces: Iterable[Dataset], cache_dir: str | Path | None = None) -> Dataset:
    """A memory-mapped data set of pieces with some episodes each.

    Args:
        pieces: Data sets with the same columns.
        cache_dir: As for `dataset_from_stream`.

    Raises:
        ValueError: there is no episode, or a piece has other columns or shapes than the first.
    """
    directory = Path(cache_dir or get_temporary_cache_files_directory())
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"stream-{uuid.uuid4().hex}.arrow"
    pieces = iter(pieces)
    first = next(pieces, None)
    if first is None:
        raise ValueError("there are no episodes: expected at least one.")
    schema = first.features.arrow_schema
    try:
        with pa.ipc.new_stream(str(path), schema) as writer:
            for piece in chain([first], pieces):
                writer.write_table(_cast(piece, schema))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Dataset.from_file(str(path))


def _cast(piece: Dataset, schema: pa.Schema) -> pa.Table:
    try:
        return piece.data.table.cast(piece.features.arrow_schema).cast(schema)
    except (ValueError, pa.ArrowException) as error:
        raise ValueError(f"an episode does not fit those before it: {error}") from error


def _pieces(episodes: Iterable[Mapping], piece_bytes: int) -> Iterator[list[dict[str, np.ndarray]]]:
    piece, size = [], 0
    for episode in episodes:
        piece.append({name: np.asarray(values) for name, values in episode.items()})
        size += sum(values.nbytes for values in piece[-1].values())
        if size >= piece_bytes:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def save_trajectories(dataset: Dataset, path: str | Path, overwrite: bool = False) -> Path:
    """Save a data set as a folder that `load_trajectories`, `datasets.load_dataset` and `datasets.load_from_disk` read (the latter
    two as a `DatasetDict` with one split, `train`), metadata included, and statistics for a `TrajectoryStream`.

    A crash leaves either nothing or the previous content.

    Args:
        dataset (`datasets.Dataset`): Trajectories, one row per episode.
        path (`str` or `Path`): The folder to create.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to replace an existing folder.

    Raises:
        FileExistsError: the folder exists, or what is to be replaced is no data set.
        InUseError: another process is writing there.
    """
    with whole_folder(path, overwrite, SAVED_MARK) as folder:
        if (statistics := statistics_to_store(dataset)) is not None:
            dataset = with_metadata(dataset, metadata_of(without_whole(dataset)), statistics)
        dataset.save_to_disk(str(Path(folder, "train")))
        Path(folder, SAVED_MARK).write_text(json.dumps({"splits": ["train"]}), encoding="utf-8")
        Path(folder, "README.md").write_text(_DATA_FILES, encoding="utf-8")
    return Path(path)
