"""The results of a rollout: statistics with intervals, a table, a JSON file, a plot, a video."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hf_seqrl.data.durable import write_whole
from hf_seqrl.data.returns import normalized_score
from hf_seqrl.evaluation.video import write_video

BOOTSTRAP_RESAMPLES = 10_000
_DRAWS_AT_ONCE = 1 << 20  # bounds the memory of the bootstrap
_LEAST_EFFECT = 0.2  # of a difference of targets, in the mean return
_PER_EPISODE = ("returns", "lengths", "seeds", "terminated", "target_returns", "discounted_returns")
_NOT_IN_FILES = ("frames", "frames_per_second")


def bootstrap_interval(
    values: np.ndarray,
    confidence: float = 0.95,
    resamples: int = BOOTSTRAP_RESAMPLES,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> tuple[float, float] | None:
    """The percentile bootstrap interval of the mean (Efron 1979).

    Args:
        values: `(n,)`, for instance the returns of episodes.
        confidence: The share of resampled means between the two bounds.
        resamples: Number of samples of the same size, drawn with replacement.
        seed: Seed of the resampling.
        groups: `(n,)`, for instance the episode of each step: whole groups are resampled, as their values are correlated.

    Returns:
        The lower and upper bound; `None` for fewer than two values or groups.

    Example:
        >>> bootstrap_interval(np.array([3.0, 3.0, 3.0]))
        (3.0, 3.0)
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}: expected a number between 0 and 1, both excluded.")
    sums, counts = np.asarray(values, np.float64), np.ones(len(values))
    if groups is not None:
        _, codes = np.unique(groups, return_inverse=True)
        sums, counts = np.bincount(codes, sums), np.bincount(codes)
    if len(sums) < 2:
        return None
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // len(sums))
    means = []
    for done in range(0, resamples, at_once):
        drawn = generator.integers(len(sums), size=(min(at_once, resamples - done), len(sums)))
        means.append(sums[drawn].mean(1) if groups is None else sums[drawn].sum(1) / counts[drawn].sum(1))
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), (tail, 1.0 - tail))
    return float(low), float(high)


def return_statistics(
    returns: np.ndarray, lengths: np.ndarray, reference_returns: tuple[float, float] | None = None
) -> dict[str, object]:
    """Statistics of a set of episodes, as plain numbers for JSON.

    Args:
        returns: `(episodes,)` raw returns.
        lengths: `(episodes,)` in steps.
        reference_returns: Raw returns (random, expert), for `normalized_score`.

    Returns:
        `num_episodes`, `mean_return`, `std_return` (population: divided by n, as everywhere in this package), `median_return`,
        `min_return`, `max_return`, `mean_length` in steps, `confidence_interval` (95 % bootstrap interval of the mean return or
        `None`), `normalized_score` (of the mean return) and its `normalized_interval`, `None` without references.
    """
    interval = bootstrap_interval(returns)
    mean = float(np.mean(returns))
    scored = reference_returns is not None
    return {
        "num_episodes": len(returns),
        "mean_return": mean,
        "std_return": float(np.std(returns)),
        "median_return": float(np.median(returns)),
        "min_return": float(np.min(returns)),
        "max_return": float(np.max(returns)),
        "mean_length": float(np.mean(lengths)),
        "confidence_interval": list(interval) if interval else None,
        "normalized_score": normalized_score(mean, reference_returns) if scored else None,
        "normalized_interval": (
            [normalized_score(bound, reference_returns) for bound in interval] if interval and scored else None
        ),
    }


