"""Means, deviations and bounds of columns, and the rules by which features, actions and returns are scaled."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Space

from hf_seqrl.data.spaces import continuous_bounds, continuous_entries

_STEPS_AT_ONCE = 1 << 16
_USED_SHARE = 0.25  # of the range between the bounds, from which on the data are said to use it
HIGH_QUANTILE = 0.95  # of the returns of a data set, that is asked for where nothing better is known
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

    def check(self, name: str) -> None:
        """Refuse numbers that no column can have.

        Args:
            name: Of the column, for the message.

        Raises:
            ValueError: they are not finite, contradict one another, or are not as many of each.
        """
        values = (self.mean, self.std, self.low, self.high)
        if len({one.shape for one in values}) > 1 or self.mean.ndim != 1:
            raise ValueError(f"the statistics of {name} have {', '.join(str(one.shape) for one in values)} entries.")
        if not (np.isfinite(values).all() and 0 <= self.precision < 1 and (self.std >= 0).all()):
            raise ValueError(f"the statistics of {name} hold infinite values, NaN or a negative deviation.")
        slack = 1e-5 * np.maximum(np.abs(self.low), np.abs(self.high))
        outside = (
            (self.mean < self.low - slack)
            | (self.mean > self.high + slack)
            | (self.std > self.high - self.low + slack)
        )
        if (outside | (self.low > self.high)).any():
            entry = int(np.argmax(outside | (self.low > self.high)))
            raise ValueError(
                f"entry {entry} of {name} has the mean {self.mean[entry]:g} and the deviation {self.std[entry]:g} between "
                f"{self.low[entry]:g} and {self.high[entry]:g}."
            )


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


@dataclass(frozen=True)
class ReturnStatistics:
    """Statistics of the undiscounted or discounted returns of a data set, raw.

    Attributes:
        low, high: The lowest and the highest return of an episode.
        middle: The return that is nearest to the middle between them.
        upper: The 0.95 quantile of the returns of episodes.
        mean, std: Of the returns of episodes; `std` is the population's.
        greatest, span: Of the returns-to-go of all steps: the greatest absolute value, and the range.
    """

    low: float
    high: float
    middle: float
    upper: float
    mean: float
    std: float
    greatest: float
    span: float

    @classmethod
    def of(cls, returns_to_go: np.ndarray, episode_offsets: np.ndarray) -> "ReturnStatistics":
        """Read the returns-to-go of all steps.

        Args:
            returns_to_go: Raw `(steps,)`.
            episode_offsets: Where each episode begins `(episodes + 1,)`.
        """
        of_episodes = returns_to_go[episode_offsets[:-1]]
        returns = np.asarray(of_episodes, dtype=np.float64)
        high, middle = suggested_targets(returns)
        least, most = float(returns_to_go.min()), float(returns_to_go.max())
        return cls(
            low=float(returns.min()),
            high=high,
            middle=middle,
            upper=float(np.quantile(of_episodes, HIGH_QUANTILE)),
            mean=float(returns.mean()),
            std=float(returns.std()),
            greatest=max(abs(least), abs(most)),
            span=most - least,
        )

    @property
    def targets(self) -> list[float]:
        """The returns to ask for: see `suggested_targets`."""
        return [self.high, self.middle]

    def scaling(self) -> tuple[float, float]:
        """Shift and scale of returns-to-go; a model reads `(return - shift) / scale`.

        - The rule of the Decision Transformer paper (appendix A.2), no shift and a power of ten of at most 1000, holds as long as
          the model can see by it how episodes differ: the returns of episodes deviate by at least 0.1 after scaling, and no
          return-to-go exceeds 20.
        - Else the mean of the episodes' returns is subtracted, and what is left is divided by their deviation, or by a twentieth
          of the range of all returns-to-go where that is more.
        - Where all episodes have the same return there is nothing to see; the greatest return-to-go becomes 1 at most.
        """
        if not self.greatest:
            return 0.0, 1.0
        magnitude = max(abs(self.low), abs(self.high))
        plain = min(_LARGEST_RETURN_SCALE, 10.0 ** np.floor(np.log10(magnitude))) if magnitude else 1.0
        constant = self.std <= 1e-6 * self.greatest
        if self.greatest / plain <= _LARGEST_RETURN and (constant or self.std / plain >= _VISIBLE_SPREAD):
            return 0.0, float(plain)
        if constant:
            if self.std > 0:
                warnings.warn(
                    f"the returns of episodes differ by a millionth of their size ({self.low:.9g} to {self.high:.9g}): a model "
                    "cannot tell them apart; subtract from the rewards what all episodes have in common.",
                    stacklevel=2,
                )
            return 0.0, self.greatest
        return self.mean, max(self.std, self.span / _LARGEST_RETURN)


def suggested_targets(returns: np.ndarray) -> list[float]:
    """Target returns for data whose episodes have these `(episodes,)` raw returns: the best one, and for comparison the one
    nearest to the middle of their range. The median would not do: in data of mixed quality it is that of a failure.

    Example:
        >>> suggested_targets(np.array([0.0, 2.0, 3.0, 60.0, 100.0])), suggested_targets(np.array([10.0, 0.0]))
        ([100.0, 60.0], [10.0, 0.0])
    """
    returns = np.asarray(returns, np.float64)
    distances = np.abs(returns - (returns.max() + returns.min()) / 2)
    return [float(returns.max()), float(returns[distances == distances.min()].min())]


def return_scaling(returns_to_go: np.ndarray, episode_offsets: np.ndarray) -> tuple[float, float]:
    """Shift and scale of returns-to-go, by the rule of `ReturnStatistics.scaling`.

    Args:
        returns_to_go: Raw returns-to-go of all steps `(steps,)`.
        episode_offsets: Where each episode begins `(episodes + 1,)`.

    Example:
        >>> return_scaling(np.array([0.0, 1.0]), np.array([0, 1, 2]))
        (0.0, 1.0)
        >>> return_scaling(np.array([1000.0, 1020.0]), np.array([0, 1, 2]))
        (1010.0, 10.0)
    """
    return ReturnStatistics.of(returns_to_go, episode_offsets).scaling()


@dataclass(frozen=True)
class DataStatistics:
    """Statistics of a whole data set, as they are stored with it for those who read only a part.

    Attributes:
        num_episodes, num_steps: Of the data set.
        returns: Of its undiscounted returns.
        columns: Of `observations` and `actions`; what has none (images) is missing.

    Raises:
        ValueError: a number is missing, not finite or contradicts another.
    """

    num_episodes: int
    num_steps: int
    returns: ReturnStatistics
    columns: dict[str, ColumnStatistics]

    def __post_init__(self) -> None:
        counts = (self.num_episodes, self.num_steps)
        if not all(type(count) is int for count in counts) or not 1 <= self.num_episodes <= self.num_steps:
            raise ValueError(
                f"{self.num_episodes!r} episodes with {self.num_steps!r} steps: expected as many steps as episodes at least."
            )
        found = self.returns
        if not np.isfinite(list(asdict(found).values())).all() or found.std < 0:
            raise ValueError("the statistics of returns hold infinite values, NaN or a negative deviation.")
        slack = 1e-5 * found.greatest
        between = (found.middle, found.upper, found.mean)
        if not all(found.low - slack <= value <= found.high + slack for value in between):
            raise ValueError(f"returns from {found.low:g} to {found.high:g} whose mean or quantile lies elsewhere.")
        if max(abs(found.low), abs(found.high)) > found.greatest or found.high - found.low > found.span + slack:
            raise ValueError(f"returns from {found.low:g} to {found.high:g} beyond all returns-to-go.")
        for name, column in self.columns.items():
            column.check(name)

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        columns = {
            name: {
                key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in vars(column).items()
            }
            for name, column in self.columns.items()
        }
        counts = {"num_episodes": self.num_episodes, "num_steps": self.num_steps}
        return counts | {"returns": asdict(self.returns), "columns": columns}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DataStatistics":
        """The reverse of `to_dict`.

        Raises:
            ValueError: the values are damaged.
        """
        try:
            returns = ReturnStatistics(**{name: _number(value) for name, value in values["returns"].items()})
            columns = {
                str(name): ColumnStatistics(
                    **{key: _vector_of(column[key]) for key in ("mean", "std", "low", "high")},
                    precision=_number(column["precision"]),
                )
                for name, column in values["columns"].items()
            }
            return cls(values["num_episodes"], values["num_steps"], returns, columns)
        except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"the statistics are damaged ({type(error).__name__}: {error})") from error


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _vector_of(values: Any) -> np.ndarray:
    if not isinstance(values, list):
        raise TypeError(f"{values!r} is no list of numbers")
    return np.array([_number(value) for value in values], dtype=np.float64)


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
