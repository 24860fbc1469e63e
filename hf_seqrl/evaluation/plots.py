"""Plots of rollout results, episodes, and evaluations without a simulator."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_seqrl.data.durable import whole_file
from hf_seqrl.evaluation.video import RecordedEpisode

_INK, _GREY, _BLUE, _SAND, _GREEN = "#1f2933", "#8a94a0", "#2563a8", "#faf1de", "#2f855a"


def plot_returns(
    returns: Mapping[float | None, np.ndarray],
    summary: Mapping[str, Any],
    path: str | Path,
    data_returns: Sequence[float] | np.ndarray | None = None,
) -> Path:
    """The achieved return by target return with 95 % bootstrap intervals (with targets), and the distribution of the returns.

    Uses no display and no global state of matplotlib, so it works during training, too.

    Args:
        returns: Raw returns `(episodes,)` by target return; `None` for episodes without a target.
        summary: Their statistics, as `RolloutResult.summary()` gives them.
        path: Where to write; the suffix sets the format.
        data_returns: Raw episode returns of the data set; their range is shaded.
    """
    by_target = {target: values for target, values in returns.items() if target is not None}
    figure = Figure(figsize=(10.5, 4.6) if by_target else (6.0, 4.4), layout="constrained")
    axes = figure.subplots(1, 2 if by_target else 1, squeeze=False)[0]
    if by_target:
        _draw_targets(axes[0], by_target, summary, data_returns)
    if len(by_target) > 1:
        _draw_spread(axes[-1], by_target)
    else:
        _draw_histogram(axes[-1], np.concatenate(list(returns.values())), summary)
    for one in axes:
        _style_axes(one)
    figure.suptitle(_title(summary), color=_INK, fontsize=12, x=0.01, ha="left")
    return _save(figure, path, 160)


def _draw_targets(
    axes: Axes,
    returns: Mapping[float, np.ndarray],
    summary: Mapping[str, Any],
    data_returns: Sequence[float] | np.ndarray | None,
) -> None:
    if data_returns is not None:
        axes.axhspan(
            np.min(data_returns), np.max(data_returns), color=_SAND, lw=0, label="returns in the data", zorder=0
        )
    rows = sorted(summary["by_target"], key=lambda row: row["target_return"])
    targets = np.array([row["target_return"] for row in rows])
    everything = np.concatenate([targets, *returns.values()])
    ends = np.array([min(0.0, everything.min()), everything.max()])
    axes.plot(ends, ends, "--", color=_GREY, lw=1, label="achieved = target", zorder=1)
    jitter = np.random.default_rng(0).normal(0, 0.008 * np.ptp(ends), len(everything))
    for target, values in returns.items():
        axes.scatter(target + jitter[: len(values)], values, s=9, color=_BLUE, alpha=0.4, lw=0, zorder=2)
    means = np.array([row["mean_return"] for row in rows])
    bounds = np.array([row["confidence_interval"] or 2 * [row["mean_return"]] for row in rows])
    axes.errorbar(
        targets,
        means,
        np.abs(bounds.T - means),
        fmt="o-",
        color=_BLUE,
        lw=1.5,
        ms=6,
        capsize=4,
        label="mean, 95 % interval",
        zorder=3,
    )
    axes.set(xlabel="target return", ylabel="achieved return", title="Target against achieved return")
    axes.legend(frameon=False, fontsize=8, loc="upper left", labelcolor=_INK)


def _draw_spread(axes: Axes, returns: Mapping[float, np.ndarray]) -> None:
    """One row per target: every episode as a dot, with the quartiles and the median."""
    generator = np.random.default_rng(0)
    for row, target in enumerate(sorted(returns)):
        values = returns[target]
        low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
        axes.plot([low, high], [row, row], color=_BLUE, lw=9, alpha=0.3, solid_capstyle="butt")
        axes.plot([median, median], [row - 0.2, row + 0.2], color=_INK, lw=2)
        axes.scatter(values, row + generator.uniform(-0.28, 0.28, len(values)), s=11, color=_BLUE, alpha=0.6, lw=0)
    axes.set_yticks(range(len(returns)), [f"{target:g}" for target in sorted(returns)])
    axes.set(xlabel="achieved return", ylabel="target return", title="Episodes, quartiles and median")


def _draw_histogram(axes: Axes, returns: np.ndarray, summary: Mapping[str, Any]) -> None:
    axes.hist(returns, bins="auto" if np.ptp(returns) else 1, color=_BLUE, alpha=0.55)
    if summary["confidence_interval"]:
        axes.axvspan(*summary["confidence_interval"], color=_INK, alpha=0.12, lw=0, label="95 % interval of the mean")
    axes.axvline(summary["mean_return"], color=_INK, lw=1.5, label=f"mean {summary['mean_return']:.1f}")
    axes.set(xlabel="achieved return", ylabel="episodes", title="Distribution of returns")
    axes.legend(frameon=False, fontsize=8, labelcolor=_INK)


def _style_axes(axes: Axes) -> None:
    """The style of the package's plots: no frame, a light grid, a small title on the left."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    axes.tick_params(colors=_INK, labelsize=9, color=_GREY)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    axes.set_title(axes.get_title(), fontsize=10, color=_INK, loc="left")
    axes.title.set_text("")
    axes.grid(alpha=0.25, lw=0.6)
    axes.set_axisbelow(True)


