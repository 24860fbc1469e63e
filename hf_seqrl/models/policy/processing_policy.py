"""What a policy network must know beside its weights: the task, and how observations, actions and returns become numbers."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Space
from transformers import BatchFeature

from hf_seqrl.data.spaces import action_size, encode_actions, group_sizes
from hf_seqrl.data.statistics import ColumnStatistics
from hf_seqrl.data.task import Task
from hf_seqrl.models.policy.configuration_policy import PolicyConfig, PolicyGradientConfig
from hf_seqrl.models.processor import TrajectoryProcessor

_CLIP = 10.0  # standard deviations; far outside the data, a perceptron only saturates


class PolicyProcessor(TrajectoryProcessor):
    """Encodes observations for a [`PolicyModel`] and decodes its actions.

    Args:
        observation_mean (`(observation_size,)` or `list[float]`, *optional*): Subtracted from the entries of a `Box`
            observation; not normalized by default.
        observation_std (`(observation_size,)` or `list[float]`, *optional*): They are divided by it, and clipped to 10.
        task, env_id, observation_space, action_space, max_episode_steps, reference_returns, action_shift, action_scale,
            conditioning, return_shift, return_scale, target_returns, discount (*optional*): As for
            [`~hf_seqrl.models.processor.TrajectoryProcessor`].
    """

    config_class: type[PolicyConfig] = PolicyConfig

    def __init__(
        self,
        task: Task | Mapping[str, Any] | None = None,
        env_id: str | None = None,
        observation_space: Space | Mapping[str, Any] | None = None,
        action_space: Space | Mapping[str, Any] | None = None,
        observation_mean: Any = None,
        observation_std: Any = None,
        target_returns: Any = None,
        max_episode_steps: int | None = None,
        reference_returns: Any = None,
        action_shift: Any = None,
        action_scale: Any = None,
        conditioning: str = "none",
        return_shift: float = 0.0,
        return_scale: float = 1.0,
        discount: float = 1.0,
    ) -> None:
        super().__init__(
            task,
            env_id=env_id,
            observation_space=observation_space,
            action_space=action_space,
            max_episode_steps=max_episode_steps,
            reference_returns=reference_returns,
            action_shift=action_shift,
            action_scale=action_scale,
            conditioning=conditioning,
            return_shift=return_shift,
            return_scale=return_scale,
            target_returns=target_returns,
            discount=discount,
        )
        self.observation_mean = None if observation_mean is None else np.asarray(observation_mean, dtype=np.float32)
        self.observation_std = None if observation_std is None else np.asarray(observation_std, dtype=np.float32)

    def __call__(self, observations: np.ndarray, **kwargs: Any) -> BatchFeature:
        """Raw observations `(batch, *observation_shape)` as `observations` `(batch, observation_size)` float32."""
        return BatchFeature({"observations": torch.from_numpy(self.encode_observations(observations))})

    def encode_observations(self, observations: np.ndarray) -> np.ndarray:
        """Raw observations `(..., *observation_shape)` as `(..., observation_size)` float32: `Box` normalized, discrete
        ones one-hot."""
        values = encode_actions(self.task.observations, observations)
        if self.observation_mean is None:
            return values
        values = (values - self.observation_mean) / self.observation_std
        return np.clip(values, -_CLIP, _CLIP, out=values)

    def model_config(self, **overrides: Any) -> PolicyConfig:
        """A configuration that fits the task; `overrides` are further fields of it."""
        sizes = {
            "observation_size": action_size(self.task.observations),
            "num_choices": group_sizes(self.task.actions),
            "action_size": self.act_dim,
            "conditioned": self.is_conditioned,
        }
        return self.config_class(**(sizes | overrides))


class PolicyGradientProcessor(PolicyProcessor):
    """The processor of a [`PolicyGradientModel`]: its statistics come from a random policy, and it takes no target return.

    Args:
        action_shift, action_scale (*optional*): By default the center and the half width of the action's bounds.
        task, env_id, observation_space, action_space, observation_mean, observation_std, target_returns, max_episode_steps,
            reference_returns (*optional*): As for [`PolicyProcessor`].
    """

    config_class = PolicyGradientConfig

    def __init__(
        self,
        task: Task | Mapping[str, Any] | None = None,
        env_id: str | None = None,
        observation_space: Space | Mapping[str, Any] | None = None,
        action_space: Space | Mapping[str, Any] | None = None,
        observation_mean: Any = None,
        observation_std: Any = None,
        target_returns: Any = None,
        max_episode_steps: int | None = None,
        reference_returns: Any = None,
        action_shift: Any = None,
        action_scale: Any = None,
    ) -> None:
        super().__init__(
            task,
            env_id,
            observation_space,
            action_space,
            observation_mean,
            observation_std,
            target_returns,
            max_episode_steps,
            reference_returns,
            action_shift,
            action_scale,
        )
        if self.action_shift is None and self.action_space is not None and isinstance(self.task.actions, Box):
            self.action_shift, self.action_scale = _center_and_half_width(self.task.actions)

    @classmethod
    def from_env(
        cls, env_id: str, env_kwargs: dict[str, Any] | None = None, num_steps: int = 2000, seed: int = 0
    ) -> "PolicyGradientProcessor":
        """A processor for this environment, with statistics of `num_steps` steps of a uniformly random policy."""
        with gymnasium.make(env_id, **(env_kwargs or {})) as env:
            env.action_space.seed(seed)
            observations = [env.reset(seed=seed)[0]]
            while len(observations) < num_steps:
                observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
                observations.append(observation)
                if terminated or truncated:
                    observations.append(env.reset()[0])
            statistics = {}
            if isinstance(env.observation_space, Box):
                found = ColumnStatistics.of([np.stack(observations)])
                statistics = {"observation_mean": found.mean, "observation_std": found.scale}
            return cls(
                env_id=env_id,
                observation_space=env.observation_space,
                action_space=env.action_space,
                max_episode_steps=env.spec.max_episode_steps,
                **statistics,
            )


def _center_and_half_width(space: Box) -> tuple[np.ndarray, np.ndarray]:
    """Center and half width `(entries,)` of the action's bounds; 0 and 1 where it has none."""
    low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
    bounded = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
    return (low + high) / 2, (high - low) / 2
