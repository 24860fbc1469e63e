"""The trajectory tokenizer: each entry of a transition becomes the number of the bin that it falls into.

Source: [Janner et al. 2021](https://arxiv.org/abs/2106.02039), section 3.1.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from .binning import discrete_bins, quantile_bins, sample_rows, uniform_bins

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


class TrajectoryDiscretizer(PreTrainedModel):
    """Bins for every entry of a transition: the observation, the action, the reward and the value-to-go.

    The bins are buffers: they are saved with the model, and encode and decode on the device that it is moved to.
    `dimensions` in the methods is a slice of a transition's entries, or one entry.

    Attributes:
        edges: `(transition_dim, num_bins + 1)`, ascending; bin `i` holds `edges[i] <= x < edges[i + 1]`.
        values: `(transition_dim, num_bins)`, what each token is decoded to.
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
            options: Arguments of [`TrajectoryTransformerProcessor`] that shape the transitions, such as `discount`.
        """
        # by name, because this file also travels to where hf_seqrl is not installed
        module = import_module("hf_seqrl.models.trajectory_transformer.processing_trajectory_transformer")
        processor = module.TrajectoryTransformerProcessor.from_dataset(dataset, num_bins, strategy, **options)
        return processor.discretizer

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
        columns = transitions.to(torch.float32).reshape(-1, self.config.transition_dim)
        return self._tokens(columns, self.edges, self.possible.sum(1)).reshape(transitions.shape)

    def encode(self, values: torch.Tensor | np.ndarray, dimensions: slice | int = slice(None)) -> torch.LongTensor:
        """Raw values `(..., dims)` (`(...)` for one dimension) to tokens of the same shape.

        What lies outside the bins goes into the nearest one and is counted in `clipped_counts`.

        Raises:
            ValueError: a value is NaN, or the last axis is not as long as `dimensions`.
        """
        edges, used = self._of(self.edges, dimensions), self._of(self.possible, dimensions).sum(1)
        values = torch.as_tensor(values, dtype=torch.float32, device=self.device)
        if not isinstance(dimensions, int) and values.shape[-1] != len(edges):
            raise ValueError(
                f"Got {values.shape[-1]} values to encode, expected {len(edges)}: one for each of {dimensions}."
            )
        columns = values.reshape(-1, len(edges))
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
        return decoded.reshape(tokens.shape)

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
        return (probabilities * self.values[dimensions]).sum(-1)

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
        return values.gather(-1, index)[..., 0]

    def _without_stop(self, probabilities: torch.Tensor, renormalize: bool) -> torch.Tensor:
        kept = probabilities[..., : self.config.num_bins].float()
        return kept / kept.sum(-1, keepdim=True) if renormalize else kept

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
