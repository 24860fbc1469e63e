"""How far an encoder-decoder's actions are from recorded ones."""

from collections.abc import Mapping

import numpy as np
import torch

from hf_seqrl.models.trajectory_seq2seq.collator_trajectory_seq2seq import TrajectorySeq2SeqDataCollator
from hf_seqrl.models.trajectory_seq2seq.losses_trajectory_seq2seq import value_losses
from hf_seqrl.models.trajectory_seq2seq.modeling_trajectory_seq2seq import TrajectorySeq2SeqModel
from hf_seqrl.models.trajectory_seq2seq.processing_trajectory_seq2seq import TrajectorySeq2SeqProcessor


@torch.no_grad()
def action_losses(
    model: TrajectorySeq2SeqModel, processor: TrajectorySeq2SeqProcessor, histories: Mapping[str, np.ndarray]
) -> np.ndarray:
    """See `ModelFamily.action_losses`. The symbols of an action are written with its earlier ones given.

    Raises:
        ValueError: the model was trained to write something else than the next action.
    """
    if processor.task != "next_action":
        raise ValueError(f"task is {processor.task!r}: only a model that writes the 'next_action' acts.")
    batch = TrajectorySeq2SeqDataCollator(processor=processor)(histories)
    batch = {name: values.to(model.device) for name, values in batch.items()}
    output = model.eval()(**batch, teacher_forcing_ratio=1.0)
    if processor.value_size:  # the vector at the first symbol
        losses = value_losses(output.values, batch["target_values"], batch["labels"])[:, :1]
    else:
        is_action = batch["labels"] != processor.eos_token_id
        losses = output.teacher_forced_losses * is_action
    return losses.sum(dim=1).float().cpu().numpy()
