"""The page goes to a Hub as a Space."""

import pytest
from huggingface_hub import metadata_load

from hf_seqrl import Agent
from hf_seqrl.cli.main import main

FILES = {"README.md", "app.py", "requirements.txt"}


@pytest.fixture
def space(hub, tiny_agent, tmp_path):
    """A Space with one agent of the Hub and one of this disk."""
    tiny_agent.push_to_hub("tester/there")
    tiny_agent.save_pretrained(tmp_path / "here")
    assert main(["demo", "tester/there", str(tmp_path / "here"), "--push", "tester/watch", "--private"]) == 0
    return hub.repositories["space", "tester/watch"]


def test_a_space_holds_the_page_and_the_agents_that_are_nowhere_else(space, tmp_path, capsys):
    assert space.private and len(space.commits) == 2  # that which made it, and one push
    assert {name for name in space.files if "/" not in name} == FILES
    (tmp_path / "README.md").write_bytes(space.files["README.md"])
    assert metadata_load(tmp_path / "README.md")["models"] == ["tester/there"]
    assert b'"tester/there",' in space.files["app.py"] and b'"agents/here",' in space.files["app.py"]
    (tmp_path / "agent").mkdir()
    for name in ("config.json", "model.safetensors", "processor_config.json"):
        (tmp_path / "agent" / name).write_bytes(space.files[f"agents/here/{name}"])
    assert Agent.from_pretrained(tmp_path / "agent").env_id == "CartPole-v1"


def test_a_second_push_replaces_the_page_but_no_edited_card(hub, space):
    edited = space.files["README.md"].replace(b"It was made by", b"Mine. It was made by")
    hub.put("space", "tester/watch", {"README.md": edited, "notes.txt": b"mine"})
    with pytest.warns(UserWarning, match="edited by hand"):
        assert main(["demo", "tester/there", "--push", "tester/watch"]) == 0
    assert set(space.files) == FILES | {"notes.txt", "generated_card.md"}
    assert space.files["README.md"] == edited
    assert b"agents/here" not in space.files["app.py"]
