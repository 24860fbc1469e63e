"""A film of an episode goes along with the agent, or a sentence that says why there is none."""

import json
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from PIL import Image

from hf_seqrl import Agent, rollout
from hf_seqrl.hub.checkpoint import CARD_NAME
from hf_seqrl.hub.replay import REPLAY_NAMES, Replay, rollout_and_replay
from hf_seqrl.hub.run_record import RunRecord


class _Drawn(gymnasium.Wrapper):
    """CartPole whose pictures cost nothing: each is of one grey that counts the steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, environment):
        super().__init__(environment)
        self.steps = 0

    def step(self, action):
        self.steps += 1
        return self.env.step(action)

    def render(self):
        return np.full((16, 16, 3), self.steps, np.uint8)


class _Undrawable(_Drawn):
    def render(self):
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed")


def _film(folder):
    return next(folder / name for name in REPLAY_NAMES if (folder / name).exists())


def test_a_replay_goes_along_and_stays(tiny_agent, tmp_path):
    replay = tiny_agent.record_replay(_Drawn(gymnasium.make("CartPole-v1")))
    assert len(replay.frames) > 8
    tiny_agent.save_pretrained(tmp_path / "agent")
    film = _film(tmp_path / "agent")
    if film.suffix == ".gif":
        assert Image.open(film).size == (16, 16)
    assert f"[{film.name}]({film.name})" in (tmp_path / "agent" / CARD_NAME).read_text()
    loaded = Agent.from_pretrained(tmp_path / "agent")
    assert loaded.replay == Replay(file=film)
    loaded.save_pretrained(tmp_path / "copy")
    assert _film(tmp_path / "copy").read_bytes() == film.read_bytes()
    loaded.save_pretrained(tmp_path / "agent")  # in its own place, too
    assert _film(tmp_path / "agent").exists()


def test_a_replay_belongs_to_the_weights_that_played_it(tiny_agent, tmp_path):
    tiny_agent.run = RunRecord("decision-transformer", seed=3)
    tiny_agent.record_replay(_Drawn(gymnasium.make("CartPole-v1")))
    tiny_agent.evaluation = rollout(tiny_agent, "CartPole-v1", num_episodes=2)
    tiny_agent.save_pretrained(tmp_path / "agent")
    loaded = Agent.from_pretrained(tmp_path / "agent")
    with torch.no_grad():
        next(loaded.model.parameters()).add_(1.0)  # as a training does
    with pytest.warns(UserWarning, match="weights have changed since the agent's evaluation and run and replay were"):
        loaded.save_pretrained(tmp_path / "agent")
    left = {path.name for path in (tmp_path / "agent").iterdir()}
    assert left == {"README.md", "config.json", "manifest.json", "model.safetensors", "processor_config.json"}
    assert "These weights have not been evaluated" in (tmp_path / "agent" / CARD_NAME).read_text()


def test_results_keep_the_date_of_the_evaluation(tiny_agent, tmp_path):
    tiny_agent.evaluation = replace(
        rollout(tiny_agent, "CartPole-v1", num_episodes=2), finished_at="2001-02-03T04:05:06+00:00"
    )
    tiny_agent.save_pretrained(tmp_path / "agent")
    Agent.from_pretrained(tmp_path / "agent").save_pretrained(tmp_path / "copy")
    results = json.loads((tmp_path / "copy" / "results.json").read_text())
    assert results["eval_datetime"] == "2001-02-03T04:05:06+00:00"


def test_a_real_film_shows_the_cart_and_its_pole(tiny_agent, tmp_path):
    pytest.importorskip("pygame")
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    evaluation, tiny_agent.replay = rollout_and_replay(tiny_agent, "CartPole-v1", num_episodes=3, seed=6)
    tiny_agent.save_pretrained(tmp_path / "agent", evaluation)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "agent" / "replay.mp4"))
    width, height = next(reader)["size"]
    frames = np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]).astype(int)
    # 50 steps a second, shown at 25: one picture for two steps, and the end
    assert len(frames) == -(-evaluation.lengths[0] // 2) + 1
    assert (frames[0].mean(axis=-1) > 240).mean() > 0.9  # a white ground
    assert (frames[0].max(axis=-1) < 40).any()  # a black cart
    pole = (frames[..., 0] - frames[..., 2]) > 60  # brown
    assert pole.any(axis=(1, 2)).all()
    places = [np.argwhere(one).mean(axis=0)[1] for one in pole]
    assert np.ptp(places) > 3  # it falls


def test_an_evaluation_whose_environment_cannot_be_drawn_is_the_same(tiny_agent):
    drawn, film = rollout_and_replay(tiny_agent, lambda: _Drawn(gymnasium.make("CartPole-v1")), num_episodes=3)
    undrawn, none = rollout_and_replay(tiny_agent, lambda: _Undrawable(gymnasium.make("CartPole-v1")), num_episodes=3)
    np.testing.assert_array_equal(drawn.returns, undrawn.returns)
    assert len(film.frames) == drawn.lengths[0] + 1
    assert "DependencyNotInstalled: pygame is not installed" in none.missing_because


def test_where_nothing_can_be_drawn_the_card_says_why(tiny_agent, tmp_path):
    tiny_agent.record_replay(_Undrawable(gymnasium.make("CartPole-v1")))
    tiny_agent.save_pretrained(tmp_path / "agent")
    card = (tmp_path / "agent" / CARD_NAME).read_text()
    assert "There is no replay: the environment could not be drawn (DependencyNotInstalled" in card
    assert not [name for name in REPLAY_NAMES if (tmp_path / "agent" / name).exists()]
