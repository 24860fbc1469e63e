"""Resuming: complete checkpoints, a checkpoint on Ctrl-C, and the training time over interruptions."""

import json
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any
from zlib import crc32

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hf_seqrl.data.durable import remove_leftovers, sync_file, sync_tree, write_whole
from hf_seqrl.data.secrets import masked
from hf_seqrl.hub.run_record import RUN_RECORD_NAME, RunRecord

_CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
SETTINGS_NAME = "run_settings.json"  # of the run in a folder, until it is finished
_STATE_NAME = "trainer_state.json"
_MARK_NAME = "complete.json"  # the sizes and checksums of all other files of a checkpoint, written last
_NEEDED = ("scheduler.pt", "rng_state*.pth")  # beside the optimizer, without which `Trainer` would go on in silence


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest complete and undamaged checkpoint in the folder of a run, or `None`.

    `transformers.trainer_utils.get_last_checkpoint` takes the newest by name, even if it is incomplete, and
    `Trainer` resumes one that lacks the optimizer's state without a word, to other weights.
    """
    complete = [path for path in checkpoints(output_dir) if is_complete(path)]
    return complete[-1] if complete else None


def checkpoints(output_dir: str | Path) -> list[Path]:
    """All checkpoint folders of a run, oldest first, including incomplete ones."""
    folder = Path(output_dir)
    found = [path for path in folder.iterdir() if _CHECKPOINT_NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=_step_of)


def is_complete(checkpoint: Path) -> bool:
    """Whether all files needed to resume are present and unchanged."""
    state = read_state(checkpoint)
    if state is None or state.get("global_step") != _step_of(checkpoint):
        return False
    mark = checkpoint / _MARK_NAME
    if mark.exists():
        try:
            files = json.loads(mark.read_text(encoding="utf-8"))
        except ValueError:
            return False
        return all((checkpoint / name).is_file() and _seal(checkpoint / name) == seal for name, seal in files.items())
    if _marks_checkpoints(checkpoint.parent):
        return False  # its writer was killed, and what callbacks store beside the weights may be missing
    # written by a plain Trainer
    weights = any(checkpoint.glob("*model*.safetensors")) or any(checkpoint.glob("pytorch_model*.bin"))
    resumable = any(checkpoint.glob("optimizer*")) and all(any(checkpoint.glob(pattern)) for pattern in _NEEDED)
    return weights and resumable


def _marks_checkpoints(output_dir: Path) -> bool:
    """Whether the run in a folder marks its checkpoints, as all but those of a plain `Trainer` do."""
    return (output_dir / SETTINGS_NAME).exists()


def read_state(checkpoint: Path) -> dict[str, Any] | None:
    """The `TrainerState` of a checkpoint as a dictionary; `None` if it cannot be read."""
    try:
        state = json.loads((checkpoint / _STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def mark_complete(checkpoint: Path) -> None:
    """Mark a checkpoint as complete once it is on the disk."""
    sync_tree(checkpoint)
    names = sorted(path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file())
    seals = {name: _seal(checkpoint / name) for name in names if name != _MARK_NAME}
    write_whole(checkpoint / _MARK_NAME, json.dumps(seals, indent=2))
    sync_file(checkpoint.parent)


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove a checkpoint such that an interrupted removal does not leave one that looks complete."""
    going = checkpoint.with_name(f".{checkpoint.name}.removed")
    shutil.rmtree(going, ignore_errors=True)
    checkpoint.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def remove_incomplete(output_dir: str | Path) -> None:
    """Remove the checkpoints of a run that cannot be resumed, so that they are not mistaken for new ones."""
    for going in Path(output_dir).glob(".checkpoint-*.removed"):
        shutil.rmtree(going, ignore_errors=True)
    for path in checkpoints(output_dir):
        if is_complete(path):
            remove_leftovers(path / _MARK_NAME)  # left by a kill during marking
        else:
            remove_checkpoint(path)


def _step_of(checkpoint: Path) -> int:
    named = _CHECKPOINT_NAME.fullmatch(checkpoint.name)
    assert named is not None, checkpoint
    return int(named[1])


def _seal(path: Path) -> list[int]:
    checksum, size = 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum, size = crc32(block, checksum), size + len(block)
    return [size, checksum]


def is_at_its_end(checkpoint: Path, arguments: TrainingArguments) -> bool:
    """Whether a checkpoint holds the final weights of the run, so that only evaluation and saving remain."""
    state = read_state(checkpoint) or {}
    planned = arguments.max_steps if arguments.max_steps > 0 else state.get("max_steps", 0)
    return 0 < planned <= state.get("global_step", 0)


def check_settings(output_dir: str | Path, settings: dict[str, Any], allow_changes: bool) -> None:
    """Compare the settings of a resumed run with those of its start, and store them.

    Raises:
        ValueError: something that shapes the weights differs, and `allow_changes` is false.
    """
    path, settings = Path(output_dir, SETTINGS_NAME), as_recorded(settings)
    if path.exists() and not allow_changes and (changed := _changes(read_record(path), settings)):
        raise ValueError(
            f"the run in {output_dir} was started with {changed}: resume it with the same settings, choose another output "
            "folder, or allow the change with --resume_with_changes."
        )
    write_whole(path, json.dumps(settings, indent=2) + "\n")


