"""How far a policy network's actions are from recorded ones."""

from collections.abc import Mapping

import numpy as np
import torch
from gymnasium.spaces import Box

from hf_seqrl.data.spaces import encode_actions, space_from_dict
from hf_seqrl.models.policy.modeling_policy import PolicyGradientModel
from hf_seqrl.models.policy.processing_policy import PolicyGradientProcessor


@torch.no_grad()
def action_losses(
    model: PolicyGradientModel, processor: PolicyGradientProcessor, histories: Mapping[str, np.ndarray]
) -> np.ndarray:
    """See `ModelFamily.action_losses`. Of a history, the network sees the last observation."""
    padding = histories["attention_mask"].shape[1] - histories["attention_mask"].sum(axis=1)  # on the left
    last = np.arange(len(padding)), padding + histories["history_lengths"] - 1
    observations, actions = histories["observations"][last], histories["actions"][last]
    logits = model.eval().policy(processor(observations)["observations"].to(model.device))
    space = space_from_dict(processor.action_space)
    if isinstance(space, Box):
        taken = processor.decode_actions(model.mode(logits))
        return np.square(encode_actions(space, taken) - encode_actions(space, actions)).mean(axis=1)
    return -model.log_probs(logits, processor.encode_actions(actions).to(model.device)).cpu().numpy()
