"""The task of a data set: its environment, its spaces, its time limit, and what the user calls things."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space

from hf_seqrl.data.spaces import (
    continuous_bounds,
    continuous_entries,
    flat_space,
    flat_values,
    space_from_dict,
    space_to_dict,
    step_shape,
)

if TYPE_CHECKING:
    from typing_extensions import Self

    from hf_seqrl.data.columns import FlatColumn, TrajectoryColumns

_MOST_GUESSED_CHOICES = 10_000
_SIDE_OF_FLOAT_IMAGES = 32  # pixels; smaller arrays of floats are features

# (return of a random policy, return of an expert) from `d4rl/infos.py` of Farama-Foundation/D4RL, by task name
_D4RL_REFERENCE_RETURNS = {
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
}


@dataclass(frozen=True)
class Task:
    """What an agent does: held by the metadata of a data set and by every processor.

    Attributes:
        env_id: The gymnasium id of the environment, for instance `Hopper-v5`.
        observation_space, action_space: In the form of `hf_seqrl.data.spaces.space_to_dict`; spaces are converted.
        reference_returns: Raw returns (random, expert) that stand for the normalized scores 0 and 100.
        max_episode_steps: The time limit, in steps.
        observation_names, action_names: One name for each entry of a flat observation or action, in order.
        units: The unit of each entry that has one, by its name.
        categories: The words of a categorical column, by its name; the position of a word is its code. A column of actions is
            found by `action_names`.
        source_observation_space: The space of the environment's own observations, where they are not vectors or images but
            numbers of states, tuples or dictionaries; `observation_space` is what they are flattened to.
        has_rewards: `False` for demonstrations that were recorded without rewards; their rewards are zeros.
        return_range: The lowest and the highest return of the data, raw.

    Raises:
        ValueError: `reference_returns` are not increasing, or `max_episode_steps` is not positive.
    """

    env_id: str | None = None
    observation_space: dict[str, Any] | None = None
    action_space: dict[str, Any] | None = None
    reference_returns: tuple[float, float] | None = None
    max_episode_steps: int | None = None
    observation_names: tuple[str, ...] | None = None
    action_names: tuple[str, ...] | None = None
    units: dict[str, str] | None = None
    categories: dict[str, list[Any]] | None = None
    source_observation_space: dict[str, Any] | None = None
    has_rewards: bool | None = None
    return_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("observation_space", "action_space", "source_observation_space"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, space_to_dict(getattr(self, name)))
        if self.return_range is not None:
            object.__setattr__(self, "return_range", tuple(float(value) for value in self.return_range))
        for name in ("observation_names", "action_names"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.reference_returns is not None:
            object.__setattr__(self, "reference_returns", _checked_reference(self.reference_returns))
        if self.max_episode_steps is not None:
            object.__setattr__(self, "max_episode_steps", _checked_limit(self.max_episode_steps))

    def updated(self, **changes: Any) -> "Self":
        """A copy with these fields replaced; `None` leaves a field as it is.

        Example:
            >>> Task(env_id="Hopper-v4").updated(env_id="Hopper-v5", max_episode_steps=None).env_id
            'Hopper-v5'
        """
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    @cached_property
    def observations(self) -> Space:
        """The observation space as a gymnasium space.

        Raises:
            ValueError: it is not known.
        """
        return self._space("observation_space")

    @cached_property
    def actions(self) -> Space:
        """The action space as a gymnasium space.

        Raises:
            ValueError: it is not known.
        """
        return self._space("action_space")

    def flat_observations(self, observations: Any) -> np.ndarray:
        """Observations of several environments or steps as vectors or images `(n, *observation_space.shape)`.

        Args:
            observations: `(n, ...)`; for environments with tuples or dictionaries, a tuple or dictionary of such arrays.
        """
        is_flat = not isinstance(observations, Mapping | tuple)
        if self.source_observation_space is None or (
            is_flat and np.shape(observations)[1:] == self.observations.shape
        ):
            return np.asarray(observations)
        return flat_values(self.source_observation_space, observations)

    def words(self, actions: np.ndarray) -> list[Any]:
        """Actions in the user's own words: `(n, ...)` codes become what stood in the table or data set.

        Example:
            >>> task = Task(action_names=("order",), categories={"order": ["buy", "hold", "sell"]})
            >>> task.words(np.array([2, 0]))
            ['sell', 'buy']
        """
        names, categories = self.action_names or (), self.categories or {}
        if not any(name in categories for name in names):
            return np.asarray(actions).tolist()
        rows = np.asarray(actions).reshape(len(actions), -1)
        said = [
            [categories[name][int(value)] if name in categories else value.item() for name, value in zip(names, row)]
            for row in rows
        ]
        return [row[0] for row in said] if np.ndim(actions) == 1 else said

    def observation_vector(self, entries: Mapping[str, Any]) -> np.ndarray:
        """One observation from its entries by name, in the order of the data; words become their one-hot entries.

        Raises:
            ValueError: an entry is missing, or a word was not in the data.

        Example:
            >>> task = Task(observation_names=("level", "mode=auto", "mode=hand"), categories={"mode": ["auto", "hand"]})
            >>> task.observation_vector({"mode": "hand", "level": 0.5})
            array([0.5, 0. , 1. ])
        """
        if self.observation_names is None:
            raise ValueError("the observations have no names: give them as an array, in the order of the data.")
        values: dict[str, float] = {}
        for name, value in entries.items():
            words = (self.categories or {}).get(name)
            if words is None:
                values[name] = value
            elif value not in words:
                raise ValueError(f"{name} is {value!r}: expected one of {', '.join(map(repr, words))}.")
            else:
                values |= {f"{name}={word}": float(word == value) for word in words}
        missing = [name for name in self.observation_names if name not in values]
        if missing:
            raise ValueError(
                f"the observation has no {', '.join(missing)}: expected {', '.join(self.observation_names)}."
            )
        return np.array([values[name] for name in self.observation_names], dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """The fields that are known, as values that JSON can hold."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Self":
        """The reverse of `to_dict`; fields of a later version that this one does not know are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def _space(self, name: str) -> Space:
        description = getattr(self, name)
        if description is None:
            raise ValueError(f"the {name} is not known: give {name}=... to load_trajectories or to the processor.")
        return space_from_dict(description)


def task_of(task: Task, columns: "TrajectoryColumns", env_id: str | None = None) -> tuple[Task, dict[str, str]]:
    """The task of a data set with nothing left open that can be found out.

    What is stated stays. What is left open comes from the environment, where it can be made here, else from the data.

    Args:
        task: What is stated: the metadata of the data set.
        columns: The columns of the data set.
        env_id: Takes the place of the id in `task`.

    Returns:
        The task, and a sentence for each field that was guessed from the data, by the name of the field.

    Raises:
        ValueError: the steps of the data do not have the shape of the stated or registered spaces, or actions lie outside the
            bounds.
    """
    guesses = dict(getattr(task, "guesses", {}))
    task = Task.from_dict(task.to_dict()).updated(env_id=env_id)
    for name, column in (("observation_space", columns.observations), ("action_space", columns.actions)):
        if getattr(task, name) is None:
            registered = spaces_of_environment(task.env_id)
            if registered is None:
                space, guesses[name] = guessed_space(column, name == "action_space")
            else:
                space = registered[name]
                guesses.pop(name, None)
            task = task.updated(**_flattened(name, space))
    _check_shape("observations", task.observations, columns.observations, task.env_id)
    _check_shape("actions", task.actions, columns.actions, task.env_id)
    check_bounds(columns, task.actions)
    limit, because = time_limit_of(task, int(np.diff(columns.episode_offsets).max()))
    if because is None:
        guesses.pop("max_episode_steps", None)
    else:
        guesses["max_episode_steps"] = because
    references = task.reference_returns or d4rl_reference_returns(task.env_id)
    return task.updated(max_episode_steps=limit, reference_returns=references), guesses


def _flattened(name: str, space: Space) -> dict[str, Space]:
    if name == "action_space" or isinstance(space, Box):
        return {name: space}
    return {name: flat_space(space), "source_observation_space": space}


def time_limit_of(task: Task, longest: int) -> tuple[int, str | None]:
    """The time limit, and why it is this one where nobody stated it."""
    if task.max_episode_steps is not None:
        return task.max_episode_steps, None
    limit = time_limit(task.env_id)
    if limit is None:
        return longest, f"{longest}, the length of the longest episode"
    if longest > limit:
        return (
            longest,
            f"{longest}, the length of the longest episode, which is longer than the {limit} of {task.env_id}",
        )
    return limit, None


def check_bounds(columns: "TrajectoryColumns", space: Space) -> None:
    """Refuse actions outside the bounds of their space, but for rounding errors.

    Raises:
        ValueError: names the first such action.
    """
    low, high = continuous_bounds(space)
    if not (np.isfinite(low).any() or np.isfinite(high).any()):
        return
    entries, first = continuous_entries(space), 0
    slack = 1e-5 * np.where(np.isfinite(high - low), high - low, 1.0)
    for block in columns.actions.blocks():
        block = block.reshape(len(block), -1)
        block = block if len(entries) == block.shape[1] else block[:, entries]
        if (block.min(axis=0) < low - slack).any() or (block.max(axis=0) > high + slack).any():
            outside = (block < low - slack) | (block > high + slack)
            step, entry = np.unravel_index(int(np.argmax(outside)), outside.shape)
            episode = int(columns.episode_of(np.asarray(first + step)))
            place = first + step - columns.episode_offsets[episode]
            raise ValueError(
                f"column 'actions' of episode {episode} is {block[step, entry]:.6g} at step {place}, entry [{entries[entry]}]: "
                f"expected an action of {space}; {int(outside.any(axis=1).sum())} steps lie outside. Give the right "
                "action_space, or load_trajectories(..., out_of_bounds='clip') to move them to the bounds, or 'rescale' to "
                "map the range of the data to the bounds."
            )
        first += len(block)


def trusted_env_id(env_id: str | None, whose: str, trust_remote_code: bool = False) -> str | None:
    """An environment id out of a file, unless it would have gymnasium import a module: `module:Environment-v0` is code.

    Args:
        env_id: As it stands in the file.
        whose: Of what file, for the message.
        trust_remote_code: Whether the user trusts it. A module that the program has imported already runs no new code.

    Raises:
        ValueError: it names a module that nobody has imported, and is not trusted.
    """
    module, colon, _ = (env_id or "").rpartition(":")
    if colon and module not in sys.modules:
        if not trust_remote_code:
            raise ValueError(
                f"{whose} names the environment {env_id!r}, which has gymnasium import {module!r}: import that module "
                "yourself first, or pass trust_remote_code=True, if you trust its author."
            )
        import_module(module)
    return env_id


def time_limit(env_id: str | None) -> int | None:
    """The number of steps after which gymnasium truncates an episode of this environment; `None` where it is not known."""
    import gymnasium

    spec = gymnasium.registry.get(env_id) if env_id else None
    return None if spec is None else spec.max_episode_steps


def d4rl_reference_returns(env_id: str | None) -> tuple[float, float] | None:
    """D4RL's (random, expert) returns of an environment, whatever its version; `None` for one that D4RL has not scored.

    Example:
        >>> d4rl_reference_returns("Hopper-v5"), d4rl_reference_returns("CartPole-v1")
        ((-20.272305, 3234.3), None)
    """
    task = (env_id or "").rpartition("/")[2].split("-")[0].lower()
    return _D4RL_REFERENCE_RETURNS.get(task)


def spaces_of_environment(env_id: str | None) -> dict[str, Space] | None:
    """The spaces of an environment that can be made here, else `None`."""
    import gymnasium

    if env_id is None or env_id not in gymnasium.registry:  # an unregistered id would have gymnasium import a module
        return None
    try:
        environment = gymnasium.make(env_id)
    except (gymnasium.error.Error, ImportError):  # its simulator is not installed
        return None
    spaces = {"observation_space": environment.observation_space, "action_space": environment.action_space}
    environment.close()
    return spaces


def guessed_space(column: "FlatColumn", is_action: bool) -> tuple[Space, str]:
    """A space that holds all values of a column, and why it is this one.

    Raises:
        ValueError: the codes of discrete actions are so large that they look like something else.
    """
    shape = column.shape_per_step
    if not is_action and column.dtype == np.uint8:
        return Box(0, 255, shape, np.uint8), f"bytes of shape {shape}: {'images' if len(shape) == 3 else 'features'}"
    if not is_action and len(shape) == 3 and max(shape) >= _SIDE_OF_FLOAT_IMAGES and _within(column, 0, 1):
        return Box(0, 1, shape, np.float32), f"floats from 0 to 1 of shape {shape}: images"
    if column.dtype.kind == "f" or (not is_action and shape):
        return Box(
            -np.inf, np.inf, shape, np.float32
        ), "Box without bounds: the data are floats, their bounds are not known"
    choices = np.max([block.max(axis=0) for block in column.blocks()], axis=0).astype(np.int64) + 1
    _check_choices(int(choices.max()))
    space = Discrete(int(choices)) if choices.ndim == 0 else MultiDiscrete(choices)
    return space, f"{space}, from the largest integers in the data"


def _within(column: "FlatColumn", low: float, high: float) -> bool:
    return all(block.min() >= low and block.max() <= high for block in column.blocks())


def _check_choices(choices: int) -> None:
    if choices > _MOST_GUESSED_CHOICES:
        memory = 64 * 20 * choices * 4 / 2**30
        raise ValueError(
            f"the actions are integers up to {choices - 1:,}: as one-hot vectors, a batch of 64 windows of 20 steps would take "
            f"{memory:.1f} GiB. Where they are quantities, give action_space=Box(low, high, (1,)); where they are ids, number "
            f"those that occur from 0 on; else state action_space=Discrete({choices})."
        )


def _check_shape(name: str, space: Space, column: "FlatColumn", env_id: str | None) -> None:
    if step_shape(space) != column.shape_per_step:
        raise ValueError(
            f"column {name!r} has steps of shape {column.shape_per_step}, the space of {env_id or 'the data set'} is "
            f"{space}: give the env_id of the environment in which the data were recorded, or the space."
        )


def _checked_reference(returns: Any) -> tuple[float, float]:
    random_return, expert_return = (float(value) for value in returns)
    if not random_return < expert_return:
        raise ValueError(f"reference_returns {tuple(returns)}: expected (random, expert) with random < expert.")
    return random_return, expert_return


def _checked_limit(limit: Any) -> int:
    if isinstance(limit, bool) or int(limit) != limit or limit < 1:
        raise ValueError(f"max_episode_steps is {limit!r}: expected a number of steps, at least 1.")
    return int(limit)
