"""The task of a data set: its environment, its spaces, its time limit, and what the user calls things."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space

from hf_seqrl.data.spaces import space_from_dict, space_to_dict

if TYPE_CHECKING:
    from typing_extensions import Self

    from hf_seqrl.data.columns import FlatColumn, TrajectoryColumns

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
        categories: The words of a categorical column, by its name; the position of a word is its code.

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

    def __post_init__(self) -> None:
        for name in ("observation_space", "action_space"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, space_to_dict(getattr(self, name)))
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
        ValueError: the steps of the data do not have the shape of the stated or registered spaces.
    """
    task = Task.from_dict(task.to_dict()).updated(env_id=env_id)
    guesses: dict[str, str] = {}
    stated = {"observation_space": task.observation_space, "action_space": task.action_space}
    if None in stated.values():
        registered = _spaces_of_environment(task.env_id)
        for name, column in (("observation_space", columns.observations), ("action_space", columns.actions)):
            if stated[name] is None and registered is not None:
                task = task.updated(**{name: registered[name]})
            elif stated[name] is None:
                space, guesses[name] = _guessed_space(column, name == "action_space")
                task = task.updated(**{name: space})
    _check_shape("observations", task.observations, columns.observations, task.env_id)
    _check_shape("actions", task.actions, columns.actions, task.env_id)
    limit = task.max_episode_steps or time_limit(task.env_id)
    if limit is None:
        limit = int(np.diff(columns.episode_offsets).max())
        guesses["max_episode_steps"] = f"{limit}, the length of the longest episode"
    references = task.reference_returns or d4rl_reference_returns(task.env_id)
    return task.updated(max_episode_steps=limit, reference_returns=references), guesses


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


def _spaces_of_environment(env_id: str | None) -> dict[str, Space] | None:
    """The spaces of an environment that can be made here, else `None`."""
    import gymnasium

    if env_id is None or env_id not in gymnasium.registry:  # an unregistered id would have gymnasium import a module
        return None
    try:
        environment = gymnasium.make(env_id)
    except (gymnasium.error.Error, ImportError):  # its simulator is not installed
        return None
    with environment:
        return {"observation_space": environment.observation_space, "action_space": environment.action_space}


def _guessed_space(column: "FlatColumn", is_action: bool) -> tuple[Space, str]:
    """A space that holds all values of a column, and why it is this one."""
    if not is_action and column.dtype == np.uint8:
        return Box(0, 255, column.shape_per_step, np.uint8), "the observations are bytes"
    if column.dtype.kind == "f" or (not is_action and column.shape_per_step):
        return Box(-np.inf, np.inf, column.shape_per_step, np.float32), "floats without known bounds"
    choices = np.max([block.max(axis=0) for block in column.blocks()], axis=0) + 1
    space = Discrete(int(choices)) if choices.ndim == 0 else MultiDiscrete(choices)
    return space, f"{space}, from the largest integers in the data"


def _check_shape(name: str, space: Space, column: "FlatColumn", env_id: str | None) -> None:
    if space.shape != column.shape_per_step:
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
