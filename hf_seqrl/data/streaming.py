"""Episodes that come one after the other, written to disk piece by piece: however many there are, memory stays the same."""

import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.fingerprint import get_temporary_cache_files_directory

from hf_seqrl.data.building import dataset_from_episodes

PIECE_BYTES = 64 << 20  # what is held in memory before it is written


def dataset_from_stream(
    episodes: Iterable[Mapping[str, np.ndarray]], cache_dir: str | Path | None = None, piece_bytes: int = PIECE_BYTES
) -> Dataset:
    """A memory-mapped data set of episodes, of which only a few are in memory at a time.

    Args:
        episodes: Mappings of column names to arrays with one entry a step.
        cache_dir: Where the Arrow file is kept; by default in a folder that lives as long as this process.
        piece_bytes: How much is gathered before it is written.

    Raises:
        ValueError: there is no episode, or one has other columns or shapes than the first.
    """
    pieces = (dataset_from_episodes(piece) for piece in _pieces(episodes, piece_bytes))
    return dataset_from_pieces(pieces, cache_dir)


def dataset_from_pieces(pieces: Iterable[Dataset], cache_dir: str | Path | None = None) -> Dataset:
    """A memory-mapped data set of pieces, each of which holds some episodes.

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
            writer.write_table(first.data.table.cast(schema))
            for piece in pieces:
                writer.write_table(piece.data.table.cast(piece.features.arrow_schema).cast(schema))
    except (ValueError, pa.ArrowException) as error:
        path.unlink(missing_ok=True)
        raise ValueError(f"an episode does not fit those before it: {error}") from error
    return Dataset.from_file(str(path))


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
