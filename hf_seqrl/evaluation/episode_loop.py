"""The evaluation loop: episodes from a queue run in parallel lanes.

A lane takes the next episode of the queue when its own has ended. When the queue is empty the lane is removed, from the
environments and from the actor, so that nothing is computed for episodes that do not count.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np

from hf_seqrl.data.spaces import choice_bounds, continuous_bounds, continuous_entries, space_to_dict, step_shape
from hf_seqrl.data.task import Task
from hf_seqrl.evaluation.lanes import Lanes, StepOutcome
from hf_seqrl.models.actor import AUTO, Actor

_HIGHEST_FRAME_RATE = 30.0
MOST_STEPS = 100_000  # of an episode of an environment whose time limit is not known


class Episode(NamedTuple):
    """An episode to run.

    Attributes:
        index: Its place in the results.
        seed: Resets the environment and the actor.
        target_return: Raw; `None` for the actor's default, `"auto"` for what the data support. Where one episode of several asks
            for `"auto"`, all do.
    """

    index: int
    seed: int
    target_return: float | str | None = None


class FinishedEpisode(NamedTuple):
    """The result of an episode. `seed` is -1 where the environment was not seeded for it; `total_reward` and
    `discounted_reward`, the same with the loop's discount, are in raw units."""

    episode: Episode
    seed: int
    total_reward: float
    discounted_reward: float
    length: int
    terminated: bool


class Step(NamedTuple):
    """One step of all lanes. `counts` `(num_lanes,)` is false where a lane only resets itself."""

    observations: np.ndarray
    actions: np.ndarray
    outcome: StepOutcome
    counts: np.ndarray


class Recorder(Protocol):
    """Records more of the episodes than their returns."""

    def begin(self, episodes: Sequence[Episode]) -> None:
        """These episodes begin, one per lane."""

    def before_step(self) -> None:
        """The lanes are about to be stepped."""

    def record(self, step: Step) -> None:
        """All lanes were stepped."""

    def finish(self, lanes: np.ndarray) -> None:
        """The episodes in these lanes have ended."""

    def restart(self, lanes: np.ndarray, episodes: Sequence[Episode]) -> None:
        """New episodes begin in these lanes."""

    def select(self, lanes: np.ndarray) -> None:
        """Keep only these lanes, in this order."""


class EpisodeLoop:
    """Runs episodes until the queue is empty and all have ended.

    Args:
        actor: Chooses the actions of all lanes at once.
        lanes: The environments.
        episodes: The queue; it may be a lazy iterable.
        recorder: Called at every step.
        discount: Weight of a reward one step later, in `discounted_reward`.
    """

    def __init__(
        self,
        actor: Actor,
        lanes: Lanes,
        episodes: Iterable[Episode],
        recorder: Recorder | None = None,
        discount: float = 1.0,
    ) -> None:
        self._actor, self._lanes, self._queue, self._recorder = actor, lanes, iter(episodes), recorder
        self._discount = discount
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
        seeds = np.array([episode.seed for episode in self._playing], np.int64)
        self._total_rewards, self._lengths = np.zeros(num_lanes), np.zeros(num_lanes, np.int64)
        self._discounted_rewards = np.zeros(num_lanes)
        self._resetting = np.zeros(num_lanes, bool)  # lanes whose next step is only a reset
        self._observations, self._seeds = self._lanes.reset(seeds)
        self._actor.reset(num_lanes, _targets(self._playing), seeds)
        if self._recorder:
            self._recorder.begin(self._playing)
        return True

    def _step(self) -> np.ndarray:
        if self._recorder:
            self._recorder.before_step()
        actions = self._gate(self._actor.act(self._observations), len(self._playing))
        if not self._lanes.has_time_limit and self._lengths.max() >= MOST_STEPS:
            raise ValueError(
                f"an episode has gone on for {MOST_STEPS} steps, and the environment has no time limit: give one, "
                "max_episode_steps=..."
            )
        outcome = self._lanes.step(actions)
        dones = outcome.terminations | outcome.truncations
        counts = ~self._resetting
        rewards = outcome.rewards
        if self._lanes.resets_on_next_step:
            rewards, dones = np.where(counts, rewards, 0.0), dones & counts
        self._total_rewards += rewards
        self._discounted_rewards += self._discount**self._lengths * rewards
        self._lengths += counts
        self._actor.observe(rewards, dones, actions)
        if self._recorder:
            self._recorder.record(Step(self._observations, actions, outcome, counts))
        self._observations, self._terminations = outcome.observations, outcome.terminations
        return dones

    def _turn_over(self, dones: np.ndarray) -> Iterator[FinishedEpisode]:
        """Finish episodes, begin the next ones of the queue, and remove lanes without an episode."""
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
            discounted_reward=float(self._discounted_rewards[lane]),
            length=int(self._lengths[lane]),
            terminated=bool(self._terminations[lane]),
        )

    def _restart(self, lanes: np.ndarray) -> None:
        if len(lanes) == 0:
            return
        episodes = [self._playing[lane] for lane in lanes]
        seeds = np.array([episode.seed for episode in episodes], np.int64)
        self._seeds[lanes] = self._lanes.restart(lanes, seeds, self._observations)
        self._total_rewards[lanes], self._discounted_rewards[lanes], self._lengths[lanes] = 0.0, 0.0, 0
        self._actor.restart(lanes, _targets(episodes), seeds)
        if self._recorder:
            self._recorder.restart(lanes, episodes)

    def _drop(self, lanes: np.ndarray) -> None:
        kept = np.setdiff1d(np.arange(len(self._playing)), lanes)
        self._playing = [self._playing[lane] for lane in kept]
        for name in ("_seeds", "_total_rewards", "_discounted_rewards", "_lengths", "_resetting", "_observations"):
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
    if AUTO in targets:
        return AUTO
    return None if None in targets else np.array(targets, np.float64)


