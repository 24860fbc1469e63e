"""What a policy network must know of its environment: spaces, and the mean and deviation of its observations."""

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from transformers import BatchFeature, ProcessorMixin

from hf_seqrl.data.spaces import action_size, encode_actions, group_sizes, space_from_dict, space_to_dict
from hf_seqrl.models.policy.configuration_policy import PolicyGradientConfig

_CLIP = 10.0  # deviations; far outside the data, a perceptron only saturates


class PolicyGradientProcessor(ProcessorMixin):
    """Encodes observations for a [`PolicyGradientModel`] and turns its actions into those of the environment.

    Args:
        env_id (`str`, *optional*): The gymnasium id of the environment.
        observation_space (`dict`, *optional*): In the form of `hf_seqrl.data.spaces.space_to_dict`.
        action_space (`dict`, *optional*): In the same form.
        observation_mean (`list[float]`, *optional*): Taken off each entry of a `Box` observation; 0 by default.
        observation_std (`list[float]`, *optional*): Divides each entry; 1 by default.
        target_returns (`list[float]`, *optional*): Always empty: a policy network takes no target.
        max_episode_steps (`int`, *optional*): The environment's time limit, in steps.
        reference_returns (`list[float]`, *optional*): Raw returns that stand for the scores 0 and 100.
    """

    # `Trainer.train` aligns the special tokens of every processor's tokenizer with the model; here there are none
    tokenizer = SimpleNamespace(eos_token_id=None, bos_token_id=None, pad_token_id=None)
    context_length = 1  # of what happened, it sees the last observation

    def __init__(
        self,
        env_id: str | None = None,
        observation_space: dict[str, Any] | None = None,
        action_space: dict[str, Any] | None = None,
        observation_mean: list[float] | None = None,
        observation_std: list[float] | None = None,
        target_returns: list[float] | None = None,
        max_episode_steps: int | None = None,
        reference_returns: list[float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.env_id = env_id
        self.observation_space = observation_space
        self.action_space = action_space
        self.observation_mean = observation_mean
        self.observation_std = observation_std
        self.target_returns = target_returns or []
        self.max_episode_steps = max_episode_steps
        self.reference_returns = reference_returns
        super().__init__(**kwargs)

    @classmethod
    def from_env(
        cls, env_id: str, env_kwargs: dict[str, Any] | None = None, num_steps: int = 2000, seed: int = 0
    ) -> "PolicyGradientProcessor":
        """A processor for this environment, with statistics from `num_steps` steps of a uniformly random policy."""
        with gymnasium.make(env_id, **(env_kwargs or {})) as env:
            env.action_space.seed(seed)
            observations = [env.reset(seed=seed)[0]]
            while len(observations) < num_steps:
                observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
                observations.append(observation)
                if terminated or truncated:
                    observations.append(env.reset()[0])
            mean, std = _statistics(env.observation_space, np.stack(observations))
            return cls(
                env_id=env_id,
                observation_space=space_to_dict(env.observation_space),
                action_space=space_to_dict(env.action_space),
                observation_mean=mean,
                observation_std=std,
                max_episode_steps=env.spec.max_episode_steps,
            )

    def __call__(self, observations: np.ndarray, **kwargs: Any) -> BatchFeature:
        """Raw observations `(batch, *observation_shape)` as `observations` `(batch, observation_size)` float32."""
        space = space_from_dict(self.observation_space)
        if isinstance(space, Box):
            values = np.asarray(observations, dtype=np.float32).reshape(len(observations), -1)
            if self.observation_mean is not None:
                values = (values - np.float32(self.observation_mean)) / np.float32(self.observation_std)
                values = np.clip(values, -_CLIP, _CLIP)
        else:
            values = encode_actions(space, np.asarray(observations))  # one-hot choices
        return BatchFeature({"observations": torch.as_tensor(values, dtype=torch.float32)})

    def encode_actions(self, actions: np.ndarray) -> torch.Tensor:
        """The environment's actions `(batch, *action_shape)` as the model's `(batch, components)`."""
        space = space_from_dict(self.action_space)
        if isinstance(space, Box):
            centre, half_width = _box_scale(space)
            return torch.as_tensor((np.asarray(actions).reshape(len(actions), -1) - centre) / half_width).float()
        return torch.as_tensor((np.asarray(actions) - space.start).reshape(len(actions), -1))

    def decode_actions(self, actions: torch.Tensor) -> np.ndarray:
        """The model's actions `(batch, components)` as the environment's `(batch, *action_shape)`, within its bounds."""
        space = space_from_dict(self.action_space)
        values = actions.detach().cpu().numpy()
        if isinstance(space, Box):
            centre, half_width = _box_scale(space)
            values = (centre + half_width * values).reshape(-1, *space.shape)
            return np.clip(values, space.low, space.high).astype(space.dtype)
        return values.reshape(-1, *space.shape).astype(np.int64) + space.start

    def model_config(self, **kwargs: Any) -> PolicyGradientConfig:
        """A configuration that fits these spaces; `kwargs` are further fields of it."""
        space = space_from_dict(self.observation_space)
        return PolicyGradientConfig(
            observation_size=action_size(space),
            num_choices=group_sizes(self.action_space),
            action_size=action_size(self.action_space),
            **kwargs,
        )


def _statistics(space: gymnasium.Space, observations: np.ndarray) -> tuple[list[float] | None, list[float] | None]:
    """Mean and standard deviation of every entry of `Box` observations `(steps, *shape)`."""
    if not isinstance(space, Box):
        return None, None
    values = observations.reshape(len(observations), -1).astype(np.float64)
    return values.mean(0).tolist(), np.maximum(values.std(0), 1e-3).tolist()


def _box_scale(space: Box) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half width `(entries,)` of the action's bounds; 0 and 1 where it has none."""
    low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
    bounded = np.isfinite(low) & np.isfinite(high)
    centre = np.where(bounded, (np.where(bounded, low, 0) + np.where(bounded, high, 0)) / 2, 0.0)
    half_width = np.where(bounded, (np.where(bounded, high, 1) - np.where(bounded, low, -1)) / 2, 1.0)
    return centre, half_width
