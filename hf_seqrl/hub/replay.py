"""The replay of an agent: a video of one episode, or the reason why there is none."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_seqrl.evaluation.results import RolloutResult
from hf_seqrl.evaluation.rollout import rollout
from hf_seqrl.evaluation.video import CANNOT_RENDER, cannot_render, record_episode, write_video

REPLAY_NAMES = ("replay.mp4", "replay.gif")


@dataclass(frozen=True)
class Replay:
    """A recorded episode of an agent.

    Attributes:
        frames: `(frames, height, width, 3)` uint8, if it was just recorded.
        frames_per_second: Frame rate of the environment.
        file: The file, if it is already stored.
        missing_because: Why there is none.
    """

    frames: np.ndarray | None = None
    frames_per_second: float = 30.0
    file: Path | None = None
    missing_because: str | None = None

    @classmethod
    def record(cls, agent: Any, env: Any, seed: int = 0) -> "Replay":
        """Run an episode and record its frames; if the environment cannot be rendered here, hold the reason."""
        if env is None:
            return cls(missing_because="the agent does not name its environment")
        episode = record_episode(agent, env, seed=seed)
        if episode.frames is None:
            return cls(missing_because=episode.not_drawn_because)
        return cls(episode.frames, episode.frames_per_second)

    @classmethod
    def of(cls, result: RolloutResult) -> "Replay":
        """The first episode of a rollout that recorded it."""
        if not result.frames:
            return cls(missing_because="the environment gave no pictures")
        return cls(result.frames[0], result.frames_per_second)

    def save(self, folder: str | Path) -> str | None:
        """Write it into a folder, as mp4 if an encoder is installed, else as GIF; returns the file name."""
        if self.file is not None:
            return Path(shutil.copyfile(self.file, Path(folder, self.file.name))).name
        if self.frames is None:
            return None
        return write_video(self.frames, Path(folder, REPLAY_NAMES[0]), self.frames_per_second).name


def rollout_and_replay(agent: Any, env: Any, **options: Any) -> tuple[RolloutResult, Replay]:
    """As `rollout`, with a video of its first episode, or the reason why the environment cannot be rendered here.

    Args:
        agent, env, options: As for `rollout`.
    """
    try:
        result = rollout(agent, env, record_frames=1, **options)
    except CANNOT_RENDER as error:
        return rollout(agent, env, **options), Replay(missing_because=cannot_render(error))
    return result, Replay.of(result)
