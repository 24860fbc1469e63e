"""The optimal return of a configuration, with which results are given as a fraction of the optimum."""

from functools import lru_cache

import numpy as np

from hf_seqrl.envs import bicycle_rules as rules
from hf_seqrl.envs.bicycle_rules import BicycleConfig

_PEDALS = np.array([0, 0, 0, 1, 1, 1])
_STEERS = np.array([-1, 0, 1, -1, 0, 1])


def optimal_return(config: BicycleConfig, start: tuple[int, int] | None = None) -> float:
    """The highest undiscounted return of any policy, if the time limit allows `grid_size - 1` steps.

    The shortest episode is optimal, with the dense reward too: over an episode this adds the distance of the start from
    the goal, whatever the path. With random starts and no `start`, it is the mean over all starts, which are equally
    likely.

    Args:
        config (`BicycleConfig`): The configuration.
        start (`tuple[int, int]`, *optional*): The first cell `(x, y)`; by default that of the configuration.

    Returns:
        `float`: The return in raw units.

    Example:

    ```python
    >>> from hf_seqrl.envs.bicycle_optimum import optimal_return
    >>> from hf_seqrl.envs.bicycle_rules import BicycleConfig
    >>> optimal_return(BicycleConfig(grid_size=5))  # three steps at -1, and the goal
    97.0

    ```
    """
    if start is not None:
        return _return_from(config, *start)
    if not config.random_starts:
        return _return_from(config, 0, 0)
    cells = [divmod(index, config.grid_size) for index in range(config.grid_size**2 - 1)]
    return float(np.mean([_return_from(config, x, y) for y, x in cells]))


def shortest_actions(config: BicycleConfig, start: tuple[int, int] = (0, 0)) -> np.ndarray:
    """The actions of one optimal episode, `(steps, 2)`, as `MultiDiscrete([2, 3])` encodes them."""
    steps_left, bumps = steps_to_goal(config), rules.bump_map(config)
    (x, y), speed = start, 1
    actions = []
    for _ in range(int(steps_left[y, x, 0])):
        x_next, y_next, speed_next = rules.ride(config, bumps, x, y, speed, _PEDALS, _STEERS)
        best = int(np.argmin(steps_left[y_next, x_next, _column(config, speed_next)]))
        actions.append((_PEDALS[best], _STEERS[best] + 1))
        x, y, speed = x_next[best], y_next[best], speed_next[best]
    return np.array(actions, dtype=np.int64).reshape(-1, 2)


@lru_cache(maxsize=64)
def steps_to_goal(config: BicycleConfig) -> np.ndarray:
    """The minimum number of steps from every state to the goal: `(grid_size, grid_size, speeds)`, indexed `[y, x, speed - 1]`.

    Breadth-first search from the goal backwards, one sweep per layer. Speeds beyond `grid_size` share the last column:
    a single step at any of them crosses the grid, and moving diagonally takes at most `grid_size - 1` steps from anywhere.
    """
    size = config.grid_size
    y, x, column = np.indices((size, size, min(size, config.speed_limit)))
    transitions = rules.ride(config, rules.bump_map(config), x, y, column + 1, _along(_PEDALS), _along(_STEERS))
    x_next, y_next, speed_next = transitions  # (6, size, size, speeds)
    steps = np.where((x == size - 1) & (y == size - 1), 0, 2 * size)  # 2 * size: not reached yet
    for layer in range(1, size):
        reached = (steps[y_next, x_next, _column(config, speed_next)] == layer - 1).any(axis=0)
        steps[reached & (steps > layer)] = layer
    return steps


def _along(actions: np.ndarray) -> np.ndarray:
    return actions[:, None, None, None]


def _column(config: BicycleConfig, speed: np.ndarray) -> np.ndarray:
    return np.minimum(speed, config.grid_size) - 1


def _return_from(config: BicycleConfig, x: int, y: int) -> float:
    steps = int(steps_to_goal(config)[y, x, 0])
    shaping = int(rules.cells_to_goal(config, x, y)) if config.dense_reward else 0
    return rules.GOAL_REWARD + rules.STEP_REWARD * (steps - 1) + shaping
