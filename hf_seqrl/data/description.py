"""What a data set holds, in figures."""

from hashlib import blake2b
from typing import Any

import numpy as np
from datasets import Dataset

from hf_seqrl.data.columns import FlatColumn, TrajectoryColumns
from hf_seqrl.data.returns import normalized_score, returns_of_episodes

_PERCENTILES = (5, 25, 50, 75, 95)


def describe(dataset: Dataset) -> dict[str, Any]:
    """The facts about a data set that `hf-seqrl info` prints, and that data cards and records of training runs state; all plain
    Python values.

    Returns:
        `episodes`, `steps`; `returns` (raw) and `lengths` (steps), each with `mean`, `std`, `min`, `max` and the
        percentiles `p5` ... `p95` over episodes; `step_weighted_return` (every step counts once, as in training);
        `normalized_score` (the same statistics as `returns`, D4RL's scale) where reference returns are known;
        `terminated`, `truncated` (episodes); `observations`, `actions` (shape and type of a step); `fingerprint` (see
        `content_fingerprint`); and the metadata, among them what was guessed and why.
    """
    columns = TrajectoryColumns.of(dataset)
    metadata = columns.metadata
    returns, lengths = returns_of_episodes(columns), np.diff(columns.episode_offsets)
    last_steps = columns.episode_offsets[1:] - 1
    facts = {
        "env_id": metadata.env_id,
        "episodes": columns.num_episodes,
        "steps": columns.num_steps,
        "returns": _distribution(returns),
        "step_weighted_return": float(np.average(returns, weights=lengths)),
        "lengths": _distribution(lengths),
        "terminated": int(columns.terminations.take(last_steps).sum()),
        "truncated": int(columns.truncations.take(last_steps).sum()),
        "observations": _kind(columns.observations),
        "actions": _kind(columns.actions),
        "observation_space": metadata.observation_space,
        "action_space": metadata.action_space,
        "reference_returns": metadata.reference_returns and list(metadata.reference_returns),
        "max_episode_steps": metadata.max_episode_steps,
        "guesses": metadata.guesses,
        "provenance": metadata.provenance,
        "fingerprint": content_fingerprint(columns),
    }
    if metadata.reference_returns is not None:
        facts["normalized_score"] = _distribution(np.asarray(normalized_score(returns, metadata.reference_returns)))
    return facts


def _distribution(values: np.ndarray) -> dict[str, float]:
    percentiles = np.percentile(values, _PERCENTILES)
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        **{f"p{percent}": float(value) for percent, value in zip(_PERCENTILES, percentiles, strict=True)},
        "max": float(values.max()),
    }


def _kind(column: FlatColumn) -> dict[str, Any]:
    return {"shape": list(column.shape_per_step), "dtype": str(column.dtype)}


def content_fingerprint(columns: TrajectoryColumns) -> str:
    """A hash of every value, the same wherever and in whatever file the data lie."""
    digest = blake2b(np.ascontiguousarray(columns.episode_offsets, dtype=np.int64).data, digest_size=8)
    for column in (columns.observations, columns.actions, columns.rewards, columns.terminations):
        for block in column.blocks():
            digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()
