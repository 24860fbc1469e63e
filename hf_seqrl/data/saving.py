"""Data sets on disk that are either whole or not there."""

import tempfile
from pathlib import Path

from datasets import Dataset


def save_trajectories(dataset: Dataset, path: str | Path, overwrite: bool = False) -> Path:
    """Save a data set as a folder that `load_trajectories` (and `datasets.load_from_disk`) read, metadata included.

    It is written beside its place under a hidden name and renamed when it is whole, so that a crash leaves either
    nothing or what was there before.

    Args:
        dataset (`datasets.Dataset`): Trajectories, one row an episode.
        path (`str` or `Path`): The folder to make.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to replace what is there.

    Raises:
        FileExistsError: there is something already.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists already: choose another place, or pass overwrite=True to replace it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", suffix=".partial", dir=path.parent) as aside:
        dataset.save_to_disk(f"{aside}/new")
        if path.exists():
            path.rename(f"{aside}/old")
        Path(aside, "new").rename(path)
    return path
