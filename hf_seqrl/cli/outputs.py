"""Files and folders that a verb writes: never over something that is there, and checked before the work."""

from pathlib import Path

from hf_seqrl.data.durable import check_writable


def refuse_existing(*paths: str | Path | None, overwrite: bool = False) -> None:
    """Stop before work begins whose result would replace something, or could not be written; `None` stands for an output
    not asked for.

    Raises:
        FileExistsError: one of the paths exists and `overwrite` is false.
        OSError: one of them cannot be written.
    """
    for path in paths:
        if path is not None and Path(path).exists() and not overwrite:
            raise FileExistsError(f"{path} exists already: choose another name, or replace it with --overwrite.")
    check_writable(*paths)
