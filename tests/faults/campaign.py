"""Kills or fails an operation at each of its write events in turn, and looks at what is left.

A write event is a file opened for writing, a rename, a removal, a new folder: what Python announces to audit hooks. Run as a
program, it goes through all events of all operations and prints the figures.
"""

import errno
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")


class Operation(NamedTuple):
    """What is killed.

    Attributes:
        prepare: Makes the state before, in a folder.
        run: Changes it.
        state: What a reader finds: `"old"`, `"new"`, `"none"`, or a sentence that names what is wrong.
        allowed: The states that may be left.
    """

    prepare: Callable[[Path], Any]
    run: Callable[[Path], Any]
    state: Callable[[Path], str]
    allowed: tuple[str, ...]


def campaign(operation: Operation, fault: str, every: int = 1) -> Counter:
    """Strike at every `every`-th write event of an operation.

    Args:
        operation: What to strike.
        fault: `"kill"` ends the process as the kernel would, `"disk full"` lets the event fail.
        every: 1 for all events.

    Returns:
        How often each state was left; `"bad: ..."` for one that may not be, or where the next call failed.
    """
    found: Counter = Counter()
    with tempfile.TemporaryDirectory() as place:
        template = Path(place, "template")
        template.mkdir()
        operation.prepare(template)
        number = _count(operation, template, Path(place, "counted"))
        for event in range(1, number + 1, every):
            folder = Path(place, "struck")
            shutil.copytree(template, folder, symlinks=True)
            _strike(operation, folder, fault, event)
            found[_judged(operation, folder, f"{fault} at event {event} of {number}")] += 1
            shutil.rmtree(folder)
    return found


