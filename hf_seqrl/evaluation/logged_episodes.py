"""Recorded episodes as an evaluation reads them, and what a policy would have done at each of their steps."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from datasets import Dataset

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.joint_actions import joint_actions, joint_codes, num_joint_actions
from hf_seqrl.data.metadata import metadata_of
from hf_seqrl.data.task_inference import task_of
from hf_seqrl.evaluation.policies import Policy, as_actor
from hf_seqrl.models.actor import Actor

_EPISODES_AT_ONCE = 256
_MOST_JOINT_ACTIONS = 1024


@dataclass(frozen=True)
class LoggedEpisodes:
    """Recorded episodes, flat (one entry a step) and padded (one row an episode).

    Attributes:
        dataset: The episodes.
        columns: Their columns.
        horizon: The number of steps after which the return of an episode is complete.
        action_space: Of one environment.
    """

    dataset: Dataset
    columns: TrajectoryColumns
    horizon: int
    action_space: gym.Space

    @classmethod
    def of(cls, dataset: Dataset, horizon: int | None = None) -> "LoggedEpisodes":
        """The episodes of a data set.

        Args:
            dataset: Trajectories, one row an episode.
            horizon: Defaults to the time limit of the task, else to the length of the longest episode.

        Raises:
            ValueError: an episode is longer than the horizon.
        """
        columns = TrajectoryColumns(dataset)
        task, _ = task_of(metadata_of(dataset), columns)
        longest = int(np.diff(columns.episode_offsets).max())
        horizon = horizon or task.max_episode_steps or longest
        if longest > horizon:
            raise ValueError(
                f"horizon is {horizon}, and an episode of the data has {longest} steps: expected a horizon of at least as many."
            )
        return cls(dataset, columns, int(horizon), task.actions)

    @property
    def num_episodes(self) -> int:
        return self.columns.num_episodes

    @property
    def num_steps(self) -> int:
        return self.columns.num_steps

    @cached_property
    def lengths(self) -> np.ndarray:
        """`(episodes,)` in steps."""
        return np.diff(self.columns.episode_offsets)

    @cached_property
    def num_actions(self) -> int | None:
        """The number of joint actions; `None` where actions are continuous, or too many for a table of them."""
        count = num_joint_actions(self.action_space)
        return count if count is not None and count <= _MOST_JOINT_ACTIONS else None

    @cached_property
    def observations(self) -> np.ndarray:
        """`(steps, *observation_shape)`, raw."""
        return self.columns.observations.take(np.arange(self.num_steps))

    @cached_property
    def actions(self) -> np.ndarray:
        """`(steps, *action_shape)`."""
        return self.columns.actions.take(np.arange(self.num_steps))

    @cached_property
    def codes(self) -> np.ndarray:
        """The recorded joint actions, `(steps,)`."""
        return joint_codes(self.action_space, self.actions)

    @cached_property
    def rewards(self) -> np.ndarray:
        """`(steps,)` float64, raw."""
        return self.columns.rewards.take(np.arange(self.num_steps)).astype(np.float64)

    @cached_property
    def timesteps(self) -> np.ndarray:
        """`(steps,)`, the number of steps before each in its episode."""
        return np.arange(self.num_steps) - np.repeat(self.columns.episode_offsets[:-1], self.lengths)

    @cached_property
    def episode_of_step(self) -> np.ndarray:
        """`(steps,)`, the number of the episode that each step belongs to."""
        return np.repeat(np.arange(self.num_episodes), self.lengths)

    @cached_property
    def first_steps(self) -> np.ndarray:
        """`(episodes,)`, where each episode begins."""
        return self.columns.episode_offsets[:-1]

    @cached_property
    def is_last(self) -> np.ndarray:
        """`(steps,)`, whether the episode's record ends with this step."""
        last = np.zeros(self.num_steps, bool)
        last[self.columns.episode_offsets[1:] - 1] = True
        return last

    @cached_property
    def terminated(self) -> np.ndarray:
        """`(steps,)`, whether the episode terminated with this step."""
        return self.columns.terminations.take(np.arange(self.num_steps)).astype(bool)

    @cached_property
    def ends(self) -> np.ndarray:
        """`(steps,)`, whether nothing counts after this step: the episode terminated, or the horizon is reached."""
        return self.terminated | (self.timesteps == self.horizon - 1)

    @cached_property
    def is_complete(self) -> np.ndarray:
        """`(steps,)`, whether what follows the step is known: false for the last step of an episode that was cut short."""
        return ~self.is_last | self.ends

    def padded(self, values: np.ndarray, fill: Any = 0) -> np.ndarray:
        """Values of steps `(steps, ...)` as `(episodes, longest, ...)`, with `fill` after the end of an episode."""
        padded = np.full((self.num_episodes, int(self.lengths.max()), *values.shape[1:]), fill, values.dtype)
        padded[self.episode_of_step, self.timesteps] = values
        return padded

    @cached_property
    def ended_before(self) -> np.ndarray:
        """`(episodes, longest)`, the steps that an ended episode no longer has: there its reward is known to be 0."""
        beyond = np.arange(int(self.lengths.max())) >= self.lengths[:, None]
        return beyond & self.ends[self.columns.episode_offsets[1:] - 1][:, None]

    @cached_property
    def unknown_from(self) -> int | None:
        """The first step before the horizon at which no episode tells what is earned, as all that have not ended were cut; `None`
        where the data reach the horizon."""
        known = (self.padded(np.ones(self.num_steps, bool), False) | self.ended_before).any(axis=0)
        if not known.all():
            return int(np.argmin(known))
        longest = len(known)
        ended = self.ends[self.columns.episode_offsets[1:] - 1].any()
        return None if longest == self.horizon or ended else longest


