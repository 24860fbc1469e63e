"""The weights of a Decision Transformer arranged for acting, without gradients, and the precision of their products.

Two identities of linear algebra save work without changing the result (other than its rounding):
with q = x Wq + bq and k = n Wk + bk, q . k = (x Wq Wk' + bq Wk') . n plus a term that is the same for all keys, which
the softmax ignores; and sum_j a_j (n_j Wv + bv) Wo = (sum_j a_j n_j) Wv Wo + bv Wo, since the weights a_j sum to 1.
So the tokens n themselves can serve as keys and as values.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

# A row of a matrix product is rounded in the same way whatever the number of rows, from this number on; fewer rows are
# padded, so that an episode does not depend on the number of parallel ones.
_FEWEST_ROWS = 16
PRECISIONS = ("highest", "high", "medium")
_TOLERATED = (
    4.0  # times the rounding error of "highest": other orders of summation differ by so much, bfloat16 by 1000
)
_MOST_FOLDED_HEADS = 2  # with more heads, keys and values as long as all heads together cost more than they save


@dataclass(frozen=True)
class Affine:
    """`rows @ weight + bias`, with `weight` `(in_features, out_features)`."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """`(..., in_features)` to `(..., out_features)`."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        count = rows.shape[0]
        if count < _FEWEST_ROWS:
            rows = F.pad(rows, (0, 0, 0, _FEWEST_ROWS - count))
        outputs = torch.addmm(self.bias, rows, self.weight)[:count]
        return outputs.view(*inputs.shape[:-1], -1)

    def to(self, dtype: torch.dtype) -> "Affine":
        return Affine(self.weight.to(dtype).contiguous(), self.bias.to(dtype).contiguous())


def affine_of(module: nn.Module, in_features: int) -> Affine:
    """The map that a `Linear`, a `Conv1D`, or any wrapper of one (an adapter in eval mode) computes."""
    if type(module) is nn.Linear:
        return Affine(module.weight.T, module.bias)
    if type(module) is Conv1D:
        return Affine(module.weight, module.bias)
    parameter = next(module.parameters())
    probe = torch.eye(in_features + 1, in_features, dtype=parameter.dtype, device=parameter.device)
    rows = module(probe)  # of the unit vectors, and of zero
    return Affine(rows[:-1] - rows[-1], rows[-1])


