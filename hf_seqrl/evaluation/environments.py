"""The environments of a rollout: one lane an environment, whoever made it.

Environments that are made here (from an id or a callable) are stepped directly, without the copies of a vector
environment, and every episode is reset with a seed of its own.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import TimeLimit


class StepOutcome(NamedTuple):
    """What one step of all lanes brought.

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
    """Environments side by side. `resets_on_next_step`: a lane whose episode ended spends the next step on its reset."""

    num_envs: int
    observation_space: gym.Space
    action_space: gym.Space
    spec: EnvSpec | None
    fps: float
    resets_on_next_step: bool

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        """Begin `len(seeds)` (at most `num_envs`) episodes in as many lanes; their first observations."""

    def restart(self, lanes: np.ndarray, seeds: Sequence[int], observations: np.ndarray) -> np.ndarray:
        """Begin new episodes in `lanes` and put their first observations into `observations`. Returns the seeds that
        were used, -1 where the environments reset themselves."""

    def step(self, actions: np.ndarray) -> StepOutcome:
        """Step every lane."""

    def select(self, lanes: np.ndarray) -> None:
        """Go on with these lanes only, in this order."""

    def render(self, lanes: Sequence[int]) -> list[np.ndarray]:
        """One RGB frame `(height, width, 3)` uint8 a lane."""

    def close(self) -> None:
        """Close what was made here."""


class EnvironmentLanes:
    """Plain environments, stepped one after the other.

    Args:
        envs: At least one, all with the same spaces.
        owned: Whether `close` closes them.
    """

    resets_on_next_step = False

    def __init__(self, envs: list[gym.Env], owned: bool):
        self._all, self._envs, self._owned = envs, list(envs), owned
        self.num_envs = len(envs)
        self.observation_space, self.action_space = envs[0].observation_space, envs[0].action_space
        self.spec, self.fps = envs[0].spec, float(envs[0].metadata.get("render_fps", 30))
        self._shape, self._dtype = self.observation_space.shape, self.observation_space.dtype

    def reset(self, seeds: Sequence[int]) -> np.ndarray:
        self._envs = self._all[: len(seeds)]
        observations = np.empty((len(seeds), *self._shape), self._dtype)
        self.restart(np.arange(len(seeds)), seeds, observations)
        return observations

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


def make_environments(
    source: str | EnvSpec | Callable[..., gym.Env],
    num_envs: int,
    env_kwargs: dict[str, Any] | None = None,
    max_episode_steps: int | None = None,
    render: bool = False,
) -> list[gym.Env]:
    """`num_envs` environments from an id or a callable; none is left open if one cannot be made.

    Args:
        source: An environment id (or spec), or a callable that makes an environment.
        num_envs: How many.
        env_kwargs: Passed on to `gymnasium.make` or to the callable.
        max_episode_steps: Truncate episodes after so many steps; `None` keeps the environment's own limit.
        render: Ask for `render_mode="rgb_array"`.
    """
    envs: list[gym.Env] = []
    try:
        for _ in range(num_envs):
            envs.append(_make_one(source, dict(env_kwargs or {}), max_episode_steps, render))
    except BaseException:
        for env in envs:
            env.close()
        raise
    return envs


def _make_one(
    source: str | EnvSpec | Callable[..., gym.Env], kwargs: dict[str, Any], limit: int | None, render: bool
) -> gym.Env:
    if isinstance(source, str | EnvSpec):
        if render:
            kwargs.setdefault("render_mode", "rgb_array")
        # the checker judges environments while they are written; here it only costs time at every step
        return gym.make(source, max_episode_steps=limit, disable_env_checker=True, **kwargs)
    env = source(**kwargs)
    if not isinstance(env, gym.Env):
        raise TypeError(f"the callable {source!r} made a {type(env).__name__}, expected a gymnasium.Env.")
    return limited(env, limit)


def limited(env: gym.Env, max_episode_steps: int | None) -> gym.Env:
    """`env`, truncated after `max_episode_steps` unless that is `None`."""
    return env if max_episode_steps is None else TimeLimit(env, max_episode_steps)
