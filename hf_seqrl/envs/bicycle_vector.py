"""The bicycle as a vectorized environment of NumPy arrays."""

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from hf_seqrl.envs import bicycle_rules as rules
from hf_seqrl.envs.bicycle_rendering import paint


class BicycleGridVectorEnv(gymnasium.vector.VectorEnv):
    """`num_envs` environments in one; gives the same steps as a `SyncVectorEnv` of [`BicycleGridEnv`].

    An environment whose episode ended is reset by the next step (`AutoresetMode.NEXT_STEP`), whose action and reward do
    not count. `reset(seed=s)` seeds environment `i` with `s + i`; a list gives one seed per environment. Gymnasium's
    `options={"reset_mask": ...}` resets only some of the environments.

    Args:
        num_envs (`int`, *optional*, defaults to `1`):
            Number of environments.
        max_episode_steps (`int`, *optional*):
            Steps after which an episode is truncated; no limit by default.
        render_mode (`str`, *optional*):
            With `"rgb_array"`, `render` returns one image per environment.
        options:
            The fields of [`~hf_seqrl.envs.bicycle_rules.BicycleConfig`].
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 4, "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(
                f"render_mode is {render_mode!r}: expected None or 'rgb_array' for a vectorized environment."
            )
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.render_mode = render_mode
        self.config = rules.BicycleConfig(**options)
        self.bumps = rules.bump_map(self.config)
        self.single_observation_space = rules.observation_space(self.config)
        self.single_action_space = rules.action_space(self.config)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._x, self._y, self._speed, self._steps = np.zeros((4, num_envs), dtype=np.int64)
        self._ended = np.zeros(num_envs, dtype=bool)
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._paths: list[list[tuple[int, int]]] = [[] for _ in range(num_envs)]

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict]:
        everyone = np.ones(self.num_envs, dtype=bool)
        mask = everyone if options is None else np.asarray(options.get("reset_mask", everyone))
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise ValueError(f"reset_mask is {mask.dtype} {mask.shape}: expected bool ({self.num_envs},).")
        self._seed(seed, mask)
        self._start(mask)
        return self._observe(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        resetting = self._ended
        pedal, steer = rules.decode_actions(self.config, actions)
        cells_before = rules.cells_to_goal(self.config, self._x, self._y)
        self._x, self._y, self._speed = rules.ride(
            self.config, self.bumps, self._x, self._y, self._speed, pedal, steer
        )
        self._steps += 1
        cells_after = rules.cells_to_goal(self.config, self._x, self._y)
        rewards = rules.reward_of(self.config, cells_before, cells_after)
        terminations = cells_after == 0
        if self.max_episode_steps is None:
            truncations = np.zeros(self.num_envs, dtype=bool)
        else:
            truncations = self._steps >= self.max_episode_steps
        if resetting.any():
            self._start(resetting)
            rewards[resetting], terminations[resetting], truncations[resetting] = 0.0, False, False
        self._ended = terminations | truncations
        if self.render_mode is not None:
            self._extend_paths(~resetting)
        return self._observe(), rewards, terminations, truncations, {}

    def render(self) -> tuple[np.ndarray, ...] | None:
        if self.render_mode is None:
            gymnasium.logger.warn("render() returns nothing: make the environments with render_mode='rgb_array'.")
            return None
        speeds = self._speed.tolist()
        return tuple(paint(self.bumps, path, speed) for path, speed in zip(self._paths, speeds, strict=True))

    def _seed(self, seed: int | list[int | None] | None, mask: np.ndarray) -> None:
        """Give the environments in `mask` that have a seed new generators."""
        seeds = [seed + index for index in range(self.num_envs)] if isinstance(seed, int | np.integer) else seed
        if seeds is None or not self.config.random_starts:  # only the starts are random
            return
        if len(seeds) != self.num_envs:
            raise ValueError(
                f"reset got {len(seeds)} seeds: expected one for each of the {self.num_envs} environments."
            )
        for index in np.flatnonzero(mask):
            if seeds[index] is not None:
                self._generators[index], _ = seeding.np_random(int(seeds[index]))

    def _start(self, mask: np.ndarray) -> None:
        """Begin new episodes in the environments where `mask` `(num_envs,)` is true."""
        self._x[mask], self._y[mask], self._speed[mask], self._steps[mask] = 0, 0, 1, 0
        self._ended = self._ended & ~mask
        if self.config.random_starts:
            for index in np.flatnonzero(mask):
                if self._generators[index] is None:
                    self._generators[index], _ = seeding.np_random()
                self._x[index], self._y[index] = rules.draw_start(self.config, self._generators[index])
        if self.render_mode is not None:
            for index in np.flatnonzero(mask):
                self._paths[index] = [(int(self._x[index]), int(self._y[index]))]

    def _extend_paths(self, mask: np.ndarray) -> None:
        for index in np.flatnonzero(mask):
            self._paths[index].append((int(self._x[index]), int(self._y[index])))

    def _observe(self) -> np.ndarray:
        observations = np.empty((self.num_envs, 4), dtype=np.float32)
        observations[:, 0], observations[:, 1], observations[:, 2] = self._x, self._y, self._speed
        observations[:, 3] = self.bumps[self._y, self._x]
        return observations
