"""What the encoder and the model return, and the loss at each target token."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from hf_seqrl.models.caching import CachedOutput
from hf_seqrl.models.renamed_values import OutputWithRenamedValues

from .decoder_cache import DecoderCache

IGNORED_LABEL = -100  # what transformers writes where a token does not count


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
        attentions, hidden_states: Of each layer, if requested in `generate`.
    """

    last_hidden_state: Tensor | None = None
    context: Tensor | None = None
    final_states: Tensor | None = None
    attention_mask: Tensor | None = None
    attentions: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class TrajectorySeq2SeqOutput(CachedOutput, OutputWithRenamedValues):
    """What the model returns.

    Attributes:
        loss: The mean over the target tokens: cross entropy, plus the squared error where vectors are written. In
            training under teacher forcing as configured; in evaluation of the free-running decoder.
        predictions: `(batch, n)`, the symbols that the free-running decoder wrote (evaluation with labels only).
        free_running_losses: `(batch, n)`, the loss at each token, fed with its own predictions; 0 on PAD (evaluation).
        teacher_forced_losses: `(batch, n)`, the same, fed with the true tokens (evaluation).
        logits: `(batch, n, vocab_size)`, scores of the next symbol.
        value_preds: `(batch, n, value_size)`, the vectors written; `None` where all targets are discrete.
        cache: The decoder's memory, where `use_cache` asks for it.
        context: `(batch, hidden)`, see `TrajectorySeq2SeqEncoderOutput`.
        encoder_last_hidden_state: `(batch, source_length, hidden)`.
        encoder_attentions, decoder_attentions, cross_attentions: One `(batch, heads, n, m)` a layer, with
            `output_attentions` (eager attention only).
        encoder_hidden_states, decoder_hidden_states: One `(batch, n, hidden)` a layer, with `output_hidden_states`.
    """

    _values_name: ClassVar[str] = "value_preds"

    loss: Tensor | None = None
    predictions: Tensor | None = None
    free_running_losses: Tensor | None = None
    teacher_forced_losses: Tensor | None = None
    logits: Tensor | None = None
    value_preds: Tensor | None = None
    cache: DecoderCache | None = None
    context: Tensor | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None


def last_valid(states: Tensor, attention_mask: Tensor) -> Tensor:
    """The state `(batch, hidden)` at the last valid token of each right-padded row of `(batch, n, hidden)`."""
    last = attention_mask.sum(-1) - 1
    return states[torch.arange(len(states), device=states.device), last]


@dataclass
class GeneratedTrajectories(OutputWithRenamedValues):
    """What `generate` returns where vectors are written.

    Attributes:
        sequences: `(batch, length)`, the symbols; the first is BOS.
        value_preds: `(batch, length - 1, value_size)`, the vector written with each symbol after BOS.
    """

    _values_name: ClassVar[str] = "value_preds"

    sequences: Tensor | None = None
    value_preds: Tensor | None = None


def token_losses(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross entropy `(batch, n)` of logits `(batch, n, vocab_size)`; 0 where the label is ignored."""
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1),
        labels.flatten(),
        ignore_index=IGNORED_LABEL,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return losses.unflatten(0, labels.shape)


def value_losses(values: Tensor, target_values: Tensor, labels: Tensor) -> Tensor:
    """Squared error `(batch, n)`, the mean over the entries that the target has.

    Args:
        values: `(batch, n, value_size)`, written by the decoder.
        target_values: The same shape; NaN where a token has no vector, or a shorter one.
        labels: `(batch, n)`; tokens that it ignores cost nothing.
    """
    present = ~target_values.isnan() & (labels != IGNORED_LABEL).unsqueeze(-1)
    errors = torch.where(present, values - target_values.nan_to_num(), 0).square()
    return errors.sum(-1) / present.sum(-1).clamp(min=1)


def mean_loss(losses: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """The mean of losses `(batch, n)` over the tokens that count.

    Args:
        num_items_in_batch: Tokens that count in the whole optimizer step, where gradients are accumulated over several
            batches or processes (`Trainer` knows it); `None`: those of this batch.
    """
    if num_items_in_batch is None:
        num_items_in_batch = (labels != IGNORED_LABEL).sum().clamp(min=1)
    return losses.sum() / num_items_in_batch
