"""Off-policy evaluation by weighting recorded episodes: per-decision importance sampling and doubly robust estimates.

The weight of step `t` of an episode is the product over its steps up to `t` of `pi(a | h) / b(a | h)`, the evaluated policy's
probability of the recorded action over the behavior policy's (Precup, Sutton and Singh, 2000). `h` is the history, so that
policies with a memory are covered. After the end of an episode its weight stays what it is and its rewards are 0. An
episode that was cut short, neither terminated nor at the horizon, takes part until it was cut: the mean at a later step is
one of the episodes that are known there, which is unbiased where the cut does not depend on what would have followed.

All estimators are sums of means over episodes, so a bootstrap over episodes is a few matrix products.
"""

from dataclasses import dataclass

import numpy as np

from hf_seqrl.evaluation.logged_episodes import LoggedEpisodes, PolicyOnLog

METHODS = ("pdis", "wis", "dr", "wdr")
_LEAST_PROPENSITY = 1e-6


@dataclass(frozen=True)
class ImportanceWeights:
    """Cumulative weights of the steps of recorded episodes.

    Attributes:
        weights: `(episodes, longest)`; after the end of an episode, that of its last step.
        cut_share: Share of the steps whose weight was above `largest` and was set to it.
        largest: That bound (truncated importance sampling, Ionides, 2008); `None` for none.
    """

    weights: np.ndarray
    cut_share: float
    largest: float | None

    @property
    def effective_sample_size(self) -> np.ndarray:
        """Kong's effective number of episodes at each step, `(longest,)`: `(sum w)^2 / sum w^2`; 0 where all weights are 0."""
        squares = (self.weights**2).sum(axis=0)
        return self.weights.sum(axis=0) ** 2 / np.where(squares > 0, squares, 1.0)

    def largest_share(self, episodes: int = 1) -> float:
        """The share of all weight, at the end, on the `episodes` episodes with the greatest weights; 1 where all are 0."""
        final = np.sort(self.weights[:, -1])[::-1]
        return float(final[:episodes].sum() / final.sum()) if final.sum() > 0 else 1.0


def importance_weights(
    log: LoggedEpisodes, policy: PolicyOnLog, propensities: np.ndarray, largest: float | None = None
) -> ImportanceWeights:
    """The weights of a policy's recorded episodes.

    Args:
        log: The episodes.
        policy: Of known probabilities.
        propensities: The behavior policy's probability of each recorded action, `(steps,)`.
        largest: Greater cumulative weights are set to it. `None` leaves them, which is unbiased.
    """
    if policy.probabilities is None:
        raise ValueError(
            "importance sampling needs the policy's probabilities of discrete actions, which are not known."
        )
    chosen = policy.probabilities[np.arange(log.num_steps), log.codes].astype(np.float64)
    ratios = chosen / np.maximum(propensities, _LEAST_PROPENSITY)
    weights = np.cumprod(log.padded(ratios, 1.0), axis=1)
    recorded = log.padded(np.ones(log.num_steps, bool), False)
    cut = 0.0
    if largest is not None:
        cut = float((weights > largest)[recorded].mean())
        weights = np.minimum(weights, largest)
    return ImportanceWeights(weights, cut, largest)


def bootstrap_counts(num_episodes: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of `resamples` bootstrap samples holds each episode, `(1 + resamples, episodes)` float64; the first row is
    all ones: the data themselves."""
    generator = np.random.default_rng(seed)
    counts = np.ones((1 + resamples, num_episodes))
    for row in counts[1:]:
        row[:] = np.bincount(generator.integers(num_episodes, size=num_episodes), minlength=num_episodes)
    return counts


def behavior_values(log: LoggedEpisodes, discount: float, counts: np.ndarray) -> np.ndarray:
    """The mean discounted return of the policy behind the data, `(resamples,)`, in which cut episodes take part until their cut.

    Args:
        log: The episodes.
        discount: Weight of a reward one step later.
        counts: From [`bootstrap_counts`].
    """
    weights = np.ones((log.num_episodes, int(log.lengths.max())))
    return weighted_values("pdis", log, ImportanceWeights(weights, 0.0, None), discount, counts)


def weighted_values(
    method: str,
    log: LoggedEpisodes,
    weights: ImportanceWeights,
    discount: float,
    counts: np.ndarray,
    q_values: np.ndarray | None = None,
    state_values: np.ndarray | None = None,
) -> np.ndarray:
    """The value of the evaluated policy, `(resamples,)`.

    Args:
        method: `"pdis"`: per-decision importance sampling (Precup et al., 2000), unbiased with true propensities. `"wis"`: the
            same with weights that are divided by their sum at each step, which is biased, consistent, and varies less (weighted
            per-decision importance sampling, Thomas, 2015, section 3.7). `"dr"`: doubly robust (Jiang and Li, 2016, equation
            10). `"wdr"`: with weights divided by their sums (Thomas and Brunskill, 2016, equation 4).
        log: The episodes.
        weights: Of the evaluated policy.
        discount: Weight of a reward one step later.
        counts: From [`bootstrap_counts`].
        q_values, state_values: For the doubly robust methods, the estimated value of each recorded action, and of each recorded
            state with the evaluated policy's actions, `(steps,)`.
    """
    discounts = discount ** np.arange(weights.weights.shape[1])
    rewards = log.padded(log.rewards)
    recorded = log.padded(np.ones(log.num_steps, bool), False)
    is_weighted = method in ("wis", "wdr")
    if method in ("pdis", "wis"):
        known = recorded | log.ended_before
        gained = _means(counts, weights.weights * rewards * recorded, weights.weights, known, is_weighted)
        return gained @ discounts
    if q_values is None or state_values is None:
        raise ValueError(f"method {method!r} needs q_values and state_values.")
    complete = log.padded(log.is_complete, False)
    before = np.concatenate([np.ones((log.num_episodes, 1)), weights.weights[:, :-1]], axis=1)
    errors = weights.weights * (rewards - log.padded(np.asarray(q_values, np.float64))) * complete
    values = before * log.padded(np.asarray(state_values, np.float64)) * recorded
    everyone = np.ones_like(recorded)  # what follows a cut is in the estimated value of the state before it
    corrections = _means(counts, errors, weights.weights, everyone, is_weighted)
    return (corrections + _means(counts, values, before, everyone, is_weighted)) @ discounts


def _means(
    counts: np.ndarray, values: np.ndarray, weights: np.ndarray, known: np.ndarray, is_weighted: bool
) -> np.ndarray:
    """Means over episodes at each step, `(resamples, longest)`, of what is known there; 0 where nothing is."""
    totals = counts @ (values * known)
    sizes = counts @ (weights * known if is_weighted else known.astype(np.float64))
    return totals / np.where(sizes > 0, sizes, 1.0)
