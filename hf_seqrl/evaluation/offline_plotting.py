"""An offline judgement as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_seqrl.evaluation.plotting import BLUE, GREY, INK, style_axes

if TYPE_CHECKING:
    from hf_seqrl.evaluation.offline_judgement import OfflineJudgement


def plot_judgement(judgement: "OfflineJudgement", path: str | Path, num_quantiles: int = 4) -> Path:
    """The loss on episodes of low to high return, and the loss where another return is asked for than the one that came,
    with 95 % bootstrap intervals."""
    figure = Figure(figsize=(10.5, 4.0), layout="constrained")
    by_quantile, by_shift = figure.subplots(1, 2)
    _draw_quantiles(by_quantile, judgement, num_quantiles)
    _draw_shifts(by_shift, judgement)
    for axes in (by_quantile, by_shift):
        style_axes(axes)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _draw_quantiles(axes: Axes, judgement: "OfflineJudgement", num_quantiles: int) -> None:
    rows = judgement.by_return_quantile(num_quantiles)
    losses = np.array([row["loss"] for row in rows])
    bounds = np.array([row["interval"] or 2 * (row["loss"],) for row in rows]).T
    axes.errorbar(range(len(rows)), losses, np.abs(bounds - losses), fmt="o", color=BLUE, capsize=4)
    axes.axhline(judgement.uninformed_loss, ls="--", lw=1, color=GREY, label="a guess that looks at nothing")
    names = [f"{row['lowest_return']:.4g}\n.. {row['highest_return']:.4g}" for row in rows]
    axes.set_xticks(range(len(rows)), names)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="return of the episode", ylabel=judgement.unit, title="Loss of held-out actions by return")
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def _draw_shifts(axes: Axes, judgement: "OfflineJudgement") -> None:
    rows = judgement.by_return_shift()
    shifts, differences = (np.array([row[name] for row in rows]) for name in ("return_shift", "difference"))
    bounds = np.array([row["interval"] or 2 * (row["difference"],) for row in rows]).T
    axes.errorbar(shifts, differences, np.abs(bounds - differences), fmt="o-", color=BLUE, capsize=4)
    axes.axhline(0, lw=1, color=GREY)
    axes.set(
        xlabel="return asked for, minus the return that came",
        ylabel=f"more loss ({judgement.unit})",
        title="Cost of asking for another return than the one that came",
    )
