"""The results of a comparison of training methods: statistics over seeds and episodes, a table, a recommendation in words."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hf_seqrl.data.durable import write_whole
from hf_seqrl.evaluation.results import aligned_text

RESAMPLES = 5_000
_TAIL = 0.025


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """The mean of the middle half of the values along the last axis (Agarwal et al., 2021): a quarter is cut off at each end.

    Example:
        >>> float(interquartile_mean(np.array([0.0, 1.0, 2.0, 100.0])))
        1.5
    """
    values = np.sort(values, axis=-1)
    cut = values.shape[-1] // 4
    return values[..., cut : values.shape[-1] - cut].mean(axis=-1)


def resampled(returns: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Bootstrap samples of runs and of their episodes: seeds of training are drawn with replacement, then the episodes of each.

    As the stratified bootstrap of Agarwal et al. (2021, "Deep reinforcement learning at the edge of the statistical
    precipice"), with a second level, as each run is judged by several episodes.

    Args:
        returns: `(seeds, episodes)`.
        resamples: Number of samples.
        seed: Of the drawing.

    Returns:
        `(resamples, seeds * episodes)`.
    """
    generator = np.random.default_rng(seed)
    num_seeds, num_episodes = returns.shape
    runs = generator.integers(num_seeds, size=(resamples, num_seeds, 1))
    episodes = generator.integers(num_episodes, size=(resamples, num_seeds, num_episodes))
    return returns[runs, episodes].reshape(resamples, -1)


@dataclass(frozen=True)
class MethodResult:
    """What one method achieved over all seeds.

    Attributes:
        title: Its name in the table.
        updates: Optimizer steps of each run.
        seconds: Wall-clock seconds of training, one entry a seed.
        returns: Raw returns, one list of episodes a seed; empty without an environment.
        values, lower_bounds: Estimated from held-out episodes, one entry a seed; `None` where no number could be given.
        advantage_lower_bounds: Of the value less that of the policy behind the data.
    """

    title: str
    updates: int
    seconds: list[float]
    returns: list[list[float]] = field(default_factory=list)
    values: list[float | None] = field(default_factory=list)
    lower_bounds: list[float | None] = field(default_factory=list)
    advantage_lower_bounds: list[float | None] = field(default_factory=list)

    @cached_property
    def samples(self) -> np.ndarray:
        return resampled(np.asarray(self.returns, np.float64))

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def interval(self) -> tuple[float, float]:
        low, high = np.quantile(self.samples.mean(axis=1), (_TAIL, 1 - _TAIL))
        return float(low), float(high)

    @property
    def interquartile(self) -> tuple[float, float, float]:
        """The interquartile mean and its interval."""
        low, high = np.quantile(interquartile_mean(self.samples), (_TAIL, 1 - _TAIL))
        return float(interquartile_mean(np.ravel(self.returns))), float(low), float(high)

    @property
    def minutes(self) -> float:
        """Of one run, on average."""
        return float(np.mean(self.seconds)) / 60

    @property
    def value(self) -> float | None:
        return _mean(self.values)

    @property
    def lower_bound(self) -> float | None:
        return _lowest(self.lower_bounds)

    @property
    def advantage_lower_bound(self) -> float | None:
        return _lowest(self.advantage_lower_bounds)

    def lead_over(self, other: "MethodResult") -> tuple[float, float]:
        """The interval of the difference of the mean returns."""
        low, high = np.quantile(self.samples.mean(axis=1) - np.roll(other.samples.mean(axis=1), 1), (_TAIL, 1 - _TAIL))
        return float(low), float(high)


