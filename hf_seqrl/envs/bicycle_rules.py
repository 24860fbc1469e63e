"""The dynamics of the bicycle as pure functions of arrays, shared by the single and the vectorized environment.

One step, in this order: the action moves the agent (`x` by `pedal * speed` with the speed *before* the step, `y` by
`steer`), positions are clipped to the grid, the terrain of the *new* cell sets the bump flag and the next speed, and the
reward follows. At the edge the speed is kept: only bumps reduce it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

SPEED_CEILING = 2**24  # the limit of exact integers in float32, which unlimited speeds reach after as many steps
GOAL_REWARD = 100.0
STEP_REWARD = -1.0


@dataclass(frozen=True)
class BicycleConfig:
    """The options of `hf_seqrl/BicycleGrid-v0`; `gymnasium.make` takes them as keyword arguments.

    Args:
        grid_size (`int`, *optional*, defaults to `5`):
            Number of cells per side, at least 2. The goal is the cell `(grid_size - 1, grid_size - 1)`.
        terrain (`str` or array, *optional*, defaults to `"rows"`):
            Where the bumps are. `"rows"`: every row with an even `y`. `"flat"`: nowhere. `"random"`: each cell with
            probability `bump_density`, drawn once from `terrain_seed`, so that it is the same in all episodes.
            A boolean array: `(grid_size,)` for whole rows or `(grid_size, grid_size)` indexed `[y, x]`.
        terrain_seed (`int`, *optional*, defaults to `0`):
            Seed of the `"random"` terrain, which does not depend on the seed of `reset`.
        bump_density (`float`, *optional*, defaults to `0.5`):
            Probability of a bump in each cell of the `"random"` terrain.
        max_speed (`int`, *optional*):
            Maximum speed in cells per step, at least 1; no limit by default.
        continuous_actions (`bool`, *optional*, defaults to `False`):
            Whether actions are two floats, pedal in [0, 1] and steer in [-1, 1], instead of `MultiDiscrete([2, 3])`.
            The agent pedals above 1/2 and steers beyond +-1/3, so that uniformly random floats have the same effect as
            uniformly random integers and the optimum is the same.
        dense_reward (`bool`, *optional*, defaults to `False`):
            Whether the reward includes the decrease of the distance to the goal (`|dx| + |dy|`): potential-based
            shaping (Ng, Harada and Russell, 1999), which leaves the optimal policy unchanged.
        random_starts (`bool`, *optional*, defaults to `False`):
            Whether an episode starts in any cell but the goal, drawn from the seed of `reset`. The environment is
            deterministic: without it, all episodes of a greedy policy are the same.

    Raises:
        ValueError: an option is outside its range, or the terrain has the wrong name or shape.

    Example:

    ```python
    >>> from hf_seqrl.envs.bicycle_rules import BicycleConfig, bump_map
    >>> bump_map(BicycleConfig(grid_size=3)).astype(int).tolist()
    [[1, 1, 1], [0, 0, 0], [1, 1, 1]]

    ```
    """

    grid_size: int = 5
    terrain: Any = "rows"
    terrain_seed: int = 0
    bump_density: float = 0.5
    max_speed: int | None = None
    continuous_actions: bool = False
    dense_reward: bool = False
    random_starts: bool = False

    def __post_init__(self) -> None:
        if self.grid_size < 2:
            raise ValueError(f"grid_size is {self.grid_size}: expected at least 2, so that start and goal differ.")
        if self.max_speed is not None and not 1 <= self.max_speed <= SPEED_CEILING:
            raise ValueError(f"max_speed is {self.max_speed}: expected None or 1 to {SPEED_CEILING} cells per step.")
        if not 0.0 <= self.bump_density <= 1.0:
            raise ValueError(f"bump_density is {self.bump_density}: expected a probability from 0 to 1.")
        if isinstance(self.terrain, str):
            if self.terrain not in ("rows", "flat", "random"):
                raise ValueError(f"terrain is {self.terrain!r}: expected 'rows', 'flat', 'random' or an array.")
            return
        bumps = np.asarray(self.terrain, dtype=bool)
        if bumps.shape not in ((self.grid_size,), (self.grid_size, self.grid_size)):
            raise ValueError(
                f"the terrain has shape {bumps.shape}: expected ({self.grid_size},) or "
                f"({self.grid_size}, {self.grid_size}), indexed [y, x], at grid_size {self.grid_size}."
            )
        rows = bumps.tolist()  # nested tuples keep the configuration hashable
        object.__setattr__(self, "terrain", tuple(tuple(row) if isinstance(row, list) else row for row in rows))

    @property
    def speed_limit(self) -> int:
        """The maximum speed, in cells per step."""
        return SPEED_CEILING if self.max_speed is None else self.max_speed


def bump_map(config: BicycleConfig) -> np.ndarray:
    """Where the bumps are: booleans `(grid_size, grid_size)`, indexed `[y, x]`."""
    size = config.grid_size
    if not isinstance(config.terrain, str):
        rows = np.asarray(config.terrain, dtype=bool)
        return rows.copy() if rows.ndim == 2 else np.repeat(rows[:, None], size, axis=1)
    if config.terrain == "random":
        return np.random.default_rng(config.terrain_seed).random((size, size)) < config.bump_density
    bumpy_rows = np.arange(size) % 2 == 0 if config.terrain == "rows" else np.zeros(size, dtype=bool)
    return np.repeat(bumpy_rows[:, None], size, axis=1)


def observation_space(config: BicycleConfig) -> spaces.Box:
    """`(x, y, speed, bump)` as float32: cells, cells, cells per step, 0 or 1."""
    edge = config.grid_size - 1
    return spaces.Box(np.zeros(4, np.float32), np.array([edge, edge, config.speed_limit, 1], np.float32))


def action_space(config: BicycleConfig) -> spaces.MultiDiscrete | spaces.Box:
    """`(pedal, steer)`: integers 0..1 and 0..2 (left, straight on, right), or floats in [0, 1] and [-1, 1]."""
    if config.continuous_actions:
        return spaces.Box(np.array([0, -1], np.float32), np.array([1, 1], np.float32))
    return spaces.MultiDiscrete([2, 3])


def decode_actions(config: BicycleConfig, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Actions `(..., 2)` of the environment's space to pedal `(...)` in {0, 1} and steer `(...)` in {-1, 0, 1}.

    Raises:
        ValueError: an action is not in the action space.
    """
    actions = np.asarray(actions)
    pedal, steer = actions[..., 0], actions[..., 1]
    low, high = ((0, -1), (1, 1)) if config.continuous_actions else ((0, 0), (1, 2))
    inside = (low[0] <= pedal) & (pedal <= high[0]) & (low[1] <= steer) & (steer <= high[1])  # False for NaN
    if not np.all(inside):
        outside = actions.reshape(-1, 2)[~np.ravel(inside)][0]
        raise ValueError(
            f"action {outside.tolist()} is not in {action_space(config)}: expected pedal from {low[0]} to {high[0]} "
            f"and steer from {low[1]} to {high[1]}."
        )
    if config.continuous_actions:
        return (pedal > 0.5).astype(np.int64), (steer > 1 / 3).astype(np.int64) - (steer < -1 / 3)
    return pedal.astype(np.int64), steer.astype(np.int64) - 1


