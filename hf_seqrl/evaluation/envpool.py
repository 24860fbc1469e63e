"""EnvPool's environments as lanes: those of an id, written in C++ and stepped by threads."""

import operator
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict
from gymnasium.spaces.utils import flatten
from gymnasium.vector.utils import batch_space, iterate

from hf_seqrl.data.composite_spaces import flat_space
from hf_seqrl.evaluation.backends import NOT_DRAWN, USE_GYMNASIUM
from hf_seqrl.evaluation.lanes import StepOutcome, has_to_be_flattened, warn_of_default_limit
from hf_seqrl.installation import install_command

_HIGHEST = 2**31 - 1  # the highest seed, and the time limit of an environment without one
_SET_HERE = ("batch_size", "env_seed", "env_type", "max_episode_steps", "num_envs", "render_mode", "seed")


class EnvPoolLanes:
    """The environments that EnvPool makes of an id.

    EnvPool seeds environments only when it makes them, so every `reset` makes them anew. The first episode of a lane has the
    seed that was asked for; the later ones continue the lane's random numbers, so results depend on the number of lanes, and
    not on that of the threads. A seed does not begin the same episode as in gymnasium. An episode whose last state is terminal at
    the time limit counts as truncated.

    Args:
        env_id: As EnvPool names it.
        num_envs: The number of lanes.
        env_kwargs: Passed on to `envpool.make`. `num_threads` defaults to the cores that this process may use.
        max_episode_steps: Truncate episodes after so many steps; `None` keeps the environment's own limit.
        default_limit: Truncate episodes of an environment without a limit of its own after so many steps.
        flat_observations: Whether numbers of states, tuples and dictionaries become vectors.

    Raises:
        ImportError: EnvPool is not installed.
        ValueError: it does not have this environment, or not with these options.
    """

    resets_on_next_step, backend = False, "envpool"
    fps = 30.0  # nothing is drawn

    def __init__(
        self,
        env_id: str,
        num_envs: int,
        env_kwargs: dict[str, Any] | None = None,
        max_episode_steps: int | None = None,
        default_limit: int | None = None,
        flat_observations: bool = True,
    ) -> None:
        self._envpool, self._env_id, self.num_envs = _envpool_with(env_id), env_id, num_envs
        self._options = _checked_options(env_kwargs or {}, max_episode_steps)
        spec = self._described()
        limit = spec.config.max_episode_steps
        if limit == _HIGHEST and default_limit is not None:
            limit = self._options["max_episode_steps"] = default_limit
            warn_of_default_limit(f"EnvPool's {env_id}", limit)
        self.has_time_limit = limit != _HIGHEST
        self.spec: EnvSpec | None = EnvSpec(env_id, max_episode_steps=limit if self.has_time_limit else None)
        with _bounds_may_be_rounded():
            self.observation_space = _with_infinite_bounds(spec.observation_space)
            self.action_space: Space = spec.action_space
        self.source_observation_space: Space | None = None
        if flat_observations and has_to_be_flattened(self.observation_space):
            self.source_observation_space = self.observation_space
            self.observation_space = flat_space(self.observation_space)
        self._pool: Any = None
        self._lanes = np.arange(num_envs)  # which of the pool's environments each lane is

    def reset(self, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        self.close()
        used = np.asarray(seeds, np.int64)
        if used.min() < 0 or used.max() > _HIGHEST:
            raise ValueError(
                f"the seeds are {used.min()} to {used.max()}, EnvPool takes 0 to {_HIGHEST}: {USE_GYMNASIUM}."
            )
        threads = {"num_threads": min(len(used), _usable_cores())}
        self._pool = self._envpool.make(
            self._env_id,
            env_type="gymnasium",
            num_envs=len(used),
            seed=used.tolist(),
            **{**threads, **self._options},
        )
        self._lanes = np.arange(len(used))
        with _bounds_may_be_rounded():
            observations, _ = self._pool.reset()
        return self._read(observations), used

    def restart(self, lanes: np.ndarray, seeds: Sequence[int], observations: np.ndarray) -> np.ndarray:
        observations[lanes] = self._read(self._pool.reset(self._lanes[lanes])[0])
        return np.full(len(lanes), -1, np.int64)

    def step(self, actions: np.ndarray) -> StepOutcome:
        observations, rewards, terminations, truncations, _ = self._pool.step(actions, self._lanes)
        return StepOutcome(
            self._read(observations),
            np.array(rewards, np.float64),
            np.array(terminations, bool),
            np.array(truncations, bool),
        )

    def select(self, lanes: np.ndarray) -> None:
        self._lanes = self._lanes[lanes]

    def render(self, lanes: Sequence[int]) -> list[np.ndarray]:
        raise ValueError(NOT_DRAWN)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _described(self) -> Any:
        """EnvPool's description of the environment with these options."""
        try:
            spec = self._envpool.make_spec(self._env_id, **self._options)
        except TypeError as error:
            reason = str(error).partition(". ")[0]  # for a value of another type, all options follow in many lines
            raise ValueError(
                f"EnvPool does not make {self._env_id} with {self._options} ({reason}): "
                f"envpool.make_spec({self._env_id!r}) shows its options; or {USE_GYMNASIUM}."
            ) from error
        if spec.config.max_num_players > 1:
            raise ValueError(
                f"EnvPool's {self._env_id} is for {spec.config.max_num_players} players, expected a single one: "
                "choose another environment."
            )
        return spec

    def _read(self, observations: Any) -> np.ndarray:
        """Observations `(num_lanes, *observation_shape)` as a fresh array."""
        space = self.source_observation_space
        if space is None:
            return np.array(observations)
        rows = iterate(batch_space(space), observations)
        return np.stack([np.asarray(flatten(space, row), np.float32) for row in rows])


@contextmanager
def _bounds_may_be_rounded() -> Iterator[None]:
    """EnvPool gives gymnasium bounds in double precision for spaces in single precision, which it warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered by casting")
        yield


def _with_infinite_bounds(space: Space) -> Space:
    """`space`, without the smallest positive and the largest number of its type, which EnvPool states where there is no bound."""
    if isinstance(space, Dict):
        return Dict({name: _with_infinite_bounds(one) for name, one in space.items()})
    if not isinstance(space, Box) or not np.issubdtype(space.dtype, np.floating):
        return space
    limits = np.finfo(space.dtype)
    low = np.where(space.low == limits.tiny, -np.inf, space.low).astype(space.dtype)
    high = np.where(space.high == limits.max, np.inf, space.high).astype(space.dtype)
    return Box(low, high, space.shape, space.dtype)


def _envpool_with(env_id: str) -> ModuleType:
    """The module `envpool`, which has this environment. No other module is imported for an id."""
    try:
        import envpool
    except ImportError as error:
        raise ImportError(
            f'backend="envpool" needs EnvPool, for Python 3.11 or newer ({error}): {install_command("envpool")}'
        ) from error
    module, colon, _ = env_id.rpartition(":")
    if colon:
        raise ValueError(f"{env_id!r} names a module to import, {module}, and EnvPool imports none: {USE_GYMNASIUM}.")
    known = envpool.list_all_envs()
    if env_id not in known:
        similar = get_close_matches(env_id, known, n=1, cutoff=0.8)
        asked = f"did you mean {similar[0]!r}? Otherwise " if similar else ""
        raise ValueError(f"EnvPool has no environment {env_id!r}: {asked}{USE_GYMNASIUM}.")
    return envpool


def _checked_options(env_kwargs: dict[str, Any], max_episode_steps: int | None) -> dict[str, Any]:
    taken = sorted(set(env_kwargs) & set(_SET_HERE))
    if taken:
        raise ValueError(
            f"env_kwargs hold {', '.join(taken)}, which a rollout in EnvPool sets itself: use its arguments num_envs, seed "
            "and max_episode_steps."
        )
    options = dict(env_kwargs)
    if "num_threads" in options:
        options["num_threads"] = _checked_threads(options["num_threads"])
    if max_episode_steps is None:
        return options
    if max_episode_steps < 1:
        raise ValueError(f"max_episode_steps is {max_episode_steps}: expected at least 1.")
    return {**options, "max_episode_steps": max_episode_steps}


def _checked_threads(asked: Any) -> int:
    try:
        threads = 0 if isinstance(asked, bool) else operator.index(asked)
    except TypeError:
        threads = 0
    if threads < 1:  # a negative number ends the process
        raise ValueError(f"num_threads is {asked!r}: expected a whole number of at least 1.")
    return threads


def _usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
