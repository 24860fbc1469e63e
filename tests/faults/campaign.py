"""Kills or fails an operation at each of its write events in turn, and looks at what is left.

A write event is a file opened for writing, a rename, a removal, a new folder: what Python announces to audit hooks; of a push,
also each request to the Hub. Every strike is a fork of this process, in which the libraries are loaded already. Run as a program,
it goes through all events of all operations and prints the figures; names of operations choose some.
"""

import errno
import gc
import os
import shutil
import signal
import sys
import tempfile
import warnings
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

FAULTS = ("kill", "full disk", "I/O error", "Ctrl-C")
TEMPORARY = "temporary"
REQUEST = "hf_seqrl.campaign.request"  # announced before and after each request of a push

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NEEDS_SPACE = ("open", "os.mkdir", "os.link", "os.symlink")
_CHANGES = (*_NEEDS_SPACE[1:], "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree", REQUEST)


class Operation(NamedTuple):
    """What is struck.

    Attributes:
        prepare: Makes the state before, in a folder.
        run: Changes it; called again, it goes on or leaves what is done. What it puts into `TEMPORARY` the system clears away.
        state: What a reader finds: `"old"`, `"new"`, `"none"`, or a sentence that names what is wrong.
        allowed: The states that may be left.
        restore: Brings back what is changed outside the folder, before each strike.
    """

    prepare: Callable[[Path], Any]
    run: Callable[[Path], Any]
    state: Callable[[Path], str]
    allowed: tuple[str, ...]
    restore: Callable[[], Any] = lambda: None


def campaign(operation: Operation, fault: str, every: int = 1) -> Counter:
    """Strike at every `every`-th write event of an operation.

    Args:
        operation: What to strike.
        fault: `"kill"` ends the process as the kernel would, `"full disk"` lets the event and all later ones that take space fail,
            `"I/O error"` lets it fail once, and `"Ctrl-C"` sends SIGINT.
        every: 1 for all events.

    Returns:
        How often each state was left; `"bad: ..."` for one that may not be, or where the next call failed.
    """
    found: Counter = Counter()
    with tempfile.TemporaryDirectory() as place:
        template = Path(place, "template")
        template.mkdir()
        operation.prepare(template)
        folder = Path(place, "struck")  # always the same, as some files name the folder that they are in
        with _as_before(operation, template, folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            operation.run(folder)  # here once, so that the forks need not import what it imports
        gc.freeze()  # libraries collect garbage at the end of a training, and need not look through all modules
        with _as_before(operation, template, folder):
            number = _count(operation, folder)
        for event in range(1, number + 1, every):
            with _as_before(operation, template, folder):
                strike(operation, folder, fault, event)
                found[_judged(operation, folder, f"{fault} at event {event} of {number}")] += 1
    return found


@contextmanager
def _as_before(operation: Operation, template: Path, folder: Path) -> Iterator[None]:
    shutil.copytree(template, folder, symlinks=True)
    operation.restore()
    yield
    shutil.rmtree(folder)


def _judged(operation: Operation, folder: Path, when: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen = folder.with_name("seen")  # a copy, as a reader completes or removes what a writer left
        shutil.copytree(folder, seen, symlinks=True)
        state = operation.state(seen)
        shutil.rmtree(seen)
        if state not in operation.allowed:
            return f"bad: {state} ({when})"
        try:
            operation.run(folder)
        except Exception as error:  # whatever it is, it is a finding
            return f"bad: the next call failed, {error!r} ({when})"
        after = operation.state(folder)
    left = [path.relative_to(folder) for path in folder.rglob("*") if path.name.startswith(".")]
    hidden = [str(path) for path in left if path.parts[0] != TEMPORARY]
    if after != "new" or hidden:
        return f"bad: after the next call {after}, left over {hidden} ({when})"
    return state


def _count(operation: Operation, folder: Path) -> int:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        events = _watch(folder, lambda number, name: None)
        _in_child(operation, folder)
        os.write(writer, str(len(events)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        return int(pipe.read())


def strike(operation: Operation, folder: Path, fault: str, event: int) -> None:
    """Run an operation in a fork in which a fault happens at this event."""

    def act(number: int, name: str) -> None:
        if fault == "full disk" and number >= event and name in _NEEDS_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if number != event:
            return
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "I/O error":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if fault == "Ctrl-C":
            signal.raise_signal(signal.SIGINT)

    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        _watch(folder, act)
        _in_child(operation, folder)
        os._exit(0)
    os.waitpid(child, 0)


def _in_child(operation: Operation, folder: Path) -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    with suppress(BaseException):  # it may fail, as it is meant to
        operation.run(folder)


def _watch(folder: Path, act: Callable[[int, str], None]) -> list[str]:
    events: list[str] = []
    prefix = str(folder.resolve())

    def hook(name: str, arguments: tuple) -> None:
        if name == "open":
            path, mode, flags = arguments
            writes = bool(flags & _WRITES) if isinstance(flags, int) else any(sign in (mode or "") for sign in "wax+")
        elif name in _CHANGES:
            path, writes = arguments[0], True
        else:
            return
        if writes and isinstance(path, str | os.PathLike) and os.fspath(path).startswith(prefix):
            events.append(name)
            act(len(events), name)

    sys.addaudithook(hook)
    return events


def by_weights(agents: Any, names: Any = ("old", "new")) -> dict[int, str]:
    """What agents are called, by the checksums of their weights."""
    from hf_seqrl.hub.checkpoint import weights_checksum

    return {weights_checksum(agent.model): name for agent, name in zip(agents, names)}


def agent_at(folder: Path, names: dict[int, str] | None) -> str:
    """The name of the agent that loads from a folder, `"none"` where there is none, or what is wrong; any is `"new"` without names."""
    from hf_seqrl import Agent
    from hf_seqrl.hub.checkpoint import weights_checksum

    if not (folder / "config.json").exists() and not (folder / ".hf_seqrl-update").exists():
        return "none"
    try:
        agent = Agent.from_pretrained(folder)
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "new" if names is None else names.get(weights_checksum(agent.model), "other weights")


def main() -> int:
    parser = ArgumentParser(description="Strike operations at their write events, and print what is left.")
    parser.add_argument("operations", nargs="*", help="some of those in fault_operations.py (default: all)")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS, help="default: all")
    parser.add_argument("--every", type=int, default=1, help="strike at every n-th event (default: 1)")
    options = parser.parse_args()

    from fault_operations import all_operations  # it sets where the Hub is before the client of the Hub is imported

    bad, strikes, made = 0, Counter(), {}
    operations = all_operations()
    for fault, name in product(options.faults, options.operations or operations):
        operation = made[name] = made.get(name) or operations[name]()
        found = campaign(operation, fault, options.every)
        strikes[fault] += sum(found.values())
        wrong = [state for state in found if state.startswith("bad")]
        bad += len(wrong)
        good = ", ".join(f"{count} {state}" for state, count in found.items() if state not in wrong)
        print(f"{name:11} {fault:9} {sum(found.values()):5} strikes: {good}; {len(wrong)} bad", flush=True)
        print("".join(f"    {state}\n" for state in wrong), end="", flush=True)
    print(", ".join(f"{number} times {fault}" for fault, number in strikes.items()) + f": {bad} bad outcomes")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
