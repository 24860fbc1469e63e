"""Action and observation spaces as plain dictionaries, and actions and composite observations as vectors."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple


def space_to_dict(space: Space | Mapping) -> dict[str, Any]:
    """The space as a dictionary of plain Python values that strict JSON can hold (infinite bounds as strings).

    Args:
        space (`Box`, `Discrete` or `MultiDiscrete`): A space; a dictionary made by this function is returned as it is.

    Raises:
        TypeError: another kind of space.

    Example:
        >>> space_to_dict(Discrete(3, start=1))
        {'type': 'Discrete', 'n': 3, 'start': 1}
        >>> space_to_dict(Box(-np.inf, 1.0, (2,)))
        {'type': 'Box', 'shape': [2], 'dtype': 'float32', 'low': '-inf', 'high': 1.0}
    """
    if isinstance(space, Mapping):
        return dict(space)
    if isinstance(space, Box):
        bounds = {"low": _bound_to_json(space.low), "high": _bound_to_json(space.high)}
        return {"type": "Box", "shape": [int(size) for size in space.shape], "dtype": str(space.dtype), **bounds}
    if isinstance(space, Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    raise TypeError(
        f"the space {space!r} cannot be used: expected Box, Discrete or MultiDiscrete; wrap the environment."
    )


def space_from_dict(description: Mapping | Space) -> Space:
    """The gymnasium space that `space_to_dict` described; a space is returned unchanged.

    Example:
        >>> space_from_dict({"type": "Box", "shape": [2], "dtype": "float32", "low": "-inf", "high": 1.0})
        Box(-inf, 1.0, (2,), float32)
    """
    if isinstance(description, Space):
        return description
    kind = description.get("type")
    if kind not in _BUILDERS:
        raise ValueError(f"the space {dict(description)} has type {kind!r}: expected one of {', '.join(_BUILDERS)}.")
    return _BUILDERS[kind](description)


def action_size(space: Space | Mapping) -> int:
    """The length of the vector that encodes one action.

    Example:
        >>> action_size(Box(-1, 1, (3,))), action_size(Discrete(4)), action_size(MultiDiscrete([2, 3]))
        (3, 4, 5)
    """
    space = _shared_space(space)
    if isinstance(space, Box):
        return math.prod(space.shape)
    return sum(group_sizes(space))


def group_sizes(space: Space | Mapping) -> list[int]:
    """The number of choices of each discrete component; empty for `Box`.

    Example:
        >>> group_sizes(Discrete(4)), group_sizes(MultiDiscrete([2, 3])), group_sizes(Box(-1, 1, (3,)))
        ([4], [2, 3], [])
    """
    space = _shared_space(space)
    if isinstance(space, Box):
        return []
    return [int(space.n)] if isinstance(space, Discrete) else space.nvec.ravel().tolist()


def encode_actions(space: Space | Mapping, actions: np.ndarray) -> np.ndarray:
    """Actions `(..., *action_shape)` as `float32` vectors `(..., action_size)`.

    `Box` actions are flattened; integers become one-hot vectors, one after the other for `MultiDiscrete`.

    Raises:
        ValueError: an integer action lies outside the space, or the trailing shape is not the space's.

    Example:
        >>> encode_actions(Discrete(3), np.array([2, 0])).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    space, actions = _shared_space(space), np.asarray(actions)
    leading = actions.shape[: actions.ndim - len(space.shape)]
    if actions.shape != leading + space.shape:
        raise ValueError(f"actions have shape {actions.shape}: expected (..., {str(space.shape)[1:-1]}) for {space}.")
    if isinstance(space, Box):
        return actions.astype(np.float32, copy=False).reshape(*leading, action_size(space))
    sizes = np.asarray(group_sizes(space))
    choices = (actions - space.start).reshape(*leading, len(sizes))
    if not ((choices >= 0) & (choices < sizes)).all():
        raise ValueError(
            f"action {_first_outside(choices, sizes, space)} is outside {space}: expected one of its choices."
        )
    encoded = np.zeros((*leading, sizes.sum()), dtype=np.float32)
    np.put_along_axis(encoded, choices.astype(np.int64) + _group_starts(sizes), 1.0, axis=-1)
    return encoded


def decode_actions(space: Space | Mapping, values: np.ndarray) -> np.ndarray:
    """What the environment takes, from a model's output.

    Args:
        space: The action space.
        values (`(..., action_size)`): For `Box` the action itself, in its own units; else one score a choice.

    Returns:
        `(..., *action_shape)`: for `Box` clipped to the bounds (rounded where it is an integer space) in the space's
        dtype; else the `int64` choice with the greatest score in each component.

    Example:
        >>> decode_actions(MultiDiscrete([2, 3]), np.array([0.1, 0.9, 0.3, 0.2, 0.1]))
        array([1, 0])
    """
    space, values = _shared_space(space), np.asarray(values)
    leading = values.shape[:-1]
    if isinstance(space, Box):
        values = np.clip(values.reshape(leading + space.shape), space.low, space.high)
        return (values if space.dtype.kind == "f" else np.rint(values)).astype(space.dtype)
    sizes = np.asarray(group_sizes(space))
    groups = np.split(values, _group_starts(sizes)[1:], axis=-1)
    choices = np.stack([group.argmax(axis=-1) for group in groups], axis=-1)
    return choices.reshape(leading + space.shape).astype(np.int64) + space.start


