"""Whatever may act in a rollout, turned into an `Actor`: callables, `"random"`, and noisy versions of either."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from transformers import PreTrainedModel

from hf_seqrl.models.actor import Actor

Policy = Any  # an `Actor`, a callable `observations -> actions`, "random", or `noisy(...)` of one of these
NoiseLevel = float | tuple[float, float]


@dataclass(frozen=True)
class NoisyPolicy:
    """A policy and how much noise is put on its actions; see `noisy`."""

    policy: Policy
    epsilon: NoiseLevel = 0.0
    sigma: NoiseLevel = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.policy, NoisyPolicy):
            raise ValueError("the policy is noisy already: give epsilon and sigma to one noisy(...).")
        for name, highest in (("epsilon", 1.0), ("sigma", np.inf)):
            low, high = _bounds(getattr(self, name))
            if not 0.0 <= low <= high <= highest:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, expected a number or (low, high) in 0 .. {highest}."
                )

    @property
    def processor(self) -> Any:
        return processor_of(self.policy)


def noisy(policy: Policy, epsilon: NoiseLevel = 0.0, sigma: NoiseLevel = 0.0) -> NoisyPolicy:
    """A noisy version of a policy, for data of mixed quality.

    The noise is drawn from the episode's own seed, so it does not depend on how many environments run side by side. An
    agent with a memory remembers the actions that it chose, not the noisy ones.

    Args:
        policy: An actor, a callable `observations -> actions`, or `"random"`.
        epsilon: The chance that a step takes a uniformly random action instead. A pair `(low, high)`: drawn uniformly once
            an episode.
        sigma: The standard deviation of Gaussian noise that is added to Box actions, in the units of the actions; a
            pair as for `epsilon`.

    Example:
        >>> noisy("random", epsilon=(0.0, 0.5)).epsilon
        (0.0, 0.5)
    """
    return NoisyPolicy(policy, epsilon, sigma)


def as_actor(policy: Policy, action_space: gym.Space) -> Actor:
    """The actor that a policy stands for.

    Args:
        policy: An actor (returned as it is), a callable `observations -> actions`, `"random"` or `noisy(...)`.
        action_space: Of one environment, for those that draw random actions.

    Raises:
        ValueError: a name other than `"random"`.
        TypeError: a bare model, or something that cannot act.
    """
    if isinstance(policy, NoisyPolicy):
        return NoisyActor(as_actor(policy.policy, action_space), action_space, policy.epsilon, policy.sigma)
    if isinstance(policy, str):
        if policy != "random":
            raise ValueError(f"the policy {policy!r} is not known by name: expected 'random', a callable or an agent.")
        return RandomActor(action_space)
    if isinstance(policy, PreTrainedModel):
        raise TypeError(f"a {type(policy).__name__} alone cannot act: pass hf_seqrl.Agent(model, processor).")
    if hasattr(policy, "act"):
        return policy
    if not callable(policy):
        raise TypeError(f"{policy!r} cannot act: expected an Agent, a callable observations -> actions, or 'random'.")
    return CallableActor(policy)


def processor_of(policy: Policy) -> Any:
    """What a policy knows of its environment and targets: an agent's processor, `None` for other policies."""
    return getattr(policy, "processor", None)


def default_target_return(policy: Policy) -> float | None:
    """The target return, in raw units, that an agent uses when it is given none; `None` for policies without targets."""
    targets = getattr(processor_of(policy), "target_returns", None)  # not every family is conditioned on a return
    return float(targets[0]) if targets else None


def describe(policy: Policy) -> str:
    """One line on a policy, for the provenance of the data that it makes."""
    if isinstance(policy, NoisyPolicy):
        noise = [f"{name} {_in_words(level)}" for name in ("epsilon", "sigma") if (level := getattr(policy, name))]
        return ", ".join([describe(policy.policy), *noise])
    if isinstance(policy, str):
        return policy
    return getattr(policy, "__name__", type(policy).__name__)


class CallableActor:
    """A callable `observations -> actions` without memory."""

    def __init__(self, policy: Callable[[np.ndarray], np.ndarray]):
        self._policy = policy

    def reset(self, num_envs: int, target_return: Any = None, seed: Any = None) -> None:
        """Nothing to forget."""

    def act(self, observations: np.ndarray) -> np.ndarray:
        return self._policy(observations)

    def observe(self, rewards: np.ndarray, dones: np.ndarray) -> None:
        """Nothing to remember."""

    def restart(self, env_indices: np.ndarray, target_return: Any = None, seed: Any = None) -> None:
        """Nothing to forget."""

    def select(self, env_indices: np.ndarray) -> None:
        """Nothing to keep."""


