"""Tuples and dictionaries of arrays in the place of one array: observations and actions of composite spaces."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple

from hf_seqrl.data.composite_spaces import flat_actions, flat_space, flat_values


def by_part(values: Any, name: str = "observations") -> Any:
    """A list with one dictionary or one tuple of parts per step, as a loop over an environment collects it, as one dictionary
    or tuple of arrays `(steps, ...)`; everything else as it is.

    Example:
        >>> by_part([{"goal": 1, "pose": [0.0, 1.0]}, {"goal": 2, "pose": [0.5, 1.0]}])["pose"]
        [[0.0, 1.0], [0.5, 1.0]]
    """
    if isinstance(values, np.ndarray) and values.dtype == object and values.ndim == 1:
        values = list(values)
    if not isinstance(values, list) or not values:
        return values
    first = values[0]
    if isinstance(first, Mapping):
        for step, value in enumerate(values):
            if missing := [part for part in first if part not in value]:
                raise ValueError(f"column {name!r} has no {missing[0]!r} at step {step}: expected it at every step.")
        return {part: by_part([value[part] for value in values], name) for part in first}
    is_composite = isinstance(first, tuple) and (
        any(isinstance(part, Mapping | tuple) for part in first) or len({np.shape(part) for part in first}) > 1
    )
    if not is_composite:
        return values
    return tuple(by_part([value[number] for value in values], name) for number in range(len(first)))


def is_nested(values: Any, space: Space | None) -> bool:
    """Whether these are the parts of a composite space."""
    if isinstance(values, Mapping) or (isinstance(values, tuple) and isinstance(space, Tuple)):
        return True
    return isinstance(values, tuple) and len({np.shape(part)[1:] for part in values if np.ndim(part)}) > 1


def flat_parts(
    episodes: Sequence[Any], space: Space | None, is_action: bool
) -> tuple[list[np.ndarray], Space, str | None]:
    """The parts of each episode as one array `(steps, ...)`, as gymnasium flattens them.

    Args:
        episodes: The tuples or dictionaries of arrays, one per episode.
        space: The composite space, where it is known.
        is_action: Whether discrete parts stay codes (actions) or become one-hot (observations).

    Returns:
        The arrays, the space, and a sentence if the space was guessed.

    Raises:
        ValueError: a part holds no numbers, or has no vector.
    """
    because = None
    if space is None or isinstance(space, Box):
        space = _guessed_space(episodes, is_action)
        because = f"{space}, from the kinds and the largest values of its parts"
    if not is_action:
        flat_space(space)  # refuses what has no vector
    flatten = flat_actions if is_action else flat_values
    return [flatten(space, parts) for parts in episodes], space, because


def _guessed_space(parts: Sequence[Any], is_action: bool) -> Space:
    """A space for the values of all episodes: whole numbers in actions are choices, everything else is a Box."""
    first = parts[0]
    if isinstance(first, Mapping):
        return Dict([(name, _guessed_space([part[name] for part in parts], is_action)) for name in first])
    if isinstance(first, tuple):
        return Tuple([_guessed_space([part[number] for part in parts], is_action) for number in range(len(first))])
    arrays = [np.asarray(part) for part in parts]
    if any(array.dtype.kind not in "biuf" for array in arrays):
        raise ValueError(
            f"a part of the {'actions' if is_action else 'observations'} holds {arrays[0].dtype} values: expected numbers."
        )
    if is_action and all(array.dtype.kind in "biu" for array in arrays) and min(array.min() for array in arrays) >= 0:
        choices = np.max([array.max(axis=0) for array in arrays], axis=0).astype(np.int64) + 1
        return Discrete(int(choices)) if choices.ndim == 0 else MultiDiscrete(choices)
    return Box(-np.inf, np.inf, arrays[0].shape[1:], np.float32)
