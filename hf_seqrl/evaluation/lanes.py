"""Parallel environments as the lanes of an episode loop: environments that are stepped one by one, and vector environments."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces.utils import flatten
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit

from hf_seqrl.data.composite_spaces import flat_space, nested_action, nested_actions

logger = logging.getLogger(__name__)


class StepOutcome(NamedTuple):
    """The result of one step of all lanes.

    Attributes:
        observations: `(num_lanes, *observation_shape)`, a fresh array.
        rewards: `(num_lanes,)` float64, raw units.
        terminations, truncations: `(num_lanes,)` bool.
    """

    observations: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray


class Lanes(Protocol):
    """Parallel environments.

    Attributes:
        fps: Frames per second of the environment.
        has_time_limit: Whether episodes are known to be truncated at some step.
        resets_on_next_step: Whether a lane whose episode ended spends the next step on its reset.
        source_observation_space: The environment's own, where its observations are flattened here.
        backend: The library whose environments they are, `"gymnasium"` or `"envpool"`.
    """

    num_envs: int
    observation_space: gym.Space
    action_space: gym.Space
    spec: EnvSpec | None
    fps: float
    has_time_limit: bool
    resets_on_next_step: bool
    source_observation_space: gym.Space | None
    backend: str

    def reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Begin `len(seeds)` (at most `num_envs`) episodes in as many lanes. Returns their first observations, and the
        seeds that were used, -1 where the environments cannot be seeded."""

    def restart(self, lanes: np.ndarray, seeds: Sequence[int], observations: np.ndarray) -> np.ndarray:
        """Begin new episodes in `lanes` and put their first observations into `observations`. Returns the seeds that
        were used, -1 where the environments reset themselves."""

    def step(self, actions: np.ndarray) -> StepOutcome:
        """Step every lane.

        Args:
            actions: `(num_lanes, *step_shape(action_space))`, those of a Tuple or Dict flat.
        """

    def select(self, lanes: np.ndarray) -> None:
        """Keep only these lanes, in this order."""

    def render(self, lanes: Sequence[int]) -> list[np.ndarray]:
        """One RGB frame `(height, width, 3)` uint8 per lane."""

    def close(self) -> None:
        """Close what was made here."""


