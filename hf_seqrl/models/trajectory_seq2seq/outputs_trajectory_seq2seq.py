"""What the encoder and the model return."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from hf_seqrl.models.caching import CachedOutput

from .decoding_state_trajectory_seq2seq import DecoderState


@dataclass
class EncodedHistory:
    """A history as the decoder reads it; the fields are those of `TrajectorySeq2SeqEncoderOutput`."""

    last_hidden_state: Tensor
    context: Tensor
    final_states: Tensor
    attention_mask: Tensor


@dataclass
class TrajectorySeq2SeqEncoderOutput(ModelOutput):
    """A history as the encoder sees it.

    Attributes:
        last_hidden_state: `(batch, n, hidden)`, the encoder's states, one a source token.
        context: `(batch, hidden)`, the history as one vector: the top layer's state at the closing EOS.
        final_states: `(batch, layers, hidden)`, that state of every layer (GRU), or the context alone (Transformer).
        attention_mask: `(batch, n)` boolean, false on PAD.
    """

    last_hidden_state: Tensor | None = None
    context: Tensor | None = None
    final_states: Tensor | None = None
    attention_mask: Tensor | None = None


@dataclass
class TrajectorySeq2SeqOutput(CachedOutput):
    """What the model returns.

    Attributes:
        loss: The mean over the target tokens: cross entropy, plus the squared error where vectors are written. In
            training under teacher forcing as configured; in evaluation of the free-running decoder.
        predictions: `(batch, n)`, the symbols that the free-running decoder wrote (evaluation with labels only).
        free_running_losses: `(batch, n)`, the loss at each token, fed with its own predictions; 0 on PAD (evaluation).
        teacher_forced_losses: `(batch, n)`, the same, fed with the true tokens (evaluation).
        logits: `(batch, n, vocab_size)`, scores of the next symbol.
        values: `(batch, n, value_size)`, the vectors written; `None` where all targets are discrete.
        cache: The decoder's memory, where `use_cache` asks for it.
        context: `(batch, hidden)`, see `TrajectorySeq2SeqEncoderOutput`.
        encoder_last_hidden_state: `(batch, source_length, hidden)`.
        encoder_attentions, decoder_attentions, cross_attentions: one `(batch, heads, n, m)` a layer, where asked for
            by `output_encoder_attentions`, `output_decoder_attentions`, `output_attentions` (eager attention only).
    """

    loss: Tensor | None = None
    predictions: Tensor | None = None
    free_running_losses: Tensor | None = None
    teacher_forced_losses: Tensor | None = None
    logits: Tensor | None = None
    values: Tensor | None = None
    cache: DecoderState | None = None
    context: Tensor | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


def last_valid(states: Tensor, attention_mask: Tensor) -> Tensor:
    """The state `(batch, hidden)` at the last valid token of each right-padded row of `(batch, n, hidden)`."""
    last = attention_mask.sum(-1) - 1
    return states[torch.arange(len(states), device=states.device), last]
