"""Data sets on disk that are either whole or not there."""

from pathlib import Path

from datasets import Dataset

from hf_seqrl.data.durable import whole_folder


def save_trajectories(dataset: Dataset, path: str | Path, overwrite: bool = False) -> Path:
    """Save a data set as a folder that `load_trajectories` (and `datasets.load_from_disk`) read, metadata included.

    A crash leaves either nothing or what was there before.

    Args:
        dataset (`datasets.Dataset`): Trajectories, one row an episode.
        path (`str` or `Path`): The folder to make.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to replace what is there.

    Raises:
        FileExistsError: there is something already.
        InUseError: another process is writing there.
    """
    with whole_folder(path, overwrite) as folder:
        dataset.save_to_disk(str(folder))
    return Path(path)
