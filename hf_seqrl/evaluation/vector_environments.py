"""A user's own `gymnasium.vector.VectorEnv` as the lanes of a rollout, in each of its three autoreset modes."""

from collections.abc import Sequence

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from hf_seqrl.evaluation.environments import StepOutcome


class VectorEnvironmentLanes:
    """The lanes of a vector environment; it is neither made nor closed here.

    Autoreset `DISABLED`: every episode is reset with its own seed. `NEXT_STEP` and `SAME_STEP`: only the first episode of
    a lane can be seeded, the later ones continue that lane's random stream, so results depend on `num_envs`.
    A lane that is no longer selected goes on with its last action, unseen, for a vector environment steps as a whole.

    Args:
        envs: The vector environment.
    """

    def __init__(self, envs: gym.vector.VectorEnv):
        mode = envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self._envs, self._mode = envs, AutoresetMode(mode)
        self.num_envs = envs.num_envs
        self.observation_space, self.action_space = envs.single_observation_space, envs.single_action_space
        self.spec, self.fps = envs.spec, float(envs.metadata.get("render_fps", 30))
        self.resets_on_next_step = self._mode is AutoresetMode.NEXT_STEP
        self._lanes = np.arange(envs.num_envs)  # which of the vector's environments each lane is
        self._actions: np.ndarray | None = None
        self._waiting = np.zeros(envs.num_envs, bool)  # without autoreset: ended, and not begun again

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        first, last = int(seeds[0]), int(seeds[-1])
        all_seeds = [*map(int, seeds), *range(last + 1, last + 1 + self.num_envs - len(seeds))]
        # an int means the same to gymnasium, and some vector environments take nothing else
        consecutive = all_seeds == list(range(first, first + self.num_envs))
        observations, _ = self._envs.reset(seed=first if consecutive else all_seeds)
        self._lanes, self._actions = np.arange(len(seeds)), None
        self._waiting[:] = False
        return np.array(observations[: len(seeds)])

    def restart(self, lanes: np.ndarray, seeds: Sequence[int], observations: np.ndarray) -> np.ndarray:
        if self._mode is AutoresetMode.DISABLED:
            observations[lanes] = self._reset_some(self._lanes[lanes], seeds)
            return np.asarray(seeds, np.int64)
        return np.full(len(lanes), -1, np.int64)  # it has reset itself: `observations` holds the first ones already

    def step(self, actions: np.ndarray) -> StepOutcome:
        if self._actions is None:
            self._actions = np.repeat(actions[:1], self.num_envs, axis=0)
        self._actions[self._lanes] = actions
        if self._waiting.any():  # dropped lanes; it refuses to step environments that have ended
            self._reset_some(np.flatnonzero(self._waiting), [0] * int(self._waiting.sum()))
        observations, rewards, terminations, truncations, _ = self._envs.step(self._actions)
        if self._mode is AutoresetMode.DISABLED:
            self._waiting = np.logical_or(terminations, truncations)
        lanes = self._lanes  # indexing copies: vector environments may reuse their buffers
        return StepOutcome(
            observations[lanes], np.asarray(rewards, np.float64)[lanes], terminations[lanes], truncations[lanes]
        )

    def select(self, lanes: np.ndarray) -> None:
        self._lanes = self._lanes[lanes]

    def render(self, lanes: Sequence[int]) -> list[np.ndarray]:
        frames = self._envs.render()
        return [np.asarray(frames[self._lanes[lane]]) for lane in lanes]

    def close(self) -> None:
        """Nothing: the vector environment belongs to its maker."""

    def _reset_some(self, indices: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
        mask = np.zeros(self.num_envs, bool)
        mask[indices] = True
        all_seeds: list[int | None] = [None] * self.num_envs
        for index, seed in zip(indices, seeds):
            all_seeds[index] = int(seed)
        observations, _ = self._envs.reset(seed=all_seeds, options={"reset_mask": mask})
        self._waiting[indices] = False
        return observations[indices]
