"""What a card says of an agent's estimated return, beside the measured one."""

from dataclasses import dataclass
from typing import Any

from hf_seqrl.evaluation.offline_results import IN_WORDS, OfflineEvaluation, ValueEstimate
from hf_seqrl.evaluation.results import RolloutResult


@dataclass(frozen=True)
class Measured:
    """What episodes in an environment say of the quantity that was estimated.

    Attributes:
        value: The mean return, discounted as the estimate.
        interval: Its 95 % bootstrap interval.
        num_episodes: So many.
    """

    value: float
    interval: tuple[float, float] | None
    num_episodes: int


def measured_beside(offline: OfflineEvaluation, evaluation: RolloutResult | None) -> Measured | None:
    """The measured counterpart of an estimate: at the same target return, with the same discount, of episodes within its horizon;
    `None` where the episodes do not tell it."""
    if evaluation is None:
        return None
    part = evaluation.by_target().get(offline.target_return)
    if part is None or part.lengths.max() > offline.horizon:
        return None
    statistics = part.summary()
    if offline.discount == 1:
        return Measured(statistics["mean_return"], statistics["confidence_interval"], part.num_episodes)
    if part.discount != offline.discount:
        return None
    return Measured(statistics["mean_discounted_return"], statistics["discounted_interval"], part.num_episodes)


def about_offline(offline: OfflineEvaluation | None, evaluation: RolloutResult | None) -> dict[str, Any]:
    """The variables of the card's template."""
    if offline is None:
        return {"offline": None}
    measured = measured_beside(offline, evaluation)
    rows = [_row(IN_WORDS[one.method], one) for one in offline.estimates if one.value is not None]
    if measured is not None:
        interval = "-" if measured.interval is None else "{:.4g} .. {:.4g}".format(*measured.interval)
        rows.append((f"measured in {measured.num_episodes} episodes", f"{measured.value:.4g}", interval))
    if offline.behavior.value is not None:
        rows.append(_row(IN_WORDS["behavior"], offline.behavior))
    return {
        "offline": offline,
        "offline_rows": rows,
        "offline_refusals": [f"{IN_WORDS[one.method]}: {one.refused}" for one in offline.estimates if one.refused],
        "offline_measured": measured,
        "offline_confidence": f"{100 * offline.confidence:g} %",
    }


def _row(name: str, estimate: ValueEstimate) -> tuple[str, str, str]:
    interval = "-" if estimate.interval is None else "{:.4g} .. {:.4g}".format(*estimate.interval)
    return name, f"{estimate.value:.4g}", interval