def _title(summary: Mapping[str, Any]) -> str:
    seeds = summary["seeds"]
    words = [summary["env_id"] or "environment", f"{summary['num_episodes']} episodes"]
    return ", ".join(words + ([f"seeds {seeds[0]} to {seeds[1]}"] if seeds else []))


def plot_episode(episode: RecordedEpisode, data_returns: tuple[float, float] | None = None) -> Figure:
    """Return-to-go and return so far by step; only the latter for an agent that is not conditioned on a return.

    Args:
        episode: What to draw.
        data_returns: The lowest and highest raw return of the training data; the range is shaded.
    """
    figure = Figure(figsize=(6.4, 4.6), layout="constrained", dpi=120)
    axes = figure.subplots()
    _draw_data(axes, data_returns)
    steps = np.arange(len(episode.rewards) + 1)
    if episode.returns_to_go is not None:
        asked = episode.returns_to_go
        axes.axhline(asked[0], color=_GREY, lw=1, ls="--", label=f"target {asked[0]:g}")
        axes.plot(steps[:-1], asked, color=_BLUE, lw=2, label="return-to-go: what is still asked for")
    so_far = np.concatenate([[0.0], np.cumsum(episode.rewards)])
    axes.plot(steps, so_far, color=_GREEN, lw=2, label="return so far")
    axes.plot(steps[-1], so_far[-1], "o", color=_GREEN, ms=6)
    axes.set(xlabel="step", ylabel="return (raw units)", xlim=(0, max(1.0, 1.03 * steps[-1])))
    axes.set_title(f"{episode.total_return:.4g} in {len(episode.rewards)} steps")
    axes.legend(frameon=False, fontsize=8, labelcolor=_INK, loc="best")
    _style_axes(axes)
    return figure


def _draw_data(axes: Axes, data_returns: tuple[float, float] | None) -> None:
    if data_returns is not None:
        axes.axhspan(*data_returns, color=_SAND, lw=0, label="returns in the data", zorder=0)


def plot_methods(
    rows: Mapping[str, tuple[float, float, float]], data_return: float | None, label: str, path: str | Path
) -> Path:
    """One line a method: what it achieves, with its bounds.

    Args:
        rows: Mean, lower and upper bound by the method's title, from the bottom to the top.
        data_return: Mean return of the policy behind the data, a dashed line.
        label: Of the axis of the values.
        path: Where to write; the suffix sets the format.
    """
    figure = Figure(figsize=(8.0, 1.2 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, (mean, low, high) in enumerate(rows.values()):
        axes.plot([low, high], [place, place], color=_BLUE, lw=6, alpha=0.3, solid_capstyle="butt")
        axes.plot(mean, place, "o", color=_BLUE, ms=6)
    if data_return is not None:
        axes.axvline(data_return, color=_GREY, lw=1, ls="--", label="policy behind the data")
        axes.legend(frameon=False, fontsize=8, labelcolor=_INK)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set(xlabel=label)
    _style_axes(axes)
    return _save(figure, path, 130)


def plot_losses(
    by_quantile: Sequence[Mapping[str, Any]],
    by_shift: Sequence[Mapping[str, Any]],
    uninformed_loss: float,
    unit: str,
    path: str | Path,
) -> Path:
    """The loss of held-out actions by quantiles of the episodes' returns, and the loss at other returns than the true one, with
    95 % bootstrap intervals.

    Args:
        by_quantile, by_shift: The rows of `OfflineJudgement.by_return_quantile()` and `by_return_shift()`.
        uninformed_loss: Of a guess that looks at nothing.
        unit: Of the losses.
        path: Where to write; the suffix sets the format.
    """
    figure = Figure(figsize=(10.5, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_quantiles(left, by_quantile, uninformed_loss, unit)
    _draw_shifts(right, by_shift, unit)
    for axes in (left, right):
        _style_axes(axes)
    return _save(figure, path, 110)


def _draw_quantiles(axes: Axes, rows: Sequence[Mapping[str, Any]], uninformed_loss: float, unit: str) -> None:
    losses = np.array([row["loss"] for row in rows])
    bounds = np.array([row["interval"] or 2 * (row["loss"],) for row in rows]).T
    axes.errorbar(range(len(rows)), losses, np.abs(bounds - losses), fmt="o", color=_BLUE, capsize=4)
    axes.axhline(uninformed_loss, ls="--", lw=1, color=_GREY, label="a guess that looks at nothing")
    names = [f"{row['lowest_return']:.4g}\n.. {row['highest_return']:.4g}" for row in rows]
    axes.set_xticks(range(len(rows)), names)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="return of the episode", ylabel=unit, title="Loss of held-out actions by return")
    axes.legend(frameon=False, fontsize=8, labelcolor=_INK)


def _draw_shifts(axes: Axes, rows: Sequence[Mapping[str, Any]], unit: str) -> None:
    shifts, differences = (np.array([row[name] for row in rows]) for name in ("return_shift", "difference"))
    bounds = np.array([row["interval"] or 2 * (row["difference"],) for row in rows]).T
    axes.errorbar(shifts, differences, np.abs(bounds - differences), fmt="o-", color=_BLUE, capsize=4)
    axes.axhline(0, lw=1, color=_GREY)
    axes.set(
        xlabel="return asked for, minus the return that came",
        ylabel=f"more loss ({unit})",
        title="Cost of asking for another return than the one that came",
    )


def _save(figure: Figure, path: str | Path, dpi: int) -> Path:
    with whole_file(path) as aside:
        figure.savefig(aside, dpi=dpi)
    return Path(path)
