"""What a rollout found, and the forms in which it is told: figures, a table, a JSON file, a plot, a video."""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from hf_seqrl.evaluation.report import html_table, text_table
from hf_seqrl.evaluation.scores import normalized_score, return_statistics
from hf_seqrl.evaluation.video import write_video

_PER_EPISODE = ("returns", "lengths", "seeds", "terminated", "target_returns")
_NOT_IN_FILES = ("frames", "frames_per_second")


@dataclass(frozen=True, eq=False, repr=False)
class RolloutResult:
    """The episodes of a rollout, in the order asked for: all of the first target, then all of the second ...

    Attributes:
        returns: `(episodes,)` undiscounted sums of raw rewards.
        lengths: `(episodes,)` in steps.
        seeds: `(episodes,)` with which environment and actor were seeded; -1 for an episode that a vector environment of
            the caller's began by resetting itself.
        terminated: `(episodes,)`; false where an episode was truncated, by a time limit for instance.
        target_returns: `(episodes,)` raw return units; `None` when no target was given.
        env_id: The gymnasium id, `None` for an environment that has none.
        seconds: Wall-clock time of all steps and resets.
        reference_returns: Raw returns (random, expert) that score 0 and 100.
        finished_at: When, ISO 8601, UTC.
        frames: For each recorded episode `(frames, height, width, 3)` uint8; not written to files.
        frames_per_second: Of the environment's own time.
    """

    returns: np.ndarray
    lengths: np.ndarray
    seeds: np.ndarray
    terminated: np.ndarray
    target_returns: np.ndarray | None = None
    env_id: str | None = None
    seconds: float = 0.0
    reference_returns: tuple[float, float] | None = None
    finished_at: str | None = None
    frames: tuple[np.ndarray, ...] = ()
    frames_per_second: float = 30.0

    def __post_init__(self) -> None:
        if len(self.returns) == 0:
            raise ValueError("a RolloutResult of no episodes: expected at least one.")
        for name, dtype in zip(_PER_EPISODE, (np.float64, np.int64, np.int64, bool, np.float64)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, np.asarray(getattr(self, name), dtype))
                if getattr(self, name).shape != (len(self.returns),):
                    raise ValueError(
                        f"{name} has shape {getattr(self, name).shape}, expected ({len(self.returns)},): one an episode."
                    )

    @property
    def num_episodes(self) -> int:
        return len(self.returns)

    @property
    def truncated(self) -> np.ndarray:
        """`(episodes,)`: ended without a terminal state."""
        return ~self.terminated

    @property
    def mean_return(self) -> float:
        return float(self.returns.mean())

    @property
    def normalized_score(self) -> float | None:
        """D4RL's score of the mean return; `None` where no reference returns are known."""
        return None if self.reference_returns is None else normalized_score(self.mean_return, self.reference_returns)

    @property
    def steps_per_second(self) -> float:
        """Environment steps (of all environments) per second of wall-clock time."""
        return float(self.lengths.sum() / self.seconds) if self.seconds else float("nan")

    def by_target(self) -> dict[float | None, "RolloutResult"]:
        """The episodes of each target return, in the order asked for. `seconds` is shared out by steps and `frames` are left
        out."""
        if self.target_returns is None:
            return {None: self}
        targets = dict.fromkeys(self.target_returns.tolist())
        return {target: self._part(np.flatnonzero(self.target_returns == target)) for target in targets}

    @classmethod
    def merged(cls, parts: Sequence["RolloutResult"]) -> "RolloutResult":
        """The episodes of several rollouts of one agent, as if one rollout had played them all.

        Args:
            parts: With the same targets, in the order of their seeds, for instance what several processes have played.

        Returns:
            The episodes by target return, then in the order given. `seconds` are those of the slowest part, as parts run side
            by side; frames are left out.
        """
        columns = {
            name: None if getattr(parts[0], name) is None else np.concatenate([getattr(part, name) for part in parts])
            for name in _PER_EPISODE
        }
        if columns["target_returns"] is not None:
            targets = list(parts[0].by_target())
            order = sorted(range(len(columns["seeds"])), key=lambda i: targets.index(columns["target_returns"][i]))
            columns = {name: column[order] for name, column in columns.items()}
        return replace(parts[0], **columns, seconds=max(part.seconds for part in parts), frames=())

    def summary(self) -> dict[str, Any]:
        """All figures as plain numbers, ready for JSON.

        Returns:
            `hf_seqrl.evaluation.scores.return_statistics` of all episodes, with `env_id`, `seeds` (first and last),
            `terminated_share` (0 to 1), `steps_per_second`, `reference_returns`, and `by_target`: the same statistics with their
            `target_return`, one entry a target.
        """
        parts = self.by_target()
        return {
            "env_id": self.env_id,
            **self._statistics(),
            "steps_per_second": self.steps_per_second if self.seconds else None,
            "reference_returns": list(self.reference_returns) if self.reference_returns else None,
            "by_target": [{"target_return": target, **part._statistics()} for target, part in parts.items()],
        }

    def table(self) -> str:
        """Target against achieved return as text, with the 95 % bootstrap intervals, the episodes and the seeds."""
        return text_table(self)

    def __repr__(self) -> str:
        return f"<RolloutResult: {self.env_id}, {self.num_episodes} episodes, mean return {self.mean_return:.1f}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html_table(self)

    def plot(self, path: str | Path, data_returns: Sequence[float] | np.ndarray | None = None) -> Path:
        """Draw target against achieved return, and the distribution of the returns.

        Args:
            path: Where to write; the suffix says the format (png, svg, pdf).
            data_returns: Raw episode returns of the data set that the agent learned from; their range is shaded.
        """
        from hf_seqrl.evaluation.plotting import plot_result  # matplotlib takes a second to import

        return plot_result(self, path, data_returns)

    def save_video(self, path: str | Path) -> Path:
        """Write the recorded episodes, one after the other, as mp4 or GIF; see `hf_seqrl.evaluation.video.write_video`.

        Returns:
            The file that was written: its suffix is `.gif` where mp4 is not possible.
        """
        if not self.frames:
            raise ValueError("this result has no frames: call rollout(..., record_frames=1) to record an episode.")
        return write_video(np.concatenate(self.frames), path, self.frames_per_second)

    def save(self, path: str | Path) -> Path:
        """Write everything but the frames as JSON, with the summary for readers. The file is complete or absent."""
        content = {name: value for name, value in self._plain().items() if name not in _NOT_IN_FILES}
        return _write_atomically(Path(path), json.dumps({"summary": self.summary(), **content}, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "RolloutResult":
        """Read a file that `save` wrote; its summary is computed anew.

        Raises:
            ValueError: the file is none of those.
        """
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        known = {field.name for field in fields(cls)}
        if not isinstance(content, dict) or not {"returns", "lengths", "seeds", "terminated"} <= set(content):
            raise ValueError(f"{path} is not a rollout result: expected a file written by RolloutResult.save.")
        references = content.get("reference_returns")
        content["reference_returns"] = tuple(references) if references else None
        return cls(**{name: value for name, value in content.items() if name in known})

    def _statistics(self) -> dict[str, Any]:
        return {
            **return_statistics(self.returns, self.lengths, self.reference_returns),
            "seeds": [int(self.seeds.min()), int(self.seeds.max())] if (self.seeds >= 0).all() else None,
            "terminated_share": float(self.terminated.mean()),
        }

    def _part(self, episodes: np.ndarray) -> "RolloutResult":
        columns = {name: getattr(self, name)[episodes] for name in _PER_EPISODE}
        share = float(columns["lengths"].sum() / self.lengths.sum())
        return replace(self, **columns, seconds=self.seconds * share, frames=())

    def _plain(self) -> dict[str, Any]:
        values = asdict(replace(self, frames=()))
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def _write_atomically(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise
    return path


def _umask() -> int:
    mask = os.umask(0)  # it can only be read by setting it
    os.umask(mask)
    return mask
