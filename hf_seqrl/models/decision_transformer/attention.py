"""The blocks of the stock model, run with a mask over steps and, in the last layer, with queries for states only."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

TOKENS_PER_STEP = 3  # return-to-go, state, action
STATE_TOKEN = 1  # the place of the state within its step: its output predicts the action


def visible_tokens(attention_mask: torch.Tensor, sliding_attention: int | None) -> torch.Tensor:
    """Which tokens each token attends to.

    Causal in the order (return, state, action) of every step; padded steps are seen by nobody but themselves (a row
    must see something, or its softmax is undefined). With `sliding_attention` = K a token sees the tokens of its own
    step and of the K - 1 steps before it.

    Args:
        attention_mask: `(batch, time)`, nonzero for real steps, padding on the left.
        sliding_attention: The number of steps, or `None` for all.

    Returns:
        Booleans `(batch, 1, 3 * time, 3 * time)`, query by key.
    """
    time = attention_mask.shape[1]
    place = torch.arange(TOKENS_PER_STEP * time, device=attention_mask.device)
    visible = place[:, None] >= place[None, :]  # (3T, 3T)
    if sliding_attention is not None:
        step = place // TOKENS_PER_STEP
        visible = visible & (step[:, None] - step[None, :] < sliding_attention)
    real = attention_mask.to(torch.bool).repeat_interleave(TOKENS_PER_STEP, dim=1)  # (B, 3T)
    itself = place[:, None] == place[None, :]
    return ((visible & real[:, None, :]) | itself)[:, None]


def additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The boolean mask as the number that is added to the scores: 0 where visible, the lowest number elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)


def mask_for(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The form of the mask that `attend` takes on this device."""
    return additive(visible, dtype) if visible.device.type == "cpu" else visible


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
    dropout: nn.Dropout,
) -> torch.Tensor:
    """Softmax attention; all of `(batch, heads, tokens, head_dim)`."""
    if query.device.type != "cpu":
        probability = dropout.p if dropout.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=probability, scale=scaling)
    # on CPU two matrix products beat the fused kernel for the short sequences here
    weights = torch.add(mask, query @ key.transpose(-1, -2), alpha=scaling).softmax(dim=-1)
    return drop(dropout, weights).to(value.dtype) @ value


def drop(dropout: nn.Dropout, values: torch.Tensor) -> torch.Tensor:
    """What `dropout` does, by the same generator, from a quarter of its random numbers on CPU.

    PyTorch draws a number for each value there, which takes a tenth of the time of an update; 16 bits of one are
    enough to tell probabilities apart.
    """
    dropped = round(dropout.p * 2**16)  # of all 65,536 numbers
    plain = not dropout.training or not 0 < dropped < 2**16
    if plain or values.device.type != "cpu" or torch.compiler.is_compiling():  # a compiler has its own cheap numbers
        return dropout(values)
    numbers = torch.empty((values.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = numbers[: values.numel()].view(values.shape) >= dropped - 2**15
    return values * kept.to(values.dtype).mul_(2**16 / (2**16 - dropped))


def run_block(block: nn.Module, hidden: torch.Tensor, mask: torch.Tensor, states_only: bool) -> torch.Tensor:
    """One pre-norm block of the stock encoder.

    Args:
        block: A `DecisionTransformerGPT2Block`, whose weights and submodules are used as they are.
        hidden: `(batch, 3 * time, hidden_size)`.
        mask: As `mask_for` gives it.
        states_only: The block is the last one and only actions are wanted: queries, projection and MLP are computed
            for the state tokens alone. Every number that is computed is the same.

    Returns:
        `(batch, 3 * time, hidden_size)`, or `(batch, time, hidden_size)` if `states_only`.
    """
    attention = block.attn
    normed = block.ln_1(hidden)
    if states_only:
        hidden, mask = hidden[:, STATE_TOKEN::TOKENS_PER_STEP], mask[:, :, STATE_TOKEN::TOKENS_PER_STEP]
    query, key, value = _project(attention.c_attn, normed, states_only)
    query, key, value = (x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    context = attend(query, key, value, mask, attention.scaling, attention.attn_dropout)  # (B, nh, Tq, hd)
    context = context.transpose(1, 2).flatten(2)  # (B, Tq, D)
    hidden = hidden + drop(attention.resid_dropout, attention.c_proj(context))
    widened = block.mlp.act(block.mlp.c_fc(block.ln_2(hidden)))
    return hidden + drop(block.mlp.dropout, block.mlp.c_proj(widened))


def _project(c_attn: nn.Module, normed: torch.Tensor, states_only: bool) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values `(batch, tokens, hidden_size)`; queries of the state tokens alone if `states_only`."""
    size = normed.shape[-1]
    if not states_only or type(c_attn) is not Conv1D:  # an adapter (LoRA) sees its whole layer
        query, key, value = c_attn(normed).split(size, dim=-1)
        return (query[:, STATE_TOKEN::TOKENS_PER_STEP] if states_only else query), key, value
    states = normed[:, STATE_TOKEN::TOKENS_PER_STEP]
    weight, bias = c_attn.weight, c_attn.bias  # (D, 3D), (3D,)
    query = torch.addmm(bias[:size], states.flatten(0, 1), weight[:, :size]).view_as(states)
    key_value = torch.addmm(bias[size:], normed.flatten(0, 1), weight[:, size:]).view(*normed.shape[:2], 2 * size)
    return query, *key_value.split(size, dim=-1)
