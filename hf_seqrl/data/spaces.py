"""Action and observation spaces as plain dictionaries, and actions as vectors."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple

_SMALLEST_IMAGE = 5  # pixels of the longer sides, which convolutions need


def space_to_dict(space: Space | Mapping) -> dict[str, Any]:
    """The space as a dictionary of plain Python values that strict JSON can hold (infinite bounds as strings).

    Args:
        space: `Box`, `Discrete`, `MultiDiscrete` or `MultiBinary`, or a `Tuple` or `Dict` of them; a dictionary made by this
            function is returned as it is.

    Raises:
        TypeError: another kind of space.

    Example:
        >>> space_to_dict(Discrete(3, start=1))
        {'type': 'Discrete', 'n': 3, 'start': 1}
        >>> space_to_dict(Box(-np.inf, 1.0, (2,)))
        {'type': 'Box', 'shape': [2], 'dtype': 'float32', 'low': '-inf', 'high': 1.0}
    """
    if isinstance(space, Mapping) and not isinstance(space, Space):
        return dict(space)
    if isinstance(space, Box):
        bounds = {"low": _bound_to_json(space.low), "high": _bound_to_json(space.high)}
        return {"type": "Box", "shape": [int(size) for size in space.shape], "dtype": str(space.dtype), **bounds}
    if isinstance(space, Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, MultiBinary):
        return {"type": "MultiBinary", "shape": [int(size) for size in space.shape]}
    if isinstance(space, Tuple):
        return {"type": "Tuple", "spaces": [space_to_dict(part) for part in space.spaces]}
    if isinstance(space, Dict):
        return {"type": "Dict", "spaces": [[name, space_to_dict(part)] for name, part in space.items()]}
    raise TypeError(
        f"the space {space!r} cannot be used: expected Box, Discrete, MultiDiscrete, MultiBinary, or a Tuple or Dict of them; "
        "wrap the environment."
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


def is_image_space(space: Space | Mapping) -> bool:
    """Whether observations of this space are images: three dimensions, two of them of at least 5 pixels, and values from 0 to 255
    or from 0 to 1. Everything else is a vector of features, whatever its shape: state other bounds for features that look like
    images.

    Example:
        >>> is_image_space(Box(0, 255, (84, 84, 3), np.uint8)), is_image_space(Box(0, 10, (7, 7, 3), np.uint8))
        (True, False)
    """
    space = shared_space(space)
    if not isinstance(space, Box) or len(space.shape) != 3 or sorted(space.shape)[1] < _SMALLEST_IMAGE:
        return False
    return bool((space.low == 0).all() and ((space.high == 255).all() or (space.high == 1).all()))


def step_shape(space: Space | Mapping) -> tuple[int, ...]:
    """The shape in which a data set holds one value of a space: the space's own, and `(entries,)` for a Tuple or Dict, whose
    parts follow one another, discrete ones as their codes.

    Example:
        >>> step_shape(Box(-1, 1, (2, 3))), step_shape(Tuple((Discrete(3), Box(-1, 1, (2,)))))
        ((2, 3), (3,))
    """
    space = shared_space(space)
    if isinstance(space, Tuple | Dict):
        return (sum(math.prod(leaf.shape) for _, leaf in leaves_of(space)),)
    return space.shape


def action_size(space: Space | Mapping) -> int:
    """The length of the vector that encodes one action.

    Example:
        >>> action_size(Box(-1, 1, (3,))), action_size(Discrete(4)), action_size(MultiDiscrete([2, 3]))
        (3, 4, 5)
        >>> action_size(Tuple((Box(-1, 1, (2,)), Discrete(3))))
        5
    """
    return sum(group_sizes(space)) + continuous_size(space)


def group_sizes(space: Space | Mapping) -> list[int]:
    """The number of choices of each discrete component; empty for `Box`.

    Example:
        >>> group_sizes(Discrete(4)), group_sizes(MultiDiscrete([2, 3])), group_sizes(Box(-1, 1, (3,)))
        ([4], [2, 3], [])
        >>> group_sizes(MultiBinary(2)), group_sizes(Tuple((Box(-1, 1, (2,)), Discrete(3))))
        ([2, 2], [3])
    """
    return [size for _, leaf in leaves_of(shared_space(space)) for size in _sizes_of_leaf(leaf)]


def refuse_hybrid(space: Space | Mapping, model: str) -> None:
    """Raise for actions of several parts, where a model takes actions of one kind only.

    Args:
        space: The action space.
        model: For the message, such as `"a planner"`.

    Raises:
        ValueError: the space is a Tuple, a Dict or a MultiBinary.
    """
    space = shared_space(space)
    if isinstance(space, Tuple | Dict | MultiBinary):
        raise ValueError(
            f"the action space is {space}, and {model} takes Box, Discrete or MultiDiscrete: train a decision-transformer."
        )


def continuous_size(space: Space | Mapping) -> int:
    """The number of continuous entries of an encoded action; they come after the discrete groups.

    Example:
        >>> continuous_size(Discrete(4)), continuous_size(Tuple((Box(-1, 1, (2,)), Discrete(3))))
        (0, 2)
    """
    return sum(math.prod(leaf.shape) for _, leaf in leaves_of(shared_space(space)) if isinstance(leaf, Box))


def continuous_bounds(space: Space | Mapping) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of the continuous entries of an action, `(continuous_size,)` float64 each.

    Example:
        >>> continuous_bounds(Tuple((Discrete(3), Box(0, 5, (2,)))))
        (array([0., 0.]), array([5., 5.]))
    """
    boxes = [leaf for _, leaf in leaves_of(shared_space(space)) if isinstance(leaf, Box)]
    low, high = ([np.ravel(getattr(box, name)).astype(np.float64) for box in boxes] for name in ("low", "high"))
    return np.concatenate([np.zeros(0), *low]), np.concatenate([np.zeros(0), *high])


