"""Observations and actions in the user's own form, by names and in words, and as arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Space, Tuple

from hf_seqrl.data.composite_spaces import flat_actions, nested_actions
from hf_seqrl.data.spaces import choice_bounds, step_shape
from hf_seqrl.data.task import Task

HISTORY_COLUMNS = ("observations", "actions", "rewards")


class UserValues:
    """Takes what the user writes to the arrays of an actor, and the actions of an actor back.

    Args:
        task: Holds the names, the words and the spaces, as far as they are known.
        missing_allowed: Whether entries of an observation may be missing (`None` or NaN).
    """

    def __init__(self, task: Task, missing_allowed: bool = False) -> None:
        self.task = task
        self._missing_allowed = missing_allowed
        self._action_space = None if task.action_space is None else task.actions

    def observation(self, observation: Any) -> np.ndarray:
        """One observation as an array `(*observation_shape)`.

        Args:
            observation: The array itself, or a mapping of its entries by name; for environments with tuples or dictionaries, one
                of theirs.

        Raises:
            ValueError: an entry is missing or is no number, or the shape is another one.
        """
        task = self.task
        if isinstance(observation, Mapping) and task.source_observation_space is None:
            values = task.observation_vector(self._complete(observation))
        elif isinstance(observation, Mapping | tuple) and task.source_observation_space is not None:
            values = task.flat_observations(_batched(observation))[0]
        else:
            values = _numbers(observation, "the observation")
            if task.source_observation_space is not None and values.shape != task.observations.shape:
                values = task.flat_observations(values[None])[0]
        if task.observation_space is not None and values.shape != task.observations.shape:
            raise ValueError(
                f"the observation has shape {values.shape}: expected {task.observations.shape}{self._in_order()}."
            )
        self._check_finite(values)
        return self._of_kind(values)

    def action(self, action: np.ndarray) -> Any:
        """An action `(*action_shape)` as the user knows it: words where the data had words, by name where there are several
        named columns; else an int, an array, or the environment's tuple or dictionary."""
        names = self.task.action_names
        if names is not None and len(names) == np.size(action):
            said = self.task.words(np.reshape(action, (1, -1)))[0]
            return said[0] if len(names) == 1 else dict(zip(names, said))
        if isinstance(self._action_space, Tuple | Dict):
            return _first(nested_actions(self._action_space, action[None]))
        return action.item() if action.ndim == 0 else action.copy()

    def executed(self, action: Any) -> np.ndarray:
        """The reverse of `action`: `(*action_shape)`.

        Raises:
            ValueError: a word that the data did not have, a missing name, another shape, or a value outside the action space.
        """
        space, names = self._action_space, self.task.action_names
        if isinstance(space, Tuple | Dict) and isinstance(action, tuple | Mapping) and names is None:
            values = flat_actions(space, _batched(action))[0]
        elif names is None or isinstance(action, np.ndarray):
            values = _numbers(action, "the executed action")
        else:
            values = _numbers(self._codes(action, names), "the executed action")
        if space is None:
            return values
        if values.shape != step_shape(space):
            if values.size != np.prod(step_shape(space)) or names is None:
                raise ValueError(
                    f"the executed action has shape {values.shape}: expected {step_shape(space)} for {space}."
                )
            values = values.reshape(step_shape(space))
        self._check_action(space, values)
        return values.astype(_dtype(space))

    def history(self, history: Any, reward: str) -> dict[str, np.ndarray]:
        """Past steps as arrays.

        Args:
            history: A mapping with `observations`, `actions` and `rewards`, or the rows of a table, oldest first: a pandas
                `DataFrame` or a list of mappings from the names of the columns to their values.
            reward: The column of the rewards, in a table.

        Raises:
            ValueError: a column is missing, or a value is not one of the data; the row is named.
        """
        if isinstance(history, Mapping) and set(HISTORY_COLUMNS) <= set(history):
            return self._history_of_arrays(history)
        rows = history.to_dict("records") if hasattr(history, "to_dict") else history
        if isinstance(rows, Mapping) or not isinstance(rows, Sequence):
            raise ValueError(
                f"the history is a {type(history).__name__}: expected a mapping with {', '.join(HISTORY_COLUMNS)}, or rows."
            )
        steps = [self._step_of_row(row, number, reward) for number, row in enumerate(rows)]
        if not steps:
            raise ValueError("the history has no rows: leave it out to begin a new episode.")
        return {name: np.stack([np.asarray(step[i]) for step in steps]) for i, name in enumerate(HISTORY_COLUMNS)}

    def _history_of_arrays(self, history: Mapping[str, Any]) -> dict[str, np.ndarray]:
        observations, actions, rewards = (history[name] for name in HISTORY_COLUMNS)
        for name in HISTORY_COLUMNS:
            if not isinstance(history[name], Sequence | np.ndarray) or isinstance(history[name], str):
                raise ValueError(f"{name} of the history are {history[name]!r}: expected one for each step.")
        if len({len(observations), len(actions), len(rewards)}) > 1:
            raise ValueError(
                f"the history has {len(observations)} observations, {len(actions)} actions and {len(rewards)} rewards: expected "
                "one of each for every step."
            )
        steps: dict[str, Any] = {
            "observations": [self.observation(observation) for observation in observations],
            "actions": [self.executed(action) for action in actions],
            "rewards": _numbers(rewards, "the rewards of the history").astype(np.float64),
        }
        if not np.isfinite(steps["rewards"]).all():
            raise ValueError("the history has rewards that are not finite: expected numbers; those not known are 0.")
        return {name: np.stack(values) if len(values) else np.zeros(0) for name, values in steps.items()}

    def _step_of_row(self, row: Any, number: int, reward: str) -> tuple[np.ndarray, np.ndarray, float]:
        names = self.task.action_names
        try:
            if names is None:
                raise ValueError("the agent's data had no names of columns: give the history as arrays.")
            if reward not in row:
                raise ValueError(f"there is no column {reward!r}: name that of the rewards, reward=...")
            return self.observation(row), self.executed({name: row.get(name) for name in names}), float(row[reward])
        except (ValueError, TypeError) as error:
            raise ValueError(f"row {number} of the history: {error}") from error

    def _complete(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """The entries as numbers and words; those that may be missing are NaN."""
        words = self.task.categories or {}
        return {
            name: value if name in words else _number(value, name)
            for name, value in entries.items()
            if name in words or name in (self.task.observation_names or ())
        }

    def _codes(self, action: Any, names: tuple[str, ...]) -> list[Any]:
        if isinstance(action, Mapping):
            missing = [name for name in names if name not in action]
            if missing:
                raise ValueError(f"the executed action has no {', '.join(missing)}: expected {', '.join(names)}.")
            said = [action[name] for name in names]
        else:
            said = list(action) if isinstance(action, list | tuple) else [action]
        if len(said) != len(names):
            raise ValueError(f"the executed action has {len(said)} values: expected {', '.join(names)}.")
        codes = []
        for name, value in zip(names, said):
            words = (self.task.categories or {}).get(name)
            if words is not None and value not in words:
                raise ValueError(f"{name} is {value!r}: expected one of {', '.join(map(repr, words))}.")
            codes.append(_number(value, name) if words is None else words.index(value))
        return codes

    def _check_action(self, space: Space, values: np.ndarray) -> None:
        valid = np.isfinite(values)
        if not isinstance(space, Box):
            low, high = (bound.reshape(values.shape) for bound in choice_bounds(space))
            valid &= (values >= low) & (values <= high) & (np.isinf(low) | (values == np.rint(values)))
        if not valid.all():
            raise ValueError(f"the executed action is {values.tolist()}: expected an action of {space}.")

    def _check_finite(self, values: np.ndarray) -> None:
        if values.dtype.kind == "f" and not self._missing_allowed and not np.isfinite(values).all():
            entry = tuple(np.argwhere(~np.isfinite(values))[0].tolist())
            names = self.task.observation_names
            name = names[entry[0]] if names is not None and len(entry) == 1 else f"entry {list(entry)}"
            raise ValueError(
                f"{name} of the observation is {values[entry]}: expected a finite number. Repair the sensor, or load the agent "
                "with missing_values='last'."
            )

    def _of_kind(self, values: np.ndarray) -> np.ndarray:
        """Whole numbers in the data type that the space has: JSON, for instance, does not tell 1.0 from 1."""
        if values.dtype.kind == "f" or self.task.observation_space is None:
            return values
        dtype = self.task.observations.dtype
        return values if dtype is None else values.astype(dtype)

    def _in_order(self) -> str:
        names = self.task.observation_names
        return "" if names is None else f", {', '.join(names)}"


def _number(value: Any, name: str) -> float:
    try:
        return float("nan") if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} is {value!r}: expected a number.") from None


def _numbers(values: Any, what: str) -> np.ndarray:
    try:
        array = np.asarray(values)
        if array.dtype.kind == "O":  # None stands for a missing value
            array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{what} is {values!r}: expected an array of numbers.") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{what} is {values!r}: expected numbers.")
    return array


def _batched(values: Any) -> Any:
    """Values of a tuple or dictionary of spaces with an axis of steps before each."""
    if isinstance(values, Mapping):
        return {name: _batched(value) for name, value in values.items()}
    return tuple(map(_batched, values)) if isinstance(values, tuple) else np.asarray(values)[None]


def _first(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {name: _first(value) for name, value in values.items()}
    if isinstance(values, tuple):
        return tuple(map(_first, values))
    return values[0].item() if np.ndim(values[0]) == 0 else values[0]


def _dtype(space: Space) -> np.dtype:
    if isinstance(space, Box):
        return space.dtype
    return np.dtype(np.float64 if isinstance(space, Tuple | Dict) else np.int64)
