"""What `evaluate_offline` returns: estimates with intervals, what they rest on, and what cannot be known, in words."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from hf_seqrl.data.durable import write_whole
from hf_seqrl.evaluation.results import aligned_text

IN_WORDS = {
    "behavior": "the policy that recorded the data",
    "fqe": "fitted Q evaluation",
    "pdis": "importance sampling",
    "wis": "weighted importance sampling",
    "dr": "doubly robust",
    "wdr": "weighted doubly robust",
    "model": "rollouts in a learned model",
}


@dataclass(frozen=True)
class ValueEstimate:
    """The estimated value of a policy by one method: the mean return of an episode, raw.

    Attributes:
        method: A key of `hf_seqrl.evaluation.offline_results.IN_WORDS`.
        value: `None` where no number is given.
        interval: Two-sided, by a bootstrap over episodes.
        lower_bound, upper_bound: One-sided, of the same confidence each.
        advantage: The value less that of the policy behind the data, on the same episodes.
        advantage_interval, advantage_lower_bound, advantage_upper_bound: As above, of the advantage.
        refused: Why no number is given.
        notes: What a reader should know about the number, one sentence each.
    """

    method: str
    value: float | None
    interval: tuple[float, float] | None = None
    lower_bound: float | None = None
    upper_bound: float | None = None
    advantage: float | None = None
    advantage_interval: tuple[float, float] | None = None
    advantage_lower_bound: float | None = None
    advantage_upper_bound: float | None = None
    refused: str | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def from_resamples(
        cls,
        method: str,
        values: np.ndarray,
        behavior: np.ndarray | None,
        confidence: float,
        notes: tuple[str, ...] = (),
        reflected: bool = False,
        margin: float = 0.0,
    ) -> "ValueEstimate":
        """From the values by the data and by bootstrap samples, `(1 + resamples,)`, with percentile intervals (Efron, 1979).

        Args:
            method: The method's key.
            values: Of the evaluated policy.
            behavior: Of the policy behind the data, on the same samples; `None` where it is not known.
            confidence: Of the interval and of each bound.
            notes: Go along.
            reflected: Whether the quantiles are reflected at the value by the data (the basic bootstrap, Davison and Hinkley,
                1997, section 2.4), for estimators whose bias the bootstrap repeats.
            margin: Added to intervals and bounds on each side.
        """
        quantiles = _reflected_quantiles if reflected else _quantiles
        widening = np.array([-margin, margin, -margin, margin])
        bounds = lambda x: tuple((np.array(quantiles(x, confidence)) + widening).tolist())  # noqa: E731
        return cls._with_bounds(method, values, behavior, bounds, notes)

    @classmethod
    def from_networks(
        cls,
        method: str,
        values: np.ndarray,
        behavior: np.ndarray | None,
        confidence: float,
        notes: tuple[str, ...] = (),
    ) -> "ValueEstimate":
        """From networks that learned from a bootstrap sample each, `(networks,)`: their mean, and Student's intervals with their
        spread as standard error, as they are too few for quantiles."""
        mean_first = lambda x: np.concatenate([[x.mean()], x])  # noqa: E731
        behavior = None if behavior is None else mean_first(behavior)
        return cls._with_bounds(method, mean_first(values), behavior, lambda x: _student(x, confidence), notes)

    @classmethod
    def _with_bounds(
        cls,
        method: str,
        values: np.ndarray,
        behavior: np.ndarray | None,
        bounds: Callable[[np.ndarray], tuple[float, float, float, float]],
        notes: tuple[str, ...],
    ) -> "ValueEstimate":
        low, high, lower, upper = bounds(values)
        of_value = cls(method, float(values[0]), (low, high), lower, upper, notes=notes)
        if behavior is None:
            return of_value
        low, high, lower, upper = bounds(values - behavior)
        return replace(
            of_value,
            advantage=float(values[0] - behavior[0]),
            advantage_interval=(low, high),
            advantage_lower_bound=lower,
            advantage_upper_bound=upper,
        )

    @property
    def verdict(self) -> str:
        """`"better"` or `"worse"` than the policy behind the data where the one-sided bound says so, else `"undecided"`."""
        if self.advantage_lower_bound is not None and self.advantage_lower_bound > 0:
            return "better"
        if self.advantage_upper_bound is not None and self.advantage_upper_bound < 0:
            return "worse"
        return "undecided"


@dataclass(frozen=True)
class OverlapRow:
    """How far a policy's actions are from the recorded ones, in a range of steps of the episodes.

    Attributes:
        first_step, last_step: The range, both included.
        overlap: For discrete actions, the mean over the steps of `sum_a min(pi(a), b(a))`, estimated by the mean of
            `min(1, pi(a) / b(a))` at the recorded actions: 1 where it acts like the policy behind the data, 0 where it never does.
        distance: For `Box` actions, the root mean square distance of its actions from the recorded ones, in standard deviations of
            the data's actions.
        effective_episodes: The effective number of episodes at the end of the range, where weights are known.
    """

    first_step: int
    last_step: int
    overlap: float | None = None
    distance: float | None = None
    effective_episodes: float | None = None


@dataclass(frozen=True)
class OverlapReport:
    """What the data can say about a policy.

    Attributes:
        by_step: A row for each range of steps.
        unsupported: The policy's share of actions that the data hardly know, 0 to 1; see `unsupported_means`.
        unsupported_means: What counts as hardly known, in words.
        effective_episodes: The effective number of episodes of importance sampling, where weights are known.
        largest_share: The share of all weight on the five episodes with the greatest weights.
        mean_weight: The mean weight of the episodes, which is near 1 where the data have all that the policy does.
        cut_share: The share of weights that were cut.
        behavior_source: Where the propensities come from: `"recorded"`, `"frequencies"` or `"cloned"`.
        behavior_log_loss, uninformed_log_loss, calibration_error: Of the model of the policy behind the data, see
            [`~hf_seqrl.evaluation.behavior.Behavior`].
    """

    by_step: tuple[OverlapRow, ...] = ()
    unsupported: float | None = None
    unsupported_means: str = ""
    effective_episodes: float | None = None
    largest_share: float | None = None
    mean_weight: float | None = None
    cut_share: float | None = None
    behavior_source: str | None = None
    behavior_log_loss: float | None = None
    uninformed_log_loss: float | None = None
    calibration_error: float | None = None


@dataclass(frozen=True)
class OfflineEvaluation:
    """What a policy would achieve, estimated from recorded episodes.

    Attributes:
        estimates: One for each method, the most trusted first.
        behavior: The policy behind the data itself.
        overlap: What the data can say.
        horizon: The steps after which an episode's return is complete.
        discount: Weight of a reward one step later.
        confidence: Of the intervals and bounds.
        num_episodes, num_steps: Of the data.
        target_return: The raw return that the policy was asked for; `None` for one that takes none.
        model_errors: For a learned model, the error of its rewards by the number of steps predicted.
    """

    estimates: tuple[ValueEstimate, ...]
    behavior: ValueEstimate
    overlap: OverlapReport
    horizon: int
    discount: float
    confidence: float
    num_episodes: int
    num_steps: int
    target_return: float | None = None
    model_errors: tuple[dict[str, float], ...] = field(default=())

    @property
    def best(self) -> ValueEstimate | None:
        """The most trusted estimate that was not refused; `None` where all were."""
        return next((one for one in self.estimates if one.value is not None), None)

    @property
    def value(self) -> float | None:
        """Of `best`."""
        return None if self.best is None else self.best.value

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of `best`."""
        return None if self.best is None else self.best.interval

    @property
    def verdict(self) -> str:
        """Of `best`: `"better"`, `"worse"` or `"undecided"`, compared with the policy behind the data."""
        return "undecided" if self.best is None else self.best.verdict

    def __getitem__(self, method: str) -> ValueEstimate:
        """The estimate by a method, such as `"fqe"`."""
        for estimate in (self.behavior, *self.estimates):
            if estimate.method == method:
                return estimate
        raise KeyError(f"{method!r}: expected one of {', '.join(one.method for one in self.estimates)}.")

    def table(self) -> str:
        """One line for each method, and one for the policy behind the data."""
        share = f"{100 * self.confidence:g} %"
        header = ["method", "value", f"{share} interval", "at least", "more than the data", f"{share} interval"]
        return aligned_text([header, _cells(self.behavior), *map(_cells, self.estimates)])

    def report(self) -> str:
        """The table and everything that a reader needs to judge it, in plain words."""
        return "\n".join([*self._what(), "", self.table(), "", *self._reasons(), *self._support(), *self._decision()])

    def summary(self) -> dict[str, Any]:
        """The figures that count, as plain numbers ready for JSON: `value`, `interval`, `lower_bound` and `method` of `best`,
        `behavior_value`, `advantage`, `advantage_interval`, `verdict`, `discount`, `horizon`, `num_episodes`."""
        best = self.best
        return {
            "method": best and best.method,
            "value": best and best.value,
            "interval": best and best.interval and list(best.interval),
            "lower_bound": best and best.lower_bound,
            "behavior_value": self.behavior.value,
            "advantage": best and best.advantage,
            "advantage_interval": best and best.advantage_interval and list(best.advantage_interval),
            "verdict": self.verdict,
            "target_return": self.target_return,
            "discount": self.discount,
            "horizon": self.horizon,
            "num_episodes": self.num_episodes,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values ready for JSON."""
        return {"summary": self.summary(), **asdict(self)}

    def save(self, path: str | Path) -> Path:
        """Write everything as JSON. The file is written completely or not at all."""
        return write_whole(path, json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "OfflineEvaluation":
        """Read a file written by `save`.

        Raises:
            ValueError: the file is not one.
        """
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not {"estimates", "behavior", "overlap"} <= set(content):
            raise ValueError(
                f"{path} is not an offline evaluation: expected a file written by OfflineEvaluation.save."
            )
        content.pop("summary", None)
        overlap = content.pop("overlap")
        rows = tuple(OverlapRow(**row) for row in overlap.pop("by_step"))
        return cls(
            estimates=tuple(_estimate(one) for one in content.pop("estimates")),
            behavior=_estimate(content.pop("behavior")),
            overlap=OverlapReport(rows, **overlap),
            model_errors=tuple(content.pop("model_errors")),
            **content,
        )

    def __repr__(self) -> str:
        best = self.best
        if best is None:
            return f"<OfflineEvaluation: {self.num_episodes} episodes, no estimate can be given>"
        return f"<OfflineEvaluation: {best.method} {best.value:.4g}, {_range(best.interval)}, {self.verdict}>"

    def _what(self) -> list[str]:
        discounted = (
            "" if self.discount == 1 else f", where a reward counts {self.discount:g} times one a step earlier"
        )
        asked = "" if self.target_return is None else f" when it is asked for {self.target_return:g}"
        return [
            f"Mean return of an episode of at most {self.horizon} steps{discounted}{asked}, estimated from "
            f"{self.num_episodes} recorded episodes ({self.num_steps} steps) without trying it out."
        ]

    def _reasons(self) -> list[str]:
        all_of_them = (self.behavior, *self.estimates)
        lines = [f"No number for {IN_WORDS[one.method]}: {one.refused}" for one in all_of_them if one.refused]
        return lines + [f"{IN_WORDS[one.method]}: {note}" for one in all_of_them for note in one.notes]

    def _support(self) -> list[str]:
        overlap, lines = self.overlap, []
        if overlap.unsupported is not None:
            lines.append(
                f"Actions that the data hardly know: {100 * overlap.unsupported:.1f} % ({overlap.unsupported_means})."
            )
        if overlap.effective_episodes is not None:
            lines.append(
                f"By weights, these {self.num_episodes} episodes say as much as {overlap.effective_episodes:.1f} of the policy's own; "
                f"the five heaviest hold {100 * (overlap.largest_share or 0):.0f} % of all weight, and {100 * (overlap.cut_share or 0):.1f} % "
                "of the weights were cut."
            )
        if overlap.behavior_source is not None:
            lines.append(_behavior_in_words(overlap))
        for row in overlap.by_step:
            what = f"overlap {row.overlap:.2f}" if row.overlap is not None else f"distance {row.distance or 0:.2f}"
            worth = f", {row.effective_episodes:.1f} effective episodes" if row.effective_episodes is not None else ""
            lines.append(f"  steps {row.first_step} to {row.last_step}: {what}{worth}")
        for error in self.model_errors:
            lines.append(
                f"  the model's return of {error['steps']:.0f} steps: off by {error['error']:.4g} in the mean, where returns vary by "
                f"{error['spread']:.4g}"
            )
        return lines

    def _decision(self) -> list[str]:
        best, share = self.best, f"{100 * self.confidence:g} %"
        if best is None:
            return [
                "",
                "These data cannot tell what this policy would achieve: it acts too differently. Collect data closer to it.",
            ]
        found = f"{best.value:.4g}, at least {best.lower_bound:.4g} with {share} confidence"
        recorded = "the policy that recorded the data"
        if self.behavior.value is not None:
            recorded += f" ({self.behavior.value:.4g})"
        compared = {
            "better": f"It is better than {recorded}, with {share} confidence.",
            "worse": f"It is worse than {recorded}, with {share} confidence.",
            "undecided": f"Whether it is better than {recorded} cannot be said with {share} confidence.",
        }
        return ["", f"Most trusted, {IN_WORDS[best.method]}: {found}. {compared[self.verdict]}"]


def _behavior_in_words(overlap: OverlapReport) -> str:
    loss = f"log loss {overlap.behavior_log_loss:.3f}, without looking at the state {overlap.uninformed_log_loss:.3f}"
    if overlap.behavior_source == "recorded":
        return f"The probabilities of the recorded actions were recorded with them ({loss})."
    how = "how often each was taken in the state" if overlap.behavior_source == "frequencies" else "a cloned network"
    return (
        f"The probabilities of the recorded actions are estimated by {how}; in episodes that were held out: {loss}, expected "
        f"calibration error {overlap.calibration_error:.3f}."
    )


def _estimate(values: dict[str, Any]) -> ValueEstimate:
    pairs = {
        name: tuple(values[name]) for name in ("interval", "advantage_interval", "notes") if values[name] is not None
    }
    return ValueEstimate(**(values | pairs))


def _cells(one: ValueEstimate) -> list[str]:
    if one.value is None:
        return [one.method, "refused", "-", "-", "-", "-"]
    gain = ["-", "-"]
    if one.advantage is not None and one.method != "behavior":
        gain = [f"{one.advantage:+.4g}", _range(one.advantage_interval)]
    return [one.method, f"{one.value:.4g}", _range(one.interval), f"{one.lower_bound:.4g}", *gain]


def _range(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4g} .. {interval[1]:.4g}"


def _quantiles(values: np.ndarray, confidence: float) -> tuple[float, float, float, float]:
    """Two-sided bounds, lower and upper one-sided bound."""
    tail = (1 - confidence) / 2
    low, high, lower, upper = np.quantile(values[1:], [tail, 1 - tail, 2 * tail, 1 - 2 * tail])
    return float(low), float(high), float(lower), float(upper)


def _reflected_quantiles(values: np.ndarray, confidence: float) -> tuple[float, float, float, float]:
    low, high, lower, upper = (2 * float(values[0]) - bound for bound in _quantiles(values, confidence))
    return high, low, upper, lower


def _student(values: np.ndarray, confidence: float) -> tuple[float, float, float, float]:
    error, freedom = float(values[1:].std(ddof=1)), len(values) - 2
    two_sided = student_quantile((1 + confidence) / 2, freedom) * error
    one_sided = student_quantile(confidence, freedom) * error
    center = float(values[0])
    return center - two_sided, center + two_sided, center - one_sided, center + one_sided


def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution, by the expansion of Abramowitz and Stegun (1964), 26.7.5; within 1 % from three
    degrees of freedom on, at 95 %.

    Example:
        >>> round(student_quantile(0.975, 9), 3)
        2.262
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))
