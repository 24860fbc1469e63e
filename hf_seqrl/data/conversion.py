"""What becomes of observations and actions that are not in the schema: converted by what the user stated or, where nothing was
stated, by a guess that is written down with its reason.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Space, Tuple

from hf_seqrl.data.column_values import all_steps
from hf_seqrl.data.composite_spaces import entry_names, flat_space, flat_values
from hf_seqrl.data.environment_ids import spaces_of_environment
from hf_seqrl.data.spaces import continuous_bounds, continuous_entries, space_from_dict, step_shape
from hf_seqrl.data.task import Task

_MOST_WORDS = 1000


@dataclass
class Conversion:
    """What becomes of the columns of a data set.

    Attributes:
        task: What is known about the task; conversions add to it.
        guesses: A sentence for everything that was guessed, by the name of the field or column.
        out_of_bounds: What to do about actions outside the bounds: `"refuse"`, `"clip"` or `"rescale"`.
        has_rewards: Whether a column of rewards is expected.
        keeps_observations: Whether observations stay the numbers of states that they are, because the data were saved so and
            nothing else is stated.
        values: The columns that were converted, with one entry per step.
        doubles: Columns that stay in float64.
    """

    task: Task
    guesses: dict[str, str] = field(default_factory=dict)
    out_of_bounds: str = "refuse"
    has_rewards: bool = True
    keeps_observations: bool = False
    values: dict[str, np.ndarray] = field(default_factory=dict)
    doubles: list[str] = field(default_factory=list)

    def space(self, name: str, is_odd: bool = True) -> Space | None:
        """The stated space; where the data look odd and none is stated, that of the environment."""
        stated = getattr(self.task, name)
        if stated is not None:
            return space_from_dict(stated)
        registered = spaces_of_environment(self.task.env_id) if is_odd else None
        return None if registered is None else registered[name]


def convert_observations(dataset: Dataset, first: np.ndarray, conversion: Conversion) -> None:
    is_odd = first.dtype.kind in "iuO" and first.dtype != np.uint8
    space, shape = conversion.space("observation_space", is_odd), first.shape[1:]
    if first.dtype.kind == "O":
        raise ValueError(
            f"column 'observations' holds text, such as {first.flat[0]!r}: expected numbers; make it one-hot, or load a table "
            "with one row per step, whose columns of words are made one-hot."
        )
    if space is not None and not isinstance(space, Box):
        if conversion.keeps_observations:
            return
        flat = flat_space(space)
        if shape != flat.shape or shape == step_shape(space):
            values = _codes(all_steps(dataset, "observations"), space, "observations")
            conversion.values["observations"] = flat_values(space, values)
        conversion.task = conversion.task.updated(
            observation_space=flat,
            source_observation_space=space,
            observation_names=conversion.task.observation_names or entry_names(space),
        )
    elif first.dtype == bool:
        conversion.values["observations"] = all_steps(dataset, "observations").astype(np.float32)
    elif space is not None and shape != space.shape and _same_but_for_ones(shape, space.shape):
        values = all_steps(dataset, "observations")
        conversion.values["observations"] = values.reshape(len(values), *space.shape)
    elif not shape and first.dtype.kind == "f":
        conversion.values["observations"] = all_steps(dataset, "observations")[:, None]
    elif not shape:
        raise ValueError(
            "column 'observations' has one integer a step: give observation_space=Discrete(n) where it is the number of a "
            "state (it becomes one-hot), or observation_space=Box(low, high, (1,)) where it is a quantity."
        )


def convert_actions(dataset: Dataset, first: np.ndarray, conversion: Conversion) -> None:
    is_odd = _is_odd(first) or conversion.out_of_bounds != "refuse"
    space = conversion.space("action_space", is_odd)
    values = _worded(dataset, first, conversion)
    if space is None:
        if conversion.out_of_bounds != "refuse":
            raise ValueError(
                f"out_of_bounds={conversion.out_of_bounds!r} needs the bounds of the actions: give action_space=Box(low, high)."
            )
        if _is_odd(first):
            _guess_actions(all_steps(dataset, "actions") if values is None else values, conversion)
        return
    shape = first.shape[1:]
    is_codes = not isinstance(space, Box | Tuple | Dict)
    if values is None and (_is_odd(first) or shape != step_shape(space) or (is_codes and first.dtype.kind == "f")):
        values = all_steps(dataset, "actions")
    if isinstance(space, Box) and space.dtype.kind == "f" and first.dtype.kind in "iu" and values is None:
        values = all_steps(dataset, "actions")
    if values is not None:
        values = _of_space(values, space)
    if conversion.out_of_bounds != "refuse":
        values = _within_bounds(all_steps(dataset, "actions") if values is None else values, space, conversion)
    if values is not None:
        conversion.values["actions"] = values


def _is_odd(first: np.ndarray) -> bool:
    """Whether actions may be something else than they look like."""
    if first.dtype.kind in "Ob" or (first.dtype.kind == "f" and first.ndim == 1):
        return True
    if first.ndim != 2:
        return False
    return is_one_hot(first) if first.shape[1] > 1 else bool((first == np.rint(first)).all())


def is_one_hot(values: np.ndarray) -> bool:
    """Whether each row `(steps, choices)` has a 1 and otherwise zeros."""
    return values.shape[1] > 1 and bool(((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all())


def _worded(dataset: Dataset, first: np.ndarray, conversion: Conversion) -> np.ndarray | None:
    """Words and booleans as codes; the words are kept in the task."""
    if first.dtype.kind not in "Ob":
        return None
    values = all_steps(dataset, "actions")
    names = conversion.task.action_names or ("action",)
    codes, categories = encode_words(values.reshape(len(values), -1), list(names))
    conversion.task = conversion.task.updated(
        action_names=names, categories={**(conversion.task.categories or {}), **categories}
    )
    return codes.reshape(values.shape)


def encode_words(values: np.ndarray, names: list[str]) -> tuple[np.ndarray, dict[str, list[Any]]]:
    """Words or booleans `(steps, columns)` as codes of the same shape, and the words of each column in the order of their
    codes: sorted, so that they do not depend on the order of the rows.

    Raises:
        ValueError: a column has so many different words that it is no category.
    """
    codes, categories = np.zeros(values.shape, np.int64), {}
    for number, column in enumerate(values.T):
        name = names[number] if number < len(names) else f"action[{number}]"
        words, codes[:, number] = np.unique(
            column.astype(str) if column.dtype == object else column, return_inverse=True
        )
        if len(words) > _MOST_WORDS:
            raise ValueError(
                f"column {name!r} has {len(words):,} different words: expected a category of at most {_MOST_WORDS:,}; is it an id?"
            )
        categories[name] = [False, True] if column.dtype == bool else words.tolist()
        if column.dtype == bool:
            codes[:, number] = column
    return codes, categories


def _guess_actions(values: np.ndarray, conversion: Conversion) -> None:
    kind, width = values.dtype.kind, values.shape[1] if values.ndim > 1 else 0
    if conversion.task.categories and kind == "i" and values.ndim == 1 and conversion.task.action_names:
        words = conversion.task.categories[conversion.task.action_names[0]]
        _discrete(values, len(words), f"the words {', '.join(map(str, words[:8]))}", conversion)
    elif width > 1:
        if is_one_hot(values):
            _discrete(values.argmax(axis=1), width, "every row has a 1 and otherwise zeros (one-hot)", conversion)
    elif kind in "iu" and width == 1:
        codes = values[:, 0]
        if codes.min() >= 0:
            _discrete(
                codes,
                int(codes.max()) + 1,
                "integers in a column of width 1, from the largest",
                conversion,
                state=False,
            )
    elif kind == "f" and _are_codes(values):
        codes = values.reshape(-1)
        _discrete(codes, int(codes.max()) + 1, "floats that are all whole numbers from 0 on", conversion)
    elif kind == "f" and not width:
        conversion.values["actions"] = values[:, None]
        conversion.guesses["actions"] = "vectors of size 1: there is one float a step"


def _discrete(codes: np.ndarray, count: int, because: str, conversion: Conversion, state: bool = True) -> None:
    conversion.values["actions"] = codes.astype(np.int64)
    conversion.guesses["action_space"] = f"Discrete({count}): {because}"
    if state:
        conversion.task = conversion.task.updated(action_space=Discrete(count))


def _are_codes(values: np.ndarray) -> bool:
    """Whether floats are the whole numbers 0, 1, ... without a gap, at least two of them."""
    if not np.isfinite(values).all() or not (values == np.rint(values)).all():
        return False
    used = np.unique(values)
    return len(used) > 1 and used[0] == 0 and used[-1] == len(used) - 1


def _of_space(values: np.ndarray, space: Space) -> np.ndarray:
    """Actions in the shape and kind of a known space."""
    shape = step_shape(space)
    if isinstance(space, Discrete) and values.ndim == 2 and values.shape[1] == space.n > 1 and is_one_hot(values):
        return values.argmax(axis=1) + int(space.start)
    if values.shape[1:] != shape and _same_but_for_ones(values.shape[1:], shape):
        values = values.reshape(len(values), *shape)
    if values.shape[1:] != shape:
        return values  # validation names the shapes
    if isinstance(space, Box):
        return values if space.dtype.kind != "f" or values.dtype.kind == "f" else values.astype(np.float32)
    return values if isinstance(space, Tuple | Dict) else _codes(values, space, "actions")


def _codes(values: np.ndarray, space: Space, name: str) -> np.ndarray:
    """Whole numbers of a discrete space, also from floats or booleans.

    Raises:
        ValueError: a number is not whole.
    """
    if isinstance(space, Tuple | Dict) or values.dtype.kind in "iu":
        return values
    if values.dtype.kind == "f" and not (values == np.rint(values)).all():
        wrong = np.unravel_index(int(np.argmax(values != np.rint(values))), values.shape)
        raise ValueError(f"column {name!r} is {values[wrong]} at step {wrong[0]}: expected whole numbers for {space}.")
    return values.astype(np.int8 if isinstance(space, MultiBinary) else np.int64)


def _within_bounds(values: np.ndarray, space: Space, conversion: Conversion) -> np.ndarray:
    """Actions moved (`"clip"`) or mapped (`"rescale"`) to the bounds of their space."""
    (low, high), entries = continuous_bounds(space), continuous_entries(space)
    shape = values.shape
    flat = values.reshape(len(values), -1).copy()
    numbers = flat[:, entries].astype(np.float64)
    outside = int(((numbers < low) | (numbers > high)).any(axis=1).sum())
    if not outside or not len(entries):
        return values
    if conversion.out_of_bounds == "clip":
        moved, what = np.clip(numbers, low, high), f"{outside} steps were clipped to the bounds of {space}"
    else:
        lowest, highest = numbers.min(axis=0), numbers.max(axis=0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError(f"out_of_bounds='rescale' needs finite bounds: the action space is {space}.")
        share = (numbers - lowest) / np.where(highest > lowest, highest - lowest, 1.0)
        moved = low + share * (high - low)
        what = f"rescaled from {lowest.tolist()} ... {highest.tolist()} to the bounds of {space}"
    flat[:, entries] = moved
    conversion.guesses["actions"] = f"{what}, as out_of_bounds={conversion.out_of_bounds!r} says"
    return flat.reshape(shape)


def _same_but_for_ones(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return [size for size in shape if size != 1] == [size for size in other if size != 1]
