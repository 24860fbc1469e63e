"""How transformers 4.30 computed its Trajectory Transformer, written anew from the description of its computation.

Separate projections, a masked softmax over whole matrices, `nn.Dropout`, one einsum for all heads: what
`trajectory_transformer_training.py` compares with where transformers 4.30 itself is not installed.
"""

import math

import torch
from torch import nn


class PlainBlock(nn.Module):
    def __init__(self, width: int, heads: int, block_size: int, transition_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.key, self.query, self.value, self.project = (nn.Linear(width, width) for _ in range(4))
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.attention_dropout, self.residual_dropout = nn.Dropout(dropout), nn.Dropout(dropout)
        mask = torch.tril(torch.ones(block_size, block_size))
        mask[:, transition_dim - 1 :: transition_dim] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, time, width = x.shape
        normed = self.norms[0](x)
        query, key, value = (
            layer(normed).view(batch, time, self.heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-2, -1) / math.sqrt(width // self.heads)
        scores = scores.masked_fill(self.mask[:time, :time] == 0, torch.finfo(scores.dtype).min)
        attended = self.attention_dropout(scores.softmax(-1)) @ value
        attended = attended.transpose(1, 2).contiguous().view(batch, time, width)
        x = x + self.residual_dropout(self.project(attended))
        hidden = nn.functional.gelu(self.expand(self.norms[1](x)))
        return x + self.residual_dropout(self.contract(hidden))


class PlainTrajectoryTransformer(nn.Module):
    """`config` is a `TrajectoryTransformerConfig`."""

    def __init__(self, config) -> None:
        super().__init__()
        self.config, width, dims = config, config.n_embd, config.transition_dim
        self.tokens = nn.Embedding(config.vocab_size * dims + 1, width)
        self.positions = nn.Parameter(torch.zeros(1, config.block_size, width))
        self.dropout = nn.Dropout(config.embd_pdrop)
        self.blocks = nn.ModuleList(
            PlainBlock(width, config.n_head, config.block_size, dims, config.attn_pdrop) for _ in range(config.n_layer)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Parameter(torch.randn(dims, config.vocab_size + 1, width) / math.sqrt(width))

    def forward(self, trajectories: torch.Tensor, targets: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        config, dims = self.config, self.config.transition_dim
        batch, time = trajectories.shape
        rows = trajectories + (torch.arange(dims) * config.vocab_size).repeat(math.ceil(time / dims))[:time]
        rows[trajectories == config.vocab_size] = config.vocab_size * dims
        x = self.dropout(self.tokens(rows) + self.positions[:, :time])
        for block in self.blocks:
            x = block(x)
        padded = torch.cat([self.norm(x), torch.zeros(batch, -time % dims, config.n_embd)], dim=1)
        logits = torch.einsum("eoi,bei->beo", self.head, padded.view(-1, dims, config.n_embd))
        logits = logits.reshape(batch, -1, config.vocab_size + 1)[:, :time]
        entropy = nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.view(-1), reduction="none")
        weights = torch.ones(dims)
        weights[config.observation_dim : -2] = config.action_weight
        weights = weights.repeat(math.ceil(time / dims))[1:].repeat(batch, 1)
        return (entropy * weights.view(-1) * attention_mask.view(-1)).mean()
