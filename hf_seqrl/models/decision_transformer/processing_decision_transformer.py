"""What a Decision Transformer must know beside its weights: how states, returns and actions become numbers."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import DecisionTransformerConfig, ProcessorMixin

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.metadata import metadata_of
from hf_seqrl.data.returns import discounted_returns
from hf_seqrl.data.spaces import action_size, group_sizes, space_from_dict
from hf_seqrl.data.task import task_of
from hf_seqrl.models.decision_transformer.image_encoder_decision_transformer import image_features

if TYPE_CHECKING:
    from datasets import Dataset

STD_FLOOR = 1e-6  # added to the standard deviation of every dimension, as in the paper's code
_LARGEST_RETURN_SCALE = 1000.0  # the paper's for the Gym tasks (appendix A.2)
_STEPS_AT_ONCE = 1 << 16


class DecisionTransformerProcessor(ProcessorMixin):
    """Normalises states, scales returns, and remembers the task; saved beside the weights.

    Args:
        env_id (`str`, *optional*): The gymnasium id of the environment.
        observation_space (`dict`): As `hf_seqrl.data.spaces.space_to_dict` gives it. Images have three dimensions.
        action_space (`dict`): Likewise.
        state_mean (`list[float]` of length `state_dim`, *optional*): Subtracted from flattened observations.
        state_std (`list[float]` of length `state_dim`, *optional*): They are divided by it; `1e-6` is included.
        return_scale (`float`, *optional*, defaults to 1.0): Raw returns are divided by it.
        context_length (`int`, *optional*, defaults to 20): Steps that the model sees when it acts.
        target_returns (`list[float]`, *optional*): Raw (discounted) returns to ask for by default, the best first.
        max_episode_steps (`int`, *optional*, defaults to 1000): The time limit, in steps.
        reference_returns (`list[float]`, *optional*): Raw returns that stand for the normalised scores 0 and 100.
        conditioning (`str`, *optional*, defaults to `"return"`): `"return"`, or `"none"` for behaviour cloning: the
            model then reads zeros in the place of every return-to-go.
        discount (`float`, *optional*, defaults to 1.0): Of the returns-to-go.
    """

    # `Trainer.train` aligns the model with the special tokens of a processor's tokenizer: here there are none
    tokenizer = SimpleNamespace(eos_token_id=None, bos_token_id=None, pad_token_id=None)

    def __init__(
        self,
        env_id: str | None = None,
        observation_space: dict[str, Any] | None = None,
        action_space: dict[str, Any] | None = None,
        state_mean: list[float] | np.ndarray | None = None,
        state_std: list[float] | np.ndarray | None = None,
        return_scale: float = 1.0,
        context_length: int = 20,
        target_returns: list[float] | None = None,
        max_episode_steps: int = 1000,
        reference_returns: list[float] | None = None,
        conditioning: str = "return",
        discount: float = 1.0,
    ) -> None:
        super().__init__()
        _check(return_scale, context_length, conditioning, discount)
        self.env_id = env_id
        self.observation_space = observation_space
        self.action_space = action_space
        self.state_mean = None if state_mean is None else np.asarray(state_mean, dtype=np.float32)
        self.state_std = None if state_std is None else np.asarray(state_std, dtype=np.float32)
        self.return_scale = float(return_scale)
        self.context_length = int(context_length)
        self.target_returns = [float(value) for value in target_returns or []]
        self.max_episode_steps = int(max_episode_steps)
        self.reference_returns = None if reference_returns is None else [float(value) for value in reference_returns]
        self.conditioning = conditioning
        self.discount = float(discount)

    @classmethod
    def from_dataset(
        cls, dataset: "Dataset", context_length: int = 20, env_id: str | None = None, **overrides: Any
    ) -> "DecisionTransformerProcessor":
        """The processor of a data set, its statistics read in one pass that holds one block at a time.

        Args:
            dataset: The trajectories.
            context_length: Steps that the model sees when it acts.
            env_id: The environment, where the data set does not name it.
            overrides: Any argument of the constructor. `return_scale` is by default the power of ten below the
                greatest absolute return, at most 1000; `target_returns` are the best return of the data and the
                median (none for behaviour cloning).
        """
        columns = TrajectoryColumns(dataset)
        task, _ = task_of(metadata_of(dataset), columns, env_id)
        returns = _returns_of_episodes(columns, overrides.get("discount", 1.0))
        conditioned = overrides.get("conditioning") != "none"
        arguments = {
            "env_id": task.env_id,
            "observation_space": task.observation_space,
            "action_space": task.action_space,
            "return_scale": _return_scale(returns),
            "context_length": context_length,
            "target_returns": [returns.max(), np.median(returns)] if conditioned else [],
            "max_episode_steps": max(task.max_episode_steps, int(np.diff(columns.episode_offsets).max())),
            "reference_returns": task.reference_returns,
        }
        if not _is_image(columns.observations.shape_per_step):
            mean, std = _mean_and_std(columns.observations.blocks())
            arguments |= {"state_mean": mean, "state_std": std + STD_FLOOR}
        return cls(**(arguments | overrides))

    @property
    def image_shape(self) -> list[int] | None:
        """`[channels, height, width]` of image observations, `None` for vectors."""
        shape = space_from_dict(self.observation_space).shape
        if not _is_image(shape):
            return None
        return [shape[-1], *shape[:-1]] if _channels_last(shape) else list(shape)

    @property
    def state_dim(self) -> int:
        """The length of a state vector; for images, the number of features that the image encoder gives."""
        shape = self.image_shape
        return int(np.prod(space_from_dict(self.observation_space).shape)) if shape is None else image_features(shape)

    @property
    def act_dim(self) -> int:
        """The length of an encoded action."""
        return action_size(self.action_space)

    def normalize_states(self, observations: np.ndarray) -> np.ndarray:
        """Raw observations `(..., *observation_shape)` to states `(..., state_dim)`; images only get their channels in
        front, `(..., channels, height, width)`, and stay bytes."""
        if self.state_mean is not None:
            states = observations.reshape(*observations.shape[: _leading(observations, self)], len(self.state_mean))
            states = states.astype(np.float32, copy=False) - self.state_mean
            states /= self.state_std
            return states
        return np.moveaxis(observations, -1, -3) if _channels_last(observations.shape[-3:]) else observations

    def scale_returns(self, returns: np.ndarray) -> np.ndarray:
        """Raw returns to what the model reads, `float32` of the same shape."""
        if self.conditioning == "none":
            return np.zeros(returns.shape, dtype=np.float32)
        return np.divide(returns, self.return_scale, dtype=np.float32)

    def model_config(self, **overrides: Any) -> DecisionTransformerConfig:
        """The configuration of a `TrainableDT` for this task; `overrides` are keys of the config, such as
        `hidden_size`, `n_layer`, `n_head`, or `sliding_attention`."""
        space = space_from_dict(self.action_space)
        groups = group_sizes(space)
        arguments = {
            "state_dim": self.state_dim,
            "act_dim": self.act_dim,
            "max_ep_len": self.max_episode_steps,
            # bounded by tanh only where that reaches the bounds and no further
            "action_tanh": not groups and bool((space.low == -1).all() and (space.high == 1).all()),
            "action_groups": groups or None,
            "image_shape": self.image_shape,
            "n_positions": 1,  # time is embedded by `embed_timestep`; the encoder uses its position 0 alone
            "bos_token_id": None,
            "eos_token_id": None,
        }
        return DecisionTransformerConfig(**(arguments | overrides))


def _check(return_scale: float, context_length: int, conditioning: str, discount: float) -> None:
    if not return_scale > 0:
        raise ValueError(f"return_scale is {return_scale}: expected a number > 0.")
    if context_length < 1:
        raise ValueError(f"context_length is {context_length}: expected a number of steps >= 1.")
    if conditioning not in ("return", "none"):
        raise ValueError(f"conditioning is {conditioning!r}: expected 'return', or 'none' for behaviour cloning.")
    if not 0 < discount <= 1:
        raise ValueError(f"discount is {discount}: expected a number in (0, 1].")


def _returns_of_episodes(columns: TrajectoryColumns, discount: float) -> np.ndarray:
    rewards = columns.rewards.take(np.arange(columns.num_steps))
    return discounted_returns(rewards, columns.episode_offsets, discount)[columns.episode_offsets[:-1]]


def _return_scale(returns: np.ndarray) -> float:
    greatest = float(np.abs(returns).max())
    return min(_LARGEST_RETURN_SCALE, 10.0 ** np.floor(np.log10(greatest))) if greatest > 0 else 1.0


def _mean_and_std(blocks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and (population) standard deviation of the rows of all blocks, `float64`, merged pairwise (Chan et al.)."""
    count, mean, squares = 0, 0.0, 0.0
    for block in blocks:
        for start in range(0, len(block), _STEPS_AT_ONCE):
            part = block[start : start + _STEPS_AT_ONCE].astype(np.float64)
            part = part.reshape(len(part), -1)
            part_mean = part.mean(axis=0)
            delta = part_mean - mean
            total = count + len(part)
            squares = squares + np.square(part - part_mean).sum(axis=0) + delta**2 * (count * len(part) / total)
            mean = mean + delta * (len(part) / total)
            count = total
    return mean, np.sqrt(squares / count)


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3


def _channels_last(shape: tuple[int, ...]) -> bool:
    """Images come as (height, width, channels), stacked frames as (frames, height, width): channels are the fewer."""
    return shape[-1] < shape[0]


def _leading(observations: np.ndarray, processor: DecisionTransformerProcessor) -> int:
    return observations.ndim - len(processor.observation_space["shape"])
