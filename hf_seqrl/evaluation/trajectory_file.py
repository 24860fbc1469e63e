"""Episodes written to an Arrow file piece by piece, so that a large collection never stands in memory as a whole."""

import uuid
from pathlib import Path

import gymnasium as gym
import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value
from datasets.fingerprint import get_temporary_cache_files_directory

from hf_seqrl.evaluation.recording import stored_dtype

_PIECE_BYTES = 64 << 20  # one Arrow record batch; what is held in memory before it is written


class TrajectoryFile:
    """An Arrow stream of episodes, one a row, in the schema of trajectory data sets.

    Args:
        observation_space, action_space: Of one environment.
        cache_dir: Where the file is kept; `None` for a folder that lives as long as this process.
    """

    def __init__(self, observation_space: gym.Space, action_space: gym.Space, cache_dir: str | Path | None = None):
        directory = Path(cache_dir or get_temporary_cache_files_directory())
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"trajectories-{uuid.uuid4().hex}.arrow"
        self.features = trajectory_features(observation_space, action_space)
        self._writer = pa.ipc.new_stream(str(self.path), self.features.arrow_schema)
        self._pending: list[dict[str, np.ndarray]] = []
        self._pending_bytes = 0

    def append(self, trajectory: dict[str, np.ndarray]) -> None:
        """Add an episode: every column `(steps, *shape)`."""
        self._pending.append(trajectory)
        self._pending_bytes += sum(values.nbytes for values in trajectory.values())
        if self._pending_bytes >= _PIECE_BYTES:
            self._flush()

    def finish(self) -> Dataset:
        """Close the file and open it, memory-mapped, as a data set."""
        self._flush()
        self._writer.close()
        return Dataset.from_file(str(self.path))

    def discard(self) -> None:
        """Close and delete the file."""
        self._writer.close()
        self.path.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._pending:
            schema = self.features.arrow_schema
            columns = [_episodes([t[field.name] for t in self._pending], field.type) for field in schema]
            self._writer.write_batch(pa.record_batch(columns, schema=schema))
            self._pending, self._pending_bytes = [], 0


def trajectory_features(observation_space: gym.Space, action_space: gym.Space) -> Features:
    """The columns of a data set of these spaces. Vectors are lists of a length of their own, as in the data sets on the Hub;
    the inner axes of images have a fixed size, which spares Arrow an offset for every pixel."""
    return Features(
        {
            "observations": _feature(observation_space),
            "actions": _feature(action_space),
            "rewards": List(Value("float32")),
            "terminations": List(Value("bool")),
            "truncations": List(Value("bool")),
        }
    )


def _feature(space: gym.Space) -> List:
    feature: Value | List = Value(str(stored_dtype(space.dtype)))
    for size in reversed(space.shape):
        feature = List(feature, length=size if len(space.shape) > 1 else -1)
    return List(feature)


def _episodes(arrays: list[np.ndarray], kind: pa.DataType) -> pa.Array:
    offsets = np.cumsum([0, *map(len, arrays)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, _nested(np.concatenate(arrays), kind.value_type), type=kind)


def _nested(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values, type=kind)
    inner = _nested(values.reshape(-1, *values.shape[2:]), kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(inner, type=kind)
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(offsets, inner, type=kind)
