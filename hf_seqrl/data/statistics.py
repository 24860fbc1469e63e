"""Means, deviations and bounds of columns, and the one rule by which features and actions are scaled."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_STEPS_AT_ONCE = 1 << 16


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
