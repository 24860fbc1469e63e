"""An episode step by step: what was asked for, what came, and how it is drawn."""

import gymnasium
import numpy as np
import pytest

from hf_seqrl import collect
from hf_seqrl.evaluation.captions import captioned_frames
from hf_seqrl.evaluation.episode_plotting import plot_episode
from hf_seqrl.evaluation.watching import WatchedEpisode, watch_episode


class _Grey(gymnasium.Wrapper):
    """CartPole in pictures of one grey that counts the steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012
    render_mode = "rgb_array"
    grey = 0

    def step(self, action):
        self.grey += 1
        return self.env.step(action)

    def render(self):
        return np.full((40, 320, 3), self.grey, np.uint8)


class _Undrawable(_Grey):
    def render(self):
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed")


def _cartpole(wrapper):
    return wrapper(gymnasium.make("CartPole-v1"))


def test_what_is_still_asked_for_runs_down_by_what_came(tiny_agent):
    episode = watch_episode(tiny_agent, _cartpole(_Grey), target_return=120.0, seed=4)
    steps = len(episode.rewards)
    expected = collect(tiny_agent, "CartPole-v1", num_episodes=1, seed=4, target_return=120.0)["rewards"][0]
    assert episode.rewards.tolist() == expected
    np.testing.assert_array_equal(episode.returns_to_go, 120.0 - np.arange(steps))
    assert episode.terminated and episode.total_return == steps
    assert len(episode.frames) == steps + 1  # before each step, and the end


def test_with_a_discount_it_is_what_the_model_reads(tiny_agent):
    tiny_agent.processor.discount = 0.5
    asked = watch_episode(tiny_agent, _cartpole(_Undrawable), target_return=10.0).returns_to_go
    np.testing.assert_allclose(asked[:3], [10.0, 18.0, 34.0])  # (10 - 1) / 0.5, (18 - 1) / 0.5


def test_an_environment_that_cannot_be_drawn_is_played_all_the_same(tiny_agent):
    drawn, undrawn = (watch_episode(tiny_agent, _cartpole(kind), 50.0, seed=2) for kind in (_Grey, _Undrawable))
    assert undrawn.frames is None
    assert "DependencyNotInstalled: pygame is not installed" in undrawn.not_drawn_because
    np.testing.assert_array_equal(undrawn.rewards, drawn.rewards)


def _episode(returns_to_go):
    frames = np.random.default_rng(0).integers(0, 255, (4, 40, 320, 3), np.uint8)
    return WatchedEpisode(np.array([1.0, 2.0, 3.0]), returns_to_go, seed=0, terminated=True, frames=frames)


@pytest.mark.parametrize("asked", [np.array([6.0, 5.0, 3.0]), None])
def test_every_picture_gets_a_line_of_its_own_below(asked):
    frames = captioned_frames(_episode(asked))
    np.testing.assert_array_equal(frames[:, :40], _episode(asked).frames)
    assert frames.shape == (4, 60, 320, 3) and frames.dtype == np.uint8
    assert len({strip.tobytes() for strip in frames[:, 40:]}) == 4


def test_the_plot_shows_what_was_asked_for_only_where_something_was():
    def lines(episode):
        axes = plot_episode(episode, data_returns=(0.0, 8.0)).axes[0]
        return {line.get_label(): line.get_ydata() for line in axes.lines if not line.get_label().startswith("_")}

    both = lines(_episode(np.array([6.0, 5.0, 3.0])))
    assert set(both) == {"target 6", "return-to-go: what is still asked for", "return so far"}
    np.testing.assert_array_equal(both["return so far"], [0.0, 1.0, 3.0, 6.0])
    np.testing.assert_array_equal(both["return-to-go: what is still asked for"], [6.0, 5.0, 3.0])
    assert set(lines(_episode(None))) == {"return so far"}