class RandomActor:
    """Samples the action space, each episode from a stream of its own."""

    def __init__(self, action_space: gym.Space):
        self._space = action_space
        self._spaces: list[gym.Space] = []

    def reset(self, num_envs: int, target_return: Any = None, seed: Any = None) -> None:
        self._spaces = [_seeded_copy(self._space, s) for s in _seeds(seed, num_envs)]

    def act(self, observations: np.ndarray) -> np.ndarray:
        return np.stack([space.sample() for space in self._spaces])

    def observe(self, rewards: np.ndarray, dones: np.ndarray) -> None:
        """Nothing to remember."""

    def restart(self, env_indices: np.ndarray, target_return: Any = None, seed: Any = None) -> None:
        for index, s in zip(env_indices, _seeds(seed, len(env_indices))):
            self._spaces[index] = _seeded_copy(self._space, s)

    def select(self, env_indices: np.ndarray) -> None:
        self._spaces = [self._spaces[index] for index in env_indices]


class NoisyActor:
    """Puts noise on another actor's actions; see `noisy`."""

    def __init__(self, actor: Actor, action_space: gym.Space, epsilon: NoiseLevel, sigma: NoiseLevel):
        self._actor, self._random = actor, RandomActor(action_space)
        self._epsilon, self._sigma = _bounds(epsilon), _bounds(sigma)
        if self._sigma[1] > 0 and not isinstance(action_space, gym.spaces.Box):
            raise ValueError(
                f"sigma is {sigma} but the action space is {action_space}: Gaussian noise needs Box; use epsilon."
            )
        self._generators: list[np.random.Generator] = []
        self._levels = np.empty((0, 2))  # epsilon and sigma of the episode in each environment

    def reset(self, num_envs: int, target_return: Any = None, seed: Any = None) -> None:
        seeds = _seeds(seed, num_envs)
        self._actor.reset(num_envs, target_return, seeds)
        self._random.reset(num_envs, seed=seeds)
        self._generators = [_generator(s) for s in seeds]
        self._levels = np.array([self._draw_levels(generator) for generator in self._generators])

    def act(self, observations: np.ndarray) -> np.ndarray:
        actions = np.array(self._actor.act(observations))
        replaced = np.array([generator.random() for generator in self._generators]) < self._levels[:, 0]
        if self._sigma[1] > 0:
            noise = np.stack([generator.standard_normal(actions.shape[1:]) for generator in self._generators])
            actions = actions + noise * self._levels[:, 1].reshape(-1, *[1] * (actions.ndim - 1))
        if self._epsilon[1] > 0:
            random = self._random.act(observations)  # drawn at every step, so that the stream knows no chance
            actions[replaced] = random[replaced]
        return actions

    def observe(self, rewards: np.ndarray, dones: np.ndarray) -> None:
        self._actor.observe(rewards, dones)

    def restart(self, env_indices: np.ndarray, target_return: Any = None, seed: Any = None) -> None:
        seeds = _seeds(seed, len(env_indices))
        self._actor.restart(env_indices, target_return, seeds)
        self._random.restart(env_indices, seed=seeds)
        for index, s in zip(env_indices, seeds):
            self._generators[index] = _generator(s)
            self._levels[index] = self._draw_levels(self._generators[index])

    def select(self, env_indices: np.ndarray) -> None:
        self._actor.select(env_indices)
        self._random.select(env_indices)
        self._generators = [self._generators[index] for index in env_indices]
        self._levels = self._levels[env_indices]

    def _draw_levels(self, generator: np.random.Generator) -> tuple[float, float]:
        return generator.uniform(*self._epsilon), generator.uniform(*self._sigma)


def _bounds(level: NoiseLevel) -> tuple[float, float]:
    return (float(level[0]), float(level[1])) if isinstance(level, tuple | list) else (float(level), float(level))


def _in_words(level: NoiseLevel) -> str:
    low, high = _bounds(level)
    return f"{low:g}" if low == high else f"{low:g}..{high:g}"


def _seeds(seed: Any, count: int) -> list[int]:
    if seed is None:
        return np.random.default_rng().integers(2**31, size=count).tolist()
    if np.ndim(seed) == 0:
        return [int(seed) + i for i in range(count)]
    return [int(s) for s in seed]


def _seeded_copy(space: gym.Space, seed: int) -> gym.Space:
    """A copy of the space whose stream is not the environment's, which is seeded with the same number."""
    copied = copy.deepcopy(space)
    copied.seed(int(np.random.SeedSequence([seed, 1]).generate_state(1)[0]))
    return copied


def _generator(seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, 2])
