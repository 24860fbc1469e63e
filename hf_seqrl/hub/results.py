"""The evaluation of an agent as files in its folder."""

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hf_seqrl.evaluation.results import RolloutResult
from hf_seqrl.hub.folder import EVALUATION_NAME, PLOT_NAME, RESULTS_NAME


def write_results(
    evaluation: RolloutResult,
    folder: str | Path,
    target_returns: Sequence[float] = (),
    data_returns: tuple[float, float] | None = None,
    *,
    deterministic: bool,
) -> None:
    """Write every episode (`evaluation.json`), the figures that leaderboards read (`results.json`) and the plot.

    Args:
        evaluation: What the agent achieved.
        folder: Of the agent.
        target_returns: The agent's own targets, the default first, raw units.
        data_returns: The lowest and the highest raw return of the training data, shown in the plot.
        deterministic: Whether the agent acts without random numbers.
    """
    folder = Path(folder)
    evaluation.save(folder / EVALUATION_NAME)
    figures = leaderboard_results(evaluation, target_returns) | {"is_deterministic": deterministic}
    (folder / RESULTS_NAME).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    evaluation.plot(folder / PLOT_NAME, data_returns=data_returns)


def leaderboard_results(evaluation: RolloutResult, target_returns: Sequence[float] = ()) -> dict[str, Any]:
    """The keys that `huggingface_sb3` writes, so that its leaderboards read the file; `is_deterministic` is the agent's.

    Of several targets that were evaluated, the agent's default counts, or else the first: choosing the one that turned
    out best would flatter it. The standard deviation is divided by n, as there.

    Args:
        evaluation: What the agent achieved.
        target_returns: The agent's own targets, the default first, raw units.
    """
    parts = evaluation.by_target()
    counted = parts.get(target_returns[0] if target_returns else None) or next(iter(parts.values()))
    return {
        "mean_reward": counted.mean_return,
        "std_reward": float(counted.returns.std()),
        "n_eval_episodes": counted.num_episodes,
        "eval_datetime": evaluation.finished_at or datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