def check_fit(task: Task, observation_space: gym.Space, action_space: gym.Space) -> None:
    """Compare the environment's spaces with the agent's; unknown spaces fit everything.

    Raises:
        ValueError: they differ in kind, shape or number of actions.
    """
    if task.observation_space is not None:
        _compare("observation", task.observations, observation_space)
    if task.action_space is not None:
        _compare("action", task.actions, action_space)


def _compare(name: str, of_actor: gym.Space, of_environment: gym.Space) -> None:
    if _form(space_to_dict(of_actor)) != _form(space_to_dict(of_environment)):
        raise ValueError(
            f"the environment's {name} space is {of_environment}, the agent was made for {of_actor}: evaluate it in "
            "the environment of its data set, or train an agent for this one."
        )


def _form(space: Mapping[str, Any]) -> tuple:
    """Kind, shape and choices of a space; bounds and precision do not count."""
    if space["type"] in ("Tuple", "Dict"):
        parts = [part if space["type"] == "Dict" else ("", part) for part in space["spaces"]]
        return (space["type"], *((name, _form(part)) for name, part in parts))
    return tuple((name, str(value)) for name, value in space.items() if name not in ("low", "high", "dtype"))


class ActionGate:
    """Checks and casts actions for the environments.

    Box actions are clipped to the bounds (policies are rarely bounded; the clipped action counts as executed) and cast to
    the space's dtype; other invalid actions are errors.

    Args:
        space: The action space of one environment.
    """

    def __init__(self, space: gym.Space):
        self._space = space
        self._continuous = isinstance(space, gym.spaces.Box)
        self._bounded = self._continuous and bool(np.isfinite(space.low).any() or np.isfinite(space.high).any())
        self._shape, self._entries = step_shape(space), continuous_entries(space)
        if not self._continuous:
            self._low, self._high = (bound.reshape(self._shape) for bound in choice_bounds(space))
            self._bounds = continuous_bounds(space)

    def __call__(self, actions: Any, num_envs: int) -> np.ndarray:
        """Actions `(num_envs, *step_shape(space))` in the space's dtype (integers: int64; of a Tuple or Dict: float64).

        Raises:
            ValueError: wrong shape, not finite, not integers, or out of range.
        """
        actions = np.asarray(actions)
        expected = (num_envs, *self._shape)
        if actions.shape != expected:
            raise ValueError(
                f"the actor returned actions of shape {actions.shape}, expected {expected}: one {self._space} action for "
                f"each of the {num_envs} observations."
            )
        if self._continuous:
            return self._continuous_actions(actions)
        return self._composite_actions(actions) if self._space.dtype is None else self._integer_actions(actions)

    def _composite_actions(self, actions: np.ndarray) -> np.ndarray:
        """The flat entries of a Tuple or Dict: codes and numbers."""
        self._check_finite(actions)
        actions = np.array(actions, np.float64)
        actions[:, self._entries] = actions[:, self._entries].clip(*self._bounds)
        self._check_choices(actions)
        return actions

    def _check_finite(self, actions: np.ndarray) -> None:
        if not np.isfinite(actions).all():
            lane = int(np.argwhere(~np.isfinite(actions))[0][0])
            raise ValueError(
                f"the actor returned the action {actions[lane]} for observation {lane} of the batch, expected finite "
                "numbers: look for NaN in its weights or in the statistics of its processor."
            )

    def _continuous_actions(self, actions: np.ndarray) -> np.ndarray:
        self._check_finite(actions)
        if self._bounded:
            actions = actions.clip(self._space.low, self._space.high)
        return actions.astype(self._space.dtype, copy=False)

    def _integer_actions(self, actions: np.ndarray) -> np.ndarray:
        if actions.dtype.kind not in "iu":
            raise ValueError(
                f"the actor returned {actions.dtype} actions for {self._space}, expected integers: take the argmax of "
                "the scores or convert with .astype(np.int64)."
            )
        self._check_choices(actions)
        return actions.astype(np.int64, copy=False)

    def _check_choices(self, actions: np.ndarray) -> None:
        chosen = np.isfinite(self._low)
        wrong = (actions < self._low) | (actions > self._high) | (chosen & (actions != np.rint(actions)))
        if wrong.any():
            lane = int(np.argwhere(wrong)[0][0])
            raise ValueError(
                f"the actor returned the action {actions[lane]} for observation {lane} of the batch, expected one of "
                f"{self._space}."
            )


