"""The processor of the Trajectory Transformer (task, bins, windows, planning options) and its data collators."""

import posixpath
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.spaces import Box, Space

from hf_seqrl.data.task import Task
from hf_seqrl.data.windows import gathered_windows
from hf_seqrl.models.processor import TrajectoryProcessor
from hf_seqrl.models.trajectory_transformer.configuration_trajectory_transformer import TrajectoryTransformerConfig
from hf_seqrl.models.trajectory_transformer.discretizer import TrajectoryDiscretizer
from hf_seqrl.models.trajectory_transformer.transitions import Transitions, entries_of, planned_task

if TYPE_CHECKING:
    from datasets import Dataset

DISCRETIZER_FOLDER = "discretizer"
IGNORED_LABEL = -100  # torch's and transformers' sign of a label that does not count
_WHERE_TO_LOAD_FROM = ("cache_dir", "force_download", "local_files_only", "token", "revision")


class TrajectoryTransformerProcessor(TrajectoryProcessor):
    """Turns transitions into tokens and back; saved with the weights.

    The discretizer is saved in the subfolder `discretizer/`, as safetensors.

    Args:
        task (`Task` or `dict`, *optional*): The environment and its spaces.
        discount (`float`, *optional*, defaults to 0.99): Of the values-to-go, in (0, 1].
        termination_penalty (`float`, *optional*): Replaces the reward with which an episode terminates. The
            original has -100 where episodes can fail (Hopper, Walker2d).
        sequence_transitions (`int`, *optional*, defaults to 10): Transitions of a training window.
        step (`int`, *optional*, defaults to 1): Steps from one transition of a window to the next.
        truncation (`str`, *optional*, defaults to `"unknown"`): What follows a truncation: `"unknown"` (it does
            not count in the loss), or `"stop"` as in the original (see [`TrajectoryTransformerWindows`]).
        max_truncation_bias (`float`, *optional*, defaults to 1.0): Values-to-go of truncated episodes do not count in
            the loss where `discount ** (steps that follow)` exceeds it; 1 lets all count.
        planner_options (`dict`, *optional*): Arguments of [`BeamPlanner`] for acting, such as `horizon` and
            `beam_width`.
        discretizer (`TrajectoryDiscretizer`, *optional*): The bins.
        env_id, observation_space, action_space, max_episode_steps, reference_returns (*optional*): Fields of the task,
            see [`TrajectoryProcessor`].
        target_returns (`list[float]`, *optional*): Kept from earlier versions, always empty: the planner maximizes the return.

    Raises:
        ValueError: an argument is out of its range, or there are target returns.
    """

    def __init__(
        self,
        task: Task | Mapping[str, Any] | None = None,
        discount: float = 0.99,
        termination_penalty: float | None = None,
        sequence_transitions: int = 10,
        step: int = 1,
        truncation: str = "unknown",
        max_truncation_bias: float = 1.0,
        planner_options: Mapping[str, Any] | None = None,
        discretizer: TrajectoryDiscretizer | None = None,
        env_id: str | None = None,
        observation_space: Space | Mapping[str, Any] | None = None,
        action_space: Space | Mapping[str, Any] | None = None,
        max_episode_steps: int | None = None,
        reference_returns: Sequence[float] | None = None,
        target_returns: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            task,
            env_id=env_id,
            observation_space=observation_space,
            action_space=action_space,
            max_episode_steps=max_episode_steps,
            reference_returns=reference_returns,
            discount=discount,
        )
        _check(sequence_transitions, step, truncation, target_returns)
        self.termination_penalty = None if termination_penalty is None else float(termination_penalty)
        self.sequence_transitions = int(sequence_transitions)
        self.step = int(step)
        self.truncation = truncation
        self.max_truncation_bias = float(max_truncation_bias)
        self.planner_options = dict(planner_options or {})
        self._discretizer = discretizer  # not under its argument's name, or ProcessorMixin would write it as JSON

    @classmethod
    def from_dataset(
        cls,
        dataset: "Dataset",
        num_bins: int = 100,
        strategy: str = "quantile",
        env_id: str | None = None,
        **overrides: Any,
    ) -> "TrajectoryTransformerProcessor":
        """The processor of a data set, with bins fitted to its transitions.

        Args:
            dataset: The trajectories.
            num_bins: Bins of each entry of a transition.
            strategy: `"quantile"` or `"uniform"`, see [`TrajectoryDiscretizer.fit`].
            env_id: The environment, where the data set does not name it.
            overrides: Any argument of the constructor.
        """
        processor = cls(env_id=env_id, **overrides)
        transitions = Transitions(dataset, processor.discount, processor.termination_penalty)
        processor.task = planned_task(processor.task, transitions)
        processor._discretizer = TrajectoryDiscretizer.fit(
            transitions.blocks(), num_bins=num_bins, strategy=strategy, **entries_of(processor.task)
        )
        return processor

    @property
    def discretizer(self) -> TrajectoryDiscretizer:
        """The bins.

        Raises:
            ValueError: the processor has none.
        """
        if self._discretizer is None:
            raise ValueError(
                "The processor has no discretizer: make it by TrajectoryTransformerProcessor.from_dataset(dataset), or "
                "give it one, TrajectoryTransformerProcessor(discretizer=TrajectoryDiscretizer.fit(...), ...)."
            )
        return self._discretizer

    @property
    def observation_dim(self) -> int:
        """Tokens of an observation."""
        return int(np.prod(self.task.observations.shape))

    @property
    def action_dim(self) -> int:
        """Tokens of an action: one for each entry, or for each discrete component."""
        return int(np.prod(self.task.actions.shape))

    @property
    def transition_dim(self) -> int:
        """Tokens of a transition: observation, action, reward, value."""
        return self.observation_dim + self.action_dim + 2

    def discrete_entries(self) -> dict[int, list[int]]:
        """The values of each entry of a transition that is discrete, by the entry's index."""
        return entries_of(self.task)["discrete"]

    def encode(
        self, observations: np.ndarray, actions: np.ndarray, rewards: np.ndarray, values: np.ndarray
    ) -> torch.LongTensor:
        """Raw transitions to tokens `(..., transition_dim)`.

        Args:
            observations: `(..., *observation_shape)`.
            actions: `(..., *action_shape)`, as the environment takes them.
            rewards, values: `(...)`, in raw units.
        """
        leading = np.shape(rewards)
        parts = [np.reshape(part, (*leading, -1)) for part in (observations, actions, rewards, values)]
        return self.discretizer.encode(np.concatenate(parts, axis=-1, dtype=np.float64))

    def decode(self, tokens: torch.Tensor) -> dict[str, np.ndarray]:
        """Tokens `(..., transition_dim)` to raw `observations`, `actions`, `rewards` and `values`, each the middle of its
        bin; stop tokens to NaN. Actions have the form that the environment takes."""
        entries = self.discretizer.decode(tokens).cpu().numpy()
        observations, actions, rewards, values = np.split(
            entries, np.cumsum([self.observation_dim, self.action_dim, 1]), axis=-1
        )
        leading = entries.shape[:-1]
        return {
            "observations": observations.reshape(leading + self.task.observations.shape),
            "actions": self.as_actions(actions),
            "rewards": rewards[..., 0],
            "values": values[..., 0],
        }

    def as_actions(self, entries: np.ndarray) -> np.ndarray:
        """Decoded entries `(..., action_dim)` to actions `(..., *action_shape)` that the action space contains."""
        if isinstance(self.task.actions, Box):
            return self.decode_actions(entries)
        return entries.reshape(entries.shape[:-1] + self.task.actions.shape).astype(np.int64)

    def model_config(self, **overrides: Any) -> TrajectoryTransformerConfig:
        """The configuration of a [`TrajectoryTransformerModel`] for this task; `overrides` are keys of the config."""
        arguments = {
            "vocab_size": self.discretizer.config.num_bins,
            "observation_dim": self.observation_dim,
            "action_dim": self.action_dim,
            "transition_dim": self.transition_dim,
            "block_size": self.sequence_transitions * self.transition_dim - 1,
            "pad_token_id": None,
            "bos_token_id": None,
            "eos_token_id": None,
        }
        return TrajectoryTransformerConfig(**(arguments | overrides))

    def save_pretrained(self, save_directory: str, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Save the processor, and the discretizer in its subfolder."""
        self.discretizer.save_pretrained(posixpath.join(save_directory, DISCRETIZER_FOLDER))
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str, *args: Any, **kwargs: Any
    ) -> "TrajectoryTransformerProcessor":
        """Load the processor from a folder or the Hub, and the discretizer from its subfolder."""
        processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        processor._discretizer = TrajectoryDiscretizer.from_pretrained(
            pretrained_model_name_or_path,
            subfolder=posixpath.join(kwargs.get("subfolder", ""), DISCRETIZER_FOLDER),
            **{name: kwargs[name] for name in _WHERE_TO_LOAD_FROM if name in kwargs},
        )
        return processor


class TrajectoryTransformerDataCollator:
    """Discretizes a batch of [`TrajectoryTransformerWindows`].

    Args:
        processor (`TrajectoryTransformerProcessor`): Holds the discretizer.
    """

    return_tensors = "pt"

    def __init__(self, processor: TrajectoryTransformerProcessor) -> None:
        self.processor = processor

    def __call__(self, features: Sequence[Mapping[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """The inputs of the model's `forward`.

        Returns:
            `trajectories` and `labels` `(batch, sequence_transitions * transition_dim - 1)`: the tokens, and the token that
            follows each of them; after an episode's end they are the stop token. `attention_mask` of the same shape: the
            weight of each label in the loss; where it is 0 the label is -100, so that metrics leave it out too.
        """
        windows = gathered_windows(features)
        discretizer = self.processor.discretizer
        tokens = discretizer.encode(windows["transitions"])  # (B, time, T)
        tokens[torch.from_numpy(windows["ended"])] = discretizer.config.num_bins
        tokens, weights = tokens.flatten(1), torch.from_numpy(windows["attention_mask"])
        return {
            "trajectories": tokens[:, :-1].contiguous(),
            "labels": tokens[:, 1:].masked_fill(weights == 0, IGNORED_LABEL),
            "attention_mask": weights,
        }


class GoalConditionedDataCollator(TrajectoryTransformerDataCollator):
    """Discretizes a batch of [`GoalConditionedWindows`]: stop tokens follow the goal's observation.

    [`BeamPlanner.goal_transition`] gives the same tokens.
    """

    def __call__(self, features: Sequence[Mapping[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """What the model's `forward` takes, see [`TrajectoryTransformerDataCollator`]."""
        batch = super().__call__(features)
        first, end = self.processor.observation_dim, self.processor.transition_dim
        stop = self.processor.discretizer.config.num_bins
        batch["trajectories"][:, first:end] = stop
        return batch


_MOST_STEPS = 2**31 - 1  # from one transition to the next


def _check(sequence_transitions: int, step: int, truncation: str, target_returns: Sequence[float] | None) -> None:
    if sequence_transitions < 1 or not 1 <= step <= _MOST_STEPS:
        raise ValueError(f"sequence_transitions is {sequence_transitions} and step {step}: expected at least 1 each.")
    if truncation not in ("unknown", "stop"):
        raise ValueError(f"truncation is {truncation!r}: expected 'unknown', or 'stop' as in the original.")
    if target_returns:
        raise ValueError(
            f"target_returns is {list(target_returns)}: the planner maximizes the return and takes no targets; leave them out."
        )