def continuous_entries(space: Space | Mapping) -> np.ndarray:
    """Which entries of a flat value of the space are continuous, as indices.

    Example:
        >>> continuous_entries(Tuple((Discrete(3), Box(0, 5, (2,)))))
        array([1, 2])
    """
    mask = [np.full(math.prod(leaf.shape), isinstance(leaf, Box)) for _, leaf in leaves_of(shared_space(space))]
    return np.flatnonzero(np.concatenate(mask))


def choice_bounds(space: Space | Mapping) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the greatest code of each entry of a flat value; infinite for continuous entries.

    Example:
        >>> choice_bounds(Tuple((Discrete(3, start=1), Box(0, 5, (1,)))))
        (array([  1., -inf]), array([ 3., inf]))
    """
    low, high = [], []
    for _, leaf in leaves_of(shared_space(space)):
        size = math.prod(leaf.shape)
        is_box = isinstance(leaf, Box)
        start = np.full(size, -np.inf) if is_box else np.broadcast_to(first_choices(leaf), size).astype(np.float64)
        low.append(start)
        high.append(np.full(size, np.inf) if is_box else start + np.asarray(_sizes_of_leaf(leaf)) - 1)
    return np.concatenate(low), np.concatenate(high)


def encode_actions(space: Space | Mapping, actions: np.ndarray) -> np.ndarray:
    """Actions `(..., *step_shape)` as `float32` vectors `(..., action_size)`.

    Integers become one-hot vectors, one after the other, and the entries of `Box` follow them, flattened.

    Raises:
        ValueError: an integer action lies outside the space, or the trailing shape is not the space's.

    Example:
        >>> encode_actions(Discrete(3), np.array([2, 0])).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
        >>> encode_actions(Tuple((Box(-1, 1, (1,)), Discrete(2))), np.array([0.5, 1.0])).tolist()
        [0.0, 1.0, 0.5]
    """
    space, actions = shared_space(space), np.asarray(actions)
    shape = step_shape(space)
    leading = actions.shape[: actions.ndim - len(shape)]
    if actions.shape != leading + shape:
        raise ValueError(f"actions have shape {actions.shape}: expected (..., {str(shape)[1:-1]}) for {space}.")
    if isinstance(space, Box):
        return actions.astype(np.float32, copy=False).reshape(*leading, math.prod(shape))
    if not isinstance(space, Tuple | Dict):
        return one_hot(space, actions.reshape(*leading, -1))
    parts = list(split_leaves(space, actions))
    groups = [one_hot(leaf, part) for leaf, part in parts if not isinstance(leaf, Box)]
    return np.concatenate(
        [*groups, *(part for leaf, part in parts if isinstance(leaf, Box))], axis=-1, dtype=np.float32
    )


def decode_actions(space: Space | Mapping, values: np.ndarray) -> np.ndarray:
    """Actions from a model's output.

    Args:
        space: The action space.
        values (`(..., action_size)`): One score for each choice of the discrete components, then the continuous entries, in
            their own units.

    Returns:
        `(..., *step_shape)`: for `Box` clipped to the bounds (rounded where it is an integer space) in the space's
        dtype; for discrete spaces the `int64` choice with the greatest score in each component; for a Tuple or Dict both, as
        float64 entries in the order of the space (see `nested_actions`).

    Example:
        >>> decode_actions(MultiDiscrete([2, 3]), np.array([0.1, 0.9, 0.3, 0.2, 0.1]))
        array([1, 0])
    """
    space, values = shared_space(space), np.asarray(values)
    leading = values.shape[:-1]
    if isinstance(space, Box):
        values = np.clip(values.reshape(leading + space.shape), space.low, space.high)
        return (values if space.dtype.kind == "f" else np.rint(values)).astype(space.dtype)
    if not isinstance(space, Tuple | Dict):
        return _choices(space, values).reshape(leading + space.shape)
    first_group, first_number, parts = 0, sum(group_sizes(space)), []
    for _, leaf in leaves_of(space):
        if isinstance(leaf, Box):
            size = math.prod(leaf.shape)
            part = decode_actions(leaf, values[..., first_number : first_number + size])
            parts.append(part.reshape(*leading, size))
            first_number += size
        else:
            size = sum(_sizes_of_leaf(leaf))
            parts.append(_choices(leaf, values[..., first_group : first_group + size]))
            first_group += size
    return np.concatenate(parts, axis=-1, dtype=np.float64)


def shared_space(space: Space | Mapping) -> Space:
    """As `space_from_dict`, kept for the next call (building a `Box` takes longer than encoding a batch): only to be
    read, since spaces hold the state of their random generator."""
    return space if isinstance(space, Space) else _space_from_json(json.dumps(space))


@lru_cache(maxsize=256)
def _space_from_json(description: str) -> Space:
    return space_from_dict(json.loads(description))


def leaves_of(space: Space, path: str = "") -> Iterator[tuple[str, Space]]:
    """The parts of a space that have none themselves, with their names: `arm.angle` in a Dict, `0` in a Tuple."""
    if not isinstance(space, Tuple | Dict):
        yield path, space
        return
    for name, part in space.items() if isinstance(space, Dict) else enumerate(space.spaces):
        yield from leaves_of(part, f"{path}.{name}" if path else str(name))


def split_leaves(space: Space, values: np.ndarray) -> Iterator[tuple[Space, np.ndarray]]:
    first = 0
    for _, leaf in leaves_of(space):
        size = math.prod(leaf.shape)
        yield leaf, values[..., first : first + size]
        first += size


def _sizes_of_leaf(leaf: Space) -> list[int]:
    if isinstance(leaf, Discrete):
        return [int(leaf.n)]
    if isinstance(leaf, MultiBinary):
        return [2] * math.prod(leaf.shape)
    return leaf.nvec.ravel().tolist() if isinstance(leaf, MultiDiscrete) else []


def first_choices(leaf: Space) -> np.ndarray:
    """The first choice of each component."""
    return np.zeros(1, np.int64) if isinstance(leaf, MultiBinary) else np.ravel(leaf.start)


def one_hot(leaf: Space, actions: np.ndarray, what: str = "action") -> np.ndarray:
    """Codes `(..., components)` as one-hot vectors, one after the other."""
    sizes = np.asarray(_sizes_of_leaf(leaf))
    choices = actions - first_choices(leaf)
    if not ((choices >= 0) & (choices < sizes)).all():
        raise ValueError(
            f"{what} {_first_outside(choices, sizes, leaf)} is outside {leaf}: expected one of its choices."
        )
    encoded = np.zeros((*choices.shape[:-1], sizes.sum()), dtype=np.float32)
    np.put_along_axis(encoded, choices.astype(np.int64) + _group_starts(sizes), 1.0, axis=-1)
    return encoded


def _choices(leaf: Space, scores: np.ndarray) -> np.ndarray:
    """The best choice of each component, `(..., components)`."""
    sizes = np.asarray(_sizes_of_leaf(leaf))
    groups = np.split(scores, _group_starts(sizes)[1:], axis=-1)
    return np.stack([group.argmax(axis=-1) for group in groups], axis=-1).astype(np.int64) + first_choices(leaf)


def _group_starts(sizes: np.ndarray) -> np.ndarray:
    return np.cumsum(sizes) - sizes


def _first_outside(choices: np.ndarray, sizes: np.ndarray, space: Space) -> int:
    outside = np.argwhere((choices < 0) | (choices >= sizes))[0]
    starts = np.broadcast_to(first_choices(space), sizes.shape)
    return int(choices[tuple(outside)] + starts[outside[-1]])


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


def _whole(shape: Sequence[int]) -> int | Sequence[int]:
    """`MultiBinary` tells 3 from (3,) when it is compared."""
    return shape[0] if len(shape) == 1 else shape


def _multi_discrete_from_dict(description: Mapping) -> MultiDiscrete:
    return MultiDiscrete(np.asarray(description["nvec"]), start=np.asarray(description.get("start", 0)))


_BUILDERS: dict[str, Callable[[Mapping], Space]] = {
    "Box": _box_from_dict,
    "Discrete": lambda description: Discrete(description["n"], start=description.get("start", 0)),
    "MultiDiscrete": _multi_discrete_from_dict,
    "MultiBinary": lambda description: MultiBinary(_whole(description["shape"])),
    "Tuple": lambda description: Tuple([space_from_dict(part) for part in description["spaces"]]),
    "Dict": lambda description: Dict([(name, space_from_dict(part)) for name, part in description["spaces"]]),
}
