"""The trajectory tokenizer: each entry of a transition becomes the number of the bin that it falls into.

Source: [Janner et al. 2021](https://arxiv.org/abs/2106.02039), section 3.1.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

STRATEGIES = ("quantile", "uniform")


@strict
class TrajectoryDiscretizerConfig(PreTrainedConfig):
    r"""
    The sizes of a [`TrajectoryDiscretizer`].

    Args:
        num_bins (`int`, *optional*, defaults to 100):
            Bins of every dimension; the `vocab_size` of the model that reads the tokens.
        observation_dim (`int`, *optional*, defaults to 17):
            Entries of an observation, one token each.
        action_dim (`int`, *optional*, defaults to 6):
            Entries of an action, one token each.
        strategy (`str`, *optional*, defaults to `"quantile"`):
            How the bins were fitted: `"quantile"` (each bin holds as many values of the data as the next) or
            `"uniform"` (each bin is as wide as the next).
        shift (`list[float]`, *optional*):
            Subtracted from the entries of a transition, in double precision, before they are compared with the bins: for
            entries whose values are large beside their differences, such as times in seconds since 1970.

    Example:

    ```python
    >>> from hf_seqrl import TrajectoryDiscretizerConfig

    >>> TrajectoryDiscretizerConfig(observation_dim=11, action_dim=3).transition_dim
    16

    ```
    """

    model_type = "trajectory_discretizer"

    num_bins: int = 100
    observation_dim: int = 17
    action_dim: int = 6
    strategy: str = "quantile"
    shift: list | None = None

    @property
    def transition_dim(self) -> int:
        """Entries of a transition: the observation, the action, the reward and the value-to-go."""
        return self.observation_dim + self.action_dim + 2

    def validate_bins(self) -> None:
        """Raises `ValueError` where there could be no bins."""
        if self.num_bins < 2:
            raise ValueError(f"num_bins is {self.num_bins}: at least 2 are needed (the original has 100).")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy is {self.strategy!r}, expected one of {', '.join(STRATEGIES)}.")
        if self.shift is not None and len(self.shift) != self.transition_dim:
            raise ValueError(f"shift has {len(self.shift)} entries, expected {self.transition_dim}, or None.")


class TrajectoryDiscretizer(PreTrainedModel):
    """Bins for every entry of a transition: the observation, the action, the reward and the value-to-go.

    The bins are buffers: they are saved with the model, and encode and decode on the device that it is moved to.
    `dimensions` in the methods is a slice of a transition's entries, or one entry.

    Attributes:
        edges: `(transition_dim, num_bins + 1)`, ascending; bin `i` holds `edges[i] <= x < edges[i + 1]`, where `x` is the value
            less `config.shift`.
        values: `(transition_dim, num_bins)`, what each token is decoded to, less `config.shift`.
        possible: `(transition_dim, num_bins)`, whether any value falls into the bin.
        clipped_counts: `(transition_dim,)`, how many encoded values lay outside the bins so far; not saved.
    """

    config: TrajectoryDiscretizerConfig
    base_model_prefix = "trajectory_discretizer"
    main_input_name = "transitions"
    _keep_in_fp32_modules_strict = ["edges", "values"]  # noqa: RUF012

    def __init__(self, config: TrajectoryDiscretizerConfig):
        super().__init__(config)
        shape, dtype = (config.transition_dim, config.num_bins), torch.float32
        self.register_buffer("edges", torch.empty(config.transition_dim, config.num_bins + 1, dtype=dtype))
        self.register_buffer("values", torch.empty(shape, dtype=dtype))
        self.register_buffer("possible", torch.empty(shape, dtype=torch.bool))
        self.clipped_counts = np.zeros(config.transition_dim, np.int64)
        self._fill_buffers()
        self.post_init()

    def _fill_buffers(self) -> None:
        """Equally wide bins from -1 to 1, until there are others from data or from a checkpoint."""
        edges = torch.linspace(-1, 1, self.config.num_bins + 1, dtype=torch.float32, device=self.edges.device)
        init.copy_(self.edges, edges.expand_as(self.edges))
        init.copy_(self.values, ((edges[1:] + edges[:-1]) / 2).expand_as(self.values))
        init.copy_(self.possible, torch.ones_like(self.possible))

    def _init_weights(self, module: torch.nn.Module) -> None:
        self._fill_buffers()

    @classmethod
    def fit(
        cls,
        transitions: np.ndarray | Iterable[np.ndarray],
        *,
        observation_dim: int,
        action_dim: int,
        num_bins: int = 100,
        strategy: str = "quantile",
        discrete: Mapping[int, Sequence[float]] | None = None,
        max_rows: int = 1_000_000,
        seed: int = 0,
    ) -> "TrajectoryDiscretizer":
        """Fit bins to transitions.

        Args:
            transitions: `(n, transition_dim)` in raw units, or blocks of such rows for data beyond memory.
            observation_dim: Entries of an observation.
            action_dim: Entries of an action.
            num_bins: Bins of each entry.
            strategy: `"quantile"` or `"uniform"`.
            discrete: For each entry that is discrete, all its values in ascending order: they become tokens as they
                are, whatever the data holds.
            max_rows: Quantiles come from at most so many rows, drawn uniformly, and the extremes of all rows:
                memory stays constant, and with the default a bin's share of the data is off by about 0.1 % of it.
            seed: Of that draw.

        Raises:
            ValueError: the rows have another width, hold NaN or infinity, or are none.
        """
        config = TrajectoryDiscretizerConfig(
            num_bins=num_bins, observation_dim=observation_dim, action_dim=action_dim, strategy=strategy
        )
        blocks = [transitions] if isinstance(transitions, np.ndarray) else transitions
        rows = sample_rows((_checked(block, config.transition_dim) for block in blocks), max_rows, seed)
        fit_column = quantile_bins if strategy == "quantile" else uniform_bins
        discrete = discrete or {}
        shift = common_part(rows, num_bins)
        shift[list(discrete)] = 0
        if shift.any():
            config.shift, rows = shift.tolist(), rows - shift
        columns = [
            discrete_bins(discrete[i], num_bins) if i in discrete else fit_column(rows[:, i].astype(float), num_bins)
            for i in range(config.transition_dim)
        ]
        discretizer = cls(config)
        for name in ("edges", "values", "possible"):
            buffer = getattr(discretizer, name)
            buffer.copy_(torch.as_tensor(np.stack([getattr(column, name) for column in columns])))
        return discretizer

    @classmethod
    def from_dataset(
        cls, dataset: Any, num_bins: int = 100, strategy: str = "quantile", **options: Any
    ) -> "TrajectoryDiscretizer":
        """Fit bins to the transitions of trajectories.

        Args:
            dataset (`datasets.Dataset`): The trajectories, one row per episode.
            num_bins: Bins of each entry.
            strategy: `"quantile"` or `"uniform"`.
            options: `discount` and `termination_penalty` of [`TrajectoryTransformerProcessor`], which shape the transitions.
        """
        # by name, because this file also travels to where hf_seqrl is not installed
        module = import_module("hf_seqrl.models.trajectory_transformer.transitions")
        transitions = module.Transitions(dataset, **options)
        entries = module.entries_of(module.planned_task(module.Task(), transitions))
        return cls.fit(transitions.blocks(), num_bins=num_bins, strategy=strategy, **entries)

    @property
    def device(self) -> torch.device:
        return self.edges.device

    @property
    def dtype(self) -> torch.dtype:
        return self.edges.dtype

    def forward(self, transitions: torch.Tensor) -> torch.LongTensor:
        """Whole transitions `(..., transition_dim)` to tokens of the same shape.

        As [`~TrajectoryDiscretizer.encode`], but without a look at the values, so that it can be exported, compiled, mapped
        over and traced on the meta device: NaN becomes the stop token, and nothing is counted.
        """
        columns = self._shifted(transitions, slice(None)).reshape(-1, self.config.transition_dim)
        return self._tokens(columns, self.edges, self.possible.sum(1)).reshape(transitions.shape)

    def encode(self, values: torch.Tensor | np.ndarray, dimensions: slice | int = slice(None)) -> torch.LongTensor:
        """Raw values `(..., dims)` (`(...)` for one dimension) to tokens of the same shape.

        What lies outside the bins goes into the nearest one and is counted in `clipped_counts`.

        Raises:
            ValueError: a value is NaN, or the last axis is not as long as `dimensions`.
        """
        edges, used = self._of(self.edges, dimensions), self._of(self.possible, dimensions).sum(1)
        values = torch.as_tensor(values, device=self.device)
        if not isinstance(dimensions, int) and values.shape[-1] != len(edges):
            raise ValueError(
                f"Got {values.shape[-1]} values to encode, expected {len(edges)}: one for each of {dimensions}."
            )
        columns = self._shifted(values, dimensions).reshape(-1, len(edges))
        if torch.isnan(columns).any():
            raise ValueError(f"Values to encode hold NaN in entries {torch.isnan(columns).any(0).nonzero().tolist()}.")
        outside = (columns < edges[:, 0]) | (columns > edges.gather(1, used[:, None])[:, 0])
        self.clipped_counts[dimensions] += outside.sum(0).cpu().numpy().reshape(self.clipped_counts[dimensions].shape)
        return self._tokens(columns, edges, used).reshape(values.shape)

    def _tokens(self, columns: torch.Tensor, edges: torch.Tensor, used: torch.Tensor) -> torch.LongTensor:
        """Values `(n, dims)` to tokens `(n, dims)`: the last bin whose lower edge is not greater.

        Args:
            columns: The values.
            edges: `(dims, num_bins + 1)`.
            used: `(dims,)`, how many bins are possible; these come first.
        """
        tokens = torch.searchsorted(edges[:, 1:-1].contiguous(), columns.t().contiguous(), right=True)
        tokens = torch.minimum(tokens, used[:, None] - 1).t()
        return tokens.masked_fill(columns.isnan(), self.config.num_bins)

    def decode(self, tokens: torch.Tensor | np.ndarray, dimensions: slice | int = slice(None)) -> torch.FloatTensor:
        """Tokens `(..., dims)` (`(...)` for one dimension) to raw values of the same shape; the stop token to NaN."""
        values = self._of(self.values, dimensions)
        tokens = torch.as_tensor(tokens, device=self.device)
        columns = tokens.reshape(-1, len(values))
        stop = columns == self.config.num_bins
        decoded = values.t().gather(0, columns.masked_fill(stop, 0)).masked_fill(stop, torch.nan)
        return self._unshifted(decoded.reshape(tokens.shape), dimensions)

    def expectation(
        self, probabilities: torch.Tensor, dimensions: slice | int = slice(None), *, renormalize: bool = True
    ) -> torch.FloatTensor:
        """The mean of the raw value under the model's probabilities.

        Args:
            probabilities: `(..., dims, num_bins)` or, with the stop token's last, `(..., dims, num_bins + 1)`;
                without the axis of dimensions for one dimension.
            dimensions: The entries of a transition that they belong to.
            renormalize: Whether to condition on the episode not having stopped. The original leaves the stop
                token's share out instead (`False`), which draws the mean towards zero.

        Returns:
            `(..., dims)` in raw units.
        """
        probabilities = self._without_stop(probabilities, renormalize)
        return self._unshifted((probabilities * self.values[dimensions]).sum(-1), dimensions)

    def percentile(
        self, probabilities: torch.Tensor, fraction: float, dimensions: slice | int = slice(None)
    ) -> torch.FloatTensor:
        """The smallest bin's value below or in which at least `fraction` (0 to 1) of the probability lies.

        Shapes are as in [`~TrajectoryDiscretizer.expectation`]; probabilities are conditioned on not stopping. (The
        original returns the bin before.)
        """
        cumulative = self._without_stop(probabilities, True).cumsum(-1)
        index = (cumulative < fraction).sum(-1, keepdim=True).clamp_max(self.config.num_bins - 1)
        values = self.values[dimensions].expand(cumulative.shape)
        return self._unshifted(values.gather(-1, index)[..., 0], dimensions)

    def _without_stop(self, probabilities: torch.Tensor, renormalize: bool) -> torch.Tensor:
        kept = probabilities[..., : self.config.num_bins].float()
        return kept / kept.sum(-1, keepdim=True) if renormalize else kept

    def _shifted(self, values: torch.Tensor, dimensions: slice | int) -> torch.Tensor:
        """Raw values `(..., dims)` as they are compared with the bins, float32."""
        if self.config.shift is None:
            return values.to(torch.float32)
        shift = torch.tensor(self.config.shift, dtype=torch.float64, device=values.device)[dimensions]
        return (values.to(torch.float64) - shift).to(torch.float32)

    def _unshifted(self, values: torch.Tensor, dimensions: slice | int) -> torch.Tensor:
        """The reverse: raw values, float64 where they would lose by float32."""
        if self.config.shift is None:
            return values
        return (
            values.to(torch.float64)
            + torch.tensor(self.config.shift, dtype=torch.float64, device=values.device)[dimensions]
        )

    def _of(self, buffer: torch.Tensor, dimensions: slice | int) -> torch.Tensor:
        """The rows of a buffer `(transition_dim, n)` that belong to these entries, `(dims, n)`."""
        return buffer[dimensions].reshape(-1, buffer.shape[-1])


def _checked(block: np.ndarray, transition_dim: int) -> np.ndarray:
    if block.ndim != 2 or block.shape[1] != transition_dim:
        raise ValueError(f"Transitions have shape {block.shape}, expected (n, {transition_dim}).")
    if not np.isfinite(block).all():
        row, column = np.argwhere(~np.isfinite(block))[0]
        raise ValueError(f"Transition {row} holds {block[row, column]} in entry {column}: expected finite values.")
    return block


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
        block = block if block.dtype == np.float64 else np.asarray(block, np.float32)
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


def common_part(rows: np.ndarray, num_bins: int) -> np.ndarray:
    """What to subtract from each column so that single precision can tell its bins apart, `(dims,)`: zero where it can."""
    low, high = rows.min(0).astype(np.float64), rows.max(0).astype(np.float64)
    is_close = high - low <= 4 * num_bins * float(np.finfo(np.float32).eps) * np.maximum(abs(low), abs(high))
    return np.where(is_close & (high > low), (low + high) / 2, 0.0)


def _range(column: np.ndarray, num_bins: int) -> tuple[float, float]:
    """The smallest and the largest value, moved apart where single precision could not hold the bins between them."""
    low, high = float(column.min()), float(column.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    margin = 4 * num_bins * float(np.finfo(np.float32).eps) * max(abs(low), abs(high))
    return (low, high) if high - low > margin else (low - margin, high + margin)


def _edges_between_distinct_values(ordered: np.ndarray, num_bins: int) -> np.ndarray:
    """Lower edges at distinct values, and the range's upper end: a value with more than a bin's share has a bin to itself, the
    others share the rest equally."""
    distinct, counts = np.unique(ordered, return_counts=True)
    low, high = _range(ordered, num_bins)
    starts = _equal_starts(counts, num_bins) if len(distinct) > num_bins else np.arange(len(distinct))
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