def ride(
    config: BicycleConfig,
    bumps: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    speed: np.ndarray,
    pedal: np.ndarray,
    steer: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The next `x`, `y` and `speed`, all integers `(...)`; `bumps` is `bump_map(config)`."""
    edge = config.grid_size - 1
    x = np.minimum(x + pedal * speed, edge)  # x never decreases
    y = np.minimum(np.maximum(y + steer, 0), edge)
    speed = np.where(bumps[y, x], np.maximum(speed - 1, 1), np.minimum(speed + 1, config.speed_limit))
    return x, y, speed


def cells_to_goal(config: BicycleConfig, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`|dx| + |dy|` from the goal, in cells `(...)`."""
    return 2 * (config.grid_size - 1) - x - y


def reward_of(config: BicycleConfig, cells_before: np.ndarray, cells_after: np.ndarray) -> np.ndarray:
    """The reward of a step `(...)`, from the distance to the goal before and after it: 100 at the goal, else -1."""
    reward = np.where(cells_after == 0, GOAL_REWARD, STEP_REWARD)
    return reward + (cells_before - cells_after) if config.dense_reward else reward


def draw_start(config: BicycleConfig, generator: np.random.Generator) -> tuple[int, int]:
    """The first cell `(x, y)` of an episode; the speed is always 1."""
    if not config.random_starts:
        return 0, 0
    y, x = divmod(int(generator.integers(config.grid_size**2 - 1)), config.grid_size)  # the goal is the last cell
    return x, y
