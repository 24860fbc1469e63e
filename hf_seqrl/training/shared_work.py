"""Work that processes share out by locks, on one machine or on several that share a folder; no process knows the others.

Each job has a folder, and who holds the folder's lock does the job. A lock ends with its process, so a job whose process has died
is done by another one.
"""

import os
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from hf_seqrl.data.durable import InUseError, removed_if_empty, sole_writer

Job = TypeVar("Job", bound=Hashable)
Result = TypeVar("Result")

_POLL_SECONDS = 1.0


def share_out(
    folders: Mapping[Job, Path], work: Callable[[Job, Path], Result], say: Callable[[str], None] = print
) -> dict[Job, Result]:
    """Do the jobs that no other process works on, and take what the others have done.

    Args:
        folders: The folder of each job; created if needed.
        work: Does a job in its folder and returns its result; reads the result where the job has been done before.
        say: Takes lines on the progress.

    Returns:
        The results of all jobs, in the order of `folders`.
    """
    results: dict[Job, Result] = {}
    missing, told = list(folders), 0
    while missing:
        elsewhere = []
        for job in missing:
            with _claimed(folders[job]) as ours:
                if ours:
                    results[job] = work(job, folders[job])
                else:
                    elsewhere.append(job)
        if len(elsewhere) == len(missing):
            if len(elsewhere) != told:
                told = len(elsewhere)
                say(f"waiting for {told} run{'s' * (told > 1)} of other processes")
            time.sleep(_POLL_SECONDS)
        missing = elsewhere
    return {job: results[job] for job in folders}


def refuse_joined_processes() -> None:
    """Refuse processes that `torchrun` has joined: each would train another model in the belief that all train the same.

    Raises:
        ValueError: there are several.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}: expected processes that are not joined by torchrun or accelerate. Start the "
            "command several times by itself, with the same output folder: the processes share the runs out."
        )


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Whether this process may work in a folder, in which no other one does meanwhile."""
    with ExitStack() as stack:
        stack.enter_context(removed_if_empty(folder))
        try:
            stack.enter_context(sole_writer(folder))
        except InUseError:
            yield False
        else:
            yield True