def _shared_space(space: Space | Mapping) -> Space:
    """As `space_from_dict`, kept for the next call (building a `Box` takes longer than encoding a batch): only to be
    read, since spaces hold the state of their random generator."""
    return space if isinstance(space, Space) else _space_from_json(json.dumps(space))


@lru_cache(maxsize=256)
def _space_from_json(description: str) -> Space:
    return space_from_dict(json.loads(description))


def _group_starts(sizes: np.ndarray) -> np.ndarray:
    return np.cumsum(sizes) - sizes


def _first_outside(choices: np.ndarray, sizes: np.ndarray, space: Space) -> int:
    outside = np.argwhere((choices < 0) | (choices >= sizes))[0]
    return int(choices[tuple(outside)] + np.ravel(space.start)[outside[-1]])


def _bound_to_json(bound: np.ndarray) -> Any:
    """One number where all are equal; infinities as strings, since strict JSON has none."""
    if bound.size and (bound == bound.flat[0]).all():
        bound = bound.flat[0]
    if not np.isinf(bound).any():
        return bound.tolist()
    return np.where(np.isinf(bound), np.asarray(bound).astype(str), np.asarray(bound).astype(object)).tolist()


def _box_from_dict(description: Mapping) -> Box:
    dtype, shape = np.dtype(description["dtype"]), tuple(description["shape"])
    # by way of float64, in which the strings "inf" and "-inf" are numbers too
    low, high = (np.broadcast_to(np.asarray(description[key], dtype=np.float64), shape) for key in ("low", "high"))
    return Box(low.astype(dtype), high.astype(dtype), shape, dtype.type)


def _multi_discrete_from_dict(description: Mapping) -> MultiDiscrete:
    return MultiDiscrete(np.asarray(description["nvec"]), start=np.asarray(description.get("start", 0)))


_BUILDERS: dict[str, Callable[[Mapping], Space]] = {
    "Box": _box_from_dict,
    "Discrete": lambda description: Discrete(description["n"], start=description.get("start", 0)),
    "MultiDiscrete": _multi_discrete_from_dict,
}


def choose_entries(space: Space, entries: str | Sequence[str] | None) -> Space:
    """The part of a Dict space that these names choose: one entry as it is, several as a Dict in that order.

    Raises:
        ValueError: the space has no entry of that name.
    """
    if entries is None:
        return space
    names = [entries] if isinstance(entries, str) else list(entries)
    available = list(space) if isinstance(space, Dict) else []
    for name in names:
        if name not in available:
            raise ValueError(
                f"observations have no entry {name!r}: expected one of {', '.join(available) or 'none, they are no Dict'}."
            )
    return space[names[0]] if isinstance(entries, str) else Dict([(name, space[name]) for name in names])


def flat_space(space: Space) -> Box:
    """The space of what `flat_values` makes; a Box (a vector or an image) stays as it is.

    Raises:
        ValueError: images stand beside other entries.
    """
    if isinstance(space, Box):
        return space
    for name, part in space.items() if isinstance(space, Dict) else ():
        if isinstance(part, Box) and len(part.shape) == 3:
            raise ValueError(
                f"observations hold the image {name!r} beside {', '.join(one for one in space if one != name)}: choose entries, "
                f"observation={name!r} or a list of those that are vectors."
            )
    return Box(-np.inf, np.inf, (_size(space),), np.float32)


def flat_values(space: Space, values: Any) -> np.ndarray:
    """Values of a space, `(steps, ...)` for each of its parts, as `(steps, *flat_space(space).shape)`.

    Entries follow one another in the order of the space; discrete ones are one-hot.

    Example:
        >>> space = Dict(goal=Box(0, 1, (2,)), mode=Discrete(2))
        >>> flat_values(space, {"goal": np.array([[0.5, 1.0]]), "mode": np.array([1])}).tolist()
        [[0.5, 1.0, 0.0, 1.0]]
    """
    return np.asarray(values) if isinstance(space, Box) else _vectors(space, values)


def entry_places(space: Space) -> dict[str, list[int]]:
    """Where the entries of a Dict stand in the vector, `[first, last + 1]` each."""
    if not isinstance(space, Dict):
        return {}
    ends = np.cumsum([0, *(_size(part) for part in space.values())]).tolist()
    return {name: [start, end] for name, start, end in zip(space, ends[:-1], ends[1:])}


def _size(space: Space) -> int:
    if isinstance(space, Dict | Tuple):
        return sum(_size(part) for part in _parts(space))
    if isinstance(space, Box):
        return int(np.prod(space.shape))
    return int(space.n) if isinstance(space, Discrete) else int(np.sum(space.nvec))


def _vectors(space: Space, values: Any) -> np.ndarray:
    if isinstance(space, Dict | Tuple):
        of_parts = [values[name] for name in space] if isinstance(space, Dict) else values
        return np.concatenate([_vectors(part, one) for part, one in zip(_parts(space), of_parts)], axis=-1)
    if isinstance(space, Box):
        values = np.asarray(values)
        return values.reshape(len(values), -1).astype(np.float32)
    return encode_actions(space, np.asarray(values))


def _parts(space: Dict | Tuple) -> list[Space]:
    return list(space.values() if isinstance(space, Dict) else space.spaces)
