"""Where episodes end in a log that does not say so: by a rule that the user names."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

LONG_EPISODE = 20_000  # steps, from which on a data set without a stated limit is probably not cut into episodes


@dataclass(frozen=True)
class CutRule:
    """Where to cut, besides the ends that are recorded.

    Attributes:
        every: After so many steps.
        gap: Where the step column advances by more than this: a number in its unit, or for times a duration such as `"10min"`.
        change: Where one of these columns changes its value.

    Raises:
        ValueError: `every` or `gap` is not positive.
    """

    every: int | None = None
    gap: float | str | None = None
    change: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.every is not None and (
            isinstance(self.every, bool) or int(self.every) != self.every or self.every < 1
        ):
            raise ValueError(f"cut_every is {self.every!r}: expected a number of steps, at least 1.")
        if self.gap is not None and _is_number(self.gap) and not float(self.gap) > 0:
            raise ValueError(f"cut_at_gap is {self.gap!r}: expected a positive number or duration.")
        object.__setattr__(
            self, "change", (self.change,) if isinstance(self.change, str) else tuple(self.change or ())
        )

    def __bool__(self) -> bool:
        return self.every is not None or self.gap is not None or bool(self.change)

    def offsets(
        self, offsets: np.ndarray, times: np.ndarray | None = None, changing: Sequence[np.ndarray] = ()
    ) -> np.ndarray:
        """The bounds of episodes `(episodes + 1,)` after cutting.

        Args:
            offsets: Where each episode begins, and the number of steps.
            times: The step column, `(steps,)` numbers or `datetime64`, sorted within each episode.
            changing: The columns `change`, `(steps,)` each.

        Example:
            >>> CutRule(every=2).offsets(np.array([0, 5, 7]))
            array([0, 2, 4, 5, 7])
            >>> CutRule(gap=1).offsets(np.array([0, 5]), np.array([0, 1, 5, 6, 7]))
            array([0, 2, 5])
        """
        begins = np.zeros(offsets[-1] + 1, bool)
        begins[offsets] = True
        if self.gap is not None:
            begins[1:-1] |= np.diff(self._checked(times)) > duration(self.gap, times)
        for values in changing:
            begins[1:-1] |= _changes(values)
        offsets = np.flatnonzero(begins)
        return offsets if self.every is None else cut_every(offsets, self.every)

    @staticmethod
    def _checked(times: np.ndarray | None) -> np.ndarray:
        if times is None:
            raise ValueError("cut_at_gap needs the times of the steps: name their column, step=...")
        return times


def duration(gap: float | str, times: np.ndarray | None) -> Any:
    """A gap in the unit of the step column; a number is in seconds where the column holds times."""
    gap = float(gap) if _is_number(gap) else gap
    if times is not None and times.dtype.kind == "M":
        try:
            return pd.Timedelta(gap).to_timedelta64() if isinstance(gap, str) else np.timedelta64(int(gap * 1e9), "ns")
        except ValueError:
            raise ValueError(f"cut_at_gap is {gap!r}: expected a duration, for instance '10min' or '2h'.") from None
    if isinstance(gap, str):
        raise ValueError(f"cut_at_gap is {gap!r}, but the step column holds numbers: expected a number in its unit.")
    return gap


def _is_number(gap: float | str) -> bool:
    try:
        float(gap)
    except ValueError:
        return False
    return True


def _changes(values: np.ndarray) -> np.ndarray:
    """Where a value differs from the one before, `(steps - 1,)`; missing values (NaN) equal one another."""
    changes = values[1:] != values[:-1]
    return changes & ~(np.isnan(values[1:]) & np.isnan(values[:-1])) if values.dtype.kind in "fMm" else changes


def cut_every(offsets: np.ndarray, steps: int) -> np.ndarray:
    """The bounds of episodes after each has been cut into pieces of so many steps; the last piece of each may be shorter.

    Example:
        >>> cut_every(np.array([0, 5, 7]), 2)
        array([0, 2, 4, 5, 7])
    """
    lengths = np.diff(offsets)
    counts = -(-lengths // steps)
    pieces = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.append(np.repeat(offsets[:-1], counts) + pieces * steps, offsets[-1])


def warn_of_long_episodes(longest: int) -> str:
    """Warn that an episode is so long that it is probably a whole log; returns the warning."""
    message = (
        f"the longest episode has {longest:,} steps: a model with an embedding for each time step gets {longest:,} of them. If "
        "this is a log of several episodes, say where to cut it: cut_every=1000, cut_at_gap='10min' or cut_at_change='batch'."
    )
    warnings.warn(message, stacklevel=2)
    return message
