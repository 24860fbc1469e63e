"""The Transformer backbone: encoder and decoder stacks after Vaswani et al. (2017)."""

import math

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import MultiHeadAttention
from .configuration_trajectory_seq2seq import TrajectorySeq2SeqConfig
from .decoder_cache import DecoderCache
from .outputs import EncodedHistory, last_valid


def sinusoidal_positions(positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Sines and cosines of geometrically growing wavelengths (Vaswani et al. 2017, section 3.5).

    Args:
        positions: `(n,)`, absolute positions.
        width: Size of the encoding, even.

    Returns:
        `(n, width)`: entry `2 i` is `sin(pos / 10000^(2 i / width))`, entry `2 i + 1` the cosine.
    """
    steps = torch.arange(0, width, 2, device=positions.device, dtype=torch.float64)
    angles = positions.to(torch.float64)[:, None] * torch.exp(steps * (-math.log(10000.0) / width))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(dtype)


class PositionEmbedding(nn.Module):
    """Adds to each token where it stands."""

    def __init__(self, config: TrajectorySeq2SeqConfig) -> None:
        super().__init__()
        self.width = config.hidden_size
        self.learned = (
            nn.Embedding(config.max_positions, config.hidden_size) if config.position_embedding == "learned" else None
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, embeddings: Tensor, offset: int = 0) -> Tensor:
        """Embeddings `(batch, n, hidden)` of the tokens `offset ... offset + n - 1`."""
        end = offset + embeddings.shape[1]
        positions = torch.arange(offset, end, device=embeddings.device)
        if self.learned is None:
            return self.dropout(embeddings + sinusoidal_positions(positions, self.width, embeddings.dtype))
        if end > self.learned.num_embeddings:
            raise ValueError(
                f"a sequence of {end} tokens is longer than max_positions={self.learned.num_embeddings}: raise "
                "max_positions, or use position_embedding='sinusoidal'."
            )
        return self.dropout(embeddings + self.learned(positions))


class FeedForward(nn.Sequential):
    """The position-wise feed-forward sublayer (Vaswani et al. 2017, equation 2)."""

    def __init__(self, config: TrajectorySeq2SeqConfig) -> None:
        super().__init__(
            nn.Linear(config.hidden_size, config.intermediate_size),
            nn.ReLU(),
            nn.Linear(config.intermediate_size, config.hidden_size),
        )


class Residual(nn.Module):
    """A residual connection around a sublayer, normalized before the sublayer or after the sum."""

    def __init__(self, config: TrajectorySeq2SeqConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.is_pre_norm = config.norm_position == "pre"

    def before(self, hidden_states: Tensor) -> Tensor:
        """What the sublayer reads."""
        return self.norm(hidden_states) if self.is_pre_norm else hidden_states

    def after(self, hidden_states: Tensor, update: Tensor) -> Tensor:
        """The stream after the sublayer has written `update` to it."""
        total = hidden_states + self.dropout(update)
        return total if self.is_pre_norm else self.norm(total)


class EncoderLayer(GradientCheckpointingLayer):
    """Self-attention and feed-forward."""

    def __init__(self, config: TrajectorySeq2SeqConfig, layer_idx: int) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config, layer_idx)
        self.attention_residual = Residual(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_residual = Residual(config)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        update, _ = self.attention(self.attention_residual.before(hidden_states), attention_mask=attention_mask)
        hidden_states = self.attention_residual.after(hidden_states, update)
        update = self.feed_forward(self.feed_forward_residual.before(hidden_states))
        return self.feed_forward_residual.after(hidden_states, update)


class DecoderLayer(GradientCheckpointingLayer):
    """Causal self-attention, attention over the encoder's output, and feed-forward."""

    def __init__(self, config: TrajectorySeq2SeqConfig, layer_idx: int) -> None:
        super().__init__()
        self.causal_attention = MultiHeadAttention(config, layer_idx)
        self.causal_attention_residual = Residual(config)
        self.cross_attention = MultiHeadAttention(config, layer_idx, is_cross_attention=True)
        self.cross_attention_residual = Residual(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_residual = Residual(config)

    def forward(
        self,
        hidden_states: Tensor,
        source: Tensor,
        source_mask: Tensor,
        self_mask: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        update, _ = self.causal_attention(
            self.causal_attention_residual.before(hidden_states),
            attention_mask=self_mask,
            is_causal=self_mask is None and hidden_states.shape[1] > 1,
            cache=cache,
        )
        hidden_states = self.causal_attention_residual.after(hidden_states, update)
        update, _ = self.cross_attention(
            self.cross_attention_residual.before(hidden_states),
            source=source,
            attention_mask=source_mask,
            cache=cache,
        )
        hidden_states = self.cross_attention_residual.after(hidden_states, update)
        update = self.feed_forward(self.feed_forward_residual.before(hidden_states))
        return self.feed_forward_residual.after(hidden_states, update)


class TransformerEncoder(nn.Module):
    """Reads the embedded history; the context is the state at the closing EOS, which attends to all of it."""

    def __init__(self, config: TrajectorySeq2SeqConfig) -> None:
        super().__init__()
        self.positions = PositionEmbedding(config)
        self.layers = nn.ModuleList(EncoderLayer(config, layer) for layer in range(config.num_encoder_layers))
        self.norm = nn.LayerNorm(config.hidden_size) if config.norm_position == "pre" else nn.Identity()

    def forward(self, embeddings: Tensor, attention_mask: Tensor) -> EncodedHistory:
        """Embeddings `(batch, n, hidden)`, attention_mask `(batch, n)` boolean, right-padded."""
        hidden_states = self.positions(embeddings)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask[:, None, None, :])
        hidden_states = self.norm(hidden_states)
        context = last_valid(hidden_states, attention_mask)
        return EncodedHistory(
            last_hidden_state=hidden_states,
            context=context,
            final_states=context.unsqueeze(1),
            attention_mask=attention_mask,
        )


class TransformerDecoder(nn.Module):
    """Writes token by token, or all tokens in one call where they are given; needs no padding mask, because targets are
    padded on the right and no token sees a later one."""

    def __init__(self, config: TrajectorySeq2SeqConfig) -> None:
        super().__init__()
        self.positions = PositionEmbedding(config)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in range(config.num_decoder_layers))
        self.norm = nn.LayerNorm(config.hidden_size) if config.norm_position == "pre" else nn.Identity()

    @property
    def runs_layers_twice(self) -> bool:
        """Whether gradient checkpointing is on."""
        return any(layer.gradient_checkpointing for layer in self.layers)

    def new_cache(self) -> DecoderCache:
        """An empty cache."""
        return DecoderCache()

    def forward(self, embeddings: Tensor, encoded: EncodedHistory, cache: DecoderCache | None = None) -> Tensor:
        """Embedded target tokens `(batch, n, hidden)` to hidden states `(batch, n, hidden)`; moves `cache` on."""
        num_new, num_seen = embeddings.shape[1], 0 if cache is None else cache.get_seq_length()
        self_mask = None
        if num_new > 1 and num_seen:  # several tokens after a cached prefix: the causal pattern is shifted
            self_mask = torch.ones(num_new, num_seen + num_new, dtype=torch.bool, device=embeddings.device)
            self_mask = self_mask.tril(diagonal=num_seen)
        hidden_states = self.positions(embeddings, offset=num_seen)
        source_mask = encoded.attention_mask[:, None, None, :]
        for layer in self.layers:  # tensors, not their container: checkpointing follows the gradients of arguments
            hidden_states = layer(hidden_states, encoded.last_hidden_state, source_mask, self_mask, cache)
        return self.norm(hidden_states)
