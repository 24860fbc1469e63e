"""How teacher forcing changes during training."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


def inverse_sigmoid_decay(midpoint: float) -> float:
    """The `k >= 1` for which `k / (k + exp(i / k))` is one half at `i = midpoint`, that is `k ln k = midpoint`."""
    k = max(midpoint, 1.0)
    for _ in range(50):  # Newton's method on the increasing, convex function k ln k
        k -= (k * math.log(k) - midpoint) / (math.log(k) + 1)
    return k


@dataclass(frozen=True)
class TeacherForcingSchedule:
    """The teacher forcing ratio at each update of a training (Bengio et al. 2015, section 2.4).

    Args:
        kind (`str`, *optional*, defaults to `"constant"`):
            With `i` of `num_updates` updates done: `"constant"`: `start`; `"linear"`: from `start` straight to `end`;
            `"exponential"`: `start * k^i`; `"inverse_sigmoid"`: `start * k / (k + exp(i / k))`.
        start (`float`, *optional*, defaults to 1.0):
            The ratio at the beginning.
        end (`float`, *optional*, defaults to 0.0):
            The ratio never falls below it.
        k (`float`, *optional*):
            The speed of decay. `None`: exponential falls to 1 % of `start` at the end of the training, inverse sigmoid to
            one half in its middle.

    Example:

    ```python
    >>> schedule = TeacherForcingSchedule("linear", start=1.0, end=0.2)
    >>> [round(schedule.ratio(i, num_updates=100), 2) for i in (0, 50, 100)]
    [1.0, 0.6, 0.2]

    ```
    """

    kind: Literal["constant", "linear", "exponential", "inverse_sigmoid"] = "constant"
    start: float = 1.0
    end: float = 0.0
    k: float | None = None

    def __post_init__(self) -> None:
        kinds = ("constant", "linear", "exponential", "inverse_sigmoid")
        if self.kind not in kinds:
            raise ValueError(f"teacher forcing schedule {self.kind!r}: expected one of {', '.join(kinds)}.")
        if not 0 <= self.end <= self.start <= 1 and self.kind != "constant":
            raise ValueError(f"start={self.start}, end={self.end}: expected 0 <= end <= start <= 1.")

    def ratio(self, update: int, num_updates: int) -> float:
        """The ratio at this update, counted from 0."""
        if self.kind == "constant":
            return self.start
        if self.kind == "linear":
            return self.start + (self.end - self.start) * min(update / max(num_updates, 1), 1.0)
        if self.kind == "exponential":
            k = 0.01 ** (1 / max(num_updates, 1)) if self.k is None else self.k
            return max(self.end, self.start * k**update)
        k = inverse_sigmoid_decay(num_updates / 2) if self.k is None else self.k
        # the same fraction, written so that a large exponent cannot overflow
        return max(self.end, self.start / (1 + math.exp(min(update / k - math.log(k), 700.0))))


class TeacherForcingCallback(TrainerCallback):
    """Sets the model's teacher forcing ratio before each update; it depends on the update alone, so that a resumed
    training goes on as if it had not stopped."""

    def __init__(self, schedule: TeacherForcingSchedule) -> None:
        self.schedule = schedule

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        kwargs["model"].teacher_forcing_ratio = self.schedule.ratio(state.global_step, state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is not None and "loss" in logs:
            logs["teacher_forcing_ratio"] = kwargs["model"].teacher_forcing_ratio