class FlatObservations(gym.ObservationWrapper):
    """Numbers of states, tuples and dictionaries as vectors, the way data sets hold them (see `flat_space`).

    Args:
        env: An environment whose observations are no arrays of numbers.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.source_space = env.observation_space
        self.observation_space = flat_space(self.source_space)

    def observation(self, observation: Any) -> np.ndarray:
        return flatten(self.source_space, observation).astype(np.float32)


class EnvironmentLanes:
    """Plain environments, stepped one after the other.

    Args:
        envs: At least one, all with the same spaces.
        owned: Whether `close` closes them.
    """

    resets_on_next_step, backend = False, "gymnasium"

    def __init__(self, envs: list[gym.Env], owned: bool):
        self._all, self._envs, self._owned = envs, list(envs), owned
        self.num_envs = len(envs)
        self.observation_space, self.action_space = envs[0].observation_space, envs[0].action_space
        self.source_observation_space = envs[0].source_space if isinstance(envs[0], FlatObservations) else None
        self.spec, self.fps = envs[0].spec, float(envs[0].metadata.get("render_fps", 30))
        self.has_time_limit = has_time_limit(envs[0]) or bool(self.spec and self.spec.max_episode_steps)
        self._shape, self._dtype = self.observation_space.shape, self.observation_space.dtype
        self._nested = isinstance(self.action_space, gym.spaces.Tuple | gym.spaces.Dict)

    def reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        self._envs = self._all[: len(seeds)]
        observations = np.empty((len(seeds), *self._shape), self._dtype)
        return observations, self.restart(np.arange(len(seeds)), seeds, observations)

    def restart(self, lanes: np.ndarray, seeds: Sequence[int], observations: np.ndarray) -> np.ndarray:
        for lane, seed in zip(lanes, seeds):
            observation, _ = self._envs[lane].reset(seed=int(seed))
            if np.shape(observation) != self._shape:
                raise ValueError(
                    f"{self._envs[lane]} returned an observation of shape {np.shape(observation)}, its observation "
                    f"space says {self._shape}: correct the environment's observation_space."
                )
            observations[lane] = observation
        return np.asarray(seeds, np.int64)

    def step(self, actions: np.ndarray) -> StepOutcome:
        observations = np.empty((len(self._envs), *self._shape), self._dtype)
        rewards, terminations, truncations = [], [], []
        for lane, action in enumerate(actions):
            if self._nested:
                action = nested_action(self.action_space, action)
            observations[lane], reward, terminated, truncated, _ = self._envs[lane].step(action)
            rewards.append(reward)
            terminations.append(terminated)
            truncations.append(truncated)
        return StepOutcome(
            observations, np.array(rewards, np.float64), np.array(terminations, bool), np.array(truncations, bool)
        )

    def select(self, lanes: np.ndarray) -> None:
        self._envs = [self._envs[lane] for lane in lanes]

    def render(self, lanes: Sequence[int]) -> list[np.ndarray]:
        return [np.asarray(self._envs[lane].render()) for lane in lanes]

    def close(self) -> None:
        if self._owned:
            for env in self._all:
                env.close()


class VectorEnvironmentLanes:
    """The lanes of a vector environment; it is neither made nor closed here.

    Autoreset `DISABLED`: every episode is reset with its own seed. `NEXT_STEP` and `SAME_STEP`: only the first episode of
    a lane can be seeded, the later ones continue that lane's random stream, so results depend on `num_envs`.
    A lane that is no longer selected goes on with its last action, unseen, for a vector environment steps as a whole.
    An EnvPool was seeded when it was made, so the seeds of its episodes are not known here.

    Args:
        envs: The vector environment.
    """

    def __init__(self, envs: gym.vector.VectorEnv):
        mode = envs.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self._envs, self._mode = envs, AutoresetMode(mode)
        self.num_envs = envs.num_envs
        self.observation_space, self.action_space = envs.single_observation_space, envs.single_action_space
        self.source_observation_space: gym.Space | None = None
        self.spec = envs.spec if isinstance(envs.spec, EnvSpec) else None  # EnvPool has specifications of its own
        self.fps = float(envs.metadata.get("render_fps", 30))
        self.has_time_limit = bool(self.spec and self.spec.max_episode_steps)
        self.resets_on_next_step = self._mode is AutoresetMode.NEXT_STEP
        self.backend = "envpool" if _is_envpool(envs) else "gymnasium"
        self._lanes = np.arange(envs.num_envs)  # which of the vector's environments each lane is
        self._actions: np.ndarray | None = None
        self._waiting = np.zeros(envs.num_envs, bool)  # without autoreset: ended, and not begun again

    def reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        used = np.asarray(seeds, np.int64)
        if self.backend == "envpool":
            observations, _ = self._envs.reset()
            used = np.full_like(used, -1)
        else:
            observations, _ = self._envs.reset(seed=self._seeds_of_all(used.tolist()))
        self._lanes, self._actions = np.arange(len(seeds)), None
        self._waiting[:] = False
        return np.array(observations[: len(seeds)]), used

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
        actions = nested_actions(self.action_space, self._actions)
        observations, rewards, terminations, truncations, _ = self._envs.step(actions)
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

    def _seeds_of_all(self, seeds: list[int]) -> int | list[int]:
        """These, and others for the rest."""
        all_seeds = [*seeds, *range(seeds[-1] + 1, seeds[-1] + 1 + self.num_envs - len(seeds))]
        # an int means the same to gymnasium, and some vector environments take nothing else
        consecutive = all_seeds == list(range(seeds[0], seeds[0] + self.num_envs))
        return seeds[0] if consecutive else all_seeds

    def _reset_some(self, indices: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
        mask = np.zeros(self.num_envs, bool)
        mask[indices] = True
        all_seeds: list[int | None] = [None] * self.num_envs
        for index, seed in zip(indices, seeds):
            all_seeds[index] = int(seed)
        observations, _ = self._envs.reset(seed=all_seeds, options={"reset_mask": mask})
        self._waiting[indices] = False
        return observations[indices]


def _is_envpool(envs: gym.vector.VectorEnv) -> bool:
    return any(base.__module__.partition(".")[0] == "envpool" for base in type(envs.unwrapped).__mro__)


def has_time_limit(env: gym.Env) -> bool:
    """Whether a wrapper of `env` truncates its episodes."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, TimeLimit):
            return True
        env = env.env
    return False


def has_to_be_flattened(space: gym.Space) -> bool:
    """Whether observations are no arrays of numbers, and there is a vector for them."""
    if isinstance(space, gym.spaces.Box):
        return False
    try:
        flat_space(space)
    except (TypeError, ValueError):
        return False  # `check_spaces` says what to do
    return True


def warn_of_default_limit(env: Any, steps: int) -> None:
    """`env` has no time limit, and gets that of the agent."""
    logger.warning(
        "%s has no time limit: its episodes are truncated after %d steps, the limit that the agent was saved with. "
        "Pass max_episode_steps=... for another one.",
        env,
        steps,
    )
