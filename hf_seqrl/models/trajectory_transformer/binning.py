"""Fits the bins of one dimension, and draws the sample of a large data set that they are fitted to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Bins:
    """The bins of one dimension.

    Attributes:
        edges: Ascending, `(num_bins + 1,)`. Bin `i` holds `edges[i] <= x < edges[i + 1]`; the last one its upper edge too.
        values: What a token of the bin is decoded to, `(num_bins,)`.
        possible: Whether a value can fall into the bin, `(num_bins,)`; a discrete dimension may need fewer bins.
    """

    edges: np.ndarray
    values: np.ndarray
    possible: np.ndarray


def uniform_bins(column: np.ndarray, num_bins: int) -> Bins:
    """Bins of equal width from the smallest to the largest value; decoded to their midpoints."""
    low, high = _range(column, num_bins)
    edges = np.linspace(low, high, num_bins + 1)
    return Bins(edges, (edges[1:] + edges[:-1]) / 2, np.ones(num_bins, bool))


def quantile_bins(column: np.ndarray, num_bins: int) -> Bins:
    """Bins that hold equally many values; each is decoded to its midpoint, or to the one value that it holds.

    The lower edges are every `ceil(n / num_bins)`-th sorted value, as in the original implementation. Where those
    are too few (small data) or repeat (ties), which leaves bins that no value can enter, the bins divide the
    *distinct* values instead, and the widest ones are halved until there are `num_bins`.
    """
    ordered = np.sort(column)
    edges = np.append(ordered[:: -(-len(ordered) // num_bins)], ordered[-1])
    if len(edges) != num_bins + 1 or np.any(np.diff(edges[:-1]) <= 0):
        edges = _edges_between_distinct_values(ordered, num_bins)
    first = np.searchsorted(ordered, edges[:-1])  # the smallest and the largest value in each bin
    last = np.append(first[1:], len(ordered)) - 1
    single = (first <= last) & (ordered[np.minimum(first, len(ordered) - 1)] == ordered[last])
    midpoints = (edges[1:] + edges[:-1]) / 2
    return Bins(edges, np.where(single, ordered[last], midpoints), np.ones(num_bins, bool))


def discrete_bins(choices: Sequence[float], num_bins: int) -> Bins:
    """One bin for each of the ascending `choices`: a value is its bin, exactly. The other bins are impossible.

    Raises:
        ValueError: there are more choices than bins, or they do not ascend.
    """
    values = np.asarray(choices, np.float64)
    if not 0 < len(values) <= num_bins:
        raise ValueError(f"A discrete dimension has {len(values)} values for {num_bins} bins: raise num_bins.")
    if np.any(np.diff(values) <= 0):
        raise ValueError(f"The values of a discrete dimension must ascend, got {list(choices)}.")
    values = np.append(values, values[-1] + np.arange(1, num_bins - len(values) + 1))
    middle = (values[1:] + values[:-1]) / 2
    edges = np.concatenate([[values[0] - 0.5], middle, [values[-1] + 0.5]])
    return Bins(edges, values, np.arange(num_bins) < len(choices))


def sample_rows(blocks: Iterable[np.ndarray], max_rows: int, seed: int) -> np.ndarray:
    """At most `max_rows` rows of all blocks `(n, dims)`, drawn uniformly, with each column's extremes among them.

    Memory does not grow with the data. Up to `max_rows` rows, all are kept and in order.
    """
    generator = np.random.default_rng(seed)
    kept, keys, seen, extremes = None, np.empty(0), 0, None
    for block in blocks:
        block = np.asarray(block, np.float32)
        kept = block if kept is None else np.concatenate([kept, block])
        keys = np.append(keys, generator.random(len(block)))
        seen += len(block)
        bounds = block if extremes is None else np.concatenate([extremes, block])
        extremes = np.stack([bounds.min(0), bounds.max(0)]) if len(bounds) else None
        if len(kept) > max_rows:  # the rows with the smallest keys are a uniform sample without replacement
            chosen = np.sort(np.argpartition(keys, max_rows)[:max_rows])
            kept, keys = kept[chosen], keys[chosen]
    if kept is None or not len(kept):
        raise ValueError("There are no transitions to fit bins to: expected at least one.")
    return np.concatenate([extremes, kept]) if seen > max_rows else kept


def _range(column: np.ndarray, num_bins: int) -> tuple[float, float]:
    """The smallest and the largest value, moved apart where single precision could not hold the bins between them."""
    low, high = float(column.min()), float(column.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    margin = 4 * num_bins * float(np.finfo(np.float32).eps) * max(abs(low), abs(high))
    return (low, high) if high - low > margin else (low - margin, high + margin)


def _edges_between_distinct_values(ordered: np.ndarray, num_bins: int) -> np.ndarray:
    """Lower edges at distinct values, and the range's upper end.

    A value with more than a bin's share has a bin to itself; the others share the rest equally.
    """
    distinct, counts = np.unique(ordered, return_counts=True)
    low, high = _range(ordered, num_bins)
    starts = np.arange(len(distinct))
    if len(distinct) > num_bins:
        starts = _equal_starts(counts, num_bins)
    edges = np.append(distinct[starts], high)
    edges[0] = low
    return _halve_widest(edges, num_bins)


def _equal_starts(counts: np.ndarray, num_bins: int) -> np.ndarray:
    heavy = np.zeros(len(counts), bool)
    while True:
        share = counts[~heavy].sum() / (num_bins - heavy.sum())
        if not np.any(counts[~heavy] > share):
            break
        heavy |= counts > share
    below = np.append(0, np.cumsum(np.where(heavy, share, counts)))  # weight of the values before each distinct one
    heavy_at = np.append(np.flatnonzero(heavy), len(counts))
    starts = [0]
    for remaining in range(num_bins - 1, 0, -1):
        now = starts[-1]
        goal = below[now] + (below[-1] - below[now]) / (remaining + 1)
        start = np.searchsorted(below, goal * (1 - 1e-12))
        start = min(start, heavy_at[np.searchsorted(heavy_at, now, side="right")])
        starts.append(int(np.clip(start, now + 1, len(counts) - remaining)))
    return np.asarray(starts)


def _halve_widest(edges: np.ndarray, num_bins: int) -> np.ndarray:
    while len(edges) <= num_bins:
        widest = int(np.argmax(np.diff(edges)))
        edges = np.insert(edges, widest + 1, (edges[widest] + edges[widest + 1]) / 2)
    return edges
