"""Returns to go of whole data sets, without a loop over steps."""

import numpy as np


def discounted_returns(rewards: np.ndarray, episode_offsets: np.ndarray, discount: float = 1.0) -> np.ndarray:
    """The discounted sum of the rewards from each step to its episode's end, that step's own reward included.

    R_t = sum_{k >= 0} discount^k r_{t+k}: the returns to go of the Decision Transformer paper (section 3) for
    `discount = 1`. Partial sums over 1, 2, 4, ... steps are doubled until they span the longest episode, so that the
    work is `log2(longest episode)` passes over the array, and an outlier disturbs no episode but its own.

    Args:
        rewards (`(steps,)`): Raw rewards of all episodes, one after the other.
        episode_offsets (`(episodes + 1,)`): Where each episode begins; the last entry is the number of steps.
        discount (`float`, *optional*, defaults to `1.0`): Between 0 and 1.

    Returns:
        `(steps,)` raw returns, `float32`.

    Example:
        >>> discounted_returns(np.array([1.0, 2.0, 4.0, 8.0]), np.array([0, 3, 4]))
        array([7., 6., 4., 8.], dtype=float32)
    """
    if not 0.0 <= discount <= 1.0:
        raise ValueError(f"discount is {discount}: expected a number between 0 and 1.")
    lengths = np.diff(episode_offsets)
    sums = np.array(rewards, dtype=np.float64)
    remaining = np.repeat(episode_offsets[1:], lengths) - np.arange(len(sums))
    span = 1
    while span < lengths.max(initial=0):
        following = np.where(remaining[:-span] > span, sums[span:], 0.0)
        sums[:-span] += discount**span * following
        span *= 2
    return sums.astype(np.float32)


def episode_returns(rewards: np.ndarray, episode_offsets: np.ndarray) -> np.ndarray:
    """The undiscounted return of each episode, `(episodes,)` in raw units, `float64`.

    Example:
        >>> episode_returns(np.array([1.0, 2.0, 4.0]), np.array([0, 2, 3]))
        array([3., 4.])
    """
    return np.add.reduceat(np.asarray(rewards, dtype=np.float64), episode_offsets[:-1])