def _judged(operation: Operation, folder: Path, when: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = operation.state(folder)
        if state not in operation.allowed:
            return f"bad: {state} ({when})"
        try:
            operation.run(folder)
        except Exception as error:  # whatever it is, it is a finding
            return f"bad: the next call failed, {error!r} ({when})"
        after = operation.state(folder)
    hidden = [path for path in folder.rglob("*") if path.name.startswith(".")]
    if after != "new" or hidden:
        return f"bad: after the next call {after}, left over {hidden} ({when})"
    return state


def _count(operation: Operation, template: Path, folder: Path) -> int:
    shutil.copytree(template, folder, symlinks=True)
    reader, writer = os.pipe()
    if os.fork() == 0:
        events = _watch(folder, lambda number: None)
        _in_child(operation, folder)
        os.write(writer, str(len(events)).encode())
        os._exit(0)
    os.wait()
    os.close(writer)
    with os.fdopen(reader) as pipe:
        return int(pipe.read())


def _strike(operation: Operation, folder: Path, fault: str, event: int) -> None:
    def act(number: int) -> None:
        if fault == "kill" and number == event:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "disk full" and number == event:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    child = os.fork()
    if child == 0:
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


def _watch(folder: Path, act: Callable[[int], None]) -> list[str]:
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
            act(len(events))

    sys.addaudithook(hook)
    return events


def save_operation(agents: tuple[Any, Any]) -> Operation:
    """An agent is saved over another one, beside a file of the user's."""
    from hf_seqrl import Agent
    from hf_seqrl.hub.checkpoint import weights_checksum

    names = {weights_checksum(agent.model): name for agent, name in zip(agents, ("old", "new"))}

    def prepare(folder: Path) -> None:
        agents[0].save_pretrained(folder / "agent")
        (folder / "agent" / "notes.txt").write_text("mine")

    def state(folder: Path) -> str:
        try:
            found = names[weights_checksum(Agent.from_pretrained(folder / "agent").model)]
        except (ValueError, OSError, KeyError) as error:
            return f"{type(error).__name__}: {error}"
        return found if (folder / "agent" / "notes.txt").read_text() == "mine" else "the user's file is gone"

    return Operation(prepare, lambda folder: agents[1].save_pretrained(folder / "agent"), state, ("old", "new"))


def convert_operation(agents: tuple[Any, Any]) -> Operation:
    """A checkpoint becomes an agent in a folder that is not there yet."""
    from hf_seqrl import Agent

    def run(folder: Path) -> None:
        Agent.from_pretrained(folder / "source").save_pretrained(folder / "agent")

    def state(folder: Path) -> str:
        if not (folder / "agent").exists():
            return "none"
        try:
            Agent.from_pretrained(folder / "agent")
        except (ValueError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        return "new"

    return Operation(lambda folder: agents[0].save_pretrained(folder / "source"), run, state, ("none", "new"))


def collect_operation() -> Operation:
    """Data are collected in the place of others."""
    from hf_seqrl import collect, load_trajectories, save_trajectories

    datasets = {seed: collect("random", "CartPole-v1", num_episodes=2, seed=seed) for seed in (0, 1)}
    names = {str(dataset["rewards"][:]): name for dataset, name in zip(datasets.values(), ("old", "new"))}

    def state(folder: Path) -> str:
        try:
            return names[str(load_trajectories(str(folder / "data"))["rewards"][:])]
        except (ValueError, OSError, KeyError) as error:
            return f"{type(error).__name__}: {error}"

    return Operation(
        lambda folder: save_trajectories(datasets[0], folder / "data"),
        lambda folder: save_trajectories(datasets[1], folder / "data", overwrite=True),
        state,
        ("old", "new"),
    )


def train_operation(dataset: Any) -> Operation:
    """A run of six updates with checkpoints; what is resumed must end in the weights of a run that was left alone."""
    from transformers import TrainingArguments

    from hf_seqrl import Agent, family_of
    from hf_seqrl.hub.checkpoint import weights_checksum
    from hf_seqrl.training.run import Judgement, train_agent

    family = family_of("decision_transformer")
    expected: list[int] = []

    def run(folder: Path) -> Any:
        arguments = TrainingArguments(
            output_dir=str(folder / "run"), max_steps=4, save_steps=2, save_total_limit=1, use_cpu=True,
            per_device_train_batch_size=4, report_to="none", disable_tqdm=True, logging_steps=1,
        )  # fmt: skip
        if (folder / "run" / "config.json").exists():
            return Agent.from_pretrained(folder / "run")
        options = family.options_class(context_length=2, hidden_size=8, n_layer=1)
        return train_agent(family, dataset, options, arguments, judgement=Judgement(num_episodes=0), resume=True)

    def state(folder: Path) -> str:
        if not (folder / "run" / "config.json").exists() and not (folder / "run" / ".hf_seqrl-update").exists():
            return "none"
        try:
            same = weights_checksum(Agent.from_pretrained(folder / "run").model) in expected
        except (ValueError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        return "new" if same else "other weights"

    def prepare(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as apart:
            expected.append(weights_checksum(run(Path(apart)).model))

    return Operation(prepare, run, state, ("none", "new"))


def agents_of(dataset: Any) -> tuple[Any, Any]:
    """Two untrained agents with different weights."""
    import torch

    from hf_seqrl import Agent, DecisionTransformerProcessor, TrainableDT
    from hf_seqrl.hub.run_record import RunRecord

    processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=2)
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = TrainableDT(processor.model_config(hidden_size=8, n_layer=1, n_head=1))
        made.append(Agent(model, processor))
        made[-1].run = RunRecord("decision-transformer", seed=seed)
    return made[0], made[1]


def main() -> int:
    """All operations, all events, both faults."""
    import torch

    from hf_seqrl import collect

    torch.set_num_threads(1)
    dataset = collect("random", "CartPole-v1", num_episodes=6, seed=0)
    agents = agents_of(dataset)
    operations = {
        "save over an agent": save_operation(agents),
        "convert": convert_operation(agents),
        "collect --overwrite": collect_operation(),
        "train, resume": train_operation(dataset),
    }
    bad, strikes = 0, 0
    for name, operation in operations.items():
        for fault in ("kill", "disk full"):
            found = campaign(operation, fault)
            strikes += sum(found.values())
            wrong = [state for state in found if state.startswith("bad")]
            bad += len(wrong)
            good = ", ".join(f"{count} {state}" for state, count in found.items() if state not in wrong)
            print(f"{name:22} {fault:10} {sum(found.values()):5} strikes: {good}; {len(wrong)} bad", flush=True)
            print("\n".join(f"    {state}" for state in wrong), end="\n" if wrong else "")
    print(f"{strikes} strikes, {bad} bad outcomes")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
