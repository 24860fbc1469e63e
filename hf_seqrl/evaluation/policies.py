"""Policies for rollouts, as `Actor`s: callables, `"random"`, noisy versions of either, scripted controllers."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from transformers import PreTrainedModel

from hf_seqrl.data.composite_spaces import flat_action
from hf_seqrl.data.joint_actions import joint_actions, num_joint_actions
from hf_seqrl.models.actor import AUTO, Actor

Policy = Any  # an `Actor`, an `Agent`, a callable `observations -> actions`, "random", `stochastic(...)`, `noisy(...)` of one
NoiseLevel = float | tuple[float, float]


@runtime_checkable
class HasActor(Protocol):
    """A model with its actor: an `Agent`."""

    model: PreTrainedModel
    actor: Actor


@dataclass(frozen=True)
class NoisyPolicy:
    """A policy and how much noise is added to its actions; see `noisy`."""

    policy: Policy
    epsilon: NoiseLevel = 0.0
    sigma: NoiseLevel = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.policy, NoisyPolicy):
            raise ValueError("the policy is noisy already: pass epsilon and sigma to one noisy(...).")
        for name, highest in (("epsilon", 1.0), ("sigma", np.inf)):
            low, high = _bounds(getattr(self, name))
            if not 0.0 <= low <= high <= highest:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, expected a number or (low, high) in 0 .. {highest}."
                )


def noisy(policy: Policy, epsilon: NoiseLevel = 0.0, sigma: NoiseLevel = 0.0) -> NoisyPolicy:
    """A noisy version of a policy, for data of mixed quality.

    The noise is drawn from the episode's own seed, so it does not depend on the number of parallel environments. An agent
    with a memory remembers the noisy actions, which were executed.

    Args:
        policy: An actor, a callable `observations -> actions`, or `"random"`.
        epsilon: The probability of a uniformly random action at each step. A pair `(low, high)`: drawn uniformly for each
            episode.
        sigma: The standard deviation of Gaussian noise that is added to Box actions, in the units of the actions; a
            pair as for `epsilon`.

    Example:
        >>> noisy("random", epsilon=(0.0, 0.5)).epsilon
        (0.0, 0.5)
    """
    return NoisyPolicy(policy, epsilon, sigma)


@dataclass(frozen=True)
class StochasticPolicy:
    """A policy that draws from a distribution over discrete actions; see `stochastic`."""

    probabilities: Callable[[np.ndarray], np.ndarray]


def stochastic(probabilities: Callable[[np.ndarray], np.ndarray]) -> StochasticPolicy:
    """A policy without memory that draws discrete actions from given distributions, for rollouts, data and evaluation.

    Args:
        probabilities: Takes raw observations `(n, *observation_shape)` to probabilities `(n, num_actions)`, each row with the sum
            1; for `MultiDiscrete`, of the joint actions in the order of [`~hf_seqrl.data.joint_actions.joint_codes`].

    Example:
        >>> stochastic(lambda observations: np.tile([0.9, 0.1], (len(observations), 1))).probabilities(np.zeros((1, 4)))
        array([[0.9, 0.1]])
    """
    return StochasticPolicy(probabilities)


def as_actor(policy: Policy, action_space: gym.Space | None = None) -> Actor:
    """The actor of a policy; the model of an agent is set to eval mode.

    Args:
        policy: An agent or an actor, a callable `observations -> actions`, `"random"` or `noisy(...)`.
        action_space (*optional*): Of one environment, for random actions.

    Raises:
        ValueError: a name other than `"random"`, or random actions of an unknown space.
        TypeError: a bare model, or something that cannot act.
    """
    if isinstance(policy, str) and policy != "random":
        raise ValueError(f"the policy {policy!r} is not known by name: expected 'random', a callable or an agent.")
    if isinstance(policy, NoisyPolicy | StochasticPolicy | str):
        if action_space is None:
            raise ValueError(
                f"{policy_name(policy)}: random actions need an action space; roll them out in an environment."
            )
        if isinstance(policy, str):
            return RandomActor(action_space)
        if isinstance(policy, StochasticPolicy):
            return StochasticActor(policy.probabilities, action_space)
        return NoisyActor(as_actor(policy.policy, action_space), action_space, policy.epsilon, policy.sigma)
    if isinstance(policy, PreTrainedModel):
        raise TypeError(f"a {type(policy).__name__} alone cannot act: pass hf_seqrl.Agent(model, processor).")
    if isinstance(policy, Actor):
        return policy
    if isinstance(policy, HasActor):
        policy.model.eval()
        return policy.actor
    if not callable(policy):
        raise TypeError(f"{policy!r} cannot act: expected an Agent, a callable observations -> actions, or 'random'.")
    return CallableActor(policy)


def default_target(actor: Actor) -> float | None:
    """The actor's default target return (raw); `None` without one."""
    return actor.target_returns[0] if actor.is_conditioned and actor.target_returns else None


