"""What a set of returns says, and how sure one can be of it."""

import numpy as np

BOOTSTRAP_RESAMPLES = 10_000
_DRAWS_AT_ONCE = 1 << 20  # bounds the memory of the bootstrap


def normalized_score(returns: np.ndarray | float, reference_returns: tuple[float, float]) -> np.ndarray | float:
    """The score of D4RL (Fu et al. 2020, section 4): 100 * (return - random) / (expert - random).

    Args:
        returns: Raw returns.
        reference_returns: Raw returns (random, expert), which score 0 and 100.

    Example:
        >>> normalized_score(50.0, (0.0, 200.0))
        25.0
    """
    random, expert = reference_returns
    if not random < expert:
        raise ValueError(
            f"reference_returns {tuple(reference_returns)}: expected (random, expert) with random < expert."
        )
    return 100.0 * (returns - random) / (expert - random)


def bootstrap_interval(
    values: np.ndarray, confidence: float = 0.95, resamples: int = BOOTSTRAP_RESAMPLES, seed: int = 0
) -> tuple[float, float] | None:
    """The percentile bootstrap interval of the mean (Efron 1979): quantiles of the means of resamples.

    Args:
        values: `(episodes,)`, for instance returns.
        confidence: The share of resampled means between the two bounds.
        resamples: How many samples of the same size are drawn with replacement.
        seed: The same values and seed give the same interval.

    Returns:
        The lower and upper bound; `None` for fewer than two values, which tell nothing about their spread.

    Example:
        >>> bootstrap_interval(np.array([3.0, 3.0, 3.0]))
        (3.0, 3.0)
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}: expected a number between 0 and 1, both excluded.")
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return None
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // len(values))
    counts = [min(at_once, resamples - done) for done in range(0, resamples, at_once)]
    means = np.concatenate([values[generator.integers(len(values), size=(n, len(values)))].mean(1) for n in counts])
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(means, (tail, 1.0 - tail))
    return float(low), float(high)


def return_statistics(
    returns: np.ndarray, lengths: np.ndarray, reference_returns: tuple[float, float] | None = None
) -> dict[str, object]:
    """The figures by which a set of episodes is reported, as plain numbers that JSON can hold.

    Args:
        returns: `(episodes,)` raw returns.
        lengths: `(episodes,)` in steps.
        reference_returns: Raw returns (random, expert), for `normalized_score`.

    Returns:
        `num_episodes`, `mean_return`, `std_return` (of the sample, with n - 1; 0 for one episode), `median_return`,
        `min_return`, `max_return`, `mean_length` in steps, `confidence_interval` (95 % bootstrap interval of the mean return or
        `None`), `normalized_score` (of the mean return) and its `normalized_interval`, `None` without references.
    """
    interval = bootstrap_interval(returns)
    mean = float(np.mean(returns))
    scored = reference_returns is not None
    return {
        "num_episodes": len(returns),
        "mean_return": mean,
        "std_return": float(np.std(returns, ddof=1)) if len(returns) > 1 else 0.0,
        "median_return": float(np.median(returns)),
        "min_return": float(np.min(returns)),
        "max_return": float(np.max(returns)),
        "mean_length": float(np.mean(lengths)),
        "confidence_interval": list(interval) if interval else None,
        "normalized_score": normalized_score(mean, reference_returns) if scored else None,
        "normalized_interval": (
            [normalized_score(bound, reference_returns) for bound in interval] if interval and scored else None
        ),
    }
