"""What a Decision Transformer must know beside its weights, and the batches that are made by it."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Tuple
from transformers import DecisionTransformerConfig

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import return_statistics_of, returns_to_go
from hf_seqrl.data.spaces import action_size, choice_bounds, is_image_space, step_shape
from hf_seqrl.data.statistics import ReturnStatistics
from hf_seqrl.data.task import Task
from hf_seqrl.data.task_inference import task_of
from hf_seqrl.data.windows import TrajectoryWindows, gathered_windows
from hf_seqrl.models.decision_transformer.backbones import config_hidden_size, config_of, plain_config
from hf_seqrl.models.decision_transformer.image_encoder import image_features
from hf_seqrl.models.processor import TrajectoryProcessor

if TYPE_CHECKING:
    from datasets import Dataset
    from gymnasium.spaces import Space

_TIME_LIMIT = 1000  # steps, where no task says how long an episode may be
_IGNORED = -100  # the label by which transformers marks what does not count


class DecisionTransformerProcessor(TrajectoryProcessor):
    """Normalizes states, scales returns, and holds the task; saved beside the weights.

    Args:
        task (`Task` or `dict`, *optional*): The environment and its spaces. Image observations have three dimensions.
        env_id, observation_space, action_space, max_episode_steps, reference_returns (*optional*): Fields of the task, as
            [`~hf_seqrl.models.processor.TrajectoryProcessor`] takes them.
        state_mean (`list[float]` of length `state_dim`, *optional*): Subtracted from flattened observations.
        state_std (`list[float]` of length `state_dim`, *optional*): They are divided by it.
        action_shift, action_scale (`list[float]` of length `act_dim`, *optional*): Of `Box` actions.
        return_shift, return_scale (`float`, *optional*, default to 0 and 1): Of raw returns.
        context_length (`int`, *optional*, defaults to 20): Steps that the model sees when it acts.
        target_returns (`list[float]`, *optional*): Raw (discounted) returns to reach by default, the best first.
        conditioning (`str`, *optional*, defaults to `"return"`): `"return"`, or `"none"` for behavior cloning: the model
            then reads zeros in the place of every return-to-go.
        discount (`float`, *optional*, defaults to 1.0): Of the returns-to-go.
        return_form, return_bounds (*optional*): As for [`~hf_seqrl.models.processor.TrajectoryProcessor`]; by default the
            returns-to-go are read, as in the paper.
        timesteps (`str`, *optional*, defaults to `"absolute"`): What the model reads of time: the step of the episode, or
            `"none"`, 0 at every step. Where few episodes of the data live long, the model learns late rows of its table of
            timesteps from a handful of them, and does not generalize.
        past_actions (`bool`, *optional*, defaults to `True`): Whether the model reads the actions before the one that it
            chooses, or zeros. A model that reads them can learn to repeat them.

    Raises:
        ValueError: a number is out of its range, or `timesteps` is neither of the two.
    """

    _reads_images = True

    def __init__(
        self,
        task: Task | Mapping[str, Any] | None = None,
        env_id: str | None = None,
        observation_space: "Space | Mapping[str, Any] | None" = None,
        action_space: "Space | Mapping[str, Any] | None" = None,
        max_episode_steps: int | None = None,
        reference_returns: Sequence[float] | None = None,
        state_mean: Sequence[float] | np.ndarray | None = None,
        state_std: Sequence[float] | np.ndarray | None = None,
        action_shift: Sequence[float] | np.ndarray | None = None,
        action_scale: Sequence[float] | np.ndarray | None = None,
        return_shift: float = 0.0,
        return_scale: float = 1.0,
        context_length: int = 20,
        target_returns: Sequence[float] | None = None,
        conditioning: str = "return",
        discount: float = 1.0,
        return_form: str = "to_go",
        return_bounds: Sequence[float] | None = None,
        timesteps: str = "absolute",
        past_actions: bool = True,
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
        if context_length < 1:
            raise ValueError(f"context_length is {context_length}: expected a number of steps >= 1.")
        if timesteps not in ("absolute", "none"):
            raise ValueError(f"timesteps is {timesteps!r}: expected 'absolute' or 'none'.")
        self.timesteps, self.past_actions = timesteps, bool(past_actions)
        self.context_length = int(context_length)
        self.state_mean = self.state_std = None
        if state_mean is not None and state_std is not None:
            self.state_mean, self.state_std = self._standardization(state_mean, state_std, "state")

    @classmethod
    def from_dataset(
        cls,
        dataset: "Dataset",
        context_length: int = 20,
        env_id: str | None = None,
        episode_weights: np.ndarray | None = None,
        **overrides: Any,
    ) -> "DecisionTransformerProcessor":
        """The processor of a data set, its statistics read in one pass that holds one block at a time.

        Args:
            dataset: The trajectories.
            context_length: Steps that the model sees when it acts.
            env_id: The environment, where the data set does not name it.
            episode_weights (`(episodes,)`, *optional*): How often the steps of each episode are drawn in training; a pace is
                standardized over the steps as they are drawn, and clipped to their median.
            overrides: Any argument of the constructor. `return_shift` and `return_scale` are by default those of
                `hf_seqrl.data.statistics.return_scaling`, `action_shift` and `action_scale` those of `action_scaling`;
                `target_returns` are those of `suggested_targets` (none for behavior cloning).
                Demonstrations without rewards are cloned.
        """
        columns = TrajectoryColumns.of(dataset)
        task, _ = task_of(columns.metadata, columns, env_id, overrides)
        if task.has_rewards is False:
            overrides = {"conditioning": "none", **overrides}
        discount = overrides.get("discount", 1.0)
        to_go = returns_to_go(columns, discount)
        found = return_statistics_of(columns, to_go, discount)
        arguments: dict[str, Any] = {
            "task": task.updated(return_range=(found.low, found.high), high_return=found.upper),
            "context_length": context_length,
        }
        arguments |= cls._scaling_of(task, columns, "state", standardize_actions=False)
        processor = cls(**(arguments | overrides))
        processor._scale_returns_of(to_go, columns.episode_offsets, episode_weights, overrides, found)
        return processor

    def _scale_returns_of(
        self,
        to_go: np.ndarray,
        episode_offsets: np.ndarray,
        episode_weights: np.ndarray | None,
        given: Mapping[str, Any],
        found: ReturnStatistics,
    ) -> None:
        """Choose what is not given: targets, bounds, and the scale of what the model reads of a return."""
        if "target_returns" not in given and self.is_conditioned:
            self.target_returns = found.targets
        if self.return_form == "pace":
            self._fit_returns(to_go, episode_offsets, episode_weights, given, found)
        elif "return_scale" not in given:
            shift, self.return_scale = found.scaling()
            self.return_shift = given.get("return_shift", shift)

    @property
    def image_shape(self) -> list[int] | None:
        """`[channels, height, width]` of image observations, `None` for vectors."""
        shape = self.task.observations.shape
        if not is_image_space(self.task.observations):
            return None
        return [shape[-1], *shape[:-1]] if channels_last(shape) else list(shape)

    @property
    def state_dim(self) -> int:
        """The length of a state vector; for images, the number of features that the image encoder gives."""
        shape = self.image_shape
        return action_size(self.task.observations) if shape is None else image_features(shape)

    def normalize_states(self, observations: np.ndarray) -> np.ndarray:
        """Raw observations `(..., *observation_shape)` to states `(..., state_dim)`; images only get their channels in
        front, `(..., channels, height, width)`, and stay bytes."""
        if self.state_mean is not None or not isinstance(self.task.observations, Box):
            return self.observation_vectors(observations, self.state_mean, self.state_std)
        if self.task.observations.high.max() == 1:  # images as floats from 0 to 1; the image encoder reads bytes
            observations = observations.astype(np.float32, copy=False) * np.float32(255)
        return np.moveaxis(observations, -1, -3) if channels_last(observations.shape[-3:]) else observations

    @property
    def time_limit(self) -> int:
        """How many timesteps are told apart."""
        return self.max_episode_steps or _TIME_LIMIT

    def encode_timesteps(self, timesteps: np.ndarray) -> np.ndarray:
        """Steps since the beginning of the episode to what the model reads, int64 of the same shape; steps behind the time
        limit count as the last one before it."""
        if self.timesteps == "none":
            return np.zeros(timesteps.shape, np.int64)
        return np.minimum(timesteps, self.time_limit - 1).astype(np.int64, copy=False)

    def model_config(self, **overrides: Any) -> DecisionTransformerConfig:
        """The configuration of a `TrainableDT` for this task; `overrides` are keys of the config, such as
        `hidden_size`, `n_layer`, `n_head`, `sliding_attention`, or `backbone_config`, which brings its own sizes."""
        groups = self.action_groups
        if overrides.get("backbone_config") is not None:
            backbone_config = plain_config(overrides["backbone_config"])
            size = config_hidden_size(config_of(backbone_config))
            overrides = {"hidden_size": size} | overrides | {"backbone_config": backbone_config}
        arguments = {
            "state_dim": self.state_dim,
            "act_dim": self.act_dim,
            "max_ep_len": 1 if self.timesteps == "none" else self.time_limit,
            "action_tanh": not groups and self._tanh_reaches_the_bounds(),
            "action_groups": groups or None,
            "image_shape": self.image_shape,
            "n_positions": 1,  # time is embedded by `embed_timestep`; the encoder uses its position 0 alone
            "bos_token_id": None,
            "eos_token_id": None,
        }
        return DecisionTransformerConfig(**(arguments | overrides))

    def _tanh_reaches_the_bounds(self) -> bool:
        """Whether the bounds of the encoded actions are -1 and 1, which tanh reaches and does not exceed."""
        space = self.task.actions
        low, high = (self._scaled(bound.ravel().astype(np.float64)) for bound in (space.low, space.high))
        return bool(np.allclose(low, -1) and np.allclose(high, 1))

    def _scaled(self, actions: np.ndarray) -> np.ndarray:
        return actions if self.action_shift is None else (actions - self.action_shift) / self.action_scale


class DecisionTransformerGymDataCollator:
    """Normalizes, scales and encodes a batch of windows.

    Given what [`TrajectoryWindows`] yields (a gathered batch, or a list of windows), it finishes these windows. Given
    rows of the raw data set, it uses only their number and draws as many windows itself: an episode with a chance in
    proportion to its length, a start in it uniformly (in other words any step of the data), by torch's generator, so
    that `TrainingArguments.seed` rules. In this way it stands in for the class of the same name in Hugging Face's
    post "Train your first Decision Transformer".

    Args:
        dataset (`datasets.Dataset`): One row an episode. `None` where a processor is given and windows are finished only.
        processor (`DecisionTransformerProcessor`, *optional*): Made from the data set by default.
        context_length (`int`, *optional*): Steps of the windows that it draws; the processor's by default.

    Attributes:
        state_dim, act_dim (`int`): Sizes of a state and of an encoded action.
        max_len (`int`): The context length, in steps.
        max_ep_len (`int`): The time limit, in steps; later timesteps count as the last one before it.
        scale (`float`): The return scale.
        state_mean, state_std (`(state_dim,)`): Statistics of the raw states.
        n_traj (`int`): The number of episodes.
        p_sample (`(n_traj,)`): The chance of each episode to be drawn.
    """

    return_tensors = "pt"

    def __init__(
        self,
        dataset: "Dataset | None",
        processor: DecisionTransformerProcessor | None = None,
        context_length: int | None = None,
    ) -> None:
        self.dataset = dataset
        self.processor = DecisionTransformerProcessor.from_dataset(dataset) if processor is None else processor
        self.max_len = context_length or self.processor.context_length
        self.max_ep_len = self.processor.time_limit
        self.scale = self.processor.return_scale
        self.state_dim, self.act_dim = self.processor.state_dim, self.processor.act_dim
        self.state_mean, self.state_std = self.processor.state_mean, self.processor.state_std

    @cached_property
    def windows(self) -> TrajectoryWindows:
        """The windows that it draws from when it is given raw rows."""
        return TrajectoryWindows(self.dataset, context_length=self.max_len, discount=self.processor.discount)

    @property
    def n_traj(self) -> int:
        return self.dataset.num_rows

    @property
    def p_sample(self) -> np.ndarray:
        lengths = np.diff(self.windows.columns.episode_offsets)
        return lengths / lengths.sum()

    def __call__(self, features: Mapping[str, np.ndarray] | Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch of left-padded windows.

        Returns:
            `states` `(batch, time, state_dim)` normalized, `actions` `(batch, time, act_dim)` (one-hot if discrete),
            `rewards` `(batch, time, 1)` raw, `returns_to_go` `(batch, time, 1)` scaled, `timesteps` `(batch, time)`,
            `attention_mask` `(batch, time)` (1 for real steps) and `labels`, the actions to predict, -100 in padded
            steps: `(batch, time, act_dim)` for `Box`, the numbers of the choices `(batch, time)` for `Discrete` and
            `(batch, time, components)` for `MultiDiscrete`; and `weights` `(batch, time)` where the windows have them. Padded
            steps hold a normalized zero state, a zero action, return and timestep; nothing that is computed for real steps
            depends on them.
        """
        if isinstance(features, Mapping) or "timesteps" in features[0]:
            return self._finish(gathered_windows(features))
        drawn = torch.randint(len(self.windows), (len(features),))
        return self._finish(self.windows.gather(drawn.numpy()))

    def _finish(self, windows: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        mask = windows["attention_mask"]  # (B, T)
        actions, labels = self._actions_and_labels(windows["actions"], mask.astype(bool))
        returns = self.processor.encode_targets(windows["returns_to_go"], windows["timesteps"])
        batch = {
            "states": self.processor.normalize_states(windows["observations"]),
            "actions": actions,
            "rewards": windows["rewards"][..., None].astype(np.float32, copy=False),
            "returns_to_go": np.where(mask, returns, np.float32(0))[..., None],
            "timesteps": self.processor.encode_timesteps(windows["timesteps"]),
            "attention_mask": mask.astype(np.float32),
            "labels": labels,
        }
        if not self.processor.past_actions:
            batch["actions"] = np.zeros_like(actions)
        if "weights" in windows:
            batch["weights"] = windows["weights"]
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _actions_and_labels(self, actions: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Actions as inputs of the model, `(batch, time, act_dim)`, and as targets of its predictions."""
        space = self.processor.task.actions
        # a padded step holds no action: any valid one is encoded in its place, then blanked
        placed = real.reshape(real.shape + (1,) * (actions.ndim - real.ndim))
        first = choice_bounds(space)[0].reshape(step_shape(space))
        actions = np.where(placed, actions, np.where(np.isfinite(first), first, 0).astype(actions.dtype))
        encoded = np.where(real[..., None], self.processor.encode_actions(actions), np.float32(0))
        if not isinstance(space, Box | Tuple | Dict):
            return encoded, np.where(placed, actions - first.astype(actions.dtype), _IGNORED).astype(np.int64)
        labels = np.where(encoded == _IGNORED, np.nextafter(encoded, np.float32(0)), encoded)
        return encoded, np.where(real[..., None], labels, np.float32(_IGNORED))


def channels_last(shape: tuple[int, ...]) -> bool:
    """Images come as (height, width, channels), stacked frames as (frames, height, width): channels are the fewer."""
    return shape[-1] < shape[0]
