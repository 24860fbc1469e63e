"""What becomes of observations and actions that are not in the schema: converted by what the user stated or, where nothing was
stated, by a guess that is written down with its reason.
"""

from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset
from gymnasium.spaces import Box, Dict, MultiBinary, Space, Tuple

from hf_seqrl.data.column_values import all_steps
from hf_seqrl.data.composite_spaces import entry_names, flat_space, flat_values
from hf_seqrl.data.environment_ids import spaces_of_environment
from hf_seqrl.data.spaces import space_from_dict, step_shape
from hf_seqrl.data.task import Task


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
        is_flat = shape == flat.shape and shape != step_shape(space)
        if not is_flat and not same_but_for_ones(shape, step_shape(space)):
            raise ValueError(
                f"column 'observations' has steps of shape {shape}: expected {step_shape(space)} for {space}, or {flat.shape} "
                "where it is flattened already."
            )
        if not is_flat:
            values = whole_codes(all_steps(dataset, "observations"), space, "observations")
            try:
                conversion.values["observations"] = flat_values(space, values)
            except ValueError as error:
                raise ValueError(f"column 'observations': {error}") from None
        conversion.task = conversion.task.updated(
            observation_space=flat,
            source_observation_space=space,
            observation_names=conversion.task.observation_names or entry_names(space),
        )
    elif first.dtype == bool:
        conversion.values["observations"] = all_steps(dataset, "observations").astype(np.float32)
    elif space is not None and shape != space.shape and same_but_for_ones(shape, space.shape):
        values = all_steps(dataset, "observations")
        conversion.values["observations"] = values.reshape(len(values), *space.shape)
    elif not shape and first.dtype.kind == "f":
        conversion.values["observations"] = all_steps(dataset, "observations")[:, None]
    elif not shape:
        raise ValueError(
            "column 'observations' has one integer a step: give observation_space=Discrete(n) where it is the number of a "
            "state (it becomes one-hot), or observation_space=Box(low, high, (1,)) where it is a quantity."
        )


def whole_codes(values: np.ndarray, space: Space, name: str) -> np.ndarray:
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


def same_but_for_ones(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two shapes differ only in axes of length 1."""
    return [size for size in shape if size != 1] == [size for size in other if size != 1]
