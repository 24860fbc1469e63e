"""Validation of data sets, with errors that name the value, its position and a remedy."""

import math
from collections.abc import Callable, Mapping

import numpy as np
from datasets import Dataset
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple

from hf_seqrl.data.columns import FlatColumn, TrajectoryColumns
from hf_seqrl.data.spaces import choice_bounds, space_from_dict, step_shape
from hf_seqrl.data.task import Task


def validate_trajectories(
    dataset: Dataset, observation_space: Mapping | Space | None = None, action_space: Mapping | Space | None = None
) -> None:
    """Raise an error for the first problem that would make training on this data set wrong.

    Args:
        dataset (`datasets.Dataset`): Trajectories, one row per episode.
        observation_space, action_space (*optional*): Used to check shapes and integer actions.

    Raises:
        ValueError: a column is missing or its lengths differ, an episode is empty, steps have different sizes, a value
            is NaN or infinite or has the wrong type, an integer action is out of range, or an episode continues after
            its end. The message names column, episode, step and value.
    """
    validate_columns(TrajectoryColumns(dataset), observation_space, action_space)


def validate_columns(
    columns: TrajectoryColumns,
    observation_space: Mapping | Space | None = None,
    action_space: Mapping | Space | None = None,
) -> None:
    """As `validate_trajectories`, for open columns."""
    _check_kinds(columns)
    _check_shapes(columns, observation_space, action_space)
    for name in ("observations", "actions", "rewards"):
        _check_finite(columns, name)
    _check_integer_actions(columns, action_space)
    _check_ends(columns, "terminations")
    if isinstance(columns.truncations, FlatColumn):
        _check_ends(columns, "truncations")


def check_names(columns: TrajectoryColumns, task: Task) -> None:
    """Raise where names do not fit the entries, occur twice, or units or categories belong to no name.

    Raises:
        ValueError: says how many names are expected, or which name is not known.
    """
    for name, column in (("observation_names", columns.observations), ("action_names", columns.actions)):
        names = getattr(task, name)
        if names is None:
            continue
        size = math.prod(column.shape_per_step)
        if len(names) != size:
            raise ValueError(
                f"{name} has {len(names)} names ({', '.join(names[:5])}): expected {size}, one for each entry of a step."
            )
        if len(set(names)) < len(names):
            twice = next(one for one in names if names.count(one) > 1)
            raise ValueError(f"{name} has {twice!r} more than once: expected different names.")
    worded = {*(task.action_names or ()), *(name.split("=")[0] for name in task.observation_names or ())}
    unknown = [name for name in task.categories or {} if name not in worded]
    if unknown:
        raise ValueError(
            f"categories are given for {', '.join(map(repr, unknown))}: expected columns of words, "
            f"{', '.join(sorted(worded)) or 'and there are none'}."
        )
    known = {*(task.observation_names or ()), *(task.action_names or ()), *(task.categories or {})}
    unknown = [name for name in task.units or {} if name not in known]
    if unknown:
        raise ValueError(
            f"units are given for {', '.join(map(repr, unknown))}: expected names of columns, "
            f"{', '.join(sorted(known)) or 'and there are none; give observation_names and action_names'}."
        )


def refuse_outside(columns: TrajectoryColumns, name: str, space: Space) -> None:
    """Raise an error for the first value of a column outside the bounds of a Box, apart from rounding errors.

    Raises:
        ValueError: the message names episode, step and value.
    """
    if isinstance(space, Box) and (np.isfinite(space.low).any() or np.isfinite(space.high).any()):
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        slack = 1e-5 * np.where(np.isfinite(high - low), high - low, 1.0)
        low, high = low - slack, high + slack
        _refuse_where(
            columns, name, lambda block: (block < low) | (block > high), f"expected a value of {space}, as was stated."
        )


def _check_kinds(columns: TrajectoryColumns) -> None:
    for name, kinds, expectation in (
        ("observations", "fiu", "numbers"),
        ("actions", "fiu", "floats or integers"),
        ("rewards", "fiu", "numbers"),
        ("terminations", "b", "booleans"),
        ("truncations", "b", "booleans"),
    ):
        column = getattr(columns, name)
        if column.dtype.kind not in kinds:
            raise ValueError(f"column {name!r} holds {column.dtype} values: expected {expectation}; cast the column.")


