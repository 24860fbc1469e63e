"""Means, deviations and bounds of columns, and the rules by which features, actions and returns are scaled."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Space

from hf_seqrl.data.spaces import continuous_bounds, continuous_entries

_STEPS_AT_ONCE = 1 << 16
_USED_SHARE = 0.25  # of the range between the bounds, from which on the data are said to use it
_LARGEST_RETURN_SCALE = 1000.0  # the Decision Transformer paper's for the Gym tasks (appendix A.2)
_LARGEST_RETURN = 20.0  # after scaling
_VISIBLE_ROUNDING = 1e-3  # after scaling
_VISIBLE_SPREAD = 0.1  # of episodes' returns, after scaling


@dataclass(frozen=True)
class ColumnStatistics:
    """Statistics of the entries of a flattened column, all `(entries,)` float64.

    Attributes:
        mean, std: Of all steps; `std` is the population's.
        low, high: The smallest and the largest value.
        precision: The relative rounding error of the stored values; 0 for integers.
    """

    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray
    precision: float = 0.0

    @classmethod
    def of(cls, blocks: Iterable[np.ndarray]) -> "ColumnStatistics":
        """Read blocks of rows `(rows, *shape)` one after the other; the moments are merged pairwise (Chan et al., 1983).

        Raises:
            ValueError: there are no rows.
        """
        count, mean, squares, low, high, precision = 0, 0.0, 0.0, np.inf, -np.inf, 0.0
        for block in blocks:
            precision = float(np.finfo(block.dtype).eps) if block.dtype.kind == "f" else 0.0
            for start in range(0, len(block), _STEPS_AT_ONCE):
                part = block[start : start + _STEPS_AT_ONCE]
                part = part.reshape(len(part), -1).astype(np.float64)
                part_mean = part.mean(axis=0)
                delta, total = part_mean - mean, count + len(part)
                squares = squares + np.square(part - part_mean).sum(axis=0)
                squares = squares + np.square(delta) * (count * len(part) / total)
                mean = mean + delta * (len(part) / total)
                low, high = np.minimum(low, part.min(axis=0)), np.maximum(high, part.max(axis=0))
                count = total
        if not count:
            raise ValueError("there are no steps to take statistics of: expected at least one.")
        return cls(np.asarray(mean), np.sqrt(squares / count), np.asarray(low), np.asarray(high), precision)

    @property
    def scale(self) -> np.ndarray:
        """What the entries are divided by, `(entries,)`: the deviation, and 1 for an entry that is constant.

        Constant is what varies by no more than rounding errors do. Such an entry stays near 0 instead of being blown up. This
        is the rule for states and for actions of every family.
        """
        magnitude = np.maximum(np.abs(self.low), np.abs(self.high))
        return np.where(self.std > self.precision * magnitude, self.std, 1.0)


def needs_scaling(space: Space | Mapping) -> bool:
    """Whether actions have continuous entries with other bounds than -1 and 1.

    Example:
        >>> from gymnasium.spaces import Box, Discrete
        >>> needs_scaling(Box(-1, 1, (2,))), needs_scaling(Box(0, 500, (1,))), needs_scaling(Discrete(3))
        (False, True, False)
    """
    low, high = continuous_bounds(space)
    return bool(len(low)) and not bool(((low == -1) & (high == 1)).all())


def action_scaling(space: Space | Mapping, statistics: ColumnStatistics) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale of the continuous entries of actions, `(continuous_size,)` float64 each; a model works with
    `(action - shift) / scale`.

    - Entries with the bounds -1 and 1 stay as they are.
    - Entries whose bounds are finite and whose data use them (they span at least a quarter of the range) are mapped from their
      bounds to -1 and 1.
    - All others are standardized by the mean and deviation of the data.

    Args:
        space: The action space.
        statistics: Of the column of actions, with the entries of `step_shape`.

    Example:
        >>> from gymnasium.spaces import Box
        >>> actions = np.array([[0.1, 20.0], [0.9, 80.0]])
        >>> action_scaling(Box(np.array([0.0, 0.0]), np.array([1.0, 100.0]), dtype=np.float64), ColumnStatistics.of([actions]))
        (array([ 0.5, 50. ]), array([ 0.5, 50. ]))
    """
    low, high = continuous_bounds(space)
    entries = continuous_entries(space)
    is_unit = (low == -1) & (high == 1)
    is_bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
    low, high = np.where(is_bounded, low, -1.0), np.where(is_bounded, high, 1.0)
    span = statistics.high[entries] - statistics.low[entries]
    by_bounds = is_bounded & (is_unit | (span >= _USED_SHARE * (high - low)))
    shift = np.where(by_bounds, (low + high) / 2, statistics.mean[entries])
    scale = np.where(by_bounds, (high - low) / 2, statistics.scale[entries])
    return shift, scale


