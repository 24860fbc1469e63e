"""What a critic must know beside its weights, and its transitions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.spaces import Space

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import returns_to_go
from hf_seqrl.data.spaces import action_size
from hf_seqrl.data.statistics import ColumnStatistics
from hf_seqrl.data.task import Task
from hf_seqrl.data.task_inference import task_of
from hf_seqrl.data.windows import GatheredDataset, gathered_windows
from hf_seqrl.models.critic.configuration_critic import CriticConfig
from hf_seqrl.models.processor import TrajectoryProcessor

if TYPE_CHECKING:
    from datasets import Dataset


_TIME_LIMIT = 1000  # steps, where no task says how long an episode may be


class CriticProcessor(TrajectoryProcessor):
    """Encodes observations and actions for a [`CriticModel`].

    Args:
        observation_mean, observation_std (`(observation_size,)` or `list[float]`, *optional*): `Box` observations enter as
            `(observation - mean) / std`; not normalized by default.
        value_shift, value_scale (`float`, *optional*, default to 0 and 1): Mean and standard deviation of the discounted returns
            in the data, raw: the units of the network's outputs.
        discount (`float`, *optional*, defaults to 0.99): Weight of a reward one step later.
        return_discount (`float`, *optional*, defaults to 1.0): The same for the returns of whole episodes.
        return_shift, return_scale (`float`, *optional*, default to 0 and 1): Mean and standard deviation of these, raw.
        task, env_id, observation_space, action_space, max_episode_steps, reference_returns, action_shift, action_scale
            (*optional*): As for [`~hf_seqrl.models.processor.TrajectoryProcessor`].
    """

    def __init__(
        self,
        task: Task | Mapping[str, Any] | None = None,
        env_id: str | None = None,
        observation_space: Space | Mapping[str, Any] | None = None,
        action_space: Space | Mapping[str, Any] | None = None,
        observation_mean: Any = None,
        observation_std: Any = None,
        max_episode_steps: int | None = None,
        reference_returns: Any = None,
        action_shift: Any = None,
        action_scale: Any = None,
        discount: float = 0.99,
        value_shift: float = 0.0,
        value_scale: float = 1.0,
        return_discount: float = 1.0,
        return_shift: float = 0.0,
        return_scale: float = 1.0,
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
            return_shift=return_shift,
            return_scale=return_scale,
            discount=discount,
        )
        self.return_discount = float(return_discount)
        self.observation_mean = self.observation_std = None
        if observation_mean is not None and observation_std is not None:
            self.observation_mean, self.observation_std = self._standardization(
                observation_mean, observation_std, "observation"
            )
        self.value_shift, self.value_scale = float(value_shift), float(value_scale)

    @classmethod
    def from_dataset(
        cls,
        dataset: "Dataset",
        env_id: str | None = None,
        discount: float = 0.99,
        return_discount: float = 1.0,
        **overrides: Any,
    ) -> "CriticProcessor":
        """The processor of a data set: observations, `Box` actions and discounted returns standardized over all steps.

        Args:
            dataset: The trajectories.
            env_id: The environment, where the data set does not name it.
            discount: Weight of a reward one step later.
            return_discount: The same for the returns of whole episodes.
            overrides: Any other argument of the constructor.
        """
        columns = TrajectoryColumns.of(dataset)
        task, _ = task_of(columns.metadata, columns, env_id, overrides)
        values = ColumnStatistics.of([returns_to_go(columns, discount)])
        whole = ColumnStatistics.of([returns_to_go(columns, return_discount)])
        arguments: dict[str, Any] = {"value_shift": values.mean.item(), "value_scale": values.scale.item()}
        arguments |= {"return_shift": whole.mean.item(), "return_scale": whole.scale.item()}
        arguments["return_discount"] = return_discount
        arguments |= cls._scaling_of(task, columns, "observation", standardize_actions=True)
        return cls(task=task, discount=discount, **(arguments | overrides))

    def encode_observations(self, observations: np.ndarray) -> np.ndarray:
        """Raw observations `(..., *observation_shape)` as `(..., observation_size)` float32: `Box` normalized, discrete ones
        one-hot."""
        return self.observation_vectors(observations, self.observation_mean, self.observation_std)

    def encode_times(self, timesteps: np.ndarray) -> np.ndarray:
        """Steps since the beginning of the episode, of any shape, as shares of the time limit, float32."""
        return (timesteps / (self.max_episode_steps or _TIME_LIMIT)).astype(np.float32)

    def model_config(self, **overrides: Any) -> CriticConfig:
        """A configuration that fits the task and the returns; `overrides` are further fields of it."""
        fitting = {
            "observation_size": action_size(self.task.observations),
            "action_size": self.act_dim,
            "discount": self.discount,
            "value_shift": self.value_shift,
            "value_scale": self.value_scale,
            "return_discount": self.return_discount,
            "return_shift": self.return_shift,
            "return_scale": self.return_scale,
        }
        return CriticConfig(**(fitting | overrides))


class Transitions(GatheredDataset):
    """A map-style data set with one transition for every step of the trajectories.

    The last step of an episode that terminated has no successor and needs none. The last step of one that was truncated has a
    successor that the data do not hold: its `weights` are 0, so that nothing is learned from it. Truncation is not taken for
    termination.

    Args:
        dataset (`datasets.Dataset`): Trajectories, one row an episode.
        policy_actions (`(steps, *action_shape)` or `(steps, samples, *action_shape)`, *optional*): For fitted Q evaluation, what
            the policy to be evaluated does at each step of the data, given what came before it; or several draws of it.
        episode_weights (`(episodes, num_critics)`, *optional*): For fitted Q evaluation, how much each Q-network learns from each
            episode, for instance how often a bootstrap sample holds it.
        return_discount (`float`, *optional*): With it, a batch also holds `timesteps` and `returns_to_go`, which are discounted by
            it.

    A batch holds, each `(batch, ...)`: `observations`, `actions`, `rewards`, `next_observations` as they are in the data,
    `terminations` (bool), `weights` (0 or 1, float32; `(batch, num_critics)` with `episode_weights`), and with `policy_actions`
    also `next_actions`.
    """

    def __init__(
        self,
        dataset: "Dataset",
        policy_actions: np.ndarray | None = None,
        episode_weights: np.ndarray | None = None,
        return_discount: float | None = None,
    ) -> None:
        self.dataset = dataset
        self.return_discount = return_discount
        self._open()
        if policy_actions is not None and len(policy_actions) != len(self):
            raise ValueError(
                f"policy_actions has {len(policy_actions)} entries: expected one for each of {len(self)} steps."
            )
        if episode_weights is not None and len(episode_weights) != self.columns.num_episodes:
            raise ValueError(
                f"episode_weights has {len(episode_weights)} rows: expected one for each of {self.columns.num_episodes} episodes."
            )
        self.policy_actions = policy_actions
        self.episode_weights = episode_weights

    def _open(self) -> None:
        self.columns = TrajectoryColumns.of(self.dataset)
        self._returns_to_go = None
        if self.return_discount is not None:
            self._returns_to_go = returns_to_go(self.columns, self.return_discount)

    def __len__(self) -> int:
        return self.columns.num_steps

    def over(self, dataset: "Dataset") -> "Transitions":
        """See [`~hf_seqrl.data.windows.GatheredDataset`].

        Raises:
            ValueError: actions of a policy or weights are given, which belong to the episodes at hand.
        """
        if self.policy_actions is not None or self.episode_weights is not None:
            raise ValueError(
                "transitions with policy_actions or episode_weights cannot be streamed: load the data set."
            )
        return type(self)(dataset, return_discount=self.return_discount)

    def gather(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """The transitions of these steps, `(batch, ...)` arrays."""
        steps = np.asarray(indices, dtype=np.int64)
        episodes = self.columns.episode_of(steps)
        last = steps == self.columns.episode_offsets[episodes + 1] - 1
        following = np.where(last, steps, steps + 1)  # what stands at the end is not read
        terminations = self.columns.terminations.take(steps).astype(bool)
        batch = {
            "observations": self.columns.observations.take(steps),
            "actions": self.columns.actions.take(steps),
            "rewards": self.columns.rewards.take(steps).astype(np.float32),
            "next_observations": self.columns.observations.take(following),
            "terminations": terminations,
            "weights": (~last | terminations).astype(np.float32),
        }
        if self.episode_weights is not None:
            batch["weights"] = batch["weights"][:, None] * self.episode_weights[episodes].astype(np.float32)
        if self.policy_actions is not None:
            batch["next_actions"] = self.policy_actions[following]
        if self._returns_to_go is not None:
            batch["timesteps"] = steps - self.columns.episode_offsets[episodes]
            batch["returns_to_go"] = self._returns_to_go.take(steps)
        return batch

    def __getstate__(self) -> dict[str, Any]:
        opened = ("columns", "_returns_to_go")  # a worker opens its own
        return {name: value for name, value in self.__dict__.items() if name not in opened}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


class CriticDataCollator:
    """Turns [`Transitions`] into the inputs of a [`CriticModel`].

    Args:
        processor: The encoding.
    """

    def __init__(self, processor: CriticProcessor) -> None:
        self.processor = processor

    def __call__(self, features: Sequence[Mapping] | Mapping) -> dict[str, torch.Tensor]:
        inputs = gathered_windows(features)
        for name in ("observations", "next_observations"):
            inputs[name] = self.processor.encode_observations(inputs[name])
        for name in {"actions", "next_actions"} & set(inputs):
            inputs[name] = self.processor.encode_actions(inputs[name])
        if "timesteps" in inputs:
            inputs["times"] = self.processor.encode_times(inputs.pop("timesteps"))
        return {name: torch.from_numpy(np.asarray(values)) for name, values in inputs.items()}
