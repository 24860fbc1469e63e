"""What a data set and its environment say about the task: what every family's processor starts from."""

from typing import TYPE_CHECKING

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space

from hf_seqrl.data.columns import FlatColumn, TrajectoryColumns
from hf_seqrl.data.metadata import TrajectoryMetadata, d4rl_reference_returns, metadata_of
from hf_seqrl.data.spaces import space_from_dict, space_to_dict

if TYPE_CHECKING:
    from datasets import Dataset


def task_of(dataset: "Dataset", columns: TrajectoryColumns, env_id: str | None = None) -> TrajectoryMetadata:
    """The metadata of a data set with nothing left open that can be found out.

    Spaces come from the metadata, else from the environment, else from the values in the data; the time limit from
    the metadata, else from the environment's registration, else it is the longest episode.

    Args:
        dataset: The trajectories.
        columns: Its columns.
        env_id: Takes the place of the id in the metadata.

    Raises:
        ValueError: the steps of the data have another shape than the environment's spaces.
    """
    task = metadata_of(dataset)
    made_for_another = env_id is not None and task.env_id not in (None, env_id)
    task = task.updated(env_id=env_id)
    if task.observation_space is None or task.action_space is None or made_for_another:
        observation_space, action_space = _spaces_of_environment(task.env_id) or _spaces_of_data(columns)
        task = task.updated(
            observation_space=space_to_dict(observation_space), action_space=space_to_dict(action_space)
        )
    for name, space, column in (
        ("observations", task.observation_space, columns.observations),
        ("actions", task.action_space, columns.actions),
    ):
        _check_shape(name, space_from_dict(space), column, task.env_id)
    limit = task.max_episode_steps or _time_limit(task.env_id) or int(np.diff(columns.episode_offsets).max())
    return task.updated(
        max_episode_steps=limit, reference_returns=task.reference_returns or d4rl_reference_returns(task.env_id)
    )


def _spaces_of_environment(env_id: str | None) -> tuple[Space, Space] | None:
    """The spaces of an environment that can be made here, else `None`."""
    if env_id is None:
        return None
    try:
        environment = gymnasium.make(env_id)
    except (gymnasium.error.Error, ImportError):  # an environment of somebody else, or its simulator is not installed
        return None
    spaces = environment.observation_space, environment.action_space
    environment.close()
    return spaces


def _spaces_of_data(columns: TrajectoryColumns) -> tuple[Space, Space]:
    observation_shape = columns.observations.shape_per_step
    if columns.observations.dtype == np.uint8:
        observation_space = Box(0, 255, observation_shape, np.uint8)
    else:
        observation_space = Box(-np.inf, np.inf, observation_shape, np.float32)
    if columns.actions.dtype.kind == "f":
        return observation_space, Box(-np.inf, np.inf, columns.actions.shape_per_step, np.float32)
    choices = np.max([block.max(axis=0) for block in columns.actions.blocks()], axis=0) + 1
    return observation_space, Discrete(int(choices)) if choices.ndim == 0 else MultiDiscrete(choices)


def _time_limit(env_id: str | None) -> int | None:
    try:
        return gymnasium.spec(env_id).max_episode_steps if env_id else None
    except gymnasium.error.Error:
        return None


def _check_shape(name: str, space: Space, column: FlatColumn, env_id: str | None) -> None:
    if space.shape != column.shape_per_step:
        raise ValueError(
            f"column {name!r} has steps of shape {column.shape_per_step}, the space of {env_id or 'the data set'} is "
            f"{space}: give the env_id of the environment in which the data were recorded."
        )
