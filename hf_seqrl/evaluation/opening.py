"""From what a user calls an environment to the lanes of a rollout."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from hf_seqrl.evaluation.compatibility import check_spaces
from hf_seqrl.evaluation.environments import EnvironmentLanes, Lanes, limited, make_environments
from hf_seqrl.evaluation.vector_environments import VectorEnvironmentLanes

EnvironmentSource = str | EnvSpec | gym.Env | gym.vector.VectorEnv | Callable[..., gym.Env]


@contextmanager
def open_lanes(
    env: EnvironmentSource,
    num_envs: int,
    env_kwargs: dict[str, Any] | None = None,
    max_episode_steps: int | None = None,
    render: bool = False,
) -> Iterator[Lanes]:
    """The lanes of an environment; those that are made here are closed in the end, whatever happens.

    Args:
        env: A gymnasium id or spec, a callable that makes an environment, an environment (one lane), or a vector
            environment (as many lanes as it has). The last two are left open: they are the caller's.
        num_envs: How many environments to make of an id or a callable.
        env_kwargs: Passed on to `gymnasium.make` or to the callable.
        max_episode_steps: Truncate episodes after so many steps; `None` keeps the environment's own limit.
        render: Whether frames will be asked for.

    Raises:
        ValueError: spaces that cannot be rolled out, or options that do not go with `env`.
    """
    lanes = _lanes(env, num_envs, env_kwargs, max_episode_steps, render)
    try:
        check_spaces(lanes.observation_space, lanes.action_space)
        yield lanes
    finally:
        lanes.close()


def _lanes(
    env: EnvironmentSource,
    num_envs: int,
    env_kwargs: dict[str, Any] | None,
    max_episode_steps: int | None,
    render: bool,
) -> Lanes:
    if not isinstance(env, str | EnvSpec | gym.Env | gym.vector.VectorEnv) and not callable(env):
        raise TypeError(f"env is {env!r}: expected a gymnasium id, a callable, a gymnasium.Env or a VectorEnv.")
    if isinstance(env, gym.Env | gym.vector.VectorEnv) and env_kwargs:
        raise ValueError(
            f"env_kwargs {env_kwargs} come too late for an environment that is made: pass its id instead."
        )
    if isinstance(env, gym.vector.VectorEnv):
        if max_episode_steps is not None:
            raise ValueError("max_episode_steps cannot be set on a vector environment: set it where that is made.")
        return VectorEnvironmentLanes(env)
    if isinstance(env, gym.Env):
        return EnvironmentLanes([limited(env, max_episode_steps)], owned=False)
    return EnvironmentLanes(make_environments(env, num_envs, env_kwargs, max_episode_steps, render), owned=True)


def environment_id(lanes: Lanes) -> str | None:
    """The gymnasium id of the lanes' environment, `None` for one that was not registered."""
    return lanes.spec.id if lanes.spec else None
