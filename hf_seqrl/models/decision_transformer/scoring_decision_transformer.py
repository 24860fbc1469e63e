"""How far a Decision Transformer's actions are from recorded ones."""

from collections.abc import Mapping

import numpy as np
import torch

from hf_seqrl.models.decision_transformer.collator_decision_transformer import DecisionTransformerGymDataCollator
from hf_seqrl.models.decision_transformer.modeling_decision_transformer import TrainableDT, action_loss
from hf_seqrl.models.decision_transformer.processing_decision_transformer import DecisionTransformerProcessor


@torch.no_grad()
def action_losses(
    model: TrainableDT, processor: DecisionTransformerProcessor, histories: Mapping[str, np.ndarray]
) -> np.ndarray:
    """See `ModelFamily.action_losses`."""
    batch = DecisionTransformerGymDataCollator(None, processor)(histories)
    batch = {name: values.to(model.device) for name, values in batch.items()}
    predictions = model.eval()(**batch, return_loss=False).action_preds  # (B, T, act_dim)
    losses = action_loss(predictions, batch["actions"], model.config.action_groups).cpu().numpy()  # (B, T)
    padding = losses.shape[1] - histories["attention_mask"].sum(axis=1)  # on the left
    return losses[np.arange(len(losses)), padding + histories["history_lengths"] - 1]
