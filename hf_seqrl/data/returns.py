"""Returns of whole data sets, without a loop over steps, and the selection of the best episodes."""

import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_seqrl.data.columns import TrajectoryColumns, episode_blocks
from hf_seqrl.data.metadata import without_whole
from hf_seqrl.data.statistics import ColumnStatistics, DataStatistics, ReturnStatistics

if TYPE_CHECKING:
    from datasets import Dataset


_BLOCK_STEPS = 1 << 20
_MOST_STEPS_IN_MEMORY = 1 << 23  # 32 MiB of float32
SHORTEST_REMAINDER = 0.02  # of the time limit, by which a pace is divided


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


def pace(
    returns_to_go: np.ndarray, timesteps: np.ndarray, time_limit: int, bounds: Sequence[float] | None = None
) -> np.ndarray:
    """Returns-to-go at the rate of a whole episode, `R_t * H / max(H - t, 0.02 H)` for a time limit of `H` steps.

    It is steady along an even episode that lasts until the time limit and falls in one that fails early, so that a model
    without a clock can read it; a return-to-go late in a good episode looks like one early in a bad episode. RvS (Emmons et al.,
    2022, section 3) calls it the average return.

    Args:
        returns_to_go, timesteps: Raw returns and steps since the beginning of the episode, of the same shape.
        time_limit: In steps.
        bounds: Low and high, raw, to which it is clipped.

    Example:
        >>> pace(np.array([100.0, 50.0, 1.0]), np.array([0, 50, 100]), time_limit=100).tolist()
        [100.0, 100.0, 50.0]
    """
    remainder = np.maximum(time_limit - timesteps, SHORTEST_REMAINDER * time_limit)
    values = np.asarray(returns_to_go, np.float64) * (time_limit / remainder)
    return values if bounds is None else np.clip(values, bounds[0], bounds[1])


def episode_returns(rewards: np.ndarray, episode_offsets: np.ndarray) -> np.ndarray:
    """The undiscounted return of each episode, `(episodes,)` in raw units, `float64`.

    Example:
        >>> episode_returns(np.array([1.0, 2.0, 4.0]), np.array([0, 2, 3]))
        array([3., 4.])
    """
    return np.add.reduceat(np.asarray(rewards, dtype=np.float64), episode_offsets[:-1])


def returns_to_go(columns: TrajectoryColumns, discount: float = 1.0) -> np.ndarray:
    """The returns to go of every step of a data set, computed block by block.

    Args:
        columns (`TrajectoryColumns`): The data set.
        discount (`float`, *optional*, defaults to `1.0`): Between 0 and 1.

    Returns:
        `(steps,)` raw returns, `float32`; see `discounted_returns`. For a data set of more than 2**23 steps they stand
        in a memory-mapped temporary file (in `tempfile.gettempdir()`) that is removed with the array.
    """
    in_memory = columns.num_steps <= _MOST_STEPS_IN_MEMORY
    returns = np.empty(columns.num_steps, np.float32) if in_memory else _temporary_memmap(columns.num_steps)
    for first_step, rewards, offsets in _blocks_of_episodes(columns):
        returns[first_step : first_step + len(rewards)] = discounted_returns(rewards, offsets, discount)
    return returns


def returns_of_episodes(columns: TrajectoryColumns) -> np.ndarray:
    """The undiscounted raw return of each episode of a data set, `(episodes,)`, `float64`."""
    return np.concatenate([episode_returns(rewards, offsets) for _, rewards, offsets in _blocks_of_episodes(columns)])


def return_statistics_of(columns: TrajectoryColumns, to_go: np.ndarray, discount: float = 1.0) -> ReturnStatistics:
    """The statistics of the returns of a data set; of a sample, those of the whole data set where they are known.

    Args:
        columns: The data set.
        to_go: Its returns-to-go `(steps,)`.
        discount: Of these; for another than 1 the statistics are always those of `columns`.
    """
    whole = columns.metadata.whole
    if whole is not None and discount == 1.0:
        return whole.returns
    return ReturnStatistics.of(to_go, columns.episode_offsets)


def column_statistics_of(columns: TrajectoryColumns, name: str) -> ColumnStatistics:
    """The statistics of `"observations"` or `"actions"`; of a sample, those of the whole data set where they are known."""
    whole = columns.metadata.whole
    if whole is not None and name in whole.columns:
        return whole.columns[name]
    return ColumnStatistics.of(getattr(columns, name).blocks())


def data_statistics_of(columns: TrajectoryColumns) -> DataStatistics:
    """What is stored with a data set for those who read a part of it; read in one pass, block by block.

    Raises:
        ValueError: values are infinite or NaN.
    """
    found = {
        name: ColumnStatistics.of(column.blocks())
        for name, column in (("observations", columns.observations), ("actions", columns.actions))
        if column.dtype.kind in "fiub" and not (column.dtype == np.uint8 and len(column.shape_per_step) == 3)
    }
    returns = ReturnStatistics.of(returns_to_go(columns), columns.episode_offsets)
    return DataStatistics(columns.num_episodes, columns.num_steps, returns, found)