@dataclass(frozen=True)
class PolicyOnLog:
    """What a policy does at each step of recorded episodes, given all that came before it in the record.

    Attributes:
        actions: `(steps, *action_shape)`; drawn, where the policy is stochastic.
        probabilities: Of the joint actions, `(steps, num_joint_actions)` float32; `None` where they are not known.
        deterministic: Whether it does not draw.
        target_return: The raw return that it was asked for; `None` for a policy that takes none.
    """

    actions: np.ndarray
    probabilities: np.ndarray | None
    deterministic: bool
    target_return: float | None = None

    def draws(self, space: gym.Space, count: int, seed: int) -> np.ndarray:
        """Actions `(steps, samples, *action_shape)`: `count` draws where the probabilities are known and not all 0 or 1, else the
        one action that there is."""
        if self.deterministic or self.probabilities is None:
            return self.actions[:, None]
        generator = np.random.default_rng(seed)
        cumulative = self.probabilities.astype(np.float64).cumsum(axis=1)[:, :-1]
        codes = [(generator.random((len(cumulative), 1)) >= cumulative).sum(axis=1) for _ in range(count)]
        return joint_actions(space)[np.stack(codes, axis=1)]


def policy_on_log(
    policy: Policy, log: LoggedEpisodes, target_return: float | None = None, seed: int = 0
) -> PolicyOnLog:
    """Feed recorded episodes to a policy as when it acts: its observations, rewards and executed actions are the recorded ones.

    Args:
        policy: As `rollout` takes it.
        log: The episodes.
        target_return: Raw, for policies that take one; defaults to the first target of the agent's processor.
        seed: Episode `i` is seeded with `seed + i`.

    Raises:
        ValueError: the policy does not fit the data.
    """
    actor = as_actor(policy, log.action_space)
    recorder = _Recorder(log)
    longest_first = np.argsort(-log.lengths, kind="stable")
    for start in range(0, log.num_episodes, _EPISODES_AT_ONCE):
        _feed(actor, log, longest_first[start : start + _EPISODES_AT_ONCE], target_return, seed, recorder)
    if target_return is None and actor.is_conditioned:
        target_return = actor.target_returns[0]
    return PolicyOnLog(recorder.actions, recorder.probabilities, actor.deterministic, target_return)


class _Recorder:
    def __init__(self, log: LoggedEpisodes) -> None:
        self.actions = np.zeros_like(log.actions)
        count = log.num_actions
        self.probabilities = None if count is None else np.zeros((log.num_steps, count), np.float32)

    def record(self, steps: np.ndarray, actions: np.ndarray, probabilities: np.ndarray | None) -> None:
        self.actions[steps] = actions
        if probabilities is None:
            self.probabilities = None
        elif self.probabilities is not None:
            self.probabilities[steps] = probabilities


def _feed(
    actor: Actor,
    log: LoggedEpisodes,
    episodes: np.ndarray,
    target_return: float | None,
    seed: int,
    recorder: _Recorder,
) -> None:
    """Some episodes side by side, the longest first."""
    first, lengths = log.first_steps[episodes], log.lengths[episodes]
    actor.reset(len(episodes), target_return, seed + episodes)
    goes_on = len(episodes)
    for step in range(int(lengths[0])):
        running = int((lengths > step).sum())
        if running < goes_on:
            goes_on = running
            actor.select(np.arange(running))
        steps = first[:running] + step
        chosen = actor.act(log.observations[steps])
        recorder.record(steps, chosen, actor.action_probabilities(log.action_space) if log.num_actions else None)
        actor.observe(log.rewards[steps], np.zeros(running, bool), log.actions[steps])
