"""Frames, and what they become."""

import importlib.util

import gymnasium
import numpy as np
import pytest
from PIL import Image, ImageSequence
from scripted_episodes import ScriptedEpisodes, length_of

from hf_seqrl import Agent, collect
from hf_seqrl.evaluation import video
from hf_seqrl.evaluation.rollout import rollout
from hf_seqrl.evaluation.video import RecordedEpisode, captioned_frames, record_episode, write_video

HAS_ENCODER = importlib.util.find_spec("imageio_ffmpeg") is not None


def zeros(observations):
    return np.zeros(len(observations), np.int64)


def make():
    return ScriptedEpisodes(render_mode="rgb_array")


@pytest.mark.parametrize("num_envs", [1, 2, 5])
def test_the_first_episodes_are_recorded_from_reset_to_end(num_envs):
    result = rollout(zeros, make, num_episodes=5, num_envs=num_envs, seed=2, record_frames=3)
    for seed, frames in zip((2, 3, 4), result.frames, strict=True):
        assert frames.shape == (length_of(seed) + 1, 6, 8, 3)
        assert (frames[..., 0] == seed).all()
        assert frames[:, 0, 0, 1].tolist() == list(range(length_of(seed) + 1))


def test_fast_environments_are_shown_at_30_frames_a_second(monkeypatch):
    monkeypatch.setitem(ScriptedEpisodes.metadata, "render_fps", 90)
    result = rollout(zeros, make, num_episodes=1, seed=6, record_frames=1)
    assert result.frames_per_second == 30
    assert result.frames[0][:, 0, 0, 1].tolist() == [0, 3, 6, 7]


def test_an_id_is_made_with_the_right_render_mode():
    result = rollout("random", "hf_seqrl/BicycleGrid-v0", num_episodes=2, record_frames=1, max_episode_steps=4)
    assert len(result.frames) == 1 and result.frames[0].shape[-1] == 3


def test_an_environment_that_renders_nothing():
    with pytest.raises(ValueError, match='render_mode="rgb_array"'):
        rollout(zeros, ScriptedEpisodes, num_episodes=1, record_frames=1)


def test_nothing_is_recorded_unless_asked():
    result = rollout(zeros, make, num_episodes=1)
    assert result.frames == ()
    with pytest.raises(ValueError, match="record_frames=1"):
        result.save_video("replay.mp4")


def moving_square(count=8, height=31, width=45):
    frames = np.zeros((count, height, width, 3), np.uint8)
    for k in range(count):
        frames[k, 5:20, 3 * k : 3 * k + 15] = (250, 200, 10)
    return frames


def test_gif_holds_the_frames(tmp_path):
    path = write_video(moving_square(), tmp_path / "deep" / "replay.gif", 25)
    with Image.open(path) as image:
        shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
        assert image.info["duration"] == 40 and image.info["loop"] == 0
    np.testing.assert_allclose(np.stack(shown), moving_square(), atol=8)


def test_without_an_encoder_a_gif_is_written_and_said_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(video, "find_spec", lambda name: None)
    result = rollout(zeros, make, num_episodes=2, seed=2, record_frames=2)
    path = result.save_video(tmp_path / "replay.mp4")
    assert path == tmp_path / "replay.gif"
    assert 'pip install "imageio[ffmpeg]"' in caplog.text
    with Image.open(path) as image:
        assert image.n_frames == length_of(2) + length_of(3) + 2


@pytest.mark.skipif(not HAS_ENCODER, reason="needs imageio-ffmpeg")
def test_mp4_holds_the_frames(tmp_path):
    import imageio_ffmpeg

    path = write_video(moving_square(count=20), tmp_path / "replay.mp4", 10)
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    shown = [np.frombuffer(frame, np.uint8) for frame in reader]
    assert (about["size"], about["fps"], len(shown)) == ((44, 30), 10.0, 20)
    assert np.abs(shown[3].reshape(30, 44, 3).astype(int) - moving_square(20)[3, :30, :44]).mean() < 12


@pytest.mark.parametrize(
    ("frames", "name", "message"),
    [
        (moving_square(), "replay.avi", ".mp4 or .gif"),
        (moving_square()[..., :2], "replay.gif", "uint8"),
        (moving_square().astype(float), "replay.gif", "float64"),
        (moving_square()[:0], "replay.gif", r"\(0, 31"),
    ],
)
def test_what_is_no_video(tmp_path, frames, name, message):
    with pytest.raises(ValueError, match=message):
        write_video(frames, tmp_path / name, 30)


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
    episode = record_episode(tiny_agent, _cartpole(_Grey), target_return=120.0, seed=4)
    steps = len(episode.rewards)
    expected = collect(tiny_agent, "CartPole-v1", num_episodes=1, seed=4, target_return=120.0)["rewards"][0]
    assert episode.rewards.tolist() == expected
    np.testing.assert_array_equal(episode.returns_to_go, 120.0 - np.arange(steps))
    assert episode.terminated and episode.total_return == steps
    assert len(episode.frames) == steps + 1  # before each step, and the end


def test_with_a_discount_it_is_what_the_model_reads(tiny_agent):
    tiny_agent.processor.discount = 0.5
    discounting = Agent(tiny_agent.model, tiny_agent.processor)
    with pytest.warns(UserWarning, match="return-to-go of environment 0 has grown"):
        asked = record_episode(discounting, _cartpole(_Undrawable), target_return=10.0).returns_to_go
    np.testing.assert_allclose(asked[:3], [10.0, 18.0, 34.0])  # (10 - 1) / 0.5, (18 - 1) / 0.5


def test_an_environment_that_cannot_be_drawn_is_played_all_the_same(tiny_agent):
    drawn, undrawn = (record_episode(tiny_agent, _cartpole(kind), 50.0, seed=2) for kind in (_Grey, _Undrawable))
    assert undrawn.frames is None
    assert "DependencyNotInstalled: pygame is not installed" in undrawn.not_drawn_because
    np.testing.assert_array_equal(undrawn.rewards, drawn.rewards)


def _episode(returns_to_go):
    frames = np.random.default_rng(0).integers(0, 255, (4, 40, 320, 3), np.uint8)
    return RecordedEpisode(np.array([1.0, 2.0, 3.0]), returns_to_go, seed=0, terminated=True, frames=frames)


@pytest.mark.parametrize("asked", [np.array([6.0, 5.0, 3.0]), None])
def test_every_picture_gets_a_line_of_its_own_below(asked):
    frames = captioned_frames(_episode(asked))
    np.testing.assert_array_equal(frames[:, :40], _episode(asked).frames)
    assert frames.shape == (4, 60, 320, 3) and frames.dtype == np.uint8
    assert len({strip.tobytes() for strip in frames[:, 40:]}) == 4