class FrameRecorder:
    """Renders the first episodes, with at most 30 frames per second of the environment's time.

    Args:
        lanes: The environments, made with `render_mode="rgb_array"`.
        num_episodes: Number of episodes to record, from the first in the queue on.

    Attributes:
        frames: The frames `(height, width, 3)` of each recorded episode, by the episode's index.
        frames_per_second: Frame rate of the video.
    """

    def __init__(self, lanes: Lanes, num_episodes: int):
        self._lanes, self._num_episodes = lanes, num_episodes
        self._stride = max(1, round(lanes.fps / _HIGHEST_FRAME_RATE))
        self._episodes: list[Episode] = []
        self._steps, self._recording = np.zeros(0, np.int64), np.zeros(0, bool)
        self.frames: dict[int, list[np.ndarray]] = {}
        self.frames_per_second = lanes.fps / self._stride

    def begin(self, episodes: Sequence[Episode]) -> None:
        self._episodes = list(episodes)
        self._steps = np.zeros(len(episodes), np.int64)
        self._recording = np.array([episode.index < self._num_episodes for episode in episodes])

    def before_step(self) -> None:
        self._render(np.flatnonzero(self._steps % self._stride == 0))

    def record(self, step: Step) -> None:
        self._steps += step.counts

    def finish(self, lanes: np.ndarray) -> None:
        self._render(lanes)  # how it ended
        self._recording[lanes] = False

    def restart(self, lanes: np.ndarray, episodes: Sequence[Episode]) -> None:
        for lane, episode in zip(lanes, episodes):
            self._episodes[lane] = episode
            self._recording[lane] = episode.index < self._num_episodes
        self._steps[lanes] = 0

    def select(self, lanes: np.ndarray) -> None:
        self._episodes = [self._episodes[lane] for lane in lanes]
        self._steps, self._recording = self._steps[lanes], self._recording[lanes]

    def _render(self, lanes: np.ndarray) -> None:
        recorded = lanes[self._recording[lanes]]
        if len(recorded) == 0:
            return
        for lane, frame in zip(recorded, self._lanes.render(recorded)):
            if frame.ndim != 3 or frame.shape[-1] != 3:
                raise ValueError(
                    f"the environment rendered {frame!r}, expected an RGB array (height, width, 3): make it with "
                    'render_mode="rgb_array".'
                )
            self.frames.setdefault(self._episodes[lane].index, []).append(frame)
