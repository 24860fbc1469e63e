"""The environments of a rollout, as parallel lanes.

Environments that are made here (from an id or a callable) are stepped directly, without the copies of a vector
environment, and every episode is reset with a seed of its own; EnvPool makes and steps those of an id on request. A
vector environment of the caller is used as it is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import TimeLimit

from hf_seqrl.data.spaces import space_to_dict
from hf_seqrl.evaluation.backends import BACKENDS, NOT_DRAWN
from hf_seqrl.evaluation.envpool import EnvPoolLanes
from hf_seqrl.evaluation.lanes import (
    EnvironmentLanes,
    FlatObservations,
    Lanes,
    VectorEnvironmentLanes,
    has_time_limit,
    has_to_be_flattened,
    warn_of_default_limit,
)

EnvironmentSource = str | EnvSpec | gym.Env | gym.vector.VectorEnv | Callable[..., gym.Env]


@contextmanager
def open_lanes(
    env: EnvironmentSource,
    num_envs: int,
    env_kwargs: dict[str, Any] | None = None,
    max_episode_steps: int | None = None,
    render: bool = False,
    default_limit: int | None = None,
    flat_observations: bool = True,
    backend: str = "gymnasium",
) -> Iterator[Lanes]:
    """The lanes of an environment; those that are made here are closed at the end, whatever happens.

    Args:
        env: A gymnasium id or spec, a callable that makes an environment, an environment (one lane), or a vector
            environment (as many lanes as it has). The last two are left open: they are the caller's.
        num_envs: How many environments to make of an id or a callable.
        env_kwargs: Passed on to `gymnasium.make`, `envpool.make` or to the callable.
        max_episode_steps: Truncate episodes after so many steps; `None` keeps the environment's own limit.
        render: Whether frames will be asked for.
        default_limit: Truncate episodes of an environment without a limit of its own after so many steps.
        flat_observations: Whether numbers of states, tuples and dictionaries become vectors, as in data sets; a vector
            environment has to be wrapped by its maker.
        backend: The library that makes the environments of an id, one of `BACKENDS`.

    Raises:
        ImportError: EnvPool is asked for, and not installed.
        ValueError: spaces that cannot be rolled out, or options that do not go with `env`.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}: expected {' or '.join(map(repr, BACKENDS))}.")
    lanes: Lanes
    if backend == "envpool":
        env_id = _id_for_envpool(env, render)
        lanes = EnvPoolLanes(env_id, num_envs, env_kwargs, max_episode_steps, default_limit, flat_observations)
    else:
        lanes = _lanes(env, num_envs, env_kwargs, max_episode_steps, render, default_limit, flat_observations)
    try:
        check_spaces(lanes.observation_space, lanes.action_space)
        yield lanes
    finally:
        lanes.close()


def _id_for_envpool(env: EnvironmentSource, render: bool) -> str:
    if not isinstance(env, str):
        raise ValueError(
            f"backend='envpool' makes the environments of an id, and env is of type {type(env).__name__}: pass an id such as "
            "'Hopper-v5', or leave backend out (a pool that is made already is then taken as it is)."
        )
    if render:
        raise ValueError(NOT_DRAWN)
    return env


def _lanes(
    env: EnvironmentSource,
    num_envs: int,
    env_kwargs: dict[str, Any] | None,
    max_episode_steps: int | None,
    render: bool,
    default_limit: int | None,
    flat_observations: bool,
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
        envs = [_limited(env, max_episode_steps, default_limit)]
    else:
        made = make_environments(env, num_envs, env_kwargs, max_episode_steps, render)
        envs = [_limited(one, None, default_limit) for one in made]
    if flat_observations and has_to_be_flattened(envs[0].observation_space):
        envs = [FlatObservations(one) for one in envs]
    return EnvironmentLanes(envs, owned=not isinstance(env, gym.Env))


def environment_id(lanes: Lanes) -> str | None:
    """The gymnasium id of the lanes' environment, `None` for one that was not registered."""
    return lanes.spec.id if lanes.spec else None


def check_spaces(observation_space: gym.Space, action_space: gym.Space) -> None:
    """Only observations that are one array, and actions of kinds that data sets hold, can be rolled out.

    Raises:
        ValueError: another space; the message names the wrapper that helps.
    """
    if isinstance(observation_space, gym.spaces.Dict | gym.spaces.Tuple) or observation_space.shape is None:
        raise ValueError(
            f"the observation space is {observation_space}, expected one array per step: wrap the environment in "
            "gymnasium.wrappers.FlattenObservation, for instance "
            "rollout(actor, lambda: FlattenObservation(gym.make(env_id)), ...)."
        )
    try:
        space_to_dict(action_space)
    except TypeError:
        raise ValueError(
            f"the action space is {action_space}, expected Box, Discrete, MultiDiscrete, MultiBinary, or a Tuple or Dict of "
            "them: wrap the environment in a gymnasium.ActionWrapper that offers one of these."
        ) from None


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
        # the checker is for environments that are being written; here it only costs time at every step
        return gym.make(source, max_episode_steps=limit, disable_env_checker=True, **kwargs)
    env = source(**kwargs)
    if not isinstance(env, gym.Env):
        raise TypeError(f"the callable {source!r} made a {type(env).__name__}, expected a gymnasium.Env.")
    return _limited(env, limit)


def _limited(env: gym.Env, max_episode_steps: int | None, default_limit: int | None = None) -> gym.Env:
    """`env`, truncated after `max_episode_steps`, or after `default_limit` where it has no limit of its own."""
    if max_episode_steps is not None:
        return TimeLimit(env, max_episode_steps)
    if default_limit is None or has_time_limit(env):
        return env
    warn_of_default_limit(env, default_limit)
    return TimeLimit(env, default_limit)
