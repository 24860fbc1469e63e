"""Composite observations (Dict, Tuple, Discrete) as the vectors that data sets hold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from hf_seqrl.data.spaces import encode_actions


def choose_entries(space: spaces.Space, entries: str | Sequence[str] | None) -> spaces.Space:
    """The part of a Dict space that these names choose: one entry as it is, several as a Dict in that order.

    Raises:
        ValueError: the space has no entry of that name.
    """
    if entries is None:
        return space
    names = [entries] if isinstance(entries, str) else list(entries)
    available = list(space) if isinstance(space, spaces.Dict) else []
    for name in names:
        if name not in available:
            raise ValueError(
                f"observations have no entry {name!r}: expected one of {', '.join(available) or 'none, they are no Dict'}."
            )
    return space[names[0]] if isinstance(entries, str) else spaces.Dict([(name, space[name]) for name in names])


def flat_space(space: spaces.Space) -> spaces.Box:
    """The space of what `flat_values` makes; a Box (a vector or an image) stays as it is.

    Raises:
        ValueError: images stand beside other entries.
    """
    if isinstance(space, spaces.Box):
        return space
    for name, part in space.items() if isinstance(space, spaces.Dict) else ():
        if isinstance(part, spaces.Box) and len(part.shape) == 3:
            raise ValueError(
                f"observations hold the image {name!r} beside {', '.join(one for one in space if one != name)}: choose entries, "
                f"observation={name!r} or a list of those that are vectors."
            )
    return spaces.Box(-np.inf, np.inf, (_size(space),), np.float32)


def flat_values(space: spaces.Space, values: Any) -> np.ndarray:
    """Values of a space, `(steps, ...)` for each of its parts, as `(steps, *flat_space(space).shape)`.

    Entries follow one another in the order of the space; discrete ones are one-hot.

    Example:
        >>> space = spaces.Dict(goal=spaces.Box(0, 1, (2,)), mode=spaces.Discrete(2))
        >>> flat_values(space, {"goal": np.array([[0.5, 1.0]]), "mode": np.array([1])}).tolist()
        [[0.5, 1.0, 0.0, 1.0]]
    """
    return np.asarray(values) if isinstance(space, spaces.Box) else _vectors(space, values)


def entry_places(space: spaces.Space) -> dict[str, list[int]]:
    """Where the entries of a Dict stand in the vector, `[first, last + 1]` each."""
    if not isinstance(space, spaces.Dict):
        return {}
    ends = np.cumsum([0, *(_size(part) for part in space.values())]).tolist()
    return {name: [start, end] for name, start, end in zip(space, ends[:-1], ends[1:])}


def _size(space: spaces.Space) -> int:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return sum(_size(part) for part in _parts(space))
    if isinstance(space, spaces.Box):
        return int(np.prod(space.shape))
    return int(space.n) if isinstance(space, spaces.Discrete) else int(np.sum(space.nvec))


def _vectors(space: spaces.Space, values: Any) -> np.ndarray:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        of_parts = [values[name] for name in space] if isinstance(space, spaces.Dict) else values
        return np.concatenate([_vectors(part, one) for part, one in zip(_parts(space), of_parts)], axis=-1)
    if isinstance(space, spaces.Box):
        values = np.asarray(values)
        return values.reshape(len(values), -1).astype(np.float32)
    return encode_actions(space, np.asarray(values))


def _parts(space: spaces.Dict | spaces.Tuple) -> list[spaces.Space]:
    return list(space.values() if isinstance(space, spaces.Dict) else space.spaces)