@dataclass(frozen=True)
class Comparison:
    """The result of [`~hf_seqrl.training.compare.compare`].

    Attributes:
        methods: In the order of training.
        data_returns: The mean raw return of the data's episodes and its 95 % interval; `None` without rewards.
        random_returns: Raw returns of the random policy's episodes; empty without an environment.
        env_id: Where the agents were evaluated; `None` for held-out episodes alone.
        num_episodes: Of each seed.
        num_seeds: Runs of each method.
    """

    methods: tuple[MethodResult, ...]
    data_returns: tuple[float, float, float] | None
    env_id: str | None
    num_episodes: int
    num_seeds: int
    random_returns: list[float] = field(default_factory=list)

    @cached_property
    def ranking(self) -> tuple[MethodResult, ...]:
        """The methods, the best first: by the mean return in the environment; without one, by the lowest of the lower bounds of
        the estimated value. Those without a number come last."""
        if self.env_id is not None:
            return tuple(sorted(self.methods, key=lambda method: -method.mean))
        worst = -np.inf
        return tuple(
            sorted(self.methods, key=lambda method: -(worst if method.lower_bound is None else method.lower_bound))
        )

    @cached_property
    def chosen(self) -> MethodResult:
        """The method to use: the cheapest of those whose mean return is not shown to be below the best one; without an
        environment, the one with the highest lower bound."""
        best = self.ranking[0]
        if self.env_id is None:
            return best
        as_good = [method for method in self.methods if method is best or best.lead_over(method)[0] <= 0]
        return min(as_good, key=lambda method: method.minutes)

    def table(self) -> str:
        """One line a method, the best first, and the policies that need no training."""
        return aligned_text(self._rows())

    def recommendation(self) -> str:
        """What to use and why, in words."""
        sentences = self._by_episodes() if self.env_id is not None else self._by_estimates()
        if self.num_seeds < 3:
            sentences.append(
                f"With {self.num_seeds} seed{'s' * (self.num_seeds > 1)} of training, the intervals say little about other seeds: use "
                "three or more."
            )
        return " ".join(sentences)

    def report(self) -> str:
        """The table and the recommendation."""
        return f"{self.table()}\n\n{self.recommendation()}"

    def save(self, path: str | Path) -> Path:
        """Write everything as JSON, with the statistics; completely or not at all."""
        content = {**asdict(self), "table": self.table(), "recommendation": self.recommendation()}
        return write_whole(path, json.dumps({**content, "chosen": self.chosen.title}, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Comparison":
        """Read a file that `save` wrote."""
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        content["methods"] = tuple(MethodResult(**method) for method in content["methods"])
        content["data_returns"] = tuple(content["data_returns"]) if content["data_returns"] else None
        return cls(**{name: content[name] for name in content if name not in ("table", "recommendation", "chosen")})

    def plot(self, path: str | Path) -> Path:
        """Plot each method's mean with its interval, and the policy behind the data."""
        from hf_seqrl.evaluation.plots import plot_methods

        methods = self.ranking[::-1]
        if self.env_id is not None:
            rows = {method.title: (method.mean, *method.interval) for method in methods}
        else:
            known = [(method.title, method.value, method.lower_bound) for method in methods]
            rows = {title: (value, low, value) for title, value, low in known if value is not None and low is not None}
        label = "mean return, 95 % interval" if self.env_id else "estimated return, with its lower bound"
        return plot_methods(rows, self.data_returns and self.data_returns[0], label, path)

    def _rows(self) -> list[list[str]]:
        judged = any(method.values for method in self.methods)
        header = ["method"]
        if self.env_id is not None:
            header += ["mean return", "95 % interval", "interquartile mean", "95 % interval"]
        if judged:
            header += ["estimate", "lower bound"]
        header += ["updates", "minutes a run"]
        rows = [self._row(method, judged) for method in self.ranking]
        return [header, *rows, *self._baselines(len(header))]

    def _row(self, method: MethodResult, judged: bool) -> list[str]:
        cells = [method.title]
        if self.env_id is not None:
            middle, *bounds = method.interquartile
            cells += [f"{method.mean:.1f}", _span(method.interval), f"{middle:.1f}", _span(bounds)]
        if judged:
            cells += [_number(method.value), _number(method.lower_bound)]
        return [*cells, str(method.updates), f"{method.minutes:.2f}"]

    def _baselines(self, width: int) -> list[list[str]]:
        rows = []
        if self.data_returns is not None:
            mean, *bounds = self.data_returns
            rows.append(["policy behind the data", f"{mean:.1f}", *([_span(bounds)] if self.env_id else [])])
        if self.random_returns:
            means = resampled(np.array([self.random_returns])).mean(axis=1)
            bounds = np.quantile(means, (_TAIL, 1 - _TAIL))
            rows.append(["random actions", f"{np.mean(self.random_returns):.1f}", _span(bounds)])
        return [row + ["-"] * (width - len(row)) for row in rows]

    def _by_episodes(self) -> list[str]:
        best, chosen = self.ranking[0], self.chosen
        if chosen is best:
            sentences = [f"Use {best.title}: mean return {best.mean:.1f}."]
            if len(self.ranking) > 1:
                second = self.ranking[1]
                low, high = best.lead_over(second)
                shown = "" if low > 0 else ", which is not a difference that these runs show"
                sentences.append(
                    f"{second.title} is {best.mean - second.mean:.1f} behind (95 % interval {low:.1f} to {high:.1f}){shown}."
                )
        else:
            low, high = best.lead_over(chosen)
            sentences = [
                f"Use {chosen.title}: it is as good here as {best.title}, as far as these runs show ({chosen.mean:.1f} against "
                f"{best.mean:.1f}; the difference lies between {low:.1f} and {high:.1f}), and trains in {chosen.minutes:.2f} minutes "
                f"instead of {best.minutes:.2f}."
            ]
        if self.data_returns is not None and chosen.interval[0] <= self.data_returns[0]:
            sentences.append(
                f"It is not shown to be better than the policy behind the data ({self.data_returns[0]:.1f})."
            )
        return sentences

    def _by_estimates(self) -> list[str]:
        best = self.ranking[0]
        if best.lower_bound is None:
            return [
                "No method can be recommended: the held-out episodes do not tell what their agents would achieve. Collect more episodes, "
                "or ones with actions like theirs."
            ]
        if (best.advantage_lower_bound or 0) > 0:
            return [
                f"Use {best.title}: it has the highest lower bound, {best.lower_bound:.4g}, and is estimated to be better than the policy "
                "behind the data with 95 % confidence for every seed."
            ]
        return [
            f"{best.title} has the highest lower bound, {best.lower_bound:.4g}, but no method is shown to be better than the policy behind "
            "the data: keep what you have, or try it with care."
        ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _lowest(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return min(known) if known and len(known) == len(values) else None


def _number(value: float | None) -> str:
    return "refused" if value is None else f"{value:.4g}"


def _span(bounds: Any) -> str:
    return f"{bounds[0]:.1f} .. {bounds[1]:.1f}"
