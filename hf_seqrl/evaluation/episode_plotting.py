"""A watched episode as a picture: what was still asked for runs down while the return so far grows."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_seqrl.evaluation.plotting import BLUE, GREY, INK, SAND, style_axes
from hf_seqrl.evaluation.watching import WatchedEpisode

_GREEN = "#2f855a"


def plot_episode(episode: WatchedEpisode, data_returns: tuple[float, float] | None = None) -> Figure:
    """Return-to-go and return so far against the step; for an agent that is asked for nothing the latter alone.

    Args:
        episode: What to draw.
        data_returns: The lowest and the highest raw return of the training data; the range is shaded.
    """
    figure = Figure(figsize=(6.4, 4.6), layout="constrained", dpi=120)
    axes = figure.subplots()
    _draw_data(axes, data_returns)
    steps = np.arange(len(episode.rewards) + 1)
    if episode.returns_to_go is not None:
        asked = episode.returns_to_go
        axes.axhline(asked[0], color=GREY, lw=1, ls="--", label=f"target {asked[0]:g}")
        axes.plot(steps[:-1], asked, color=BLUE, lw=2, label="return-to-go: what is still asked for")
    so_far = np.concatenate([[0.0], np.cumsum(episode.rewards)])
    axes.plot(steps, so_far, color=_GREEN, lw=2, label="return so far")
    axes.plot(steps[-1], so_far[-1], "o", color=_GREEN, ms=6)
    axes.set(xlabel="step", ylabel="return (raw units)", xlim=(0, max(1.0, 1.03 * steps[-1])))
    axes.set_title(f"{episode.total_return:.4g} in {len(episode.rewards)} steps")
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="best")
    style_axes(axes)
    return figure


def _draw_data(axes: Axes, data_returns: tuple[float, float] | None) -> None:
    if data_returns is not None:
        axes.axhspan(*data_returns, color=SAND, lw=0, label="returns in the data", zorder=0)
