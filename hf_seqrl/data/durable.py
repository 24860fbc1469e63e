"""Files and folders that are written completely or not at all, also after a kill or a power failure.

New content is written under a hidden name in the same folder, synced to the disk (`fsync`), and then renamed in one step.
The previous content stays until then. A lock rejects a second writer; the next writer, and `remove_leftovers`, remove
the leftovers of a killed one.
"""

import ctypes
import errno
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

LOCK_NAME = ".hf_seqrl.lock"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux' renameat2
_CANNOT_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.EXDEV)
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EISDIR, errno.EBADF)

_held: dict[Path, int] = {}  # locks of this process, and the thread that holds each
_held_guard = threading.Lock()


class InUseError(OSError):
    """Another process, or another thread, is writing in the same place."""


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Write a file completely or not at all; text is encoded as UTF-8. Its folder is created if needed.

    Raises:
        InUseError: another process is writing it.
    """
    with whole_file(path) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a name with the same suffix; the file that the block writes there replaces `path`.

    A link at `path` is replaced, not followed. An error in the block changes nothing.

    Raises:
        InUseError: another process is writing it.
    """
    target = Path(path).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(target):
        _sweep(target)
        aside = target.with_name(f".{target.name}.{uuid4().hex[:8]}.partial{target.suffix}")
        try:
            yield aside
            sync_file(aside)
            os.replace(aside, target)
            sync_file(target.parent)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path, overwrite: bool = False, mark: str | None = None) -> Iterator[Path]:
    """Yield an empty folder next to `path` that replaces it when the block has filled it.

    On Linux the old and the new folder are exchanged in one step. Elsewhere there is a moment without either, after which
    `remove_leftovers` restores the old folder.

    Args:
        path: Of the folder.
        overwrite: Whether it may exist.
        mark: The name of a file by which a folder is known that may be replaced; see `check_replaceable`.

    Raises:
        FileExistsError: `path` exists, and `overwrite` is false or it is not such a folder.
        InUseError: another process is writing there.
    """
    target = resolved(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(target):
        _sweep(target)
        if os.path.lexists(target) and not (overwrite and target.is_dir()):
            raise FileExistsError(
                f"{path} exists already: choose another place, or pass overwrite=True to replace a folder."
            )
        check_replaceable(path, mark)
        aside = target.with_name(f".{target.name}.{uuid4().hex[:8]}.partial")
        aside.mkdir()
        try:
            yield aside
            sync_tree(aside)
            _take_place(aside, target)
            sync_file(target.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def sole_writer(path: str | Path, wait: bool = False) -> Iterator[None]:
    """A context in which no other process writes at `path`: there is a lock file, inside a folder or next to a file.

    The lock ends with the process. Calls may be nested.

    Args:
        path: The folder or file.
        wait (`bool`, *optional*, defaults to `False`): Whether to wait until another process has released the lock.

    Raises:
        InUseError: another process has the lock and `wait` is false, or another thread of this process has it.
    """
    target = resolved(path)
    place = target / LOCK_NAME if target.is_dir() else _lock_beside(target)
    with _held_guard:
        if place in _held and _held[place] != threading.get_ident():
            raise InUseError(_in_use(path))
        nested = place in _held
        _held[place] = threading.get_ident()
    if nested:
        yield
        return
    lock = FileLock(str(place), timeout=-1 if wait else 0)
    try:
        _drop_link(place)
        try:
            lock.acquire()
        except Timeout:
            raise InUseError(_in_use(path)) from None
        try:
            yield
        finally:
            place.unlink(missing_ok=True)  # while it is held: who waits for this file notices that it is gone
            lock.release()
    finally:
        with _held_guard:
            _held.pop(place, None)


def remove_leftovers(path: str | Path) -> None:
    """Remove the leftovers of a killed writer at `path`, and restore a folder that it was about to replace.

    Does nothing while another process writes there, or without write permission.
    """
    target = resolved(path)
    if _leftovers(target) or os.path.lexists(target / LOCK_NAME) or os.path.lexists(_lock_beside(target)):
        with suppress(InUseError, PermissionError), sole_writer(target):
            _sweep(target)


@contextmanager
def removed_if_empty(folder: str | Path) -> Iterator[None]:
    """Create a folder for the block if it is missing; a new one that is still empty afterwards is removed."""
    place = Path(folder)
    is_new = not place.exists()
    place.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if is_new:
            with suppress(OSError):
                place.rmdir()  # only if it is empty


def check_replaceable(path: str | Path, mark: str | None) -> None:
    """Refuse to replace a folder with other content, a home or a project, in which the file `mark` is missing.

    Raises:
        FileExistsError: it is such a folder.
    """
    folder = Path(path)
    if mark is None or not folder.is_dir() or (folder / mark).exists():
        return
    if any(path.name != LOCK_NAME for path in folder.iterdir()):
        raise FileExistsError(
            f"{path} holds other files, which would be lost, and no {mark}: choose another place, or remove them first."
        )


def check_writable(*paths: str | Path | None) -> None:
    """Check before the work whether its results can be written; `None` is an output that is not requested.

    Raises:
        OSError: a folder or file cannot be created at one of the paths; the message says why.
    """
    for path in paths:
        if path is None:
            continue
        target = Path(path).absolute()
        existing = next(parent for parent in (target, *target.parents) if os.path.lexists(parent))
        if existing == target and not target.is_dir():
            existing = target.parent
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            reason = error.strerror or str(error)
            raise type(error)(f"cannot write to {path}: {existing}: {reason}. Choose another place.") from None


def sync_file(path: str | Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # folders of Windows cannot be opened
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: str | Path) -> None:
    """Wait until everything in a folder is on the disk."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            if not os.path.islink(os.path.join(parent, name)):
                sync_file(os.path.join(parent, name))
        sync_file(parent)


def resolved(path: str | Path) -> Path:
    """The absolute path; a link to a folder is followed, as the user typed it."""
    path = Path(path).absolute()
    return path.resolve() if path.is_symlink() and path.is_dir() else path


def _take_place(aside: Path, target: Path) -> None:
    if not target.exists():
        os.rename(aside, target)
    elif not _exchanged(aside, target):
        former = target.with_name(f".{target.name}.{uuid4().hex[:8]}.former")
        os.rename(target, former)
        os.rename(aside, target)
        shutil.rmtree(former, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether both could change places in one step, which not every system offers."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _leftovers(target: Path) -> list[Path]:
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.(partial|former)({re.escape(target.suffix)})?")
    names = os.listdir(target.parent) if target.parent.is_dir() else []
    return [target.with_name(name) for name in sorted(names) if pattern.fullmatch(name)]


def _drop_link(lock: Path) -> None:
    """Remove a link in the place of a lock file, which somebody else put there: taking the lock would empty its target."""
    if lock.is_symlink() or (lock.is_file() and lock.stat().st_nlink > 1):
        lock.unlink()


def _lock_beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def _sweep(target: Path) -> None:
    """Only for whoever holds the lock."""
    if target.is_dir():
        _lock_beside(target).unlink(missing_ok=True)  # of a writer that was killed when the folder had just appeared
    for path in _leftovers(target):
        if path.suffix == ".former" and not os.path.lexists(target):
            os.rename(path, target)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _in_use(path: str | Path) -> str:
    return f"{path} is being written by another process: wait until that has ended, or choose another place."
