r"""Attention as a weighted lookup, with four functions for the similarity of key and query.

Attention reads from pairs of keys and values, `sum_i w(q, k_i) v_i`, where each row of weights is a convex combination
(Nadaraya 1964, Watson 1964 as kernel regression; Vaswani et al. 2017, equation 1 as dot product). With head size `d_k`
and the scaled distance `d_i = |q - k_i| / d_k^(1/4)`:

| scoring        | unnormalized weight        | normalized by |
|----------------|----------------------------|---------------|
| `dot_product`  | exp(q . k_i / sqrt(d_k))   | softmax       |
| `gaussian`     | exp(-d_i^2 / 2)            | softmax       |
| `boxcar`       | 1 if d_i <= 1 else 0       | row sum       |
| `epanechnikov` | max(0, 1 - d_i)            | row sum       |

Since `-d_i^2 / 2 = q . k_i / sqrt(d_k) - (|q|^2 + |k_i|^2) / (2 sqrt(d_k))`, the Gaussian kernel equals the dot product
wherever all keys have the same norm. The last two have compact support: a query may have no neighbor. Such a row falls
back to its Gaussian weights, which are positive everywhere, so that it sums to one and has a gradient. (The boxcar
kernel is constant: only its fallback rows have a gradient for queries and keys. The triangle `max(0, 1 - d)` has the name
that tutorials use.) A row in which all keys are masked is zero.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_seqrl.private_api import attention_implementation

from .configuration_trajectory_seq2seq import TrajectorySeq2SeqConfig


def squared_distances(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """`scaling * |q_i - k_j|^2` for query `(..., n, d)` and key `(..., m, d)`, as `(..., n, m)`."""
    products = query @ key.transpose(-1, -2)  # (..., n, m)
    norms = query.square().sum(-1).unsqueeze(-1) + key.square().sum(-1).unsqueeze(-2)
    return (scaling * (norms - 2 * products)).clamp(min=0)


def _softmax(scores: Tensor, visible: Tensor | None) -> Tensor:
    """Softmax over the visible keys; zero where no key is visible."""
    if visible is None:
        return scores.softmax(-1)
    weights = scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.masked_fill(~visible, 0)


def _normalized(kernel: Tensor, fallback: Tensor, visible: Tensor | None) -> Tensor:
    """Kernel values divided by their row sum; rows without a neighbor take the fallback."""
    if visible is not None:
        kernel = kernel.masked_fill(~visible, 0)
    total = kernel.sum(-1, keepdim=True)
    has_neighbor = total > 0
    # where() on the divisor as well: a zero there would send NaN gradients through the branch that is not taken
    return torch.where(has_neighbor, kernel / torch.where(has_neighbor, total, 1), fallback)


def attention_weights(
    query: Tensor, key: Tensor, scoring: str, scaling: float, visible: Tensor | None = None
) -> Tensor:
    """The attention weights of each query for each key.

    Args:
        query: `(..., n, d_k)`.
        key: `(..., m, d_k)`.
        scoring: `"dot_product"`, `"gaussian"`, `"boxcar"` or `"epanechnikov"`.
        scaling: `1 / sqrt(d_k)` for heads of size `d_k`.
        visible: boolean, broadcastable to `(..., n, m)`; `None`: every query attends to every key.

    Returns:
        `(..., n, m)`; each row sums to one, or to zero if all keys are masked.
    """
    if scoring == "dot_product":
        return _softmax(query @ key.transpose(-1, -2) * scaling, visible)
    squared = squared_distances(query, key, scaling)
    gaussian = _softmax(-squared / 2, visible)
    if scoring == "gaussian":
        return gaussian
    if scoring == "boxcar":
        return _normalized((squared <= 1).to(query.dtype), gaussian, visible)
    if scoring == "epanechnikov":
        # the square root has no derivative at 0, hence the smallest positive number there
        distance = squared.clamp(min=torch.finfo(query.dtype).tiny).sqrt()
        return _normalized((1 - distance).clamp(min=0), gaussian, visible)
    raise ValueError(f"attention_scoring={scoring!r}: expected 'dot_product', 'gaussian', 'boxcar' or 'epanechnikov'.")


def weighted_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    is_causal: bool = False,
    **kwargs: object,
) -> tuple[Tensor, Tensor]:
    """Attention with explicit weights, in the form of transformers' attention interface.

    Args:
        query, key, value: `(batch, heads, length, head_size)`.
        attention_mask: boolean, broadcastable to `(batch, heads, n, m)`, true where a key is visible.
        is_causal: whether query `i` attends to the keys `0 ... i` only.

    Returns:
        The output `(batch, n, heads, head_size)` and the weights `(batch, heads, n, m)`.
    """
    visible = attention_mask
    if is_causal:
        causal = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        visible = causal if visible is None else visible & causal
    weights = attention_weights(query, key, module.config.attention_scoring, scaling, visible)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2), weights


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2) over the layer's own input or the encoder's output.

    Args:
        config: The model's configuration.
        layer_idx: Index of the layer in its stack, the key of its entry in the cache.
        is_cross_attention: Whether keys and values come from the encoder.
    """

    def __init__(self, config: TrajectorySeq2SeqConfig, layer_idx: int, is_cross_attention: bool = False) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_cross_attention = is_cross_attention
        self.head_size = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_size**-0.5
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        source: Tensor | None = None,
        attention_mask: Tensor | None = None,
        is_causal: bool = False,
        cache: EncoderDecoderCache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """`hidden_states` `(batch, n, hidden)` attend to themselves or to `source` `(batch, m, hidden)`."""
        query = self._split_heads(self.query(hidden_states))
        key, value = self._keys_and_values(hidden_states if source is None else source, cache)
        output, weights = self._attention_function()(
            self,
            query,
            key,
            value,
            attention_mask,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
            is_causal=is_causal,
        )
        return self.output(output.flatten(2)), weights  # (B, n, heads, head_size) -> (B, n, hidden)

    def _attention_function(self) -> Callable:
        if self.config.attention_scoring != "dot_product":
            return weighted_attention_forward  # no fused kernel knows these
        implementation = attention_implementation(self.config)
        return ALL_ATTENTION_FUNCTIONS.get_interface(implementation, weighted_attention_forward)

    def _split_heads(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (-1, self.head_size)).transpose(
            1, 2
        )  # (B, n, hidden) -> (B, heads, n, head_size)

    def _keys_and_values(self, source: Tensor, cache: EncoderDecoderCache | None) -> tuple[Tensor, Tensor]:
        if cache is not None and self.is_cross_attention and cache.is_updated.get(self.layer_idx):
            layer = cache.cross_attention_cache.layers[self.layer_idx]  # the encoder's output does not change
            return layer.keys, layer.values
        key, value = self._split_heads(self.key(source)), self._split_heads(self.value(source))
        if cache is None:
            return key, value
        cache.is_updated[self.layer_idx] = cache.is_updated.get(self.layer_idx) or self.is_cross_attention
        part = cache.cross_attention_cache if self.is_cross_attention else cache.self_attention_cache
        return part.update(key, value, self.layer_idx)
