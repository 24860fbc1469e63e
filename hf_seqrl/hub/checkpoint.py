"""The folder of an agent: its files, atomic updates, and checks that results belong to the weights."""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4
from zlib import crc32

import torch
from torch import nn

from hf_seqrl.data.durable import (
    InUseError,
    remove_leftovers,
    resolved,
    sole_writer,
    sync_file,
    sync_tree,
    whole_folder,
)
from hf_seqrl.hub.run_record import RUN_RECORD_NAME

CONFIG_NAME = "config.json"  # the file that makes a folder a model: removed first and put back last
PROCESSOR_NAME = "processor_config.json"
EVALUATION_NAME = "evaluation.json"
OFFLINE_EVALUATION_NAME = "offline_evaluation.json"
BENCHMARK_RESULTS_NAME = ".eval_results/hf-seqrl.yaml"  # the Hub reads all files in this folder
RESULTS_NAME = "results.json"
CARD_NAME = "README.md"
GENERATED_CARD_NAME = "generated_card.md"  # the card, where README.md is somebody's own text
PLOT_NAME = "target_returns.png"
MANIFEST_NAME = "manifest.json"
CRITIC_FOLDER = "critic"  # of a critic that is saved with the agent
CANDIDATES_NAME = "candidates_config.json"  # in it: what it chooses among

_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin")
# Describes particular weights, and must be removed with them.
BELONGS_TO_WEIGHTS = (
    *_WEIGHTS,
    EVALUATION_NAME,
    OFFLINE_EVALUATION_NAME,
    RESULTS_NAME,
    RUN_RECORD_NAME,
    PLOT_NAME,
    GENERATED_CARD_NAME,
    MANIFEST_NAME,
    "replay.*",
)
# An agent acts without these: if they are damaged, loading only warns.
_RECORDS = (
    EVALUATION_NAME,
    OFFLINE_EVALUATION_NAME,
    RESULTS_NAME,
    RUN_RECORD_NAME,
    PLOT_NAME,
    CARD_NAME,
    GENERATED_CARD_NAME,
    "replay.*",
    "*.py",
)
_PARTS = (
    CONFIG_NAME,
    "generation_config.json",
    PROCESSOR_NAME,
    "adapter_*",
    "*/config.json",
    "*/*.safetensors",
    "*/*_config.json",
)
_STAGED, _COMMITTED = ".hf_seqrl-*.partial", ".hf_seqrl-update"
_REMOVED = ".checkpoint-*.removed"  # of a run, on their way out


@contextmanager
def replacing(directory: str | Path) -> Iterator[Path]:
    """Yields an empty folder; when the block has filled it, its contents take their place in `directory`.

    A new directory appears by one rename. In one that exists, other files (the checkpoints of a run, a git folder) stay.
    The new files are on the disk, under a hidden name, before the first old one goes; from then on `finish_update`, which
    every later writer and reader calls, completes what a kill interrupted. `config.json`, without which nothing loads,
    goes first and comes last, so that other readers never see a mixture. An error in the block changes nothing.

    Raises:
        InUseError: another process is writing there.
    """
    target = resolved(directory)
    if not target.is_dir():
        with whole_folder(target) as aside:
            yield aside
            write_manifest(aside)
        return
    with sole_writer(target):
        finish_update(target)
        aside = target / _STAGED.replace("*", uuid4().hex[:8])
        aside.mkdir()
        try:
            yield aside
            write_manifest(aside)
            sync_tree(aside)
            os.rename(aside, target / _COMMITTED)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        _move_into(target)


def finish_update(directory: str | Path) -> None:
    """Complete an update of a folder that was interrupted by a kill, and remove leftovers.

    Raises:
        OSError: it cannot be completed here, where nothing can be written, or another process is writing.
    """
    target = resolved(directory)
    remove_leftovers(target)
    staged = [path for pattern in (_STAGED, _REMOVED) for path in target.glob(pattern)]
    committed = target / _COMMITTED
    if committed.is_symlink():
        raise ValueError(f"{committed} is a link out of its folder, which no save leaves: remove it.")
    if not staged and not committed.is_dir():
        return
    try:
        with sole_writer(target):
            for aside in staged:
                if aside.is_symlink():
                    aside.unlink()
                else:
                    shutil.rmtree(aside, ignore_errors=True)
            if committed.is_dir():
                _move_into(target)
    except (PermissionError, InUseError) as error:
        if committed.is_dir():
            raise type(error)(
                f"{directory} was being saved when its writer was stopped, and this cannot be completed here ({error}): "
                "load it once where the folder can be written and nobody else writes."
            ) from None


