"""Spaces of several parts, and observations that are no vectors: chosen, named, flattened, and put together again."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from gymnasium.spaces.utils import flatten_space

from hf_seqrl.data.spaces import leaves_of, one_hot, shared_space, split_leaves


def flat_actions(space: Space | Mapping, actions: Any) -> np.ndarray:
    """Actions of many steps as the data set holds them, `(steps, *step_shape)`.

    Args:
        space: The action space.
        actions: For a Tuple a sequence with the values of each part `(steps, ...)`, for a Dict a mapping of them; else an array.

    Example:
        >>> space = Tuple((Discrete(3), Box(-1, 1, (1,))))
        >>> flat_actions(space, (np.array([2, 0]), np.array([[0.5], [-0.5]]))).tolist()
        [[2.0, 0.5], [0.0, -0.5]]
    """
    space = shared_space(space)
    if not isinstance(space, Tuple | Dict) or (isinstance(actions, np.ndarray) and actions.dtype != object):
        return np.asarray(actions)
    parts = [np.asarray(values, dtype=np.float64) for values in _leaf_values(space, actions)]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=-1)


def nested_actions(space: Space | Mapping, actions: np.ndarray) -> Any:
    """The reverse of `flat_actions`: arrays `(steps, ...)` for each part of a Tuple or Dict.

    Example:
        >>> nested_actions(Tuple((Discrete(3), Box(-1, 1, (1,)))), np.array([[2.0, 0.5], [0.0, -0.5]]))[0]
        array([2, 0])
    """
    space = shared_space(space)
    if not isinstance(space, Tuple | Dict):
        return actions
    values = iter(split_leaves(space, np.asarray(actions)))
    return _nested(space, lambda leaf: next(values)[1].reshape(-1, *leaf.shape).astype(leaf.dtype))


def flat_action(space: Space | Mapping, action: Any) -> np.ndarray:
    """One action of the environment as the data set holds it, `step_shape(space)`.

    Example:
        >>> flat_action(Dict(gear=Discrete(3), gas=Box(0, 1, (1,))), {"gear": 2, "gas": np.array([0.5])}).tolist()
        [2.0, 0.5]
    """
    space = shared_space(space)
    if not isinstance(space, Tuple | Dict):
        return np.asarray(action)
    return np.concatenate([np.ravel(part) for part in _leaf_values(space, action)], dtype=np.float64)


def nested_action(space: Space | Mapping, action: np.ndarray) -> Any:
    """The reverse of `flat_action`: what the environment takes.

    Example:
        >>> nested_action(Tuple((Discrete(3), Box(-1, 1, (1,)))), np.array([2.0, 0.5]))[0]
        2
    """
    space = shared_space(space)
    if not isinstance(space, Tuple | Dict):
        return action
    values = iter(split_leaves(space, np.asarray(action)))
    return _nested(space, lambda leaf: _of_leaf(leaf, next(values)[1]))


def _of_leaf(leaf: Space, values: np.ndarray) -> Any:
    one = values.reshape(leaf.shape).astype(leaf.dtype)
    return int(one) if isinstance(leaf, Discrete) else one


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


def flat_space(space: Space | Mapping) -> Box:
    """The space of flattened observations, as `gymnasium.spaces.utils.flatten_space` gives it, in `float32`; a Box (a vector or
    an image) stays as it is.

    Raises:
        ValueError: images stand beside other entries.
        TypeError: an entry is of a kind that has no vector, such as `Text`.

    Example:
        >>> flat_space(Discrete(3)), flat_space(Box(0, 1, (2, 2)))
        (Box(0.0, 1.0, (3,), float32), Box(0.0, 1.0, (2, 2), float32))
    """
    space = shared_space(space)
    if isinstance(space, Box):
        return space
    leaves = list(leaves_of(space))
    for name, leaf in leaves:
        if not isinstance(leaf, Box | Discrete | MultiDiscrete | MultiBinary):
            raise TypeError(
                f"the entry {name or 'itself'!r} of {space} is {leaf}: expected Box, Discrete, MultiDiscrete or MultiBinary; "
                "choose other entries, observation=[...]."
            )
        if len(leaves) > 1 and isinstance(leaf, Box) and len(leaf.shape) == 3:
            raise ValueError(
                f"observations hold the image {name!r} beside {', '.join(one for one, _ in leaves if one != name)}: choose "
                f"entries, observation={name!r} or a list of those that are vectors."
            )
    flat = flatten_space(space)
    return Box(flat.low.astype(np.float32), flat.high.astype(np.float32), flat.shape, np.float32)


def flat_values(space: Space | Mapping, values: Any) -> np.ndarray:
    """Values of a space, `(steps, ...)` for each of its parts, as `(steps, *flat_space(space).shape)`: what
    `gymnasium.spaces.utils.flatten` gives for each step, for all steps at once. Discrete entries are one-hot.

    Example:
        >>> space = Dict(goal=Box(0, 1, (2,)), mode=Discrete(2))
        >>> flat_values(space, {"goal": np.array([[0.5, 1.0]]), "mode": np.array([1])}).tolist()
        [[0.5, 1.0, 0.0, 1.0]]
    """
    space = shared_space(space)
    if isinstance(space, Box):
        return np.asarray(values)
    leaves = [leaf for _, leaf in leaves_of(space)]
    vectors = [
        _vectors(leaf, np.asarray(part)) for leaf, part in zip(leaves, _leaf_values(space, values), strict=True)
    ]
    return np.concatenate(vectors, axis=-1)


def entry_names(space: Space | Mapping) -> tuple[str, ...] | None:
    """A name for each entry of the flattened space, from the names of a Dict; `None` for a plain Box.

    Example:
        >>> entry_names(Dict(goal=Box(0, 1, (2,)), mode=Discrete(2)))
        ('goal[0]', 'goal[1]', 'mode=0', 'mode=1')
    """
    space = shared_space(space)
    if isinstance(space, Box):
        return None
    return tuple(name for path, leaf in leaves_of(space) for name in _names_of_leaf(path, leaf))


def entry_places(space: Space) -> dict[str, list[int]]:
    """Where the entries of a Dict stand in the vector, `[first, last + 1]` each."""
    if not isinstance(space, Dict):
        return {}
    ends = np.cumsum([0, *(math.prod(flatten_space(part).shape) for part in space.values())]).tolist()
    return {name: [start, end] for name, start, end in zip(space, ends[:-1], ends[1:])}


def _leaf_values(space: Space, values: Any) -> Iterator[Any]:
    if isinstance(space, Dict):
        missing = [name for name in space if name not in values]
        if missing:
            raise ValueError(
                f"there are no values of {missing[0]!r}: expected entries {', '.join(space)} for {space}."
            )
        for name, part in space.items():
            yield from _leaf_values(part, values[name])
    elif isinstance(space, Tuple):
        for part, one in zip(space.spaces, values, strict=True):
            yield from _leaf_values(part, one)
    else:
        yield values


def _nested(space: Space, value_of: Callable[[Space], Any]) -> Any:
    if isinstance(space, Dict):
        return {name: _nested(part, value_of) for name, part in space.items()}
    if isinstance(space, Tuple):
        return tuple(_nested(part, value_of) for part in space.spaces)
    return value_of(space)


def _vectors(leaf: Space, values: np.ndarray) -> np.ndarray:
    """What gymnasium flattens a leaf to, for all steps: one-hot, but for `MultiBinary` and `Box` the values themselves."""
    values = values.reshape(len(values), -1)
    if isinstance(leaf, Box | MultiBinary):
        return values if values.dtype == np.float64 else values.astype(np.float32)
    return one_hot(leaf, values, "value")


def _names_of_leaf(path: str, leaf: Space) -> list[str]:
    path = path or "state"
    if isinstance(leaf, Discrete):
        return [f"{path}={int(leaf.start) + choice}" for choice in range(int(leaf.n))]
    places = [",".join(map(str, place)) for place in np.ndindex(leaf.shape)]
    if isinstance(leaf, MultiDiscrete):
        choices = zip(places, leaf.nvec.ravel(), np.ravel(leaf.start), strict=True)
        return [f"{path}[{place}]={start + choice}" for place, count, start in choices for choice in range(count)]
    return [f"{path}[{place}]" for place in places] if math.prod(leaf.shape) > 1 else [path]