def time_limit_of(policy: Policy) -> int | None:
    """The number of steps after which episodes of the task that an agent was trained for are truncated, if it is known."""
    if isinstance(policy, NoisyPolicy):
        return time_limit_of(policy.policy)
    if isinstance(policy, HasActor):
        return policy.actor.task.max_episode_steps
    return policy.task.max_episode_steps if isinstance(policy, Actor) else None


def reads_vectors(policy: Policy) -> bool:
    """Whether an agent takes observations as vectors or images, and not as the numbers of states."""
    if isinstance(policy, NoisyPolicy):
        return reads_vectors(policy.policy)
    if isinstance(policy, HasActor):
        return reads_vectors(policy.actor)
    space = policy.task.observation_space if isinstance(policy, Actor) else None
    return space is None or space["type"] == "Box"


def policy_name(policy: Policy) -> str:
    """A policy in words, for the provenance of the data that it makes."""
    if isinstance(policy, NoisyPolicy):
        noise = [f"{name} {_in_words(level)}" for name in ("epsilon", "sigma") if (level := getattr(policy, name))]
        return ", ".join([policy_name(policy.policy), *noise])
    if isinstance(policy, str):
        return policy
    return getattr(policy, "__name__", type(policy).__name__)


class CallableActor(Actor):
    """A callable `observations -> actions` without memory: the same actions for the same observations."""

    def __init__(self, policy: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__()
        self._policy = policy

    def _allocate(self, num_envs: int) -> None:
        """Nothing to make room for."""

    def _begin(self, env_indices: np.ndarray) -> None:
        """Nothing to forget."""

    def _choose(self, observations: np.ndarray) -> np.ndarray:
        return self._policy(observations)

    def _remember(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Nothing to remember."""

    def _keep(self, env_indices: np.ndarray) -> None:
        """Nothing to keep."""


class RandomActor(Actor):
    """Samples the action space, with a random stream per episode.

    Args:
        action_space: Of one environment.
    """

    def __init__(self, action_space: gym.Space) -> None:
        super().__init__(deterministic=False)
        self._action_space = action_space
        self._streams: list[gym.Space] = []

    def _allocate(self, num_envs: int) -> None:
        self._streams = [self._action_space] * num_envs

    def _begin(self, env_indices: np.ndarray) -> None:
        for index in env_indices:
            # not the environment's stream, which is seeded with the same number
            seed = np.random.SeedSequence([*self.episode_seed(index), 1]).generate_state(1)[0]
            self._streams[index] = copy.deepcopy(self._action_space)
            self._streams[index].seed(int(seed))

    def _choose(self, observations: np.ndarray) -> np.ndarray:
        return np.stack([flat_action(space, space.sample()) for space in self._streams])

    def _probabilities(self) -> np.ndarray:
        count = num_joint_actions(self._action_space) or 1
        return np.full((self.num_envs, count), 1 / count)

    def _remember(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Nothing to remember."""

    def _keep(self, env_indices: np.ndarray) -> None:
        self._streams = [self._streams[index] for index in env_indices]


class StochasticActor(Actor):
    """Draws from given distributions; see `stochastic`.

    Args:
        probabilities: Of the joint actions, `(n, num_joint_actions)` for observations `(n, *observation_shape)`.
        action_space: Of one environment; a discrete one.
    """

    def __init__(self, probabilities: Callable[[np.ndarray], np.ndarray], action_space: gym.Space) -> None:
        super().__init__(deterministic=False)
        if num_joint_actions(action_space) is None:
            raise ValueError(f"stochastic(...) draws discrete actions, and the action space is {action_space}.")
        self._policy = probabilities
        self._actions = joint_actions(action_space)

    def _allocate(self, num_envs: int) -> None:
        """Nothing to make room for."""

    def _begin(self, env_indices: np.ndarray) -> None:
        """Nothing to forget."""

    def _choose(self, observations: np.ndarray) -> np.ndarray:
        self._distribution = self._checked(np.asarray(self._policy(observations), np.float64))
        cumulative = self._distribution.cumsum(axis=1)[:, :-1]  # the last action takes what rounding left over
        return self._actions[(self.uniform(1) >= cumulative).sum(axis=1)]

    def _probabilities(self) -> np.ndarray:
        return self._distribution

    def _checked(self, probabilities: np.ndarray) -> np.ndarray:
        expected = (self.num_envs, len(self._actions))
        sums = probabilities.sum(axis=-1)
        if probabilities.shape != expected or (probabilities < 0).any() or np.abs(sums - 1).max() > 1e-6:
            raise ValueError(
                f"the policy gave probabilities of shape {probabilities.shape} with sums from {sums.min():.6g} to "
                f"{sums.max():.6g}: expected {expected}, none negative, each row with the sum 1."
            )
        return probabilities

    def _remember(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Nothing to remember."""

    def _keep(self, env_indices: np.ndarray) -> None:
        """Nothing to keep."""


class NoisyActor(Actor):
    """Adds noise to another actor's actions; see `noisy`."""

    def __init__(self, actor: Actor, action_space: gym.Space, epsilon: NoiseLevel, sigma: NoiseLevel) -> None:
        super().__init__(
            actor.task,
            conditioned=actor.is_conditioned,
            deterministic=False,
            target_returns=actor.target_returns,
            discount=actor.discount,
            missing_values=actor.missing_values,
        )
        self._actor, self._random, self._action_space = actor, RandomActor(action_space), action_space
        self.return_estimator = actor.return_estimator
        self._epsilon, self._sigma = _bounds(epsilon), _bounds(sigma)
        if self._sigma[1] > 0 and not isinstance(action_space, gym.spaces.Box):
            raise ValueError(
                f"sigma is {sigma} but the action space is {action_space}: Gaussian noise needs Box; use epsilon."
            )

    def twin(self) -> "NoisyActor":
        twin = super().twin()
        twin._actor, twin._random = self._actor.twin(), self._random.twin()
        return twin

    def _allocate(self, num_envs: int) -> None:
        self._actor.num_envs = 0  # it is reset when the first episodes begin
        self._generators = [np.random.default_rng(0)] * num_envs
        self._levels = np.zeros((num_envs, 2))  # epsilon and sigma of the episode in each environment

    def _begin(self, env_indices: np.ndarray) -> None:
        seeds = [_combined(self.episode_seed(index)) for index in env_indices]
        targets: Any = self._target_returns[env_indices] if self.is_conditioned else None
        if targets is not None and np.isnan(targets).any():
            targets = AUTO
        if self._actor.num_envs:
            self._actor.restart(env_indices, targets, seeds)
            self._random.restart(env_indices, seed=seeds)
        else:
            self._actor.reset(len(env_indices), targets, seeds)
            self._random.reset(len(env_indices), seed=seeds)
        for index in env_indices:
            generator = np.random.default_rng([*self.episode_seed(index), 2])
            self._generators[index] = generator
            self._levels[index] = generator.uniform(*self._epsilon), generator.uniform(*self._sigma)

    def _choose(self, observations: np.ndarray) -> np.ndarray:
        actions = np.array(self._actor.act(observations))
        replaced = np.array([generator.random() for generator in self._generators]) < self._levels[:, 0]
        if self._sigma[1] > 0:
            noise = np.stack([generator.standard_normal(actions.shape[1:]) for generator in self._generators])
            actions = actions + noise * self._levels[:, 1].reshape(-1, *[1] * (actions.ndim - 1))
        if self._epsilon[1] > 0:
            random = self._random.act(
                observations
            )  # drawn at every step, so that the stream does not depend on the noise
            actions[replaced] = random[replaced]
        return actions

    def _probabilities(self) -> np.ndarray | None:
        chosen = self._actor.action_probabilities(self._action_space)
        if chosen is None:
            return None
        epsilon = self._levels[:, :1]
        return (1 - epsilon) * chosen + epsilon / chosen.shape[1]

    def _remember(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        goes_on = np.zeros(len(rewards), bool)  # episodes that ended are started again with `restart`
        self._actor.observe(rewards, goes_on, actions)

    def _keep(self, env_indices: np.ndarray) -> None:
        self._actor.select(env_indices)
        self._random.select(env_indices)
        self._generators = [self._generators[index] for index in env_indices]
        self._levels = self._levels[env_indices]


def _bounds(level: NoiseLevel) -> tuple[float, float]:
    return (float(level[0]), float(level[1])) if isinstance(level, tuple | list) else (float(level), float(level))


def _in_words(level: NoiseLevel) -> str:
    low, high = _bounds(level)
    return f"{low:g}" if low == high else f"{low:g}..{high:g}"


def _combined(episode_seed: list[int]) -> int:
    """The seed itself for the first episode that has it, another number for each that follows."""
    return (
        episode_seed[0] if len(episode_seed) == 1 else int(np.random.SeedSequence(episode_seed).generate_state(1)[0])
    )


def balance_cartpole(observations: np.ndarray) -> np.ndarray:
    """CartPole-v1, return about 500: push in the direction in which the pole falls, and the cart back to the center.

    A linear feedback law on position, velocity, angle (radians) and angular velocity.

    Args:
        observations: `(num_envs, 4)`.

    Returns:
        `(num_envs,)` int64: 0 pushes to the left, 1 to the right.
    """
    feedback = observations @ np.array([0.1, 0.3, 3.0, 1.0])
    return (feedback > 0).astype(np.int64)


def climb_mountain(observations: np.ndarray) -> np.ndarray:
    """MountainCar-v0, return about -120: always accelerate in the direction of motion, which pumps energy into it.

    Args:
        observations: `(num_envs, 2)`: position and velocity.

    Returns:
        `(num_envs,)` int64: 0 accelerates to the left, 2 to the right.
    """
    return np.where(observations[:, 1] >= 0, 2, 0)


def swing_up_pendulum(observations: np.ndarray) -> np.ndarray:
    """Pendulum-v1, return about -145: pump energy while it hangs (Astrom and Furuta 2000), hold it upright by feedback.

    Args:
        observations: `(num_envs, 3)`: cosine and sine of the angle from upright, angular velocity in radians per second.

    Returns:
        `(num_envs, 1)` float32 torques, within the bounds of +-2.
    """
    cosine, sine, velocity = observations.T
    energy = velocity**2 / 6 + 5 * (cosine - 1)  # 0 at rest upright: m = l = 1, g = 10, inertia 1/3
    pumping = np.where(energy < 0, 2.0, -2.0) * np.where(velocity >= 0, 1.0, -1.0)
    holding = -12.0 * np.arctan2(sine, cosine) - 3.0 * velocity
    torque = np.where(cosine > 0.9, holding, pumping)
    return np.clip(torque, -2.0, 2.0).astype(np.float32)[:, None]


CONTROLLERS = {policy.__name__: policy for policy in (balance_cartpole, climb_mountain, swing_up_pendulum)}
