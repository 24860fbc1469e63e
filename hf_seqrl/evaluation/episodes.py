"""The autoregressive loop: episodes from a queue, played side by side, each in a lane of its own.

A lane takes the next episode of the queue as soon as its own has ended. When the queue is empty the lane is dropped, from
the environments and from the actor, so that nothing is computed for episodes that do not count.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np

from hf_seqrl.evaluation.compatibility import ActionGate
from hf_seqrl.evaluation.environments import Lanes, StepOutcome
from hf_seqrl.models.actor import Actor


class Episode(NamedTuple):
    """An episode to be played.

    Attributes:
        index: Its place in the results.
        seed: Resets the environment and the actor.
        target_return: Raw return units; `None` for the actor's default.
    """

    index: int
    seed: int
    target_return: float | None = None


class FinishedEpisode(NamedTuple):
    """How an episode went. `seed` is -1 where the environment reset itself; `total_reward` is in raw units."""

    episode: Episode
    seed: int
    total_reward: float
    length: int
    terminated: bool


class Step(NamedTuple):
    """One step of all lanes. `counts` `(num_lanes,)` is false where a lane only resets itself."""

    observations: np.ndarray
    actions: np.ndarray
    outcome: StepOutcome
    counts: np.ndarray


class Recorder(Protocol):
    """Keeps more of the episodes than their returns."""

    def begin(self, episodes: Sequence[Episode]) -> None:
        """These episodes begin, one a lane."""

    def before_step(self) -> None:
        """The lanes are about to be stepped."""

    def record(self, step: Step) -> None:
        """All lanes were stepped."""

    def finish(self, lanes: np.ndarray) -> None:
        """The episodes in these lanes have ended."""

    def restart(self, lanes: np.ndarray, episodes: Sequence[Episode]) -> None:
        """New episodes begin in these lanes."""

    def select(self, lanes: np.ndarray) -> None:
        """Only these lanes go on, in this order."""


class EpisodeLoop:
    """Plays episodes until the queue is empty and all have ended.

    Args:
        actor: Chooses the actions of all lanes at once.
        lanes: The environments.
        episodes: The queue; it may be lazy, the next one is taken when a lane is free.
        recorder: Told of every step.
    """

    def __init__(self, actor: Actor, lanes: Lanes, episodes: Iterable[Episode], recorder: Recorder | None = None):
        self._actor, self._lanes, self._queue, self._recorder = actor, lanes, iter(episodes), recorder
        self._gate = ActionGate(lanes.action_space)

    def play(self) -> Iterator[FinishedEpisode]:
        """Yields the episodes in the order in which they end."""
        if not self._begin():
            return
        while len(self._playing):
            dones = self._step()
            if dones.any() or self._resetting.any():
                yield from self._turn_over(dones)

    def _begin(self) -> bool:
        self._playing = list(islice(self._queue, self._lanes.num_envs))
        num_lanes = len(self._playing)
        if num_lanes == 0:
            return False
        self._seeds = np.array([episode.seed for episode in self._playing], np.int64)
        self._total_rewards, self._lengths = np.zeros(num_lanes), np.zeros(num_lanes, np.int64)
        self._resetting = np.zeros(num_lanes, bool)  # lanes whose next step is only a reset
        self._observations = self._lanes.reset(self._seeds)
        self._actor.reset(num_lanes, _targets(self._playing), self._seeds)
        if self._recorder:
            self._recorder.begin(self._playing)
        return True

    def _step(self) -> np.ndarray:
        if self._recorder:
            self._recorder.before_step()
        actions = self._gate(self._actor.act(self._observations), len(self._playing))
        outcome = self._lanes.step(actions)
        dones = outcome.terminations | outcome.truncations
        counts = ~self._resetting
        rewards = outcome.rewards
        if self._lanes.resets_on_next_step:
            rewards, dones = np.where(counts, rewards, 0.0), dones & counts
        self._total_rewards += rewards
        self._lengths += counts
        self._actor.observe(rewards, dones)
        if self._recorder:
            self._recorder.record(Step(self._observations, actions, outcome, counts))
        self._observations, self._terminations = outcome.observations, outcome.terminations
        return dones

    def _turn_over(self, dones: np.ndarray) -> Iterator[FinishedEpisode]:
        """Finish what has ended, begin what the queue still has, drop the lanes for which it has nothing."""
        ended = np.flatnonzero(dones)
        finished = [self._finished(lane) for lane in ended]
        if self._recorder and len(ended):
            self._recorder.finish(ended)
        yield from finished
        followers = list(islice(self._queue, len(ended)))
        for lane, episode in zip(ended, followers):
            self._playing[lane] = episode
        begins = np.zeros_like(dones)
        begins[ended[: len(followers)]] = True
        if self._lanes.resets_on_next_step:
            begins, self._resetting = self._resetting, begins
        self._restart(np.flatnonzero(begins))
        if len(followers) < len(ended):
            self._drop(ended[len(followers) :])

    def _finished(self, lane: int) -> FinishedEpisode:
        return FinishedEpisode(
            episode=self._playing[lane],
            seed=int(self._seeds[lane]),
            total_reward=float(self._total_rewards[lane]),
            length=int(self._lengths[lane]),
            terminated=bool(self._terminations[lane]),
        )

    def _restart(self, lanes: np.ndarray) -> None:
        if len(lanes) == 0:
            return
        episodes = [self._playing[lane] for lane in lanes]
        seeds = np.array([episode.seed for episode in episodes], np.int64)
        self._seeds[lanes] = self._lanes.restart(lanes, seeds, self._observations)
        self._total_rewards[lanes], self._lengths[lanes] = 0.0, 0
        self._actor.restart(lanes, _targets(episodes), seeds)
        if self._recorder:
            self._recorder.restart(lanes, episodes)

    def _drop(self, lanes: np.ndarray) -> None:
        kept = np.setdiff1d(np.arange(len(self._playing)), lanes)
        self._playing = [self._playing[lane] for lane in kept]
        for name in ("_seeds", "_total_rewards", "_lengths", "_resetting", "_observations"):
            setattr(self, name, getattr(self, name)[kept])
        if len(kept) == 0:
            return
        self._lanes.select(kept)
        self._actor.select(kept)
        if self._recorder:
            self._recorder.select(kept)


def _targets(episodes: Sequence[Episode]) -> Any:
    """Target returns `(len(episodes),)`, or `None` when the actor's default is wanted."""
    targets = [episode.target_return for episode in episodes]
    return None if None in targets else np.array(targets, np.float64)
