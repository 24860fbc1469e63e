"""Which episodes are held out, and which are drawn how often: weights by return, and drawing by weights without a sampler."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_seqrl.data.columns import TrajectoryColumns

_GOLDEN = 0x9E3779B97F4A7C15
_HIGHEST_TEMPERATURE = 100.0  # in ranges of the returns
_FEWEST_STEPS = 0.05  # effective steps, as a share of all
_OPENING = 1 / 20  # of the longest episode


def held_out_split(dataset: "Dataset", eval_fraction: float, split_seed: int = 0) -> "tuple[Dataset, Dataset | None]":
    """The episodes to train on, and those that are held out; nothing is copied.

    Args:
        dataset (`datasets.Dataset`): Trajectories, one row an episode.
        eval_fraction: Share of the episodes that is held out, rounded up; at least one episode remains.
        split_seed: Draws them.

    Returns:
        The second part is `None` where nothing is to be held out, or there is one episode only.

    Raises:
        ValueError: `eval_fraction` is no share.
    """
    if not 0 <= eval_fraction < 1:
        raise ValueError(
            f"eval_fraction is {eval_fraction}: expected a share of the episodes, at least 0 and below 1."
        )
    count = min(math.ceil(eval_fraction * dataset.num_rows), dataset.num_rows - 1)
    if not count:
        return dataset, None
    parts = dataset.train_test_split(test_size=count, seed=split_seed)
    return parts["train"], parts["test"]


@dataclass(frozen=True)
class ReturnWeights:
    """The rule of `return_weights` with the figures of one data set, so that further episodes are weighted alike.

    Attributes:
        best, spread: The highest raw return, and its distance from the lowest.
        steps, weighted_steps: The number of steps, and the sum of their weights before they are scaled.
        temperature, uniform_share: See `return_weights`.
    """

    best: float
    spread: float
    steps: float
    weighted_steps: float
    temperature: float
    uniform_share: float = 0.0

    @classmethod
    def fit(
        cls, returns: np.ndarray, lengths: np.ndarray, temperature: float, uniform_share: float = 0.0
    ) -> "ReturnWeights":
        """The rule for a data set; arguments and errors as for `return_weights`."""
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}: expected a number above 0, in ranges of the returns.")
        if not 0 <= uniform_share <= 1:
            raise ValueError(f"uniform_share is {uniform_share}: expected a share between 0 and 1.")
        returns = np.asarray(returns, np.float64)
        rule = cls(float(returns.max()), float(np.ptp(returns)), lengths.sum(), 1.0, temperature, uniform_share)
        return replace(rule, weighted_steps=(rule._unscaled(returns) * lengths).sum())

    def of(self, returns: np.ndarray) -> np.ndarray:
        """Weights of the steps of episodes with these raw returns, `(episodes,)`; one above `best` counts like that."""
        weights = self._unscaled(np.asarray(returns, np.float64))
        return (1 - self.uniform_share) * weights * self.steps / self.weighted_steps + self.uniform_share

    def _unscaled(self, returns: np.ndarray) -> np.ndarray:
        if not self.spread:
            return np.ones(len(returns))
        return np.exp(np.minimum(returns - self.best, 0) / (self.temperature * self.spread))


def return_weights(
    returns: np.ndarray, lengths: np.ndarray, temperature: float, uniform_share: float = 0.0
) -> np.ndarray:
    """Weights of the steps of each episode that favor good episodes.

    The weight is `exp((G - G_max) / (temperature * (G_max - G_min)))` for an episode of return `G`, scaled to a mean of 1 over
    all steps, and mixed with equal weights.

    Args:
        returns: `(episodes,)` raw returns.
        lengths: `(episodes,)` steps of each episode.
        temperature: In ranges of the returns, above 0; a small one draws little but the best episodes.
        uniform_share: Share of the draws that go to all steps alike, between 0 and 1; a floor below every weight.

    Returns:
        `(episodes,)` weights of a step, with mean 1 over the steps of the data set.

    Raises:
        ValueError: `temperature` is not positive, or `uniform_share` is not in [0, 1].

    Example:
        >>> return_weights(np.array([0.0, 10.0]), np.array([50, 50]), temperature=0.5).round(2).tolist()
        [0.24, 1.76]
    """
    return ReturnWeights.fit(returns, lengths, temperature, uniform_share).of(returns)


def effective_episodes(weights: np.ndarray, lengths: np.ndarray) -> float:
    """How many equally frequent episodes the weights `(episodes,)` of their steps amount to (Kish, 1965): few mean that little
    else is learned from.

    Example:
        >>> effective_episodes(np.array([1.0, 1.0, 0.0]), np.array([10, 10, 10]))
        2.0
    """
    shares = weights * lengths / (weights * lengths).sum()
    return float(1 / np.square(shares).sum())


def return_temperature(
    returns: np.ndarray, lengths: np.ndarray, lowest: float = 0.1, fewest_episodes: float = 20
) -> float | None:
    """The smallest temperature for `return_weights` that leaves enough to learn from: so many effective episodes, and a
    twentieth of the steps.

    Args:
        returns: `(episodes,)` raw returns.
        lengths: `(episodes,)` steps of each episode.
        lowest: What is returned where it leaves enough.
        fewest_episodes: Effective episodes to be left, or a third of all, if these are fewer.

    Returns:
        `None` where even equal weights leave less, or all returns are equal: nothing is to be favored.

    Example:
        >>> return_temperature(np.linspace(0, 1, 1000), np.full(1000, 50))
        0.1
    """
    fewest_episodes = min(fewest_episodes, len(lengths) / 3)

    def leaves_enough(temperature: float) -> bool:
        weights = return_weights(returns, lengths, temperature)
        shares = weights * lengths / (weights * lengths).sum()
        effective_steps = 1 / (np.square(shares) / lengths).sum()
        return (
            effective_episodes(weights, lengths) >= fewest_episodes
            and effective_steps >= _FEWEST_STEPS * lengths.sum()
        )

    if not np.ptp(returns) or not leaves_enough(_HIGHEST_TEMPERATURE):
        return None
    if leaves_enough(lowest):
        return lowest
    low, high = lowest, _HIGHEST_TEMPERATURE
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if leaves_enough(middle) else (middle, high)
    return high


@dataclass(frozen=True)
class Opening:
    """The first steps of every episode, which are drawn more often than the later ones.

    An agent meets them in each of its episodes, and in data of long episodes few of the steps show them. Where episodes never
    terminate, what goes wrong there lasts until the time limit.

    Attributes:
        num_steps: The steps that open an episode.
        weight: Of these steps, relative to the others of their episode.
    """

    num_steps: int
    weight: float

    @classmethod
    def fit(
        cls, lengths: np.ndarray, weights: np.ndarray | None = None, opening_share: float = 0.1
    ) -> "Opening | None":
        """The first twentieth of the longest episode, with the weight that gives it this share of the draws.

        Args:
            lengths: `(episodes,)` steps of each episode.
            weights: `(episodes,)`, of their steps; default: all alike.
            opening_share: Of the draws that go to openings, at least 0 and below 1.

        Returns:
            `None` where openings have that share already.

        Raises:
            ValueError: `opening_share` is no such share.

        Example:
            >>> opening = Opening.fit(np.array([1000, 1000]))
            >>> opening.num_steps, round(opening.weight, 2)
            (50, 2.11)
            >>> Opening.fit(np.array([1000] + 100 * [20])) is None
            True
        """
        if not 0 <= opening_share < 1:
            raise ValueError(
                f"opening_share is {opening_share}: expected a share of the draws, at least 0 and below 1."
            )
        weights = np.ones(len(lengths)) if weights is None else weights
        num_steps = math.ceil(_OPENING * int(lengths.max()))
        opening = float((weights * np.minimum(lengths, num_steps)).sum() / (weights * lengths).sum())
        if opening >= opening_share or not opening:
            return None
        return cls(num_steps, opening_share / (1 - opening_share) * (1 - opening) / opening)

    @classmethod
    def suited_to(
        cls, columns: "TrajectoryColumns", weights: np.ndarray | None = None, opening_share: float | None = None
    ) -> "Opening | None":
        """As `fit`, with a share that suits the data where none is given: a tenth if no episode terminates, else 0."""
        if opening_share is None:
            terminates = columns.terminations.take(columns.episode_offsets[1:] - 1).any()
            opening_share = 0.0 if terminates else 0.1
        return cls.fit(np.diff(columns.episode_offsets), weights, opening_share)

    def __str__(self) -> str:
        return f"the first {self.num_steps} steps of episodes are drawn {self.weight:.2g} times as often"


class WeightedDraw:
    """Translates the items of a map-style data set, one for each step, so that steps come in proportion to weights.

    Item `i` of `n` stands for the quantile `(i + r_i) / n` of the weighted steps, with a fixed random number `r_i`: a step of
    weight `w` (mean 1) belongs to `w` items, rounded up or down. Samplers, processes and resuming stay as they are, since the
    items are drawn uniformly. A step of a weight below 1 may belong to no item: its like stand for it.

    Args:
        weights: `(episodes,)`, of the steps of each episode, not negative.
        episode_offsets: `(episodes + 1,)`, the first step of each episode, and the number of steps.
        num_items: The number of items, where it is not that of the steps.
        opening: First steps of every episode that have more weight.

    Raises:
        ValueError: the weights are not one finite number >= 0 for each episode, or all 0.
    """

    def __init__(
        self,
        weights: np.ndarray,
        episode_offsets: np.ndarray,
        num_items: int | None = None,
        opening: Opening | None = None,
    ) -> None:
        self.weights = np.asarray(weights, np.float64)
        if self.weights.shape != (len(episode_offsets) - 1,):
            raise ValueError(
                f"episode_weights have shape {self.weights.shape}: expected ({len(episode_offsets) - 1},), one an episode."
            )
        if not (np.isfinite(self.weights).all() and (self.weights >= 0).all() and self.weights.any()):
            raise ValueError("episode_weights must be finite, not negative, and not all 0.")
        # stretches of steps of one weight: the episodes, or their openings and what is left of them
        self._offsets, self._weights = episode_offsets, self.weights
        if opening is not None:
            ends = np.minimum(episode_offsets[:-1] + opening.num_steps, episode_offsets[1:])
            self._offsets = np.append(np.stack([episode_offsets[:-1], ends], axis=1), episode_offsets[-1])
            self._weights = np.stack([self.weights * opening.weight, self.weights], axis=1).ravel()
        masses = self._weights * np.diff(self._offsets)
        self._bounds, self._last = np.cumsum(masses), np.flatnonzero(masses)[-1]
        self.num_items = int(episode_offsets[-1]) if num_items is None else num_items

    def steps(self, items: np.ndarray) -> np.ndarray:
        """The step of each of `items`, of the same shape."""
        items = np.asarray(items, np.int64)
        quantile = (items + _fixed_uniform(items)) * (self._bounds[-1] / self.num_items)
        stretches = np.searchsorted(self._bounds, quantile, side="right")
        stretches = np.minimum(stretches, self._last)  # what rounding put behind the end
        first, end, weights = self._offsets[stretches], self._offsets[stretches + 1], self._weights[stretches]
        place = ((quantile - self._bounds[stretches] + weights * (end - first)) / weights).astype(np.int64)
        return np.clip(first + place, first, end - 1)


def _fixed_uniform(items: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each item, always the same (a multiplicative hash: Knuth, 1973, section 6.4)."""
    mixed = items.astype(np.uint64) * np.uint64(_GOLDEN)
    mixed ^= mixed >> np.uint64(32)
    return ((mixed * np.uint64(_GOLDEN)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
