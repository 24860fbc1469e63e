"""How states, actions and returns become the source and the target of an encoder-decoder; saved beside the weights."""

from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from gymnasium.spaces import Box, Discrete, Space
from transformers import ProcessorMixin

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.metadata import metadata_of
from hf_seqrl.data.returns import returns_of_episodes
from hf_seqrl.data.spaces import action_size, encode_actions, group_sizes, space_from_dict
from hf_seqrl.data.task import task_of
from hf_seqrl.models.trajectory_seq2seq.configuration_trajectory_seq2seq import TrajectorySeq2SeqConfig

if TYPE_CHECKING:
    from datasets import Dataset

TASKS = ("history", "actions", "next_action")
_STD_FLOOR = 1e-6


class TrajectorySeq2SeqProcessor(ProcessorMixin):
    """Encodes histories and knows the environment.

    Discrete entries become indices, `MultiDiscrete` ones concatenated one-hot vectors, `Box` ones flat vectors (of which
    observations are normalised). In a target a `Discrete` entry is one symbol, a `MultiDiscrete` one a symbol for each
    component, a `Box` one a VALUE symbol with its vector.

    Args:
        env_id (`str`, *optional*): The gymnasium id of the environment.
        observation_space (`dict`): As `hf_seqrl.data.spaces.space_to_dict` gives it.
        action_space (`dict`): Likewise.
        task (`str`, *optional*, defaults to `"next_action"`):
            `"history"`: `s_0 a_0 ... s_h` is written back. `"actions"`: `s_0 s_1 ... s_h` is read, `a_0 ... a_h`
            written. `"next_action"`: `s_0 a_0 ... s_h` is read, `a_h` written, as an agent does.
        context_length (`int`, *optional*, defaults to 10): States in a history at most.
        shared_vocabulary (`bool`, *optional*, defaults to `True`):
            Whether the target has as many symbols as states and actions need together, or its own alone.
        conditioning (`str`, *optional*, defaults to `"none"`):
            `"return"` puts a token in front of the source that says which return is still wanted.
        state_mean, state_std (`list[float]` of length `state_size`, *optional*): Of flattened `Box` observations.
        return_scale (`float`, *optional*, defaults to 1.0): Raw returns are divided by it; `from_dataset` takes the
            standard deviation of the episodes' returns.
        target_returns (`list[float]`, *optional*): Raw returns to ask for by default, the best first.
        max_episode_steps (`int`, *optional*): The time limit, in steps.
        reference_returns (`list[float]`, *optional*): Raw returns that stand for the normalised scores 0 and 100.
    """

    # `Trainer.train` aligns the model with the special tokens of a processor's tokenizer: here there are none
    tokenizer = SimpleNamespace(eos_token_id=None, bos_token_id=None, pad_token_id=None)

    def __init__(
        self,
        env_id: str | None = None,
        observation_space: dict[str, Any] | None = None,
        action_space: dict[str, Any] | None = None,
        task: Literal["history", "actions", "next_action"] = "next_action",
        context_length: int = 10,
        shared_vocabulary: bool = True,
        conditioning: Literal["none", "return"] = "none",
        state_mean: list[float] | np.ndarray | None = None,
        state_std: list[float] | np.ndarray | None = None,
        return_scale: float = 1.0,
        target_returns: list[float] | None = None,
        max_episode_steps: int | None = None,
        reference_returns: list[float] | None = None,
    ) -> None:
        super().__init__()
        if task not in TASKS:
            raise ValueError(f"task is {task!r}: expected one of {', '.join(TASKS)}.")
        if conditioning not in ("none", "return"):
            raise ValueError(f"conditioning is {conditioning!r}: expected 'none' or 'return'.")
        if context_length < 1 or not return_scale > 0:
            raise ValueError(
                f"context_length={context_length}, return_scale={return_scale}: expected at least 1 step and a scale > 0."
            )
        self.env_id = env_id
        self.observation_space = observation_space
        self.action_space = action_space
        self.task = task
        self.context_length = int(context_length)
        self.shared_vocabulary = shared_vocabulary
        self.conditioning = conditioning
        self.state_mean = None if state_mean is None else np.asarray(state_mean, dtype=np.float32)
        self.state_std = None if state_std is None else np.asarray(state_std, dtype=np.float32)
        self.return_scale = float(return_scale)
        self.target_returns = [float(value) for value in target_returns or []]
        self.max_episode_steps = max_episode_steps
        self.reference_returns = None if reference_returns is None else [float(value) for value in reference_returns]

    @classmethod
    def from_dataset(
        cls,
        dataset: "Dataset",
        task: Literal["history", "actions", "next_action"] = "next_action",
        context_length: int | None = None,
        env_id: str | None = None,
        **overrides: Any,
    ) -> "TrajectorySeq2SeqProcessor":
        """The processor of a data set; its statistics are read block by block.

        Args:
            dataset: The trajectories.
            task: See the constructor.
            context_length: States in a history; by default 10 for `"next_action"`, else the longest episode.
            env_id: The environment, where the data set does not name it.
            overrides: Any argument of the constructor.
        """
        columns = TrajectoryColumns(dataset)
        known, _ = task_of(metadata_of(dataset), columns, env_id)
        longest = int(np.diff(columns.episode_offsets).max())
        arguments = {
            "env_id": known.env_id,
            "observation_space": known.observation_space,
            "action_space": known.action_space,
            "task": task,
            "context_length": context_length or (10 if task == "next_action" else longest),
            "max_episode_steps": known.max_episode_steps,
            "reference_returns": known.reference_returns,
        }
        if isinstance(space_from_dict(known.observation_space), Box):
            arguments["state_mean"], arguments["state_std"] = _mean_and_std(columns)
        if overrides.get("conditioning") == "return":
            returns = returns_of_episodes(columns)
            arguments["return_scale"] = float(returns.std()) or 1.0  # targets are then told apart as states are
            arguments["target_returns"] = [float(returns.max()), float(np.median(returns))]
        return cls(**(arguments | overrides))

    @cached_property
    def observations_of(self) -> Space:
        """The observation space."""
        return space_from_dict(self.observation_space)

    @cached_property
    def actions_of(self) -> Space:
        """The action space."""
        return space_from_dict(self.action_space)

    def encode_states(self, observations: np.ndarray) -> np.ndarray:
        """Raw observations `(..., *observation_shape)` to indices `(...)` or vectors `(..., state_size)`."""
        encoded = _source_entries(self.observations_of, observations)
        if self.state_mean is None or not isinstance(self.observations_of, Box):
            return encoded
        return (encoded - self.state_mean) / self.state_std

    def encode_actions(self, actions: np.ndarray) -> np.ndarray:
        """Raw actions `(..., *action_shape)` to indices `(...)` or vectors `(..., action_size)`."""
        return _source_entries(self.actions_of, actions)

    def encode_target(self, space: Space, raw: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is written for entries of a space.

        Args:
            space: The observation or the action space.
            raw: `(batch, n, *shape)`, the entries.
            vectors: `(batch, n, size)`, their encoded vectors; read for `Box` spaces only.

        Returns:
            Symbols `(batch, n, k)`, `k` a entry, and vectors `(batch, n, k, value_size)`, NaN where there is none.
        """
        if isinstance(space, Box):
            values = np.full((*raw.shape[:2], 1, self.value_size), np.nan, dtype=np.float32)
            values[..., 0, : vectors.shape[-1]] = vectors
            return np.full((*raw.shape[:2], 1), self.num_symbols, dtype=np.int64), values
        symbols = (raw - space.start).reshape(*raw.shape[:2], -1).astype(np.int64)
        return symbols, np.full((*symbols.shape, self.value_size), np.nan, dtype=np.float32)

    def scale_returns(self, returns: np.ndarray) -> np.ndarray:
        """Raw returns to what the model reads, `float32` of the same shape."""
        return np.divide(returns, self.return_scale, dtype=np.float32)

    @cached_property
    def num_symbols(self) -> int:
        """Number of discrete symbols of the target."""
        everything = self.task == "history" or self.shared_vocabulary
        groups = group_sizes(self.actions_of) + (group_sizes(self.observations_of) if everything else [])
        return max(groups, default=0)

    @cached_property
    def value_size(self) -> int:
        """Dimension of the vectors of the target; 0 where it has none."""
        written = [self.actions_of] + ([self.observations_of] if self.task == "history" else [])
        return max((action_size(space) for space in written if isinstance(space, Box)), default=0)

    @property
    def eos_token_id(self) -> int:
        """The symbol that closes a target."""
        return self.num_symbols + (self.value_size > 0)

    def model_config(self, **overrides: Any) -> TrajectorySeq2SeqConfig:
        """The configuration of a model for this task; `overrides` are keys of the config, such as `backbone`."""
        tokens_per_action = max(len(group_sizes(self.actions_of)), 1)
        tokens_per_state = max(len(group_sizes(self.observations_of)), 1)
        per_step = tokens_per_action + (tokens_per_state if self.task == "history" else 0)
        steps = 1 if self.task == "next_action" else self.context_length
        arguments = {
            "state_size": action_size(self.observations_of),
            "action_size": action_size(self.actions_of),
            "continuous_states": isinstance(self.observations_of, Box),
            "continuous_actions": isinstance(self.actions_of, Box),
            "return_conditioning": self.conditioning == "return",
            "target_size": self.num_symbols,
            "value_size": self.value_size,
            "max_target_length": per_step * steps + 1,
        }
        return TrajectorySeq2SeqConfig(**(arguments | overrides))


def _source_entries(space: Space, raw: np.ndarray) -> np.ndarray:
    if isinstance(space, Discrete):
        return np.asarray(raw, dtype=np.int64) - int(space.start)
    return encode_actions(space, raw)


def _mean_and_std(columns: TrajectoryColumns) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of flattened observations, in two passes over blocks, `float64`."""
    total = sum(_flat(block).sum(axis=0) for block in columns.observations.blocks())
    mean = total / columns.num_steps
    squares = sum(np.square(_flat(block) - mean).sum(axis=0) for block in columns.observations.blocks())
    std = np.sqrt(squares / columns.num_steps)
    return mean, np.where(std < _STD_FLOOR, 1.0, std)  # a constant entry is left at zero, not blown up


def _flat(block: np.ndarray) -> np.ndarray:
    return block.reshape(len(block), -1).astype(np.float64)
