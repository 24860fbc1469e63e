"""D4RL's HDF5 files: one entry a step, with flags where episodes end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_seqrl.data.streaming import dataset_from_stream

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
        raise ImportError('HDF5 files need h5py: pip install "hf-seqrl[minari]", or pip install h5py.') from error
    return h5py
