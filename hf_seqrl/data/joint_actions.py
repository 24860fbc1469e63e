"""Discrete actions of one or several components as one number each: what a distribution over actions is a vector of."""

import math
from collections.abc import Mapping

import numpy as np
from gymnasium.spaces import Space

from hf_seqrl.data.spaces import continuous_size, decode_actions, encode_actions, group_sizes


def num_joint_actions(space: Space | Mapping) -> int | None:
    """How many different actions a space has; `None` where an entry of them is continuous.

    Example:
        >>> from gymnasium.spaces import Box, Discrete, MultiDiscrete
        >>> num_joint_actions(Discrete(4)), num_joint_actions(MultiDiscrete([2, 3])), num_joint_actions(Box(-1, 1, (2,)))
        (4, 6, None)
    """
    return None if continuous_size(space) else math.prod(group_sizes(space))


def joint_codes(space: Space | Mapping, actions: np.ndarray) -> np.ndarray:
    """Actions `(..., *step_shape)` as numbers from 0 to `num_joint_actions - 1`, `(...)` int64; the last component counts
    fastest.

    Example:
        >>> from gymnasium.spaces import MultiDiscrete
        >>> joint_codes(MultiDiscrete([2, 3]), np.array([[0, 2], [1, 0]]))
        array([2, 3])
    """
    sizes = group_sizes(space)
    groups = np.split(encode_actions(space, actions), np.cumsum(sizes)[:-1], axis=-1)
    return np.ravel_multi_index([group.argmax(axis=-1) for group in groups], sizes)


def joint_actions(space: Space | Mapping) -> np.ndarray:
    """All actions of a discrete space in the order of their codes, `(num_joint_actions, *step_shape)`.

    Example:
        >>> from gymnasium.spaces import MultiDiscrete
        >>> joint_actions(MultiDiscrete([2, 2])).tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    sizes = group_sizes(space)
    choices = np.indices(sizes).reshape(len(sizes), -1)  # (components, num_joint_actions)
    return decode_actions(
        space, np.concatenate([np.eye(size)[choice] for size, choice in zip(sizes, choices)], axis=-1)
    )


def joint_probabilities(space: Space | Mapping, probabilities: np.ndarray) -> np.ndarray:
    """The distribution over joint actions of components that are drawn independently.

    Args:
        space: A discrete action space.
        probabilities: `(n, sum(group_sizes))`, those of the components one after the other.

    Returns:
        `(n, num_joint_actions)`.

    Example:
        >>> from gymnasium.spaces import MultiDiscrete
        >>> joint_probabilities(MultiDiscrete([2, 2]), np.array([[0.5, 0.5, 0.1, 0.9]])).tolist()
        [[0.05, 0.45, 0.05, 0.45]]
    """
    first, *others = np.split(probabilities, np.cumsum(group_sizes(space))[:-1], axis=-1)
    for other in others:
        first = (first[:, :, None] * other[:, None, :]).reshape(len(first), -1)
    return first