def check_sample(whole: DataStatistics, sample: TrajectoryColumns) -> None:
    """Refuse statistics that are not of the data set that a sample comes from.

    Raises:
        ValueError: it has values beyond the extremes, other shapes, or more episodes or steps.
    """
    if sample.num_episodes > whole.num_episodes or sample.num_steps > whole.num_steps:
        raise ValueError(f"they are of {whole.num_steps} steps, and a part of the data has {sample.num_steps}")
    for name, known in whole.columns.items():
        found = ColumnStatistics.of(getattr(sample, name).blocks())
        if found.low.shape != known.low.shape:
            raise ValueError(f"they are of {len(known.low)} entries of {name}, and there are {len(found.low)}")
        if (found.low < known.low).any() or (found.high > known.high).any():
            entry = int(np.argmax((found.low < known.low) | (found.high > known.high)))
            raise ValueError(
                f"they say that entry {entry} of {name} lies between {known.low[entry]:g} and {known.high[entry]:g}, and "
                f"there are values from {found.low[entry]:g} to {found.high[entry]:g}"
            )
    returns = returns_to_go(sample)[sample.episode_offsets[:-1]]
    if returns.min() < whole.returns.low or returns.max() > whole.returns.high:
        raise ValueError(
            f"they say that returns lie between {whole.returns.low:g} and {whole.returns.high:g}, and there are returns from "
            f"{returns.min():g} to {returns.max():g}"
        )


def statistics_to_store(dataset: "Dataset") -> dict[str, Any] | None:
    """The statistics of a data set as values that JSON can hold; `None` where there are none (text, infinite values)."""
    try:
        with np.errstate(invalid="ignore", over="ignore"):
            return data_statistics_of(TrajectoryColumns.of(dataset)).to_dict()
    except (ValueError, TypeError, pa.ArrowException):
        return None


def lowest_return(dataset: "Dataset") -> float:
    """The lowest raw return of the episodes of a data set."""
    return float(returns_of_episodes(TrajectoryColumns.of(dataset)).min())


def returns_differ(dataset: "Dataset") -> bool:
    """Whether some episodes of a data set achieve more than others, so that returns tell good ones from bad ones."""
    return bool(np.ptp(returns_of_episodes(TrajectoryColumns.of(dataset))) > 0)


def _blocks_of_episodes(columns: TrajectoryColumns) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Whole episodes, about `_BLOCK_STEPS` steps at a time: first step, rewards, offsets of their episodes."""
    offsets = columns.episode_offsets
    for first, last in episode_blocks(offsets, _BLOCK_STEPS):
        rewards = columns.rewards.take(np.arange(offsets[first], offsets[last]))
        yield int(offsets[first]), rewards, offsets[first : last + 1] - offsets[first]


def _temporary_memmap(length: int) -> np.memmap:
    handle, path = tempfile.mkstemp(prefix="hf_seqrl_returns_", suffix=".float32")
    os.close(handle)
    array = np.memmap(path, np.float32, "w+", shape=(length,))
    weakref.finalize(array, _remove_if_owner, path, os.getpid())
    return array


def _remove_if_owner(path: str, owner: int) -> None:
    # a worker process that was forked inherits the array, but not the file
    if os.getpid() == owner:
        Path(path).unlink(missing_ok=True)


def best_episodes(
    dataset: "Dataset", best_fraction: float | None = None, min_return: float | None = None
) -> "Dataset":
    """The episodes with the highest returns, in the order of the data set; nothing is copied.

    Args:
        dataset (`datasets.Dataset`): Trajectories, one row an episode.
        best_fraction (`float`, *optional*): Keep the best episodes until they make up this share of all *steps*, as
            in percentile behavior cloning (Decision Transformer paper, section 5.1; its 10 % are `0.1`).
        min_return (`float`, *optional*): Keep episodes of at least this raw return.

    Raises:
        ValueError: the fraction is not in (0, 1], or no episode reaches `min_return`.
    """
    columns = TrajectoryColumns.of(dataset)
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
    return without_whole(dataset.select(np.flatnonzero(keep)))


def _in_best_fraction(returns: np.ndarray, lengths: np.ndarray, fraction: float) -> np.ndarray:
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"best_fraction is {fraction}: expected a share of the steps, above 0 and at most 1.")
    best_first = np.argsort(-returns, kind="stable")
    steps_before = np.cumsum(lengths[best_first]) - lengths[best_first]
    keep = np.zeros(len(returns), bool)
    keep[best_first[steps_before < fraction * lengths.sum()]] = True
    return keep


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
