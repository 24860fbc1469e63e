"""The bicycle as a gymnasium environment."""

from typing import Any, ClassVar

import gymnasium
import numpy as np

from hf_seqrl.envs import bicycle_rules as rules
from hf_seqrl.envs.bicycle_rendering import draw_text, paint


class BicycleGridEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """The agent rides from `(0, 0)` to the opposite corner of a grid; bumps slow it down, smooth ground speeds it up.

    Observations are `(x, y, speed, bump)` as float32 `(4,)`, actions `(pedal, steer)` from `MultiDiscrete([2, 3])`,
    rewards -1 per step and 100 at the goal, which terminates the episode. The terrain is fixed, so `(x, y, speed)` is a
    complete observation.

    Args:
        render_mode (`str`, *optional*):
            `"ansi"` for text, `"rgb_array"` for an image `(height, width, 3)` uint8.
        options:
            The fields of [`~hf_seqrl.envs.bicycle_rules.BicycleConfig`].

    Example:

    ```python
    >>> import gymnasium, hf_seqrl
    >>> env = gymnasium.make("hf_seqrl/BicycleGrid-v0", grid_size=5)
    >>> env.reset(seed=0)[0].tolist()
    [0.0, 0.0, 1.0, 1.0]
    >>> observation, reward, terminated, truncated, info = env.step(env.unwrapped.action_space.nvec - 1)
    >>> observation.tolist(), reward, terminated
    ([1.0, 1.0, 2.0, 0.0], -1.0, False)

    ```
    """

    metadata: ClassVar = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}

    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode is {render_mode!r}: expected None, 'ansi' or 'rgb_array'.")
        self.render_mode = render_mode
        self.config = rules.BicycleConfig(**options)
        self.bumps = rules.bump_map(self.config)
        self.observation_space = rules.observation_space(self.config)
        self.action_space = rules.action_space(self.config)
        self._path: list[tuple[int, int]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._x, self._y = rules.draw_start(self.config, self.np_random)
        self._speed = 1
        self._path = [(self._x, self._y)]
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        pedal, steer = rules.decode_actions(self.config, action)
        cells_before = rules.cells_to_goal(self.config, self._x, self._y)
        x, y, speed = rules.ride(self.config, self.bumps, self._x, self._y, self._speed, pedal, steer)
        self._x, self._y, self._speed = int(x), int(y), int(speed)
        self._path.append((self._x, self._y))
        cells_after = rules.cells_to_goal(self.config, self._x, self._y)
        reward = float(rules.reward_of(self.config, cells_before, cells_after))
        return self._observe(), reward, cells_after == 0, False, {}

    def render(self) -> str | np.ndarray | None:
        if self.render_mode is None:
            gymnasium.logger.warn("render() returns nothing: make the environment with render_mode='rgb_array'.")
            return None
        draw = draw_text if self.render_mode == "ansi" else paint
        return draw(self.bumps, self._path, self._speed)

    def _observe(self) -> np.ndarray:
        return np.array([self._x, self._y, self._speed, self.bumps[self._y, self._x]], dtype=np.float32)
