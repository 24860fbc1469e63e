"""Keeping more of an episode than its return: frames for a video, transitions for a data set."""

from collections.abc import Sequence

import numpy as np

from hf_seqrl.rollout.environments import Lanes
from hf_seqrl.rollout.episodes import Episode, Step

_HIGHEST_FRAME_RATE = 30.0


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
