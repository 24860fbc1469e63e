"""What the processors of all families share: the task, and how observations, actions and returns become numbers."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Space
from transformers import ProcessorMixin

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import column_statistics_of, pace
from hf_seqrl.data.spaces import (
    action_size,
    continuous_size,
    decode_actions,
    encode_actions,
    is_image_space,
)
from hf_seqrl.data.statistics import (
    HIGH_QUANTILE,
    ReturnStatistics,
    action_scaling,
    needs_scaling,
    standardization,
    standardize,
    weighted_median,
)
from hf_seqrl.data.task import Task


class TrajectoryProcessor(ProcessorMixin):
    """Holds the [`~hf_seqrl.data.task.Task`] and the scaling; saved with the weights as `processor_config.json`.

    A family's processor lists every parameter in the signature of its `__init__` and passes on what is listed here:
    `ProcessorMixin` saves what it finds in the signature, and loads by the names of the function's own code, so that neither
    `**kwargs` nor keyword-only parameters nor a generated signature would do.

    Args:
        task (`Task` or `dict`, *optional*): The environment, the spaces, the names.
        env_id, observation_space, action_space, max_episode_steps, reference_returns (*optional*): Fields of the task, which
            checkpoints of earlier versions hold one by one; they take the place of those in `task`.
        action_shift, action_scale (`(continuous_size,)` or `list[float]`, *optional*): The continuous entries of actions enter
            the model as `(action - action_shift) / action_scale` and leave it the other way round; not scaled by default.
        conditioning (`str`, *optional*, defaults to `"none"`): What actions are conditioned on: `"return"` or `"none"`.
        return_shift, return_scale (`float`, *optional*, default to 0 and 1): Returns-to-go enter the model as
            `(return - return_shift) / return_scale`.
        target_returns (`list[float]`, *optional*): Raw returns to reach by default, the first when none is given.
        discount (`float`, *optional*, defaults to 1.0): Of the returns-to-go.
        return_form (`str`, *optional*, defaults to `"to_go"`): What of a target the model reads: the return-to-go, or its
            `"pace"`: see [`~hf_seqrl.data.returns.pace`].
        return_bounds (`list[float]` of length 2, *optional*): A pace is clipped to them, raw return.

    Raises:
        ValueError: a scale is not positive, the discount is not in (0, 1], a pace is to be read of episodes without a time limit,
            or actions are to be conditioned on the returns of demonstrations without rewards.
    """

    # `Trainer` aligns the special tokens of a processor's tokenizer with the model: trajectories have none
    tokenizer = SimpleNamespace(eos_token_id=None, bos_token_id=None, pad_token_id=None)
    context_length: int = 1
    _reads_images = False  # whether the model has an image encoder, so that images are not to be standardized

    def __init__(
        self,
        task: Task | Mapping[str, Any] | None = None,
        *,
        env_id: str | None = None,
        observation_space: Space | Mapping[str, Any] | None = None,
        action_space: Space | Mapping[str, Any] | None = None,
        max_episode_steps: int | None = None,
        reference_returns: Any = None,
        action_shift: Any = None,
        action_scale: Any = None,
        conditioning: str = "none",
        return_shift: float = 0.0,
        return_scale: float = 1.0,
        target_returns: Any = None,
        discount: float = 1.0,
        return_form: str = "to_go",
        return_bounds: Any = None,
    ) -> None:
        super().__init__()
        if not isinstance(task, Task | Mapping | None):
            raise ValueError(f"task is {task!r}: expected a Task or a dictionary.")
        task = task if isinstance(task, Task) else Task.from_dict(task or {})
        self.task = Task.from_dict(task.to_dict()).updated(
            env_id=env_id,
            observation_space=observation_space,
            action_space=action_space,
            max_episode_steps=max_episode_steps,
            reference_returns=reference_returns,
        )
        if conditioning not in ("return", "none"):
            raise ValueError(f"conditioning is {conditioning!r}: expected 'return', or 'none' for behavior cloning.")
        if conditioning == "return" and self.task.has_rewards is False:
            raise ValueError(
                "conditioning is 'return', but the data were recorded without rewards: clone them, conditioning='none'."
            )
        if not return_scale > 0:
            raise ValueError(f"return_scale is {return_scale}: expected a number > 0.")
        if not 0 < discount <= 1:
            raise ValueError(f"discount is {discount}: expected a number in (0, 1].")
        self._check_spaces()
        has_numbers = self.task.action_space is None or continuous_size(self.task.action_space) > 0
        self.action_shift = _vector(action_shift) if has_numbers else None
        self.action_scale = _vector(action_scale) if has_numbers else None
        self._check_action_scaling()
        self.conditioning = conditioning
        self.return_shift, self.return_scale = float(return_shift), float(return_scale)
        self.target_returns = [float(value) for value in (target_returns if target_returns is not None else [])]
        if not np.isfinite(self.target_returns).all():
            raise ValueError(f"target_returns are {self.target_returns}: expected finite returns.")
        self.discount = float(discount)
        if return_form not in ("to_go", "pace"):
            raise ValueError(f"return_form is {return_form!r}: expected 'to_go' or 'pace'.")
        if return_form == "pace" and conditioning == "return" and self.task.max_episode_steps is None:
            raise ValueError("return_form is 'pace', which needs a time limit: give max_episode_steps.")
        self.return_form = return_form
        self.return_bounds = None if return_bounds is None else [float(value) for value in return_bounds]
        if self.return_bounds is not None and not (
            len(self.return_bounds) == 2 and np.isfinite(self.return_bounds).all()
        ):
            raise ValueError(f"return_bounds is {return_bounds!r}: expected two finite returns.")

    def _check_spaces(self) -> None:
        """Raise where the task holds something that describes no space, here and not at the first step."""
        for name in ("observation", "action"):
            if getattr(self.task, f"{name}_space") is None:
                continue
            try:
                getattr(self.task, f"{name}s")
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise ValueError(
                    f"{name}_space is {getattr(self.task, f'{name}_space')!r}: expected the description of a space ({error})."
                ) from error

    def _check_action_scaling(self) -> None:
        shift, scale = self.action_shift, self.action_scale
        if (shift is None) != (scale is None):
            raise ValueError(
                "one of action_shift and action_scale is given and the other is not: expected both or neither."
            )
        if shift is None or scale is None:
            return
        if not (np.isfinite(shift).all() and np.isfinite(scale).all()):
            raise ValueError(f"action_shift is {shift} and action_scale is {scale}: expected finite numbers.")
        if self.task.action_space is not None:
            expected = (continuous_size(self.task.action_space),)
            for name, values in (("action_shift", shift), ("action_scale", scale)):
                if values.shape not in ((), (1,), expected):
                    raise ValueError(
                        f"{name} has the shape {values.shape}: expected {expected}, a number for each continuous entry."
                    )

    # The fields of the task, where code reads them one by one

    @property
    def env_id(self) -> str | None:
        """The gymnasium id of the environment."""
        return self.task.env_id

    @property
    def observation_space(self) -> dict[str, Any] | None:
        """As `hf_seqrl.data.spaces.space_to_dict` gives it; `task.observations` is the space itself."""
        return self.task.observation_space

    @property
    def action_space(self) -> dict[str, Any] | None:
        """As `hf_seqrl.data.spaces.space_to_dict` gives it; `task.actions` is the space itself."""
        return self.task.action_space

    @property
    def max_episode_steps(self) -> int | None:
        """The time limit, in steps."""
        return self.task.max_episode_steps

    @property
    def reference_returns(self) -> tuple[float, float] | None:
        """Raw returns (random, expert) that stand for the normalized scores 0 and 100."""
        return self.task.reference_returns

    @property
    def is_conditioned(self) -> bool:
        """Whether actions are conditioned on a return-to-go."""
        return self.conditioning == "return"

    @property
    def act_dim(self) -> int:
        """The length of an encoded action."""
        return action_size(self.task.actions)

    @property
    def action_groups(self) -> list[int]:
        """The number of choices of each discrete component of an action; empty for `Box`."""
        return list(self.task.action_groups)

    def observation_vectors(
        self, observations: np.ndarray, mean: np.ndarray | None, std: np.ndarray | None
    ) -> np.ndarray:
        """Raw observations `(..., *observation_shape)` as float32 vectors `(..., size)`: `Box` ones flattened, and standardized
        where there are a mean and a deviation `(size,)`; discrete ones one-hot."""
        space = self.task.observations
        if mean is None or std is None or not isinstance(space, Box):
            return encode_actions(space, observations)
        leading = observations.shape[: observations.ndim - len(space.shape)]
        return standardize(observations.reshape(*leading, len(mean)), mean, std)

    def encode_actions(self, actions: np.ndarray) -> np.ndarray:
        """Raw actions `(..., *action_shape)` to what the model reads, `(..., act_dim)` float32: discrete components one-hot, then
        the continuous entries, scaled.

        Raises:
            ValueError: an integer action outside the space, or actions of another shape.
        """
        encoded = encode_actions(self.task.actions, actions)
        if self.action_shift is None:
            return encoded
        first = sum(self.task.action_groups)
        scaled = (encoded[..., first:] - self.action_shift) / self.action_scale
        return (
            scaled.astype(np.float32, copy=False)
            if not first
            else np.concatenate([encoded[..., :first], scaled], axis=-1, dtype=np.float32)
        )

    def decode_actions(self, values: np.ndarray) -> np.ndarray:
        """The model's output `(..., act_dim)` to actions `(..., *action_shape)` of the action space: the choices with the greatest
        scores for discrete components, the others scaled back and clipped to the bounds."""
        if self.action_shift is not None:
            first = sum(self.task.action_groups)
            scaled = values[..., first:] * self.action_scale + self.action_shift
            values = scaled if not first else np.concatenate([values[..., :first], scaled], axis=-1)
        return decode_actions(self.task.actions, values)

    def scale_returns(self, returns: np.ndarray) -> np.ndarray:
        """Raw returns-to-go to what the model reads, float32 of the same shape; zeros without conditioning."""
        if not self.is_conditioned:
            return np.zeros(np.shape(returns), dtype=np.float32)
        if not self.return_shift:
            return np.divide(returns, self.return_scale, dtype=np.float32)
        return ((np.asarray(returns, np.float64) - self.return_shift) / self.return_scale).astype(np.float32)

    def read_returns(self, returns_to_go: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        """What of raw returns-to-go at `timesteps` (both of any shape) the model reads, raw: see `return_form`."""
        if self.return_form == "to_go":
            return returns_to_go
        if self.max_episode_steps is None:
            raise ValueError(
                "a pace needs the time limit, which is not known: give max_episode_steps to the processor."
            )
        return pace(returns_to_go, timesteps, self.max_episode_steps, self.return_bounds)

    def _fit_returns(
        self,
        to_go: np.ndarray,
        episode_offsets: np.ndarray,
        episode_weights: np.ndarray | None,
        given: Mapping[str, Any],
        found: ReturnStatistics,
    ) -> None:
        """Choose the scale of what is read of a return, and the bounds of a pace, where they are not given, by the steps as they
        are drawn.

        With weights of episodes a pace is clipped to the median of the drawn steps, so that half of them show what is to be done
        when the best is asked for: at the maximum of the data there are few to learn from.
        """
        lengths = np.diff(episode_offsets)
        timesteps = np.arange(len(to_go)) - np.repeat(episode_offsets[:-1], lengths)
        weights = np.repeat(np.ones(len(lengths)) if episode_weights is None else episode_weights, lengths)
        if self.return_form == "pace" and "return_bounds" not in given:
            self.return_bounds = [min(found.low, 0.0), max(found.high, 0.0)]
            if episode_weights is not None:
                self.return_bounds[1] = weighted_median(self.read_returns(to_go, timesteps), weights)
        if "return_scale" not in given:
            read = self.read_returns(to_go, timesteps)
            mean = float(np.average(read, weights=weights))
            deviation = float(np.sqrt(np.average(np.square(read - mean), weights=weights)))
            self.return_scale = deviation if deviation > 1e-6 * np.abs(read).max() else 1.0
            self.return_shift = given.get("return_shift", mean)

    def encode_targets(self, returns_to_go: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        """Raw returns-to-go at `timesteps` to what the model reads, float32 of the same shape; zeros without conditioning."""
        return self.scale_returns(self.read_returns(returns_to_go, timesteps))

    def _standardization(self, mean: Any, std: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the observations as they are kept, checked against their space where it is known."""
        size = None if self.task.observation_space is None else action_size(self.task.observations)
        return standardization(mean, std, size, name)

    @classmethod
    def _scaling_of(
        cls, task: Task, columns: TrajectoryColumns, prefix: str, standardize_actions: bool
    ) -> dict[str, Any]:
        """Arguments of the constructor by which a data set's observations and actions are scaled: `{prefix}_mean`,
        `{prefix}_std`, `action_shift`, `action_scale`. What is not to be scaled has none.

        Args:
            task: With both spaces.
            columns: The data, read block by block.
            prefix: Of the names, as the family calls observations.
            standardize_actions: Whether `Box` actions are standardized by the data, or follow `action_scaling`.
        """
        arguments: dict[str, Any] = {}
        is_image = cls._reads_images and is_image_space(task.observations)
        if isinstance(task.observations, Box) and not is_image:
            found = column_statistics_of(columns, "observations")
            arguments |= {f"{prefix}_mean": found.mean, f"{prefix}_std": found.scale}
        if standardize_actions and isinstance(task.actions, Box):
            found = column_statistics_of(columns, "actions")
            arguments |= {"action_shift": found.mean, "action_scale": found.scale}
        elif not standardize_actions and needs_scaling(task.actions):
            shift, scale = action_scaling(task.actions, column_statistics_of(columns, "actions"))
            arguments |= {"action_shift": shift, "action_scale": scale}
        return arguments

    def widen_returns(self, returns: np.ndarray) -> None:
        """Take in that the data now hold episodes of these raw returns `(episodes,)`: they widen the range, a pace's bounds and the
        default target. What the model reads of a return keeps its scale."""
        if not self.is_conditioned:
            return
        best, low, high = float(returns.max()), float(returns.min()), float(np.quantile(returns, HIGH_QUANTILE))
        former = self.task.return_range or (low, best)
        self.task = self.task.updated(return_range=(min(low, former[0]), max(best, former[1])), high_return=high)
        if self.target_returns:
            self.target_returns[0] = max(best, self.target_returns[0])
        if self.return_bounds is not None:
            self.return_bounds = [min(low, self.return_bounds[0]), max(high, self.return_bounds[1])]

    def to_dict(self) -> dict[str, Any]:
        """What is saved: the task as a dictionary, and every other parameter of the constructor."""
        return super().to_dict() | {"task": self.task.to_dict()}  # a dataclass is not JSON


def _vector(values: Any) -> np.ndarray | None:
    return None if values is None else np.asarray(values, dtype=np.float64)
