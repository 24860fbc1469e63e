"""The steps of a data set as the rows that a Trajectory Transformer reads: observation, action, reward, value-to-go.

Source: [Janner et al. 2021](https://arxiv.org/abs/2106.02039), section 3.1 and appendix A.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete, Space

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import returns_to_go
from hf_seqrl.data.spaces import refuse_hybrid, step_shape
from hf_seqrl.data.task import Task
from hf_seqrl.data.task_inference import task_of

if TYPE_CHECKING:
    from datasets import Dataset

_BLOCK_STEPS = 1 << 16


class Transitions:
    """The steps of a data set as rows `(observation, action, reward, value-to-go)` in raw units.

    The value-to-go of step `t` is the return of the following steps, V_t = sum_{k >= 0} discount^k r_{t + 1 + k}, so that it excludes
    the step's own reward. It ends with the data: rewards after a truncation are unknown.

    Args:
        dataset: Trajectories, one row per episode.
        discount: Of the values-to-go, 0 to 1.
        termination_penalty: Replaces the reward with which an episode terminates (not of one that is truncated);
            `None` keeps it.
    """

    def __init__(self, dataset: "Dataset", discount: float = 0.99, termination_penalty: float | None = None) -> None:
        self.columns = TrajectoryColumns.of(dataset)
        self.discount = discount
        doubles = (self.columns.observations.dtype, self.columns.rewards.dtype)
        self._dtype = np.float64 if np.float64 in doubles else np.float32
        self._returns = returns_to_go(self.columns, discount)
        last_steps = self.columns.episode_offsets[1:] - 1
        self.terminated = self.columns.terminations.take(last_steps)  # (episodes,)
        self._penalty = np.zeros(self.columns.num_episodes)  # added to the last reward, in double precision: exact
        if termination_penalty is not None:
            rewards = self.columns.rewards.take(last_steps)
            self._penalty = np.where(self.terminated, termination_penalty - rewards.astype(np.float64), 0)

    def take(self, steps: np.ndarray) -> np.ndarray:
        """The rows of these steps, `(*steps.shape, transition_dim)`, `float32`, or `float64` where a column is held so."""
        columns, episodes = self.columns, self.columns.episode_of(steps)
        last_steps = columns.episode_offsets[episodes + 1] - 1
        is_last, penalty = steps == last_steps, self._penalty[episodes]
        rewards = columns.rewards.take(steps) + np.where(is_last, penalty, 0)
        following = self._returns[np.minimum(steps + 1, last_steps)]
        distance = np.maximum(last_steps - steps - 1, 0)  # from the next step to the last
        values = np.where(is_last, 0, following + self.discount**distance * penalty)
        parts = [
            columns.observations.take(steps).reshape(*steps.shape, -1),
            columns.actions.take(steps).reshape(*steps.shape, -1),
            rewards[..., None],
            values[..., None],
        ]
        return np.concatenate([part.astype(self._dtype, copy=False) for part in parts], axis=-1)

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows, `(n, transition_dim)` at a time."""
        for start in range(0, self.columns.num_steps, _BLOCK_STEPS):
            yield self.take(np.arange(start, min(start + _BLOCK_STEPS, self.columns.num_steps)))


def planned_task(stated: Task, transitions: Transitions) -> Task:
    """The task of a data set that is to be planned in, with nothing left open.

    Args:
        stated: What takes the place of the metadata.
        transitions: Of the data set.

    Raises:
        ValueError: actions have several parts, or there are no rewards.
    """
    columns = transitions.columns
    limit = {"max_episode_steps": stated.max_episode_steps}
    task, _ = task_of(columns.metadata.updated(**stated.to_dict()), columns, given=limit)
    refuse_hybrid(task.actions, "a planner")
    if task.has_rewards is False:
        raise ValueError(
            "the data were recorded without rewards, and a planner maximizes them: clone the demonstrations with a "
            "decision-transformer, conditioning='none'."
        )
    return task


def entries_of(task: Task) -> dict[str, Any]:
    """`observation_dim` and `action_dim`, the entries of a row that belong to them, and `discrete`: all values of each discrete
    entry, by its index."""
    observation_dim, action_dim = (math.prod(step_shape(space)) for space in (task.observations, task.actions))
    actions = {observation_dim + place: choices for place, choices in _choices(task.actions).items()}
    return {
        "observation_dim": observation_dim,
        "action_dim": action_dim,
        "discrete": _choices(task.observations) | actions,
    }


def _choices(space: Space) -> dict[int, list[int]]:
    """The values of each discrete component of a space, by its place; empty for `Box`."""
    if not isinstance(space, Discrete | MultiDiscrete):
        return {}
    starts, sizes = np.ravel(space.start), np.ravel(space.n if isinstance(space, Discrete) else space.nvec)
    return {place: list(range(int(s), int(s + n))) for place, (s, n) in enumerate(zip(starts, sizes))}
