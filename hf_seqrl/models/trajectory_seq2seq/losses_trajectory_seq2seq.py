"""The loss at each target token: cross entropy of its symbol, plus the squared error of its vector."""

import torch
from torch import Tensor, nn

IGNORED_LABEL = -100  # what transformers writes where a token does not count


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
