"""Checks of what an actor is told at a step, and of what it chooses."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from hf_seqrl.data.task import Task

HISTORY = ("observations", "actions", "rewards")  # the columns of a history that somebody else began


class StepChecks:
    """Checks the observations, actions, rewards and ends of parallel episodes, and fills in missing observations.

    Every method takes the `timesteps` `(num_envs,)` of the episodes, of which messages name one.

    Args:
        task: Of one environment. Unknown spaces are not checked.
        missing_values: `"error"` or `"last"`, as for [`~hf_seqrl.models.actor.Actor`].
    """

    def __init__(self, task: Task, missing_values: str) -> None:
        self._task, self._missing_values = task, missing_values
        self._observation_space = None if task.observation_space is None else task.observations
        self._action_space = None if task.action_space is None else task.actions
        self._is_box = isinstance(self._action_space, Box)
        self._last_finite: np.ndarray | None = None

    def begin(self, env_indices: np.ndarray) -> None:
        """Forget the observations of these environments `(n,)`, where new episodes begin."""
        if self._last_finite is not None:
            self._last_finite[env_indices] = 0

    def select(self, env_indices: np.ndarray) -> None:
        """Keep only these environments `(n,)`, in this order."""
        if self._last_finite is not None:
            self._last_finite = self._last_finite[env_indices]

    def observations(self, given: Any, timesteps: np.ndarray) -> np.ndarray:
        """Raw observations as an array `(num_envs, *observation_shape)` without missing values.

        Raises:
            ValueError: another shape, no numbers, or values that are not finite where these are not filled in.
        """
        space = self._observation_space
        observations = np.asarray(given) if space is None else self._task.flat_observations(given)
        shape = observations.shape[1:] if space is None else tuple(space.shape or ())
        num_envs = len(timesteps)
        if observations.shape != (num_envs, *shape):
            hint = "; add the axis of environments: observation[None]" if observations.shape == shape else ""
            raise ValueError(
                f"observations have shape {observations.shape}: expected {(num_envs, *shape)}, one for each of "
                f"{num_envs} environments{hint}."
            )
        if np.ma.is_masked(given):
            raise ValueError("observations are a masked array with masked values: expected a number in each entry.")
        if observations.dtype.kind not in "biuf":
            raise ValueError(f"observations have dtype {observations.dtype}: expected numbers.")
        if observations.dtype.kind == "f" and not np.isfinite(observations).all():
            observations = self._without_missing(observations, timesteps)
        if space is not None and space.dtype == np.uint8 and observations.dtype.kind == "f":
            observations = _as_bytes(observations)
        if self._missing_values == "last":
            self._last_finite = observations.copy()
        return observations

    def _without_missing(self, observations: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        wrong = ~np.isfinite(observations)
        if self._missing_values == "error":
            env, *entry = where = tuple(np.argwhere(wrong)[0].tolist())
            raise ValueError(
                f"the observation of environment {env} is {observations[where]} at step {timesteps[env]}, entry "
                f"{entry}: expected a finite number. Repair the sensor, or use missing_values='last'."
            )
        last = np.zeros_like(observations) if self._last_finite is None else self._last_finite
        return np.where(wrong, last, observations)

    def actions(self, given: Any, timesteps: np.ndarray, chosen: bool = True) -> np.ndarray:
        """Actions as an array `(num_envs, *action_shape)`; `chosen`: by the model, as the message says.

        Raises:
            ValueError: another shape, values that are not finite, or a choice outside the space.
        """
        actions = np.asarray(given)
        space = self._action_space
        if space is None:
            return actions
        where = "the model chose" if chosen else "the executed actions are"
        shape = (len(timesteps), *self._task.action_shape)
        if actions.shape != shape:
            raise ValueError(f"{where} actions of shape {actions.shape}: expected {shape} for {space}.")
        valid = np.isfinite(actions)
        if not self._is_box:
            low, high = self._task.action_bounds
            valid &= (actions >= low) & (actions <= high)
        if not valid.all():
            env = int(np.argwhere(~valid)[0][0])
            raise ValueError(
                f"{where} {actions[env]} in environment {env} at step {timesteps[env]}: expected an action of {space}"
                f"{'; look for NaN in the weights or in the statistics of the processor' if chosen else ''}."
            )
        return actions


def checked_rewards(given: Any, timesteps: np.ndarray) -> np.ndarray:
    """Raw rewards `(num_envs,)` float64.

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    rewards = np.asarray(given, dtype=np.float64)
    if rewards.shape != timesteps.shape:
        raise ValueError(
            f"rewards have shape {rewards.shape}: expected ({len(timesteps)},), one for each environment."
        )
    finite = np.isfinite(rewards)
    if not finite.all():
        env = int(np.argmin(finite))
        raise ValueError(
            f"the reward of environment {env} is {rewards[env]} at step {timesteps[env]}: expected a finite number."
        )
    return rewards


