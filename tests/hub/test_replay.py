"""A film of an episode goes along with the agent, or a sentence that says why there is none."""

import gymnasium
import numpy as np
from PIL import Image

from hf_seqrl import Agent
from hf_seqrl.hub.folder import CARD_NAME
from hf_seqrl.hub.replay import REPLAY_NAMES, Replay


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


def test_where_nothing_can_be_drawn_the_card_says_why(tiny_agent, tmp_path):
    tiny_agent.record_replay(_Undrawable(gymnasium.make("CartPole-v1")))
    tiny_agent.save_pretrained(tmp_path / "agent")
    card = (tmp_path / "agent" / CARD_NAME).read_text()
    assert "There is no replay: the environment could not be drawn (DependencyNotInstalled" in card
    assert not [name for name in REPLAY_NAMES if (tmp_path / "agent" / name).exists()]
