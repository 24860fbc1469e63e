"""Whether an actor and an environment fit: told at once, and not by a shape error deep inside a model."""

from typing import Any

import gymnasium as gym
import numpy as np

from hf_seqrl.data.spaces import space_from_dict


def check_spaces(observation_space: gym.Space, action_space: gym.Space) -> None:
    """Only observations that are one array and Box, Discrete or MultiDiscrete actions can be rolled out.

    Raises:
        ValueError: another space; the message names the wrapper that helps.
    """
    if isinstance(observation_space, gym.spaces.Dict | gym.spaces.Tuple) or observation_space.shape is None:
        raise ValueError(
            f"the observation space is {observation_space}, expected one array per step: wrap the environment in "
            "gymnasium.wrappers.FlattenObservation, for instance "
            "rollout(actor, lambda: FlattenObservation(gym.make(env_id)), ...)."
        )
    if not isinstance(action_space, gym.spaces.Box | gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        raise ValueError(
            f"the action space is {action_space}, expected Box, Discrete or MultiDiscrete: wrap the environment in a "
            "gymnasium.ActionWrapper that offers one of these."
        )


def check_fit(processor: Any, observation_space: gym.Space, action_space: gym.Space) -> None:
    """Compare the environment's spaces with those that the actor's processor was made for; `None` fits everything.

    Raises:
        ValueError: they differ in kind, shape or number of actions.
    """
    if processor is None:
        return
    _compare("observation", space_from_dict(processor.observation_space), observation_space)
    _compare("action", space_from_dict(processor.action_space), action_space)


def _compare(name: str, of_actor: gym.Space, of_environment: gym.Space) -> None:
    kinds = (gym.spaces.Discrete, gym.spaces.MultiDiscrete)
    same_kind = [isinstance(of_actor, kind) for kind in kinds] == [isinstance(of_environment, kind) for kind in kinds]
    if not same_kind or _extent(of_actor) != _extent(of_environment):
        raise ValueError(
            f"the environment's {name} space is {of_environment}, the agent was made for {of_actor}: roll it out in the "
            "environment of its data set, or train an agent for this one."
        )


def _extent(space: gym.Space) -> tuple[int, ...]:
    if isinstance(space, gym.spaces.Discrete):
        return (int(space.start), int(space.n))
    return tuple(space.nvec.ravel().tolist()) if isinstance(space, gym.spaces.MultiDiscrete) else tuple(space.shape)


class ActionGate:
    """Lets only those actions through to the environments that they can take.

    Box actions are clipped to the bounds (policies are rarely bounded; what is clipped is what counts as executed) and
    cast to the space's dtype; everything else that does not fit is an error.

    Args:
        space: The action space of one environment: Box, Discrete or MultiDiscrete.
    """

    def __init__(self, space: gym.Space):
        self._space = space
        self._continuous = isinstance(space, gym.spaces.Box)
        self._bounded = self._continuous and bool(np.isfinite(space.low).any() or np.isfinite(space.high).any())
        if not self._continuous:
            start = np.asarray(space.start)
            self._low, self._high = start, start + (space.n if isinstance(space, gym.spaces.Discrete) else space.nvec)

    def __call__(self, actions: Any, num_envs: int) -> np.ndarray:
        """Actions `(num_envs, *action_shape)` in the space's dtype (integers: int64).

        Raises:
            ValueError: wrong shape, not finite, not integers, or out of range.
        """
        actions = np.asarray(actions)
        expected = (num_envs, *self._space.shape)
        if actions.shape != expected:
            raise ValueError(
                f"the actor returned actions of shape {actions.shape}, expected {expected}: one {self._space} action for "
                f"each of the {num_envs} observations."
            )
        return self._continuous_actions(actions) if self._continuous else self._integer_actions(actions)

    def _continuous_actions(self, actions: np.ndarray) -> np.ndarray:
        if not np.isfinite(actions).all():
            lane = int(np.argwhere(~np.isfinite(actions))[0][0])
            raise ValueError(
                f"the actor returned the action {actions[lane]} for observation {lane} of the batch, expected finite "
                "numbers: look for NaN in its weights or in the statistics of its processor."
            )
        if self._bounded:
            actions = actions.clip(self._space.low, self._space.high)
        return actions.astype(self._space.dtype, copy=False)

    def _integer_actions(self, actions: np.ndarray) -> np.ndarray:
        if actions.dtype.kind not in "iu":
            raise ValueError(
                f"the actor returned {actions.dtype} actions for {self._space}, expected integers: take the argmax of "
                "the scores or convert with .astype(np.int64)."
            )
        wrong = (actions < self._low) | (actions >= self._high)
        if wrong.any():
            lane = int(np.argwhere(wrong)[0][0])
            raise ValueError(
                f"the actor returned the action {actions[lane]} for observation {lane} of the batch, expected one of "
                f"{self._space} (from {self._low} to {self._high - 1})."
            )
        return actions.astype(np.int64, copy=False)