def checked_dones(given: Any, num_envs: int) -> np.ndarray:
    """Whether episodes ended, `(num_envs,)` bool.

    Raises:
        ValueError: another shape.
    """
    dones = np.asarray(given, dtype=bool)
    if dones.shape != (num_envs,):
        raise ValueError(f"dones have shape {dones.shape}: expected ({num_envs},), one for each environment.")
    return dones


def checked_history(history: Sequence[Mapping], num_envs: int) -> list[dict[str, np.ndarray]]:
    """The past steps of each episode as arrays of one length; see `Actor.reset`.

    Raises:
        ValueError: another number of episodes, a column that is missing, or columns of unequal lengths.
    """
    if len(history) != num_envs:
        raise ValueError(f"history has {len(history)} episodes: expected one for each of {num_envs} environments.")
    checked = []
    for env, part in enumerate(history):
        missing = [name for name in HISTORY if name not in part]
        if missing:
            raise ValueError(f"the history of environment {env} lacks {missing[0]!r}: expected {', '.join(HISTORY)}.")
        arrays = {name: np.asarray(part[name]) for name in HISTORY}
        arrays["rewards"] = arrays["rewards"].astype(np.float64)
        if len({len(values) for values in arrays.values()}) > 1:
            lengths = ", ".join(f"{name} {len(values)}" for name, values in arrays.items())
            raise ValueError(
                f"the history of environment {env} has unequal lengths ({lengths}): expected as many steps."
            )
        checked.append(arrays)
    return checked


def _as_bytes(observations: np.ndarray) -> np.ndarray:
    """Whole numbers from 0 to 255 as bytes.

    Raises:
        ValueError: there is another number, perhaps because the images are scaled to 0..1.
    """
    valid = (observations >= 0) & (observations <= 255) & (observations == np.rint(observations))
    if not valid.all():
        raise ValueError(
            f"observations hold {observations[~valid][0]}: expected bytes from 0 to 255, as in the data; images from 0 to 1 are "
            "multiplied by 255."
        )
    return observations.astype(np.uint8)


def warn_of_far_targets(targets: np.ndarray, return_range: tuple[float, float] | None) -> None:
    """Warn of raw target returns, `()` or `(n,)`, that are far outside the returns of the data."""
    if return_range is None:
        return
    low, high = return_range
    beyond = max(high - low, 0.1 * max(abs(low), abs(high)))
    far = targets[(targets < low - beyond) | (targets > high + beyond)] if targets.ndim else targets
    if far.size and (np.min(far) < low - beyond or np.max(far) > high + beyond):
        warnings.warn(
            f"target_return is {np.ravel(far)[0]:.6g}, far outside the returns of the data ({low:.6g} to {high:.6g}): the model has "
            "seen nothing like it.",
            stacklevel=4,
        )


def warn_of_growing_returns(
    returns_to_go: np.ndarray,
    targets: np.ndarray,
    timesteps: np.ndarray,
    discount: float,
    return_range: tuple[float, float] | None,
) -> bool:
    """Warn where a return-to-go `(n,)` has outgrown all returns: divided by the discount at every step, one that is not met grows
    without bound. Returns whether it warned."""
    if return_range is None:
        return False
    most = 10 * max(*map(abs, return_range), float(np.max(np.abs(targets))))
    far = np.flatnonzero(np.abs(returns_to_go) > most)
    if not len(far):
        return False
    env = int(far[0])
    warnings.warn(
        f"the return-to-go of environment {env} has grown to {returns_to_go[env]:.6g} at step {timesteps[env]}: "
        f"it is divided by the discount of {discount} at every step, and the target of "
        f"{targets[env]:.6g} is not met. Ask for a lower one, or train with discount=1.",
        stacklevel=4,
    )
    return True
