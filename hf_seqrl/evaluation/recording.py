"""Keeping more of an episode than its return: frames for a video, transitions for a data set."""

from collections.abc import Sequence

import numpy as np

from hf_seqrl.evaluation.environments import Lanes
from hf_seqrl.evaluation.episodes import Episode, Step

_HIGHEST_FRAME_RATE = 30.0
_FIRST_CAPACITY = 256  # steps of an episode for which room is made at first; doubled when it is full


class FrameRecorder:
    """Renders the first episodes, at no more than 30 frames a second of the environment's time.

    Args:
        lanes: The environments, made with `render_mode="rgb_array"`.
        num_episodes: How many episodes to record, from the first in the queue on.

    Attributes:
        frames: The frames `(height, width, 3)` of each recorded episode, by the episode's index.
        frames_per_second: At which they are to be shown.
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


class TrajectoryRecorder:
    """Keeps the transitions of the running episodes, and of those that ended until they are fetched.

    Floats are kept as float32 (as D4RL does), everything else in its own dtype: images stay uint8.

    Args:
        lanes: The environments.

    Attributes:
        num_steps: Steps recorded so far, of running episodes too.
    """

    def __init__(self, lanes: Lanes):
        self.num_steps = 0
        self._columns = {
            "observations": (lanes.observation_space.shape, stored_dtype(lanes.observation_space.dtype)),
            "actions": (lanes.action_space.shape, stored_dtype(lanes.action_space.dtype)),
            "rewards": ((), np.dtype(np.float32)),
            "terminations": ((), np.dtype(bool)),
            "truncations": ((), np.dtype(bool)),
        }
        self._buffers: dict[str, np.ndarray] = {}  # each (lanes, capacity, *shape)
        self._lengths = np.zeros(0, np.int64)
        self._episodes: list[Episode] = []
        self._ended: dict[int, dict[str, np.ndarray]] = {}

    def fetch(self, index: int) -> dict[str, np.ndarray]:
        """The columns of an episode that has ended, `(steps, *shape)` each; they are handed over once."""
        return self._ended.pop(index)

    def begin(self, episodes: Sequence[Episode]) -> None:
        self._episodes, self._lengths = list(episodes), np.zeros(len(episodes), np.int64)
        self._buffers = {
            name: np.empty((len(episodes), _FIRST_CAPACITY, *shape), dtype)
            for name, (shape, dtype) in self._columns.items()
        }

    def before_step(self) -> None:
        """Nothing to do."""

    def record(self, step: Step) -> None:
        if self._lengths.max() == self._buffers["rewards"].shape[1]:
            self._buffers = {name: np.concatenate([b, np.empty_like(b)], 1) for name, b in self._buffers.items()}
        lanes = np.flatnonzero(step.counts)
        places = (lanes, self._lengths[lanes])
        self._buffers["observations"][places] = step.observations[lanes]
        self._buffers["actions"][places] = step.actions[lanes]
        for name in ("rewards", "terminations", "truncations"):
            self._buffers[name][places] = getattr(step.outcome, name)[lanes]
        self._lengths[lanes] += 1
        self.num_steps += len(lanes)

    def finish(self, lanes: np.ndarray) -> None:
        for lane in lanes:
            length = self._lengths[lane]
            columns = {name: buffer[lane, :length].copy() for name, buffer in self._buffers.items()}
            self._ended[self._episodes[lane].index] = columns

    def restart(self, lanes: np.ndarray, episodes: Sequence[Episode]) -> None:
        for lane, episode in zip(lanes, episodes):
            self._episodes[lane] = episode
        self._lengths[lanes] = 0

    def select(self, lanes: np.ndarray) -> None:
        self._episodes = [self._episodes[lane] for lane in lanes]
        self._lengths = self._lengths[lanes]
        self._buffers = {name: buffer[lanes] for name, buffer in self._buffers.items()}


def stored_dtype(dtype: np.dtype) -> np.dtype:
    """In which dtype a data set keeps values of this one."""
    return np.dtype(np.float32) if np.issubdtype(dtype, np.floating) else np.dtype(dtype)
