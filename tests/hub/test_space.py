"""The page as the folder of a Space."""

import runpy

import pytest
from huggingface_hub import SpaceCard, metadata_load

from hf_seqrl.cli.main import main
from hf_seqrl.hub.space import Player, write_space
from hf_seqrl.installation import requirement


@pytest.fixture
def folder_of_agent(tiny_agent, tmp_path):
    tiny_agent.save_pretrained(tmp_path / "my-agent")
    return str(tmp_path / "my-agent")


def test_the_folder_is_a_space_that_builds_its_page(folder_of_agent, tmp_path, monkeypatch, capsys):
    space = tmp_path / "space"
    assert main(["demo", folder_of_agent, "--space", str(space)]) == 0
    assert str(space) in capsys.readouterr().out
    facts = metadata_load(space / "README.md")
    assert (facts["sdk"], facts["app_file"]) == ("gradio", "app.py")
    assert facts["sdk_version"] == __import__("gradio").__version__
    assert (space / "requirements.txt").read_text() == f"{requirement('demo')}\n"
    monkeypatch.chdir(space)  # the agent of this disk went along
    page = runpy.run_path("app.py")["demo"]
    assert {function.api_name for function in page.fns.values()} == {"choose", "play"}


def test_agents_on_the_hub_are_named_and_stay_there(tiny_agent, tmp_path):
    write_space([Player("me/walker", "me/walker", tiny_agent, "Hopper-v5")], tmp_path / "space")
    assert SpaceCard.load(tmp_path / "space" / "README.md").data.models == ["me/walker"]
    assert not (tmp_path / "space" / "agents").exists()
    app = (tmp_path / "space" / "app.py").read_text()
    assert '"me/walker",' in app
    assert 'env_id="Hopper-v5"' in app  # it was trained elsewhere
    assert "MUJOCO_GL" in app
    assert (tmp_path / "space" / "packages.txt").read_text() == "libosmesa6\n"


def test_what_is_there_is_not_replaced(tiny_agent, tmp_path):
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "app.py").write_text("mine")
    with pytest.raises(FileExistsError, match="exists already"):
        write_space([Player("me/a", "me/a", tiny_agent, "CartPole-v1")], tmp_path / "space")
    assert [path.name for path in tmp_path.iterdir()] == ["space"]
    assert (tmp_path / "space" / "app.py").read_text() == "mine"
