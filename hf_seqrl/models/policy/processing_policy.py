"""What a policy network must know beside its weights: the task, and how observations, actions and returns become numbers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Space
from transformers import BatchFeature

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import return_statistics_of, returns_to_go
from hf_seqrl.data.spaces import action_size, group_sizes
from hf_seqrl.data.statistics import ColumnStatistics
from hf_seqrl.data.task import Task
from hf_seqrl.data.task_inference import task_of
from hf_seqrl.data.windows import gathered_windows
from hf_seqrl.models.policy.configuration_policy import PolicyConfig, PolicyGradientConfig
from hf_seqrl.models.processor import TrajectoryProcessor

if TYPE_CHECKING:
    from datasets import Dataset

OBSERVATION_CLIP = 10.0  # standard deviations; far outside the data, a perceptron only saturates


class PolicyProcessor(TrajectoryProcessor):
    """Encodes observations for a [`PolicyModel`] and decodes its actions.

    Args:
        observation_mean (`(observation_size,)` or `list[float]`, *optional*): Subtracted from the entries of a `Box`
            observation; not normalized by default.
        observation_std (`(observation_size,)` or `list[float]`, *optional*): They are divided by it, and clipped to 10.
        return_form (`str`, *optional*, defaults to `"pace"`): What of the target a conditioned policy reads: `"to_go"`, the
            return-to-go, or `"pace"`: see [`~hf_seqrl.data.returns.pace`].
        return_bounds (`list[float]` of length 2, *optional*): A pace is clipped to them, raw return.
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
        return_form: str = "pace",
        return_bounds: Any = None,
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
            return_form=return_form,
            return_bounds=return_bounds,
        )
        self.observation_mean = self.observation_std = None
        if observation_mean is not None and observation_std is not None:
            self.observation_mean, self.observation_std = self._standardization(
                observation_mean, observation_std, "observation"
            )

    @classmethod
    def from_dataset(
        cls,
        dataset: "Dataset",
        env_id: str | None = None,
        episode_weights: np.ndarray | None = None,
        **overrides: Any,
    ) -> "PolicyProcessor":
        """The processor of a data set.

        Args:
            dataset: The trajectories.
            env_id: The environment, where the data set does not name it.
            episode_weights (`(episodes,)`, *optional*): How often the steps of each episode are drawn in training; targets are
                standardized over the steps as they are drawn, and a pace is clipped to their median.
            overrides: Any argument of the constructor. By default observations and `Box` actions are standardized over all
                steps, and a conditioned policy is asked for the best return of the data, and next for one in the middle of their range.
        """
        columns = TrajectoryColumns.of(dataset)
        task, _ = task_of(columns.metadata, columns, env_id, overrides)
        arguments = {"task": task, **cls._scaling_of(task, columns, "observation", standardize_actions=True)}
        processor = cls(**(arguments | overrides))
        if processor.is_conditioned:
            to_go = returns_to_go(columns, processor.discount)
            found = return_statistics_of(columns, to_go, processor.discount)
            processor.task = processor.task.updated(high_return=found.upper)
            if "target_returns" not in overrides:
                processor.target_returns = found.targets
            processor._fit_returns(to_go, columns.episode_offsets, episode_weights, overrides, found)
        return processor

    def __call__(self, observations: np.ndarray, **kwargs: Any) -> BatchFeature:
        """Raw observations `(batch, *observation_shape)` as `observations` `(batch, observation_size)` float32."""
        return BatchFeature({"observations": torch.from_numpy(self.encode_observations(observations))})

    def encode_observations(self, observations: np.ndarray) -> np.ndarray:
        """Raw observations `(..., *observation_shape)` as `(..., observation_size)` float32: `Box` normalized, discrete
        ones one-hot."""
        values = self.observation_vectors(observations, self.observation_mean, self.observation_std)
        return (
            values
            if self.observation_mean is None
            else np.clip(values, -OBSERVATION_CLIP, OBSERVATION_CLIP, out=values)
        )

    def model_config(self, **overrides: Any) -> PolicyConfig:
        """A configuration that fits the task; `overrides` are further fields of it."""
        sizes = {
            "observation_size": action_size(self.task.observations),
            "num_choices": group_sizes(self.task.actions),
            "action_size": self.act_dim,
            "conditioned": self.is_conditioned,
        }
        return self.config_class(**(sizes | overrides))


class PolicyDataCollator:
    """Turns windows of one step ([`~hf_seqrl.data.windows.TrajectoryWindows`]) into the inputs of a [`PolicyModel`].

    Args:
        processor: The encoding. A column `weights` of the windows reaches the loss.
    """

    def __init__(self, processor: PolicyProcessor) -> None:
        self.processor = processor

    def __call__(self, features: Sequence[Mapping] | Mapping) -> dict[str, torch.Tensor]:
        steps = {name: values[:, -1] for name, values in gathered_windows(features).items()}
        inputs = {
            "observations": self.processor.encode_observations(steps["observations"]),
            "actions": self.processor.encode_actions(steps["actions"]),
        }
        if self.processor.is_conditioned:
            inputs["target_returns"] = self.processor.encode_targets(steps["returns_to_go"], steps["timesteps"])
        if "weights" in steps:
            inputs["weights"] = steps["weights"]
        return {name: torch.from_numpy(values) for name, values in inputs.items()}


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
