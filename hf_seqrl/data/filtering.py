"""The best episodes of a data set, for behaviour cloning of the good part alone."""

from typing import TYPE_CHECKING

import numpy as np

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import returns_of_episodes

if TYPE_CHECKING:
    from datasets import Dataset


def best_episodes(
    dataset: "Dataset", best_fraction: float | None = None, min_return: float | None = None
) -> "Dataset":
    """The episodes with the highest returns, in the order of the data set; nothing is copied.

    Args:
        dataset (`datasets.Dataset`): Trajectories, one row an episode.
        best_fraction (`float`, *optional*): Keep the best episodes until they make up this share of all *steps*, as
            in percentile behaviour cloning (Decision Transformer paper, section 5.1; its 10 % are `0.1`).
        min_return (`float`, *optional*): Keep episodes of at least this raw return.

    Raises:
        ValueError: the fraction is not in (0, 1], or no episode reaches `min_return`.
    """
    columns = TrajectoryColumns(dataset)
    returns = returns_of_episodes(columns)
    keep = np.ones(columns.num_episodes, bool)
    if best_fraction is not None:
        keep &= _in_best_fraction(returns, np.diff(columns.episode_offsets), best_fraction)
    if min_return is not None:
        keep &= returns >= min_return
    if not keep.any():
        raise ValueError(
            f"no episode has a return of at least min_return={min_return}: the best has {returns.max():.6g}."
        )
    return dataset.select(np.flatnonzero(keep))


def _in_best_fraction(returns: np.ndarray, lengths: np.ndarray, fraction: float) -> np.ndarray:
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"best_fraction is {fraction}: expected a share of the steps, above 0 and at most 1.")
    best_first = np.argsort(-returns, kind="stable")
    steps_before = np.cumsum(lengths[best_first]) - lengths[best_first]
    keep = np.zeros(len(returns), bool)
    keep[best_first[steps_before < fraction * lengths.sum()]] = True
    return keep
