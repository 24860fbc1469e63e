"""Files and folders that a verb writes: never over something that is there, never by halves."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


def refuse_existing(*paths: str | Path | None, overwrite: bool = False) -> None:
    """Stop before work begins whose result would replace something; `None` stands for an output not asked for.

    Raises:
        FileExistsError: one of the paths exists and `overwrite` is false.
    """
    for path in paths:
        if path is not None and Path(path).exists() and not overwrite:
            raise FileExistsError(f"{path} exists already: choose another name, or replace it with --overwrite.")


@contextmanager
def whole_folder(target: str | Path) -> Iterator[Path]:
    """Yields a folder beside `target` that takes its place, by a rename, once the block has filled it."""
    target = Path(target).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.parent / f".{target.name}-{uuid4().hex[:8]}"
    try:
        yield aside
        if target.exists():
            shutil.rmtree(target)
        os.replace(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
