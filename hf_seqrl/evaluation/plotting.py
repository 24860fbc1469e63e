"""A rollout's result as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from hf_seqrl.evaluation.result import RolloutResult

INK, GREY, BLUE, SAND = "#1f2933", "#8a94a0", "#2563a8", "#faf1de"


def plot_result(
    result: "RolloutResult", path: str | Path, data_returns: Sequence[float] | np.ndarray | None = None
) -> Path:
    """Target against achieved return with 95 % bootstrap intervals (where targets were given), and how the returns spread.

    No display and no global state of matplotlib is touched, so it can be drawn anywhere, while training too.

    Args:
        result: Whose episodes to draw.
        path: Where to write; the suffix says the format.
        data_returns: Raw episode returns of the data set; their range is shaded.
    """
    parts = {target: part for target, part in result.by_target().items() if target is not None}
    figure = Figure(figsize=(10.5, 4.6) if parts else (6.0, 4.4), layout="constrained")
    axes = figure.subplots(1, 2 if parts else 1, squeeze=False)[0]
    if parts:
        _draw_targets(axes[0], parts, data_returns)
    (_draw_spread if len(parts) > 1 else _draw_histogram)(axes[-1], result)
    for one in axes:
        style_axes(one)
    figure.suptitle(_title(result), color=INK, fontsize=12, x=0.01, ha="left")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
    return path


def _draw_targets(
    axes: Axes, parts: "dict[float, RolloutResult]", data_returns: Sequence[float] | np.ndarray | None
) -> None:
    if data_returns is not None:
        axes.axhspan(
            np.min(data_returns), np.max(data_returns), color=SAND, lw=0, label="returns in the data", zorder=0
        )
    targets = np.array(sorted(parts))
    everything = np.concatenate([targets, *[part.returns for part in parts.values()]])
    ends = np.array([min(0.0, everything.min()), everything.max()])
    axes.plot(ends, ends, "--", color=GREY, lw=1, label="achieved = target", zorder=1)
    jitter = np.random.default_rng(0).normal(0, 0.008 * np.ptp(ends), len(everything))
    for target, part in parts.items():
        places = target + jitter[: part.num_episodes]
        axes.scatter(places, part.returns, s=9, color=BLUE, alpha=0.4, lw=0, zorder=2)
    means = np.array([parts[target].mean_return for target in targets])
    bounds = np.array(
        [parts[target].summary()["confidence_interval"] or 2 * [parts[target].mean_return] for target in targets]
    )
    axes.errorbar(
        targets,
        means,
        np.abs(bounds.T - means),
        fmt="o-",
        color=BLUE,
        lw=1.5,
        ms=6,
        capsize=4,
        label="mean, 95 % interval",
        zorder=3,
    )
    axes.set(xlabel="target return", ylabel="achieved return", title="Target against achieved return")
    axes.legend(frameon=False, fontsize=8, loc="upper left", labelcolor=INK)


def _draw_spread(axes: Axes, result: "RolloutResult") -> None:
    """One row a target: every episode as a dot, with the quartiles and the median."""
    parts = sorted(result.by_target().items())
    generator = np.random.default_rng(0)
    for row, (_, part) in enumerate(parts):
        low, median, high = np.quantile(part.returns, (0.25, 0.5, 0.75))
        axes.plot([low, high], [row, row], color=BLUE, lw=9, alpha=0.3, solid_capstyle="butt")
        axes.plot([median, median], [row - 0.2, row + 0.2], color=INK, lw=2)
        axes.scatter(
            part.returns, row + generator.uniform(-0.28, 0.28, part.num_episodes), s=11, color=BLUE, alpha=0.6, lw=0
        )
    axes.set_yticks(range(len(parts)), [f"{target:g}" for target, _ in parts])
    axes.set(xlabel="achieved return", ylabel="target return", title="Episodes, quartiles and median")


def _draw_histogram(axes: Axes, result: "RolloutResult") -> None:
    summary = result.summary()
    axes.hist(result.returns, bins="auto" if np.ptp(result.returns) else 1, color=BLUE, alpha=0.55)
    if summary["confidence_interval"]:
        axes.axvspan(*summary["confidence_interval"], color=INK, alpha=0.12, lw=0, label="95 % interval of the mean")
    axes.axvline(summary["mean_return"], color=INK, lw=1.5, label=f"mean {summary['mean_return']:.1f}")
    axes.set(xlabel="achieved return", ylabel="episodes", title="Distribution of returns")
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def style_axes(axes: Axes) -> None:
    """The look of the package's plots: no frame, a light grid, the title small and on the left."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=9, color=GREY)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.set_title(axes.get_title(), fontsize=10, color=INK, loc="left")
    axes.title.set_text("")
    axes.grid(alpha=0.25, lw=0.6)
    axes.set_axisbelow(True)


def _title(result: "RolloutResult") -> str:
    seeds = result.summary()["seeds"]
    words = [result.env_id or "environment", f"{result.num_episodes} episodes"]
    return ", ".join(words + ([f"seeds {seeds[0]} to {seeds[1]}"] if seeds else []))
