"""Damaged and misleading files of data: a sentence with their name, before they can do harm."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import pyarrow as pa
from datasets import Dataset, DatasetDict, load_from_disk

_DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    RuntimeError,  # of HDF5, and too deep a recursion
    SystemError,  # of h5py
    BadZipFile,
    pa.ArrowException,
)
DAMAGED_HDF5 = (OSError, RuntimeError, KeyError, SystemError)  # what h5py raises


@contextmanager
def named_if_damaged(file: Path, errors: tuple[type[Exception], ...] = _DAMAGE) -> Iterator[None]:
    """Inside, what a library says about a damaged file becomes a sentence with its name.

    Args:
        file: Its path.
        errors: What counts as damage; by default all that libraries raise where a file is not what they expect.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        yield
    except errors as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        kind = f"{file.suffix} file" if file.suffix and not file.is_dir() else "data set"
        raise ValueError(
            f"{file} cannot be read: it is damaged, or no {kind} ({' '.join(str(error).split()) or type(error).__name__})"
        ) from error


def read_saved_folder(path: Path, thorough: bool = True) -> Dataset | DatasetDict:
    """A folder that `datasets` wrote.

    Args:
        path: The folder.
        thorough: Whether all offsets of the episodes are checked, and not only the first and the last: wrong ones, which
            no other check sees, end the process.

    Raises:
        ValueError: it is damaged, or names files outside of it.
    """
    with named_if_damaged(path):
        _check_names(path)
        loaded = load_from_disk(str(path))
        for part in loaded.values() if isinstance(loaded, DatasetDict) else [loaded]:
            part.data.table.validate(full=thorough)
    return loaded


def check_hdf5(path: Path) -> None:
    """As `refuse_other_files`, of a file that another library will open."""
    import h5py

    with named_if_damaged(path, DAMAGED_HDF5), h5py.File(path) as file:
        refuse_other_files(file)


def refuse_other_files(file: Any) -> None:
    """Refuse an open HDF5 file that names other files of this machine: they would be read, and pushed with the data.

    Args:
        file: An `h5py.File`.

    Raises:
        ValueError: it holds an external link, bytes in another file, or a virtual data set.
    """
    import h5py

    def linked(name: str, link: Any) -> str | None:
        return name if isinstance(link, h5py.ExternalLink) else None

    def stored(name: str, values: Any) -> str | None:
        return name if isinstance(values, h5py.Dataset) and (values.external or values.is_virtual) else None

    name = file.visititems_links(linked) or file.visititems(stored)
    if name is not None:
        raise ValueError(
            f"{file.filename}: {name!r} stands in another file, which is not followed: copy the values into the file itself."
        )


def _check_names(folder: Path) -> None:
    """Refuse what leads out of the folder in the lists of files that it holds."""
    listing = folder / "dataset_dict.json"
    if listing.exists():
        splits = json.loads(listing.read_text(encoding="utf-8"))["splits"]
        for split in splits:
            _check_name(listing, split)
            _check_files(folder / split / "state.json")
    else:
        _check_files(folder / "state.json")


def _check_files(state: Path) -> None:
    if state.exists():
        for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]:
            _check_name(state, entry["filename"])


def _check_name(listing: Path, name: Any) -> None:
    if not isinstance(name, str) or Path(name).name != name:
        raise ValueError(f"{listing.name} names {name!r}: expected the name of something in this folder.")