@dataclass(frozen=True, eq=False, repr=False)
class RolloutResult:
    """The episodes of a rollout, in order: all of the first target, then all of the second ...

    Attributes:
        returns: `(episodes,)` undiscounted sums of raw rewards.
        lengths: `(episodes,)` in steps.
        seeds: `(episodes,)` with which environment and actor were seeded; -1 for an episode that began without a seed, in
            EnvPool or in a vectorized environment that was passed in and reset itself.
        terminated: `(episodes,)`; false where an episode was truncated, by a time limit for instance.
        target_returns: `(episodes,)`, raw; `None` without a target.
        env_id: The gymnasium id, `None` for an environment that has none.
        seconds: Wall-clock time of all steps and resets.
        reference_returns: Raw returns (random, expert) that score 0 and 100.
        finished_at: When, ISO 8601, UTC.
        frames: For each recorded episode `(frames, height, width, 3)` uint8; not written to files.
        frames_per_second: Of the environment's own time.
        discounted_returns: `(episodes,)` sums of raw rewards in which one counts `discount` times one a step earlier; `None`
            where no discount was given.
        discount: Of these.
        backend: The library whose environments were played, `"gymnasium"` or `"envpool"`.
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
    discounted_returns: np.ndarray | None = None
    discount: float | None = None
    backend: str = "gymnasium"

    def __post_init__(self) -> None:
        if len(self.returns) == 0:
            raise ValueError("a RolloutResult of no episodes: expected at least one.")
        for name, dtype in zip(_PER_EPISODE, (np.float64, np.int64, np.int64, bool, np.float64, np.float64)):
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
    def environment(self) -> str | None:
        """The environment in words, with the library it is from where that is not gymnasium; `None` for one of gymnasium
        without an id."""
        return f"{self.env_id or 'an environment'} of EnvPool" if self.backend == "envpool" else self.env_id

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
        """The episodes of each target return, in order. With several targets, `seconds` is divided by steps and `frames` are
        omitted."""
        return dict(self._parts)

    def default_part(self, target_returns: Sequence[float] = ()) -> "RolloutResult":
        """The episodes that count where one number is reported: those of the agent's default target, else of the first one that
        was evaluated. To report the best one would be biased.

        Args:
            target_returns: The agent's own targets, the default first, raw units.
        """
        parts = self.by_target()
        return parts.get(target_returns[0] if target_returns else None) or next(iter(parts.values()))

    def target_effect(self) -> str | None:
        """A sentence that says so where the achieved return hardly follows the target; otherwise, and with fewer than two
        targets, `None`.

        It hardly follows where, from the lowest to the highest target, it rises by less than a fifth of what the target does.
        """
        parts = {target: part.mean_return for target, part in self.by_target().items() if target is not None}
        if len(parts) < 2:
            return None
        low, high = min(parts), max(parts)
        if parts[high] - parts[low] >= _LEAST_EFFECT * (high - low):
            return None
        return (
            f"The target return has little effect here: asked for {high:.6g} and {low:.6g}, the agent achieves "
            f"{parts[high]:.1f} and {parts[low]:.1f}."
        )

    @classmethod
    def merged(cls, parts: Sequence["RolloutResult"]) -> "RolloutResult":
        """The episodes of several rollouts of one agent, as of one rollout.

        Args:
            parts: With the same targets, in the order of their seeds, for instance those of several processes.

        Returns:
            The episodes by target return, then in the order given. `seconds` are those of the slowest part, as parts run in
            parallel; frames are omitted.
        """
        columns = {
            name: None if getattr(parts[0], name) is None else np.concatenate([getattr(part, name) for part in parts])
            for name in _PER_EPISODE
        }
        if columns["target_returns"] is not None:
            targets = list(parts[0].by_target())
            order = sorted(range(len(columns["seeds"])), key=lambda i: targets.index(columns["target_returns"][i]))
            columns = {name: None if column is None else column[order] for name, column in columns.items()}
        return replace(parts[0], **columns, seconds=max(part.seconds for part in parts), frames=())

    def summary(self) -> dict[str, Any]:
        """All figures as plain numbers, ready for JSON.

        Returns:
            `hf_seqrl.evaluation.results.return_statistics` of all episodes, with `env_id`, `backend`, `seeds` (first and last),
            `terminated_share` (0 to 1), `steps_per_second`, `reference_returns`, and `by_target`: the same statistics with their
            `target_return`, one entry per target. With a discount also `discount`, `mean_discounted_return` and its
            `discounted_interval`.
        """
        parts = self.by_target()
        return {
            "env_id": self.env_id,
            "backend": self.backend,
            **self._statistics,
            "steps_per_second": self.steps_per_second if self.seconds else None,
            "reference_returns": list(self.reference_returns) if self.reference_returns else None,
            "by_target": [{"target_return": target, **part._statistics} for target, part in parts.items()],
        }

    def table(self) -> str:
        """One line per target: the target return, the mean return, its 95 % bootstrap interval, the spread, the episodes and
        the seeds; the normalized score if it is known."""
        return aligned_text(_rows(self))

    def __repr__(self) -> str:
        return f"<RolloutResult: {self.env_id}, {self.num_episodes} episodes, mean return {self.mean_return:.1f}>"

    def _repr_html_(self) -> str:
        """The same table for notebooks."""
        header, *rows = _rows(self)
        import pandas as pd  # heavy, and acting does without it

        return pd.DataFrame(rows, columns=header).to_html(index=False, border=0)

    def plot(self, path: str | Path, data_returns: Sequence[float] | np.ndarray | None = None) -> Path:
        """Plot the achieved return by target return, and the distribution of the returns.

        Args:
            path: Where to write; the suffix sets the format (png, svg, pdf).
            data_returns: Raw episode returns of the training data; their range is shaded.
        """
        from hf_seqrl.evaluation.plots import plot_returns  # matplotlib takes a second to import

        returns = {target: part.returns for target, part in self.by_target().items()}
        return plot_returns(returns, self.summary(), path, data_returns)

    def save_video(self, path: str | Path) -> Path:
        """Write the recorded episodes, one after the other, as mp4 or GIF; see `hf_seqrl.evaluation.video.write_video`.

        Returns:
            The file that was written: its suffix is `.gif` where mp4 is not possible.
        """
        if not self.frames:
            raise ValueError("this result has no frames: call rollout(..., record_frames=1) to record an episode.")
        return write_video(np.concatenate(self.frames), path, self.frames_per_second)

    def save(self, path: str | Path) -> Path:
        """Write everything but the frames as JSON, with the summary. The file is written completely or not at all."""
        content = {name: value for name, value in self._plain().items() if name not in _NOT_IN_FILES}
        return write_whole(path, json.dumps({"summary": self.summary(), **content}, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "RolloutResult":
        """Read a file written by `save`; its summary is computed again.

        Raises:
            ValueError: the file is not a rollout result.
        """
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        known = {field.name for field in fields(cls)}
        if not isinstance(content, dict) or not {"returns", "lengths", "seeds", "terminated"} <= set(content):
            raise ValueError(f"{path} is not a rollout result: expected a file written by RolloutResult.save.")
        references = content.get("reference_returns")
        content["reference_returns"] = tuple(references) if references else None
        return cls(**{name: value for name, value in content.items() if name in known})

    @cached_property
    def _parts(self) -> dict[float | None, "RolloutResult"]:
        if self.target_returns is None:
            return {None: self}
        targets = dict.fromkeys(self.target_returns.tolist())
        if len(targets) == 1:
            return dict.fromkeys(targets, self)
        return {target: self._part(np.flatnonzero(self.target_returns == target)) for target in targets}

    @cached_property
    def _statistics(self) -> dict[str, Any]:
        """With a bootstrap of ten thousand resamples, so it is kept."""
        return {
            **return_statistics(self.returns, self.lengths, self.reference_returns),
            **self._discounted_statistics(),
            "seeds": [int(self.seeds.min()), int(self.seeds.max())] if (self.seeds >= 0).all() else None,
            "terminated_share": float(self.terminated.mean()),
        }

    def _discounted_statistics(self) -> dict[str, Any]:
        if self.discounted_returns is None:
            return {}
        interval = bootstrap_interval(self.discounted_returns)
        return {
            "discount": self.discount,
            "mean_discounted_return": float(self.discounted_returns.mean()),
            "discounted_interval": list(interval) if interval else None,
        }

    def _part(self, episodes: np.ndarray) -> "RolloutResult":
        columns = {name: value[episodes] for name in _PER_EPISODE if (value := getattr(self, name)) is not None}
        share = float(columns["lengths"].sum() / self.lengths.sum())
        return replace(self, **columns, seconds=self.seconds * share, frames=())

    def _plain(self) -> dict[str, Any]:
        values = asdict(replace(self, frames=()))
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def _rows(result: RolloutResult) -> list[list[str]]:
    summary = result.summary()
    scored = summary["normalized_score"] is not None
    discount = summary.get("discount")
    header = ["target", "mean return", "95 % interval", "std", "median", "min", "max", "steps", "episodes", "seeds"]
    rows = [_cells(row, scored) for row in summary["by_target"]]
    if discount is not None:
        header += [f"discounted by {discount:g}", "95 % interval"]
    return [header[:3] + (["score"] if scored else []) + header[3:], *rows]


def _cells(row: dict[str, Any], scored: bool) -> list[str]:
    interval, seeds = row["confidence_interval"], row["seeds"]
    numbers = [
        f"{row[name]:.1f}" for name in ("std_return", "median_return", "min_return", "max_return", "mean_length")
    ]
    discounted = []
    if "mean_discounted_return" in row:
        discounted = [f"{row['mean_discounted_return']:.1f}", _interval(row["discounted_interval"])]
    return [
        "-" if row["target_return"] is None else f"{row['target_return']:g}",
        f"{row['mean_return']:.1f}",
        _interval(interval),
        *([f"{row['normalized_score']:.1f}"] if scored else []),
        *numbers,
        str(row["num_episodes"]),
        f"{seeds[0]}-{seeds[1]}" if seeds else "-",
        *discounted,
    ]


def _interval(bounds: Sequence[float] | None) -> str:
    return f"{bounds[0]:.1f} .. {bounds[1]:.1f}" if bounds else "-"


def aligned_text(rows: list[list[str]]) -> str:
    """Rows of cells, the header first, as right-aligned columns of text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
