"""What a task leaves open, found out from the environment where it can be made here, else from the data."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space

from hf_seqrl.data.columns import FlatColumn, TrajectoryColumns
from hf_seqrl.data.composite_spaces import flat_space
from hf_seqrl.data.environment_ids import d4rl_reference_returns, spaces_of_environment, time_limit
from hf_seqrl.data.spaces import continuous_bounds, continuous_entries, step_shape
from hf_seqrl.data.task import Task

_MOST_GUESSED_CHOICES = 10_000
_SIDE_OF_FLOAT_IMAGES = 32  # pixels; smaller arrays of floats are features


_STATED = ("observation_space", "action_space", "max_episode_steps", "reference_returns")


def task_of(
    task: Task, columns: TrajectoryColumns, env_id: str | None = None, given: Mapping[str, Any] | None = None
) -> tuple[Task, dict[str, str]]:
    """The task of a data set with nothing left open that can be found out.

    What is stated stays. What is left open comes from the environment, where it can be made here, else from the data.

    Args:
        task: What is stated: the metadata of the data set.
        columns: The columns of the data set.
        env_id: Takes the place of the id in `task`.
        given: Arguments of a processor; spaces, time limit and reference returns among them take the place of those in `task`.

    Returns:
        The task, and a sentence for each field that was guessed from the data, by the name of the field.

    Raises:
        ValueError: the steps of the data do not have the shape of the stated or registered spaces, or actions lie outside the
            bounds, or an episode is longer than a given limit.
    """
    stated = {name: given[name] for name in _STATED if given and given.get(name) is not None}
    guesses = {name: why for name, why in getattr(task, "guesses", {}).items() if name not in stated}
    task = Task.from_dict(task.to_dict()).updated(env_id=env_id, **stated)
    if "max_episode_steps" in stated:
        refuse_longer_episodes(columns, stated["max_episode_steps"])
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


def refuse_longer_episodes(columns: TrajectoryColumns, limit: int) -> None:
    """Refuse a stated time limit that an episode exceeds.

    Raises:
        ValueError: it names the longest episode.
    """
    lengths = np.diff(columns.episode_offsets)
    episode = int(np.argmax(lengths))
    if lengths[episode] > limit:
        raise ValueError(
            f"episode {episode} has {lengths[episode]} steps, more than max_episode_steps={limit}: state the right limit, or cut "
            f"the episodes there, load_trajectories(..., cut_every={limit})."
        )


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


def check_bounds(columns: TrajectoryColumns, space: Space) -> None:
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


def guessed_space(column: FlatColumn, is_action: bool) -> tuple[Space, str]:
    """A space that holds all values of a column, and why it is this one.

    Raises:
        ValueError: the codes of discrete actions are so large that they look like something else.
    """
    shape = column.shape_per_step
    if not is_action and column.dtype == np.uint8:
        return Box(0, 255, shape, np.uint8), f"bytes of shape {shape}: {'images' if len(shape) == 3 else 'features'}"
    if not is_action and len(shape) == 3 and max(shape) >= _SIDE_OF_FLOAT_IMAGES and _within(column, 0, 1):
        return Box(0, 1, shape, np.float32), f"floats from 0 to 1 of shape {shape}: images"
    if not is_action and len(shape) == 3 and max(shape) >= _SIDE_OF_FLOAT_IMAGES and _are_bytes(column):
        return Box(0, 255, shape, np.float32), f"whole numbers from 0 to 255 of shape {shape}: images"
    if column.dtype.kind == "f" or (not is_action and shape):
        return Box(
            -np.inf, np.inf, shape, np.float32
        ), "Box without bounds: the data are floats, their bounds are not known"
    choices = np.max([block.max(axis=0) for block in column.blocks()], axis=0).astype(np.int64) + 1
    _check_choices(int(choices.max()))
    space = Discrete(int(choices)) if choices.ndim == 0 else MultiDiscrete(choices)
    because = f"{space}, from the largest integers in the data"
    least = int(np.min([block.min() for block in column.blocks()]))
    if least > 0 and choices.ndim == 0:
        because += (
            f"; no action is below {least}: give Discrete({int(choices) - least}, start={least}) if there is none"
        )
    return space, because


def _within(column: FlatColumn, low: float, high: float) -> bool:
    return all(block.min() >= low and block.max() <= high for block in column.blocks())


def _are_bytes(column: FlatColumn) -> bool:
    return _within(column, 0, 255) and all((block == np.rint(block)).all() for block in column.blocks())


def _check_choices(choices: int) -> None:
    if choices > _MOST_GUESSED_CHOICES:
        memory = 64 * 20 * choices * 4 / 2**30
        raise ValueError(
            f"the actions are integers up to {choices - 1:,}: as one-hot vectors, a batch of 64 windows of 20 steps would take "
            f"{memory:.1f} GiB. Where they are quantities, give action_space=Box(low, high, (1,)); where they are ids, number "
            f"those that occur from 0 on; else state action_space=Discrete({choices})."
        )


def _check_shape(name: str, space: Space, column: FlatColumn, env_id: str | None) -> None:
    if step_shape(space) != column.shape_per_step:
        raise ValueError(
            f"column {name!r} has steps of shape {column.shape_per_step}, the space of {env_id or 'the data set'} is "
            f"{space}: give the env_id of the environment in which the data were recorded, or the space."
        )