def write_manifest(folder: str | Path) -> None:
    """Write the checksums of all files of an agent."""
    folder = Path(folder)
    files = {
        path.relative_to(folder).as_posix(): file_checksum(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and _is_listed(path.relative_to(folder))
    }
    text = json.dumps({"files": files}, indent=2) + "\n"
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")


def check_manifest(name: str, find: Callable[[str], str | None], present: list[str] | None = None) -> set[str]:
    """Compare the files of an agent with its manifest; one without a manifest, as others write them, is taken as it is.

    Args:
        name: The folder or Hub id, for messages.
        find: From the name of a file to its path, `None` where it is absent.
        present: The names of all files, where they can be listed.

    Returns:
        The names of records (evaluation, plot, ...) that are not those of this agent.

    Raises:
        ValueError: the weights, the config or the processor are damaged, missing, or another agent's.
    """
    path = find(MANIFEST_NAME)
    if path is None:
        return set()
    try:
        files = dict(json.loads(Path(path).read_text(encoding="utf-8"))["files"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{name}: {MANIFEST_NAME} is damaged ({error!r}). {_MANIFEST_REMEDY}") from None
    foreign = set()
    for file, checksum in files.items():
        found = None if any(fnmatch(file, pattern) for pattern in ("*.py", CARD_NAME)) else find(file)
        if found is None and _is_record(file):
            continue
        if found is None or file_checksum(found) != checksum:
            if not _is_record(file):
                state = "is missing" if found is None else "is damaged, or belongs to another agent"
                raise ValueError(f"{name}: {file} {state}: it does not match {MANIFEST_NAME}. {_MANIFEST_REMEDY}")
            foreign.add(file)
    for file in present or ():
        if file not in files and any(fnmatch(file, pattern) for pattern in _WEIGHTS):
            raise ValueError(f"{name}: {file} belongs to another agent: {MANIFEST_NAME} lacks it. {_MANIFEST_REMEDY}")
    return foreign


_MANIFEST_REMEDY = f"Save or download the agent again; if the files were changed on purpose, remove {MANIFEST_NAME}."


def file_checksum(path: str | Path) -> str:
    """The SHA-256 of a file."""
    digest = sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def inside(folder: str | Path, name: str) -> str | None:
    """The path of a file in a folder, `None` if it does not exist.

    Raises:
        ValueError: it is a link out of the folder.
    """
    path = Path(folder, name)
    if not path.is_file():
        return None
    refuse_link_out(folder, path)
    return str(path)


def refuse_link_out(folder: str | Path, path: Path) -> None:
    """Refuse a path in a folder that leads out of it; the cache of the Hub's client is one folder with its blobs.

    Raises:
        ValueError: it is a link out of the folder.
    """
    home, real = Path(folder).resolve(), path.resolve()
    snapshots = next((parent for parent in home.parents if parent.name == "snapshots"), None)
    blobs = home if snapshots is None else snapshots.parent / "blobs"  # the cache of the Hub's client
    if not (real.is_relative_to(home) or real.is_relative_to(blobs)):
        raise ValueError(
            f"{path} is a link out of its folder, to {real}: it is not followed. Put the file itself there."
        )


def check_links(folder: str) -> None:
    """Refuse links out of the folder of an agent among the files that it acts by.

    Raises:
        ValueError: one of them is such a link.
    """
    for pattern in (*_PARTS, *_WEIGHTS):
        for path in Path(folder).glob(pattern):
            name = path.relative_to(folder)
            if _is_listed(name):
                inside(folder, name.as_posix())


def _is_record(file: str) -> bool:
    return any(fnmatch(file, pattern) for pattern in _RECORDS)


def _is_listed(path: Path) -> bool:
    """Whether a file is part of an agent, and not a checkpoint or another file of the user."""
    if any(part.startswith((".", "checkpoint-")) for part in path.parts):
        return False
    return any(fnmatch(path.as_posix(), pattern) for pattern in (*_PARTS, *_WEIGHTS, *_RECORDS))


def _move_into(target: Path) -> None:
    """Move a committed update into place; called again after a kill, it continues."""
    committed = target / _COMMITTED
    listing = committed / MANIFEST_NAME if (committed / MANIFEST_NAME).exists() else target / MANIFEST_NAME
    new = set(json.loads(listing.read_text(encoding="utf-8"))["files"]) | {MANIFEST_NAME}
    if (committed / CONFIG_NAME).exists():
        (target / CONFIG_NAME).unlink(missing_ok=True)
    for pattern in BELONGS_TO_WEIGHTS:
        for stale in target.glob(pattern):
            if stale.name not in new:
                stale.unlink()
    last = (MANIFEST_NAME, CONFIG_NAME)
    for path in sorted(committed.iterdir(), key=lambda path: last.index(path.name) if path.name in last else -1):
        destination = target / path.name
        if path.name.startswith((".", "checkpoint-")):  # no save puts them there
            continue
        if destination.is_dir() and not destination.is_symlink():
            shutil.rmtree(destination)
        elif path.is_dir():
            destination.unlink(missing_ok=True)
        os.replace(path, destination)
    sync_file(target)
    shutil.rmtree(committed)


def weights_checksum(model: nn.Module) -> int:
    """A number that changes when a weight does, but not with the device.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> before = weights_checksum(model)
        >>> _ = nn.init.zeros_(model.weight)
        >>> weights_checksum(model) == before
        False
    """
    checksum = 0
    for tensor in model.state_dict().values():
        values = tensor.detach().cpu().contiguous().reshape(-1)
        checksum = crc32(values.view(torch.uint8).numpy(), checksum)
    return checksum


class HoldsForItsWeights:
    """An attribute of an agent, `None` at first, that remembers which weights it was set for.

    `drop_outdated` sets it back to `None` once the weights have changed.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, agent: Any, owner: type | None = None) -> Any:
        if agent is None:  # asked of the class
            return None
        return agent.__dict__.get(self._name, (None, None))[0]

    def __set__(self, agent: Any, value: Any) -> None:
        agent.__dict__[self._name] = (value, None if value is None else weights_checksum(agent.model))


def drop_outdated(agent: Any) -> None:
    """Drop records, with a warning, that were set for other weights than the current ones."""
    names = [name for name, kind in vars(type(agent)).items() if isinstance(kind, HoldsForItsWeights)]
    known = {name: agent.__dict__[name][1] for name in names if getattr(agent, name) is not None}
    if not known:
        return
    now = weights_checksum(agent.model)
    outdated = [name for name, checksum in known.items() if checksum != now]
    for name in outdated:
        setattr(agent, name, None)
    if outdated:
        warnings.warn(
            f"the weights have changed since the agent's {' and '.join(outdated)} were set, so these are left out: evaluate "
            "the agent as it is now (agent.evaluation = rollout(agent, ...)) and set them again.",
            stacklevel=3,
        )
