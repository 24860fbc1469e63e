"""The replay of an agent: an episode as a film, or a sentence that says why there is none."""

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
    """One episode of an agent.

    Attributes:
        frames: `(frames, height, width, 3)` uint8, where it was just recorded.
        frames_per_second: Of the environment's own time.
        file: Where it is stored already.
        missing_because: Why there is none.
    """

    frames: np.ndarray | None = None
    frames_per_second: float = 30.0
    file: Path | None = None
    missing_because: str | None = None

    @classmethod
    def record(cls, agent: Any, env: Any, seed: int = 0) -> "Replay":
        """Play an episode and keep its pictures; where the environment cannot be drawn here, say why."""
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
        """Write it into a folder, as mp4 where there is an encoder, else as GIF; returns its name there."""
        if self.file is not None:
            return Path(shutil.copyfile(self.file, Path(folder, self.file.name))).name
        if self.frames is None:
            return None
        return write_video(self.frames, Path(folder, REPLAY_NAMES[0]), self.frames_per_second).name


def rollout_and_replay(agent: Any, env: Any, **options: Any) -> tuple[RolloutResult, Replay]:
    """As `rollout`, with its first episode as a film; where the environment cannot be drawn here, that says why.

    Args:
        agent, env, options: As for `rollout`.
    """
    try:
        result = rollout(agent, env, record_frames=1, **options)
    except CANNOT_RENDER as error:
        return rollout(agent, env, **options), Replay(missing_because=cannot_render(error))
    return result, Replay.of(result)
