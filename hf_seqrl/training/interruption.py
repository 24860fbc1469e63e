"""Ctrl-C ends training at the next step, with a checkpoint to resume from."""

import signal
import sys
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class SaveOnInterrupt(TrainerCallback):
    """Turns the first SIGINT or SIGTERM into a checkpoint and the end of training; a second one acts at once.

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
        """Give the signals back to those who handled them before."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        self.stop_watching()
        print("\nStopping after this step and saving a checkpoint; once more to stop at once.", file=sys.stderr)
