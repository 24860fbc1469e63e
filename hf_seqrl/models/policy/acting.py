"""How a policy network acts, and how far its actions are from recorded ones."""

from collections.abc import Mapping

import numpy as np
import torch
from gymnasium.spaces import Box

from hf_seqrl.data.joint_actions import joint_probabilities
from hf_seqrl.data.spaces import encode_actions
from hf_seqrl.models.actor import Actor
from hf_seqrl.models.policy.modeling_policy import PolicyModel
from hf_seqrl.models.policy.processing_policy import PolicyProcessor


class PolicyActor(Actor):
    """Takes the likeliest action of each state, or draws from the policy.

    Args:
        model (`PolicyModel`): The policy.
        processor (`PolicyProcessor`): Its encoding.
        deterministic (`bool`, *optional*, defaults to `True`):
            Whether to take the mode of the policy. Otherwise actions are drawn, each episode from its own random stream.
        missing_values (`str`, *optional*, defaults to `"error"`): As for [`~hf_seqrl.models.actor.Actor`].
    """

    def __init__(
        self,
        model: PolicyModel,
        processor: PolicyProcessor,
        deterministic: bool = True,
        missing_values: str = "error",
    ) -> None:
        super().__init__(
            processor.task,
            conditioned=processor.is_conditioned,
            deterministic=deterministic,
            target_returns=processor.target_returns,
            discount=processor.discount,
            missing_values=missing_values,
        )
        self.model = model
        self.processor = processor

    def _allocate(self, num_envs: int) -> None:
        """The policy depends on the last observation only: there is no history."""

    def _begin(self, env_indices: np.ndarray) -> None: ...

    def _remember(self, actions: np.ndarray, rewards: np.ndarray) -> None: ...

    def _keep(self, env_indices: np.ndarray) -> None: ...

    @property
    def memory(self) -> int:
        return 0

    def _absorb(self, observations: np.ndarray) -> None:
        """There is nothing to remember of a step."""

    @torch.inference_mode()
    def _choose(self, observations: np.ndarray) -> np.ndarray:
        inputs = {"observations": self.processor.encode_observations(observations)}
        if self.is_conditioned:
            inputs["target_returns"] = self.processor.encode_targets(self._returns_to_go, self.timesteps)
        device = self.model.device
        choice = self.model.logits(**{name: torch.from_numpy(values).to(device) for name, values in inputs.items()})
        self._logits = choice
        if not self.deterministic:
            choice = self.model.sample(choice, torch.from_numpy(self.uniform(self.model.noise_size)).to(device))
        return self.processor.decode_actions(choice.float().cpu().numpy())

    @torch.inference_mode()
    def _probabilities(self) -> np.ndarray:
        return joint_probabilities(self.task.actions, self.model.probabilities(self._logits).cpu().numpy())


@torch.no_grad()
def action_losses(model: PolicyModel, processor: PolicyProcessor, histories: Mapping[str, np.ndarray]) -> np.ndarray:
    """See `ModelFamily.action_losses`. Of a history, the network sees the last observation."""
    padding = histories["attention_mask"].shape[1] - histories["attention_mask"].sum(axis=1)  # on the left
    last = np.arange(len(padding)), padding + histories["history_lengths"] - 1
    actions, device = histories["actions"][last], model.device
    inputs = {"observations": processor.encode_observations(histories["observations"][last])}
    if processor.is_conditioned:
        asked = histories["returns_to_go"][last], histories["timesteps"][last]
        inputs["target_returns"] = processor.encode_targets(*asked)
    logits = model.eval().logits(**{name: torch.from_numpy(values).to(device) for name, values in inputs.items()})
    space = processor.task.actions
    if isinstance(space, Box):
        taken = processor.decode_actions(logits.float().cpu().numpy())
        return np.square(encode_actions(space, taken) - encode_actions(space, actions)).mean(axis=1)
    encoded = torch.from_numpy(processor.encode_actions(actions)).to(device)
    return -model.log_probs(logits, encoded).cpu().numpy()