def return_scaling(returns_to_go: np.ndarray, episode_offsets: np.ndarray) -> tuple[float, float]:
    """Shift and scale of returns-to-go; a model reads `(return - shift) / scale`.

    - The rule of the Decision Transformer paper (appendix A.2), no shift and a power of ten of at most 1000, holds as long as the
      model can see by it how episodes differ: the returns of episodes deviate by at least 0.1 after scaling, and no
      return-to-go exceeds 20.
    - Else the mean of the episodes' returns is subtracted, and what is left is divided by their deviation, or by a twentieth of the
      range of all returns-to-go where that is more.
    - Where all episodes have the same return there is nothing to see; the greatest return-to-go becomes 1 at most.

    Args:
        returns_to_go: Raw returns-to-go of all steps `(steps,)`.
        episode_offsets: Where each episode begins `(episodes + 1,)`.

    Example:
        >>> return_scaling(np.array([0.0, 1.0]), np.array([0, 1, 2]))
        (0.0, 1.0)
        >>> return_scaling(np.array([1000.0, 1020.0]), np.array([0, 1, 2]))
        (1010.0, 10.0)
    """
    returns_to_go = np.asarray(returns_to_go, dtype=np.float64)
    returns = returns_to_go[episode_offsets[:-1]]
    greatest, spread = float(np.abs(returns_to_go).max()), float(returns.std())
    if not greatest:
        return 0.0, 1.0
    magnitude = float(np.abs(returns).max())
    plain = min(_LARGEST_RETURN_SCALE, 10.0 ** np.floor(np.log10(magnitude))) if magnitude else 1.0
    constant = spread <= 1e-6 * greatest
    if greatest / plain <= _LARGEST_RETURN and (constant or spread / plain >= _VISIBLE_SPREAD):
        return 0.0, float(plain)
    if constant:
        if spread > 0:
            warnings.warn(
                f"the returns of episodes differ by a millionth of their size ({returns.min():.9g} to {returns.max():.9g}): a model cannot "
                "tell them apart; subtract from the rewards what all episodes have in common.",
                stacklevel=2,
            )
        return 0.0, greatest
    scale = max(spread, float(np.ptp(returns_to_go)) / _LARGEST_RETURN)
    return float(returns.mean()), scale


def standardization(shift: Any, scale: Any, size: int | None, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale `(size,)` as a processor keeps them, see `narrowed`.

    Args:
        shift, scale: One number for each entry.
        size: The number of entries; `None` where it is not known.
        name: What they belong to, for the message: `"state"` for `state_mean` and `state_std`.

    Raises:
        ValueError: one of them has another shape, or holds infinite values or NaN.
    """
    for kind, values in (("mean", shift), ("std", scale)):
        values = np.asarray(values, dtype=np.float64)
        if size is not None and values.shape != (size,):
            raise ValueError(
                f"{name}_{kind} has the shape {values.shape}: expected ({size},), one number for each entry of an "
                "observation."
            )
        if not np.isfinite(values).all():
            raise ValueError(f"{name}_{kind} holds infinite values or NaN: expected finite numbers.")
    return narrowed(shift, scale)


def narrowed(shift: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale as float32, or as float64 where rounding the shift would be visible after scaling (times in seconds
    since 1970).

    Example:
        >>> narrowed(np.array([1.0]), np.array([2.0]))[0].dtype, narrowed(np.array([1.7e9]), np.array([17.0]))[0].dtype
        (dtype('float32'), dtype('float64'))
    """
    shift, scale = np.asarray(shift, dtype=np.float64), np.asarray(scale, dtype=np.float64)
    rounding = np.finfo(np.float32).eps * np.abs(shift)
    kind = np.float64 if (rounding > _VISIBLE_ROUNDING * scale).any() else np.float32
    return shift.astype(kind), scale.astype(kind)


def standardize(values: np.ndarray, shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """`(values - shift) / scale` in float32 `(..., entries)`, computed in float64 where shift and scale are (see `narrowed`)."""
    result = values.astype(shift.dtype, copy=False) - shift
    result /= scale
    return result.astype(np.float32, copy=False)


def weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """The smallest of the values `(n,)` such that it and those below have half of the weight `(n,)`.

    Example:
        >>> weighted_median(np.array([3.0, 1.0, 2.0]), np.array([8.0, 1.0, 1.0]))
        3.0
    """
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(np.asarray(weights, np.float64)[order])
    return float(np.asarray(values)[order][np.searchsorted(reached, reached[-1] / 2)])