def _check_shapes(
    columns: TrajectoryColumns, observation_space: Mapping | Space | None, action_space: Mapping | Space | None
) -> None:
    for name in ("rewards", "terminations", "truncations"):
        shape = getattr(columns, name).shape_per_step
        if shape:
            raise ValueError(f"column {name!r} has values of shape {shape} a step: expected one value, not a list.")
    is_state_number = observation_space is not None and isinstance(space_from_dict(observation_space), Discrete)
    if not columns.observations.shape_per_step and not is_state_number:
        raise ValueError(
            "column 'observations' has one number a step: expected a vector or an image; wrap it in a list, or make "
            "it one-hot where it is a category."
        )
    if not columns.actions.shape_per_step and columns.actions.dtype.kind == "f":
        raise ValueError("column 'actions' has one float a step: expected a vector; wrap it in a list.")
    for name, space in (("observations", observation_space), ("actions", action_space)):
        if space is not None:
            _check_space(getattr(columns, name), name, space_from_dict(space))


def _check_space(column: FlatColumn, name: str, space: Space) -> None:
    if column.shape_per_step != step_shape(space):
        raise ValueError(
            f"column {name!r} has values of shape {column.shape_per_step} a step: expected {step_shape(space)} for {space}."
        )
    if isinstance(space, Tuple | Dict):
        return
    if column.dtype.kind == "f" and not (isinstance(space, Box) and space.dtype.kind == "f"):
        raise ValueError(
            f"column {name!r} holds {column.dtype} values: expected integers for {space}; cast the column."
        )


def _check_finite(columns: TrajectoryColumns, name: str) -> None:
    if getattr(columns, name).dtype.kind == "f":
        _refuse_where(
            columns, name, lambda block: ~np.isfinite(block), "expected finite numbers; mend or drop the episode."
        )


def _check_integer_actions(columns: TrajectoryColumns, action_space: Mapping | Space | None) -> None:
    space = None if action_space is None else space_from_dict(action_space)
    if columns.actions.dtype.kind == "f" and not isinstance(space, Tuple | Dict):
        return
    if space is None:
        _refuse_where(
            columns, "actions", lambda block: block < 0, "expected integers from 0 on; give the action_space."
        )
        return
    if isinstance(space, Box):
        lowest, highest = space.low, space.high
    elif isinstance(space, MultiBinary):
        lowest, highest = 0, 1
    elif isinstance(space, Tuple | Dict):
        lowest, highest = choice_bounds(space)
    else:
        lowest = space.start
        highest = lowest + (space.nvec if isinstance(space, MultiDiscrete) else space.n) - 1
    is_choice = np.isfinite(lowest)
    _refuse_where(
        columns,
        "actions",
        lambda block: (block < lowest) | (block > highest) | (is_choice & (block != np.rint(block))),
        f"expected an action of {space}.",
    )


def _check_ends(columns: TrajectoryColumns, name: str) -> None:
    column, ends, first = getattr(columns, name), columns.episode_offsets[1:] - 1, 0
    for block in column.blocks():
        steps = first + np.flatnonzero(block)
        first += len(block)
        early = steps[~np.isin(steps, ends, assume_unique=True)]
        if len(early):
            episode, step = _place(columns, early[0])
            length = np.diff(columns.episode_offsets)[episode]
            raise ValueError(
                f"column {name!r} of episode {episode} is true at step {step} of {length}: expected it only at the last "
                "step; split the episode there, or correct the flag."
            )


def _refuse_where(
    columns: TrajectoryColumns, name: str, is_wrong: Callable[[np.ndarray], np.ndarray], expectation: str
) -> None:
    first = 0
    for block in getattr(columns, name).blocks():
        wrong = is_wrong(block)
        if wrong.any():
            place = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
            episode, step = _place(columns, first + place[0])
            entry = f"[{', '.join(map(str, place[1:]))}]" if len(place) > 1 else ""
            raise ValueError(
                f"column {name!r} of episode {episode} is {block[place]} at step {step}{entry and ', entry ' + entry}: "
                f"{expectation}"
            )
        first += len(block)


def _place(columns: TrajectoryColumns, step_index: int) -> tuple[int, int]:
    """The episode, and the step within it."""
    episode = int(columns.episode_of(step_index))
    return episode, int(step_index - columns.episode_offsets[episode])
