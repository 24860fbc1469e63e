"""Who may attend to whom, the attention functions of the Trajectory Transformer, and its dropout.

On a CPU most of the time of a training step goes into drawing one Bernoulli number for each attention probability and
into probabilities that the causal mask throws away. The functions here draw 16 random bits instead, and compute the
attention of a block of queries only as far as the block's last key.
"""

import torch
from torch import nn

_QUERY_BLOCK = 64  # 32 to 84 are equally fast at 249 tokens


def trajectory_mask(start: int, length: int, transition_dim: int, like: torch.Tensor) -> torch.Tensor:
    """What tokens `start..start + length - 1` may attend to: no later token, and no value token, not even their own.

    A value is the return that followed, which is unknown when acting; hiding it from attention in training makes
    the model independent of it. Returns `(1, 1, length, start + length)`, to be added to the scores.
    """
    keys = torch.arange(start + length, device=like.device)
    is_value = keys % transition_dim == transition_dim - 1
    hidden = (keys > keys[start:, None]) | is_value  # (length, start + length)
    return torch.zeros_like(hidden, dtype=like.dtype).masked_fill(hidden, torch.finfo(like.dtype).min)[None, None]


def dropout(values: torch.Tensor, probability: float, training: bool = True) -> torch.Tensor:
    """Zeroes entries with `probability` (to 1 / 65536) and scales up the rest; four times as fast on a CPU."""
    if not training or probability == 0:
        return values
    threshold = round(probability * 2**16) - 2**15
    if values.device.type != "cpu" or threshold >= 2**15:
        return nn.functional.dropout(values, probability)
    bits = torch.empty((values.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    noise = bits.view(torch.int16)[: values.numel()].view(values.shape)  # uniform in -2**15 .. 2**15 - 1
    return values * (noise >= threshold).to(values.dtype).div_(1 - probability)


class Dropout(nn.Dropout):
    """`nn.Dropout` by [`dropout`]."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return dropout(values, self.p, self.training)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain attention, `(batch, heads, time, head_dim)` to `(batch, time, heads, head_dim)` and its probabilities."""
    scores = query @ key.transpose(-2, -1) * scaling + attention_mask  # (batch, heads, time, past + time)
    probabilities = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    output = nn.functional.dropout(probabilities, dropout, training=module.training) @ value
    return output.transpose(1, 2), probabilities


def blockwise_causal_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    dropout_probability: float,
) -> torch.Tensor:
    """The same with dropout, a block of queries at a time, each without the keys behind the block's end.

    For training on a CPU: the fused kernel knows no dropout there, and would compute the masked half as well.
    """
    batch, heads, time, head_dim = query.shape
    past = key.shape[2] - time
    query, key, value = (states.reshape(batch * heads, -1, head_dim) for states in (query, key, value))
    outputs = []
    for start in range(0, time, _QUERY_BLOCK):
        queries = slice(start, min(start + _QUERY_BLOCK, time))
        seen = slice(0, past + queries.stop)
        mask = attention_mask[0, 0, queries, seen]
        scores = torch.baddbmm(mask, query[:, queries], key[:, seen].transpose(1, 2), alpha=scaling)
        outputs.append(dropout(scores.softmax(dim=-1), dropout_probability) @ value[:, seen])
    return torch.cat(outputs, dim=1).view(batch, heads, time, head_dim).transpose(1, 2)
