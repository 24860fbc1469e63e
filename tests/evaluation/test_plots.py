"""What the plot of an episode shows; those of a result and of a judgement are tested with these."""

import numpy as np

from hf_seqrl.evaluation.plots import plot_episode
from hf_seqrl.evaluation.video import RecordedEpisode


def _episode(returns_to_go):
    return RecordedEpisode(np.array([1.0, 2.0, 3.0]), returns_to_go, seed=0, terminated=True)


def test_the_plot_shows_what_was_asked_for_only_where_something_was():
    def lines(episode):
        axes = plot_episode(episode, data_returns=(0.0, 8.0)).axes[0]
        return {line.get_label(): line.get_ydata() for line in axes.lines if not line.get_label().startswith("_")}

    both = lines(_episode(np.array([6.0, 5.0, 3.0])))
    assert set(both) == {"target 6", "return-to-go: what is still asked for", "return so far"}
    np.testing.assert_array_equal(both["return so far"], [0.0, 1.0, 3.0, 6.0])
    np.testing.assert_array_equal(both["return-to-go: what is still asked for"], [6.0, 5.0, 3.0])
    assert set(lines(_episode(None))) == {"return so far"}
