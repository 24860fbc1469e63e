"""What a folder of somebody else's may hold: damage and mixtures are named, nothing runs, nothing leaves, memory is bounded."""

import json
import os
import shutil
import sys
import time

import pytest
import torch

from hf_seqrl import Agent, rollout
from hf_seqrl.cli.main import main
from hf_seqrl.hub.checkpoint import check_manifest, inside, write_manifest
from hf_seqrl.hub.run_record import RunRecord


@pytest.fixture
def folder(tiny_agent, tmp_path):
    tiny_agent.run = RunRecord("decision-transformer", seed=3)
    tiny_agent.evaluation = rollout(tiny_agent, "CartPole-v1", num_episodes=2)
    tiny_agent.save_pretrained(tmp_path / "agent")
    return tmp_path / "agent"


def edit(path, seal=True, **changes):
    """Changes a JSON file as an author may, who then also writes the manifest."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    if seal:
        write_manifest(path.parent)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "processor_config.json"])
@pytest.mark.parametrize("damage", ["changed", "missing", "of another agent"])
def test_a_mixture_and_a_damaged_agent_are_named(folder, tiny_agent, tmp_path, name, damage):
    if damage == "missing":
        (folder / name).unlink()
    elif damage == "changed":
        content = bytearray((folder / name).read_bytes())
        content[-3] ^= 1
        (folder / name).write_bytes(bytes(content))
    else:
        with torch.no_grad():
            next(tiny_agent.model.parameters()).add_(1.0)
        tiny_agent.model.config.max_ep_len = 777
        tiny_agent.processor.target_returns = [7.0]
        tiny_agent.run = tiny_agent.evaluation = None
        tiny_agent.save_pretrained(tmp_path / "other")
        shutil.copyfile(tmp_path / "other" / name, folder / name)
    with pytest.raises((ValueError, OSError), match=name.replace(".", r"\.")):
        Agent.from_pretrained(folder)


def test_weights_that_the_manifest_does_not_know_are_named(folder):
    shutil.copyfile(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"model-00001-of-00002\.safetensors belongs to another agent"):
        Agent.from_pretrained(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"family": 3}', b'{"returns": "x", "family": "y"}']
)
@pytest.mark.parametrize("name", ["evaluation.json", "training_run.json"])
@pytest.mark.parametrize("sealed", [False, True])
def test_a_damaged_record_only_warns(folder, name, content, sealed):
    (folder / name).write_bytes(content)
    if sealed:
        write_manifest(folder)
    if sealed and name == "training_run.json" and content.endswith(b'"y"}'):
        return  # a record, if a strange one
    with pytest.warns(UserWarning, match=f"{name} is left out"):
        agent = Agent.from_pretrained(folder)
    assert (agent.evaluation if name == "evaluation.json" else agent.run) is None


def test_a_folder_without_a_manifest_is_taken_as_it_is(folder):
    (folder / "manifest.json").unlink()
    edit(folder / "processor_config.json", seal=False, target_returns=[1.0])
    assert Agent.from_pretrained(folder).target_returns == [1.0]


def test_what_a_killed_writer_left_is_cleared_away_on_loading(folder):
    for name in (".hf_seqrl-0123abcd.partial", ".checkpoint-2.removed"):
        (folder / name).mkdir()
    (folder / ".hf_seqrl.lock").write_text("")
    Agent.from_pretrained(folder)
    assert not list(folder.glob(".*"))


def test_a_damaged_manifest_is_named(folder):
    (folder / "manifest.json").write_text("[1")
    with pytest.raises(ValueError, match=r"manifest.json is damaged"):
        Agent.from_pretrained(folder)
    assert check_manifest("here", lambda name: None) == set()


@pytest.fixture
def payload(tmp_path, monkeypatch):
    (tmp_path / "payload.py").write_text("raise SystemExit('code of a stranger ran')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield "payload:Env-v0"
    assert "payload" not in sys.modules


def test_an_environment_id_that_is_code_is_refused(folder, payload, capsys):
    edit(folder / "processor_config.json", env_id=payload, task={})
    with pytest.raises(ValueError, match=r"'payload:Env-v0'.*import 'payload'.*trust_remote_code=True"):
        Agent.from_pretrained(folder)
    for command in (["evaluate", str(folder)], ["push", str(folder), "me/it"], ["info", str(folder)]):
        assert main(command) == 1
        assert "trust_remote_code=True" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="code of a stranger ran"):
        Agent.from_pretrained(folder, trust_remote_code=True)


def test_a_module_that_is_imported_already_runs_nothing_new(folder):
    edit(folder / "processor_config.json", env_id="gymnasium:CartPole-v1")
    assert rollout(Agent.from_pretrained(folder), "CartPole-v1", num_episodes=1).num_episodes == 1


def test_an_agent_that_was_not_loaded_does_not_run_the_code_either(tiny_agent, payload):
    tiny_agent.processor.task = tiny_agent.processor.task.updated(env_id=payload)
    with pytest.raises(ValueError, match="trust_remote_code"):
        tiny_agent.record_replay()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_kernel_for_attention_is_refused(folder, key):
    edit(folder / "config.json", **{key: "stranger/kernel"})
    with pytest.raises(ValueError, match=r"the attention 'stranger/kernel'.*trust_remote_code=True"):
        Agent.from_pretrained(folder)


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        (
            "processor_config.json",
            "context_length",
            10**9,
            r"context_length is 1000000000.*limit of 16384.*size_limits",
        ),
        ("config.json", "n_layer", 10**8, "n_layer is 100000000.*limit of 512"),
        ("config.json", "hidden_size", 10**9, "hidden_size is 1000000000.*limit of 10000000"),
        ("config.json", "max_ep_len", 10**9, "max_ep_len is 1000000000"),
        ("config.json", "hidden_size", 2_000_000, "the number of parameters is .* beyond the limit"),
    ],
)
def test_sizes_are_bounded_before_memory_is_taken(folder, file, key, value, message):
    edit(folder / file, **{key: value})
    with pytest.raises(ValueError, match=message):
        Agent.from_pretrained(folder)


def test_a_limit_can_be_raised(folder):
    with pytest.raises(ValueError, match="context_length"):
        Agent.from_pretrained(folder, size_limits={"context_length": 3})
    assert Agent.from_pretrained(folder, size_limits={"context_length": 4}).processor.context_length == 4


def test_links_out_of_the_folder_are_not_followed(folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("-----BEGIN KEY-----")
    for name in ("replay.mp4", "README.md", "evaluation.json"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(secret)
    (folder / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="is a link out of its folder"):
        agent = Agent.from_pretrained(folder)
    assert agent.replay is None and agent.evaluation is None
    agent.save_pretrained(tmp_path / "copy")
    agent.save_pretrained(folder)
    assert secret.read_text() == "-----BEGIN KEY-----"
    written = [path for place in (tmp_path / "copy", folder) for path in place.rglob("*")]
    assert not any(
        b"BEGIN KEY" in path.read_bytes() for path in written if path.is_file() and path.name != "replay.mp4"
    )
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(tmp_path / "copy" / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors is a link out of its folder"):
        Agent.from_pretrained(folder)


def test_links_within_the_cache_of_the_hub_are_followed(tmp_path):
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_text("x")
    (snapshot / "config.json").symlink_to(blobs / "1")
    assert inside(snapshot, "config.json") == str(snapshot / "config.json")


def test_a_half_trained_agent_says_so(tiny_agent, tmp_path):
    tiny_agent.run = RunRecord("decision-transformer", updates=30, planned_updates=100)
    tiny_agent.save_pretrained(tmp_path / "agent")
    assert "**The training is not finished**" in (tmp_path / "agent" / "README.md").read_text()
    with pytest.warns(UserWarning, match="after 30 of 100 updates"):
        Agent.from_pretrained(tmp_path / "agent")


@pytest.mark.parametrize("name", ["agnet", "./agnet", "agnet/deep/er", "user/nmae"])
def test_a_mistyped_name_is_answered_at_once(folder, monkeypatch, name):
    monkeypatch.chdir(folder.parent)
    os.makedirs("user/name", exist_ok=True)
    began = time.process_time()
    with pytest.raises(FileNotFoundError, match=r"there is no agent at .* Did you mean '.*(agent|name)'"):
        Agent.from_pretrained(name)
    assert time.process_time() - began < 5
