"""The page where agents play: its functions, and over HTTP as a browser calls them."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from hf_seqrl import Agent, PolicyGradientModel
from hf_seqrl.cli.main import main
from hf_seqrl.data.spaces import space_to_dict
from hf_seqrl.hub.run_record import RunRecord
from hf_seqrl.hub.space import Player, load_players
from hf_seqrl.installation import install_command
from hf_seqrl.models.policy import PolicyGradientProcessor

SPACES = {
    "observation_space": space_to_dict(Box(-np.inf, np.inf, (4,))),
    "action_space": space_to_dict(Discrete(2)),
}


@pytest.fixture
def conditioned(tiny_agent):
    tiny_agent.run = RunRecord("decision-transformer", data={"return_min": 9.0, "return_max": 60.0})
    return Player("me/asked", "me/asked", tiny_agent, "CartPole-v1")


@pytest.fixture
def unconditioned():
    processor = PolicyGradientProcessor(**SPACES, env_id="CartPole-v1")
    return Player(
        "policy", "me/policy", Agent(PolicyGradientModel(processor.model_config()), processor), "CartPole-v1"
    )


def test_a_browser_chooses_and_plays(conditioned, unconditioned):
    from gradio_client import Client

    from hf_seqrl.hub.demo_page import LOOKS, page_of

    page = page_of([conditioned, unconditioned])
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, **LOOKS)
    try:
        client = Client(address, verbose=False, analytics_enabled=False)
        slider, about = client.predict("policy", api_name="/choose")
        assert slider["visible"] is False
        assert "asked for no return" in about
        film, plot, text = client.predict("me/asked", 40, 3, api_name="/play")
        assert _number_of_frames(film) > 4
        assert plot["plot"].startswith("data:image/")
        assert text.startswith("Asked for **40**, reached **")
        *_, text = client.predict("policy", 40, 3, api_name="/play")
        assert text.startswith("Reached **")
    finally:
        page.close()


def _number_of_frames(path):
    import imageio_ffmpeg

    return imageio_ffmpeg.count_frames_and_secs(path)[0]


def test_the_note_says_when_the_data_have_nothing_like_it(conditioned, tmp_path):
    from hf_seqrl.hub.demo_page import play_episode

    assert "Note" not in play_episode(conditioned, 30.0, 0, tmp_path / "film.mp4")[2]
    assert "from 9 to 60, and 75 lies outside" in play_episode(conditioned, 75.0, 0, tmp_path / "film.mp4")[2]


@pytest.mark.parametrize(
    ("data_returns", "targets", "expected"),
    [
        ((8.0, 500.0), [500.0, 200.0], (0.0, 623.0, 500.0, 1.0)),
        ((-200.0, -84.0), [-84.0], (-229.0, 0.0, -84.0, 0.1)),
        ((-20.0, 20.0), [], (-30.0, 30.0, 0.0, 0.1)),
    ],
)
def test_the_slider_reaches_a_little_beyond_the_data(conditioned, data_returns, targets, expected):
    from hf_seqrl.hub.demo_page import target_range

    low, high = data_returns
    conditioned.agent.run = RunRecord("decision-transformer", data={"return_min": low, "return_max": high})
    conditioned.agent.processor.target_returns = targets
    slider = target_range(conditioned)
    assert tuple(slider[name] for name in ("minimum", "maximum", "value", "step")) == pytest.approx(expected)


def test_an_agent_without_an_environment_or_with_one_that_is_not_here_is_named(tiny_agent, tmp_path):
    tiny_agent.processor.task = replace(tiny_agent.processor.task, env_id=None)
    tiny_agent.save_pretrained(tmp_path / "homeless")
    with pytest.raises(ValueError, match=r"homeless' does not name its environment: give the gymnasium id .*--env"):
        load_players([str(tmp_path / "homeless")])
    assert load_players([str(tmp_path / "homeless")], "CartPole-v1")[0].env_id == "CartPole-v1"
    with pytest.raises(ValueError, match=r"'Nowhere-v0'.*cannot be made here .* package that brings it"):
        load_players([str(tmp_path / "homeless")], "Nowhere-v0")
    (tmp_path / "other").mkdir()
    tiny_agent.save_pretrained(tmp_path / "other" / "homeless")
    with pytest.raises(ValueError, match="two agents are called 'homeless'"):
        load_players([str(tmp_path / "homeless"), str(tmp_path / "other" / "homeless")], "CartPole-v1")


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "hf_seqrl.hub.demo_page", raising=False)
    assert main(["demo", "me/agent"]) == 1
    assert install_command("demo") in capsys.readouterr().err