class FoldedAttention:
    """Attention whose keys and values are the normed tokens themselves; one vector a token to remember."""

    def __init__(self, attention: nn.Module, dtype: torch.dtype) -> None:
        size, self._heads = attention.embed_dim, attention.num_heads
        projection, output = _double(affine_of(attention.c_attn, size)), _double(affine_of(attention.c_proj, size))
        query, key, value = (w.unflatten(1, (self._heads, -1)) for w in projection.weight.split(size, dim=1))
        query_bias, _, value_bias = projection.bias.split(size)
        query = torch.cat([query, query_bias.view(1, self._heads, -1)]) * attention.scaling  # (D + 1, nh, hd)
        folded = torch.einsum("ihk,jhk->ihj", query, key).flatten(1)  # (D + 1, nh * D)
        self._query = Affine(folded[:-1], folded[-1]).to(dtype)
        out = output.weight.unflatten(0, (self._heads, -1))  # (nh, hd, D)
        folded_out = torch.einsum("ihk,hkj->hij", value, out).flatten(0, 1)  # (nh * D, D)
        self._output = Affine(folded_out, output.bias + value_bias @ output.weight).to(dtype)

    def queries(self, normed: torch.Tensor) -> torch.Tensor:
        """`(batch, queries, hidden_size)` to `(batch, queries, heads * hidden_size)`."""
        return self._query(normed)

    def memory(self, normed: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What is kept of tokens: `(batch, tokens, hidden_size)` each."""
        return (normed,)

    def __call__(self, query: torch.Tensor, memory: tuple[torch.Tensor, ...], mask: torch.Tensor) -> torch.Tensor:
        """Projected attention output `(batch, queries, hidden_size)`; `mask` is added to the scores,
        `(batch or 1, queries, tokens)`."""
        (tokens,) = memory
        batch, queries = query.shape[:2]
        # heads are further queries here: they all look at the same tokens
        scores = query.view(batch, queries * self._heads, -1) @ tokens.transpose(1, 2)  # (B, Q * nh, S)
        mask = mask.repeat_interleave(self._heads, dim=1) if self._heads > 1 else mask
        context = scores.add_(mask).softmax(dim=-1) @ tokens  # (B, Q * nh, D)
        return self._output(context.view(batch, queries, -1))


class SplitAttention:
    """Attention as the stock model computes it, with keys and values to remember. Same calls as `FoldedAttention`."""

    def __init__(self, attention: nn.Module, dtype: torch.dtype) -> None:
        size, self._heads = attention.embed_dim, attention.num_heads
        projection = affine_of(attention.c_attn, size)
        weight, bias = projection.weight, projection.bias
        self._query = Affine(weight[:, :size] * attention.scaling, bias[:size] * attention.scaling).to(dtype)
        self._key_value = Affine(weight[:, size:], bias[size:]).to(dtype)
        self._output = affine_of(attention.c_proj, size).to(dtype)

    def queries(self, normed: torch.Tensor) -> torch.Tensor:
        """`(batch, queries, hidden_size)` of the same shape."""
        return self._query(normed)

    def memory(self, normed: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Keys and values `(batch, tokens, hidden_size)`."""
        return self._key_value(normed).chunk(2, dim=-1)

    def __call__(self, query: torch.Tensor, memory: tuple[torch.Tensor, ...], mask: torch.Tensor) -> torch.Tensor:
        """Projected attention output `(batch, queries, hidden_size)`; `mask` is added to the scores,
        `(batch or 1, queries, tokens)`."""
        # contiguous, since the product of one episode would otherwise be rounded unlike that of several
        query, key, value = (
            x.unflatten(-1, (self._heads, -1)).transpose(1, 2).contiguous() for x in (query, *memory)
        )  # (B, nh, Q or S, hd)
        scores = query @ key.transpose(-1, -2)  # (B, nh, Q, S)
        context = scores.add_(mask.unsqueeze(1)).softmax(dim=-1) @ value  # (B, nh, Q, hd)
        return self._output(context.transpose(1, 2).flatten(2))


Attention = FoldedAttention | SplitAttention


def cheapest_attention(attention: nn.Module, dtype: torch.dtype) -> Attention:
    """The form that costs less where every token asks."""
    form = FoldedAttention if attention.num_heads <= _MOST_FOLDED_HEADS else SplitAttention
    return form(attention, dtype)


class ActingBlock:
    """One block of the encoder around an attention of either form."""

    def __init__(
        self, block: nn.Module, dtype: torch.dtype, attention_form: Callable[[nn.Module, torch.dtype], Attention]
    ) -> None:
        size = block.attn.embed_dim
        self.attention = attention_form(block.attn, dtype)
        self.norm = _layer_norm(block.ln_1, dtype)
        self._second_norm = _layer_norm(block.ln_2, dtype)
        self._widen = affine_of(block.mlp.c_fc, size).to(dtype)
        self._narrow = affine_of(block.mlp.c_proj, self._widen.bias.shape[0]).to(dtype)
        self._activation = F.relu_ if isinstance(block.mlp.act, nn.ReLU) else block.mlp.act

    def __call__(
        self, hidden: torch.Tensor, query: torch.Tensor, memory: tuple[torch.Tensor, ...], mask: torch.Tensor
    ) -> torch.Tensor:
        """The tokens `(batch, queries, hidden_size)` that ask, after this block."""
        hidden = hidden + self.attention(query, memory, mask)
        return self._narrow(self._activation(self._widen(self._second_norm(hidden)))).add_(hidden)


class TokenEmbedding:
    """Embeds what is new at a step: the previous action, the return-to-go and the state."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        config = model.config
        self._action = affine_of(model.embed_action, config.act_dim).to(dtype)
        self._return = affine_of(model.embed_return, 1).to(dtype)
        self._state = affine_of(model.embed_state, config.state_dim).to(dtype)
        self._time = model.embed_timestep.weight.to(dtype)
        self._norm = _layer_norm(model.embed_ln, dtype)
        self._dtype = dtype
        # of every token; other backbones add their own
        self._position = model.encoder.wpe.weight[0].to(dtype) if config.backbone_config is None else 0
        self._images = model.image_encoder

    def __call__(
        self, actions: torch.Tensor, returns_to_go: torch.Tensor, states: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """The tokens (a_{t-1}, R_t, s_t) `(batch, 3, hidden_size)`, in the order in which they came about.

        Args:
            actions: Encoded previous actions `(batch, act_dim)`; of no consequence at timestep 0.
            returns_to_go: Scaled `(batch, 1)`.
            states: Normalized `(batch, state_dim)` or images.
            timesteps: Of the three tokens `(batch, 3)`, as the model's table has them.
        """
        dtype = self._dtype
        if self._images is not None:
            states = self._images(states.unsqueeze(1)).squeeze(1)
        embedded = [
            self._action(actions.to(dtype)),
            self._return(returns_to_go.to(dtype)),
            self._state(states.to(dtype)),
        ]
        return self._norm(torch.stack(embedded, dim=1) + self._time[timesteps]) + self._position


class ActionHead:
    """From the last block's output at the state token to the action."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self._norm = _layer_norm(model.encoder.ln_f, dtype)
        self._linear = affine_of(model.predict_action[0], model.config.hidden_size).to(dtype)
        self._tanh = len(model.predict_action) > 1

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """`(batch, hidden_size)` to `(batch, act_dim)`, `float32`."""
        predictions = self._linear(self._norm(hidden)).float()
        return predictions.tanh_() if self._tanh else predictions


class BackboneHead:
    """From a backbone's output at the state token, which is normed already, to the action."""

    def __init__(self, model: nn.Module) -> None:
        self._predict = model.predict_action

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """`(batch, hidden_size)` to `(batch, act_dim)`, `float32`."""
        return self._predict(hidden).float()


def _layer_norm(norm: nn.LayerNorm, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    weight, bias = norm.weight.to(dtype), norm.bias.to(dtype)
    return lambda hidden: F.layer_norm(hidden, norm.normalized_shape, weight, bias, norm.eps)


def _double(affine: Affine) -> Affine:
    return Affine(affine.weight.double(), affine.bias.double())


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """`torch.set_float32_matmul_precision`, which holds for the whole process, for the duration of a block."""
    before = torch.get_float32_matmul_precision()
    if before == precision:
        yield
        return
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def require_exact(precision: str, device: torch.device) -> None:
    """Measure whether products under `precision` are as exact on this machine as under "highest".

    Raises:
        ValueError: they are not (they are rounded to a shorter format), or there is no such precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"matmul_precision is {precision!r}: expected one of {', '.join(PRECISIONS)}.")
    error, reference = _rounding_error(precision, device), _rounding_error("highest", device)
    if error > _TOLERATED * reference:
        raise ValueError(
            f'matmul_precision="{precision}" rounds to {error:.1e} on this machine, "highest" to {reference:.1e}: '
            'the actions would change; use "highest".'
        )


@cache
def _rounding_error(precision: str, device: torch.device) -> float:
    """The greatest error of a product of the size of a model's, relative to the greatest entry."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(shape, generator=generator).to(device) for shape in ((256, 512), (512, 512)))
    exact = left.double() @ right.double()
    with matmul_precision(precision):
        return float((left @ right - exact).abs().max() / exact.abs().max())