def check_finished(output_dir: str | Path, settings: dict[str, Any]) -> None:
    """See that the agent in a folder is what a run with these settings ends with, so that there is nothing to resume.

    Raises:
        FileExistsError: nothing says with which settings it was trained.
        ValueError: it was trained with other settings.
    """
    path = Path(output_dir, RUN_RECORD_NAME)
    record = RunRecord.load(path) if path.exists() else None
    if record is None or not record.settings or not record.is_finished:
        raise FileExistsError(
            f"{output_dir} holds a finished agent, and no record of the settings of its run: choose another output folder, or remove "
            "that one to train again."
        )
    if changed := _changes(record.settings, as_recorded(settings)):
        raise ValueError(
            f"the run in {output_dir} is finished, and was started with {changed}: choose another output folder, or remove that one "
            "to train again."
        )


def as_recorded(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they are written down, in values of JSON, with secrets masked."""
    return masked(json.loads(json.dumps(settings, default=str)))


def _changes(former: dict[str, Any], settings: dict[str, Any]) -> str:
    """The settings that differ, in words."""
    changed = [name for name in settings if name in former and former[name] != settings[name]]
    return ", ".join(f"{name} {former[name]!r} (now {settings[name]!r})" for name in changed)


def read_record(path: Path, *needed: str) -> dict[str, Any]:
    """What a run wrote down about itself.

    Args:
        path: A JSON file.
        needed: The names of entries that it must have.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not set(needed) <= set(record):
        raise ValueError(f"{path} is damaged: choose another output folder, or remove the file to start over there.")
    return record


def forget_settings(output_dir: str | Path, resumable: bool) -> None:
    """Remove the settings of a run that is finished, or that ended before there was anything to resume."""
    if not resumable:
        Path(output_dir, SETTINGS_NAME).unlink(missing_ok=True)


class WholeCheckpoints(TrainerCallback):
    """Marks each checkpoint once it is on the disk, and then removes those beyond `save_total_limit`.

    `Trainer` goes by the clock when it removes checkpoints, which may have been set back; here the number of the step counts.
    In a run of several processes, each of which writes a part of a checkpoint, the first one marks it when all have written.
    """

    def __init__(self) -> None:
        self._limit: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._limit, args.save_total_limit = args.save_total_limit, None

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()
        if not state.is_world_process_zero:
            return
        written = Path(args.output_dir, f"checkpoint-{state.global_step}")
        if written.is_dir():
            mark_complete(written)
        kept = {written.name, Path(state.best_model_checkpoint or "").name}
        older = [path for path in checkpoints(args.output_dir) if path.name not in kept]
        for path in older[: max(0, len(older) + 1 - self._limit)] if self._limit else []:
            remove_checkpoint(path)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        args.save_total_limit = self._limit


class SaveOnInterrupt(TrainerCallback):
    """Turns the first SIGINT or SIGTERM into a checkpoint and the end of training; a second one stops at once.

    It watches single-process runs only: processes that train together would notice a signal at different steps and
    wait for one another for ever. Those keep what their last checkpoint holds.

    Attributes:
        interrupted: Whether a signal ended the training.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._previous_handlers: dict[int, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.world_size > 1:
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous_handlers[number] = signal.signal(number, self._on_signal)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.interrupted:
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.stop_watching()

    def stop_watching(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        self.stop_watching()
        print("\nStopping after this step and saving a checkpoint; once more to stop at once.", file=sys.stderr)


class Stopwatch(TrainerCallback, ExportableState):
    """Measures the time of a run, over all of its resumed parts.

    Attributes:
        seconds: On the clock, so far.
        cpu_seconds: That all threads of the process computed, so far; a busy machine does not add to them.
    """

    def __init__(self) -> None:
        self._before = self._cpu_before = 0.0
        self._started: float | None = None
        self._cpu_started = 0.0

    @property
    def seconds(self) -> float:
        return self._before + (time.monotonic() - self._started if self._started is not None else 0.0)

    @property
    def cpu_seconds(self) -> float:
        return self._cpu_before + (time.process_time() - self._cpu_started if self._started is not None else 0.0)

    def state(self) -> dict[str, Any]:
        """The state that checkpoints store."""
        return {"args": {}, "attributes": {"_before": self.seconds, "_cpu_before": self.cpu_seconds}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # a checkpoint of a run without a stopwatch has no entry, and Trainer needs one to write the next
        self._take_over(state.stateful_callbacks.setdefault("Stopwatch", self.state()))
        self._started, self._cpu_started = time.monotonic(), time.process_time()

    def restore(self, state: TrainerState) -> None:
        """Set the seconds of a run that has ended."""
        self._take_over(state.stateful_callbacks.get("Stopwatch", self.state()))

    def _take_over(self, saved: dict[str, Any]) -> None:
        self._before = saved["attributes"]["_before"]
        self._cpu_before = saved["attributes"].get("_cpu_before", 0.0)  # absent from checkpoints of earlier versions
