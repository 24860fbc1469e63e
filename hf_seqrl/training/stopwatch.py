"""How long a run has trained, kills and pauses between its parts left out."""

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState


class Stopwatch(TrainerCallback, ExportableState):
    """Adds up the wall-clock seconds of a run over the parts that checkpoints join.

    Attributes:
        seconds: So far.
    """

    def __init__(self) -> None:
        self._before = 0.0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        return self._before + (time.monotonic() - self._started if self._started is not None else 0.0)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"args": {}, "attributes": {"_before": self.seconds}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # a checkpoint of a run without a stopwatch has no entry, and Trainer needs one to write the next
        saved = state.stateful_callbacks.setdefault("Stopwatch", self.state())
        self._before = saved["attributes"]["_before"]
        self._started = time.monotonic()
