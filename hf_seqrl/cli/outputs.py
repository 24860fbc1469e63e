"""Files and folders that a verb writes: never over something that is there, and checked before the work."""

from pathlib import Path

from hf_seqrl.data.durable import check_replaceable, check_writable


def refuse_existing(*paths: str | Path | None, overwrite: bool = False, mark: str | None = None) -> None:
    """Stop before work begins whose result would replace something, or could not be written; `None` stands for an output
    not asked for.

    Args:
        paths: Of files, or of folders where `mark` is given.
        overwrite: Whether they may exist.
        mark: The name of a file in folders that may be replaced.

    Raises:
        FileExistsError: one of the paths exists and `overwrite` is false, or it is a folder without `mark`.
        OSError: one of them cannot be written.
    """
    for path in paths:
        if path is not None and Path(path).exists() and not overwrite:
            raise FileExistsError(f"{path} exists already: choose another name, or replace it with --overwrite.")
        if path is not None:
            check_replaceable(path, mark)
    check_writable(*paths)
