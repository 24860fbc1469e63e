"""How a policy network acts."""

from typing import Any

import numpy as np
import torch

from hf_seqrl.models.policy.modeling_policy import PolicyGradientModel
from hf_seqrl.models.policy.processing_policy import PolicyGradientProcessor


class PolicyGradientActor:
    """Takes the likeliest action of each state, or draws from the policy.

    Args:
        model (`PolicyGradientModel`): The policy.
        processor (`PolicyGradientProcessor`): Its encoding.
        deterministic (`bool`, *optional*, defaults to `True`):
            Whether to take the mode of the policy. Otherwise every episode draws from a generator of its own, so that
            what it does depends on its seed and not on the episodes beside it.
    """

    is_conditioned = False

    def __init__(
        self, model: PolicyGradientModel, processor: PolicyGradientProcessor, deterministic: bool = True
    ) -> None:
        self.model = model
        self.processor = processor
        self.deterministic = deterministic
        self._generators: list[np.random.Generator] = []

    def reset(self, num_envs: int, target_return: Any = None, seed: Any = None) -> None:
        """Begin `num_envs` episodes. `target_return` is not used: a policy network pursues the highest return."""
        self._generators = [np.random.default_rng() for _ in range(num_envs)]
        self.restart(np.arange(num_envs), target_return, seed)

    @torch.inference_mode()
    def act(self, observations: np.ndarray) -> np.ndarray:
        """Raw observations `(num_envs, *observation_shape)` to actions `(num_envs, *action_shape)`."""
        encoded = self.processor(observations)["observations"].to(self.model.device)
        logits = self.model(encoded).logits
        if self.deterministic:
            return self.processor.decode_actions(self.model.mode(logits))
        noise = np.stack([draw_noise(self.model, 1, generator)[0] for generator in self._generators])
        return self.processor.decode_actions(self.model.sample(logits, torch.as_tensor(noise).to(logits)))

    def observe(self, rewards: np.ndarray, dones: np.ndarray) -> None:
        """Nothing to remember: the policy depends on the last observation only."""

    def restart(self, env_indices: np.ndarray, target_return: Any = None, seed: Any = None) -> None:
        """Begin new episodes in these environments `(n,)`, with a seed each or one from which to count."""
        if seed is None:
            seeds = [None] * len(env_indices)
        else:
            seeds = seed if np.ndim(seed) else int(seed) + np.arange(len(env_indices))
        for index, episode_seed in zip(env_indices, seeds, strict=True):
            self._generators[index] = np.random.default_rng(episode_seed)

    def select(self, env_indices: np.ndarray) -> None:
        """Go on with these environments only, in this order."""
        self._generators = [self._generators[index] for index in env_indices]


def draw_noise(model: PolicyGradientModel, num_actions: int, generator: np.random.Generator) -> np.ndarray:
    """What `model.sample` needs for `num_actions` actions: `(num_actions, components)`."""
    if model.config.num_choices:
        return generator.random((num_actions, len(model.config.num_choices)))
    return generator.standard_normal((num_actions, model.config.action_size))
