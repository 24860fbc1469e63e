"""From states, actions and symbols to vectors; every path from a float input is differentiable."""

import math

import torch
from torch import Tensor, nn

from .configuration_trajectory_seq2seq import TrajectorySeq2SeqConfig


class InputEmbedding(nn.Module):
    """A linear embedding of indices, of one-hot or soft vectors (the same table), or of continuous vectors (affine).

    Args:
        size: Number of indices, or dimension of the vectors.
        width: Size of the embedding.
        is_continuous: Whether the inputs are continuous vectors.
        scale: Factor on the embedding.
    """

    def __init__(self, size: int, width: int, is_continuous: bool, scale: float) -> None:
        super().__init__()
        self.size = size
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(size, width))
        self.bias = nn.Parameter(torch.empty(width)) if is_continuous else None

    def forward(self, inputs: Tensor, valid: Tensor) -> Tensor:
        """Indices `(batch, n)` or vectors `(batch, n, size)` to `(batch, n, width)`; where `valid` `(batch, n)` is
        false the input is never looked at, so that anything may stand there, NaN included."""
        if not inputs.is_floating_point():
            self.check_indices(inputs)
            return nn.functional.embedding(inputs.masked_fill(~valid, 0), self.weight) * self.scale
        if inputs.ndim != 3 or inputs.shape[-1] != self.size:
            raise ValueError(
                f"float inputs of shape {tuple(inputs.shape)}: expected (batch, length, {self.size}), a vector a token."
            )
        inputs = inputs.to(self.weight.dtype).masked_fill(~valid.unsqueeze(-1), 0)
        embedded = inputs @ self.weight  # (B, n, size) -> (B, n, width)
        return (embedded if self.bias is None else embedded + self.bias) * self.scale

    def check_indices(self, indices: Tensor) -> None:
        """Refuse indices where vectors are expected."""
        if self.bias is not None:
            raise ValueError(
                f"indices of shape {tuple(indices.shape)} were passed where the config says continuous: pass float "
                f"vectors (batch, length, {self.size}), or set continuous_states / continuous_actions to False."
            )


class SourceEmbedding(nn.Module):
    """Embeds a history: `[return] s_0 a_0 s_1 a_1 ... EOS`."""

    def __init__(self, config: TrajectorySeq2SeqConfig) -> None:
        super().__init__()
        width = config.embedding_size
        scale = math.sqrt(width) if config.scale_embedding else 1.0
        self.states = InputEmbedding(config.state_size, width, config.continuous_states, scale)
        self.actions = InputEmbedding(config.action_size, width, config.continuous_actions, scale)
        self.eos = nn.Parameter(torch.empty(width))
        self.returns = InputEmbedding(1, width, True, scale) if config.return_conditioning else None

    def source_length(self, states: Tensor, actions: Tensor | None) -> int:
        """Number of source tokens, the EOS included."""
        num_actions = 0 if actions is None else actions.shape[1]
        if actions is not None and num_actions not in (states.shape[1], states.shape[1] - 1):
            raise ValueError(
                f"{states.shape[1]} states with {num_actions} actions: expected as many actions as states (a history "
                "that ends with an action) or one fewer (one that ends with a state)."
            )
        return states.shape[1] + num_actions + 1 + (self.returns is not None)

    def forward(
        self, states: Tensor, actions: Tensor | None, returns_to_go: Tensor | None, attention_mask: Tensor
    ) -> Tensor:
        """See `TrajectorySeq2SeqModel.encode`; gives `(batch, source_length, width)`, EOS on PAD, which nothing reads."""
        is_token = attention_mask[:, 1:]  # a token has a valid one behind it; the last valid place is that of the EOS
        tokens = self._tokens(states, actions, is_token[:, int(self.returns is not None) :])
        if self.returns is not None:
            tokens = torch.cat([self._returns(returns_to_go, tokens), tokens], dim=1)
        eos = (self.eos * self.states.scale).expand(len(tokens), 1, -1)
        return torch.cat([torch.where(is_token.unsqueeze(-1), tokens, eos), eos], dim=1)

    def _returns(self, returns_to_go: Tensor | None, tokens: Tensor) -> Tensor:
        if returns_to_go is None:
            raise ValueError("this model has return_conditioning=True: pass returns_to_go (batch,), scaled.")
        returns_to_go = returns_to_go[:, None, None].to(tokens.dtype)  # (B,) -> (B, 1, 1)
        return self.returns(returns_to_go, torch.ones_like(returns_to_go[..., 0], dtype=torch.bool))

    def _tokens(self, states: Tensor, actions: Tensor | None, is_token: Tensor) -> Tensor:
        if actions is None:
            return self.states(states, is_token)
        return _interleaved(self.states(states, is_token[:, ::2]), self.actions(actions, is_token[:, 1::2]))


def _interleaved(states: Tensor, actions: Tensor) -> Tensor:
    """`s_0 a_0 s_1 ...` `(batch, T + T', ...)` of states `(batch, T, ...)` and actions `(batch, T', ...)`."""
    num_pairs = actions.shape[1]
    pairs = torch.stack([states[:, :num_pairs], actions], dim=2).flatten(1, 2)
    return pairs if num_pairs == states.shape[1] else torch.cat([pairs, states[:, num_pairs:]], dim=1)


class TargetEmbedding(nn.Module):
    """Embeds what the decoder is fed with: a symbol and, at VALUE symbols, the vector that stands there."""

    def __init__(self, config: TrajectorySeq2SeqConfig) -> None:
        super().__init__()
        width = config.decoder_embedding_size
        self.scale = math.sqrt(width) if config.scale_embedding else 1.0
        self.value_token_id = config.value_token_id
        self.symbols = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.values = nn.Linear(config.value_size, width, bias=False) if config.value_size else None

    def forward(self, symbols: Tensor, values: Tensor | None = None) -> Tensor:
        """Symbols `(batch, n)` and vectors `(batch, n, value_size)` to `(batch, n, width)`."""
        embedded = self.symbols(symbols) * self.scale
        if self.values is None or values is None:
            return embedded
        is_value = (symbols == self.value_token_id).unsqueeze(-1)
        return embedded + self.values(values.nan_to_num().masked_fill(~is_value, 0))
