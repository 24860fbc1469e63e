"""Agents' folders made to harm: links, odd safetensors, odd manifests, damaged and oversized JSON, words that break out of the card."""

import ast
import json
import os
import re
import shutil
import struct
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from hf_seqrl import Agent, rollout
from hf_seqrl.data.durable import sole_writer
from hf_seqrl.hub.checkpoint import write_manifest
from hf_seqrl.hub.run_record import RunRecord
from hf_seqrl.models.critic import CriticOptions
from hf_seqrl.models.critic import prepare as prepare_critic
from hf_seqrl.models.registry import family_named


@pytest.fixture
def folder(tiny_agent, tmp_path):
    """An agent as others publish it, without a manifest."""
    tiny_agent.run = RunRecord("decision-transformer", seed=3)
    tiny_agent.evaluation = rollout(tiny_agent, "CartPole-v1", num_episodes=2)
    tiny_agent.save_pretrained(tmp_path / "agent")
    (tmp_path / "agent" / "manifest.json").unlink()
    return tmp_path / "agent"


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def outside(tmp_path):
    """Files of the user's that must stay as they are."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "notes.txt").write_text("precious")
    (tmp_path / "home" / "config.json").write_text("{}")
    (tmp_path / "home" / "manifest.json").write_text('{"files": {"notes.txt": ""}}')
    before = sorted((path.name, path.read_bytes()) for path in (tmp_path / "home").iterdir())
    yield tmp_path / "home"
    assert sorted((path.name, path.read_bytes()) for path in (tmp_path / "home").iterdir()) == before


def test_a_lock_that_is_a_link_is_not_written_through(folder, outside):
    for make in (os.symlink, os.link):
        make(outside / "notes.txt", folder / ".hf_seqrl.lock")
        Agent.from_pretrained(folder)
        assert not (folder / ".hf_seqrl.lock").exists()
    os.symlink(folder / "nothing-there", folder / ".hf_seqrl.lock")
    with sole_writer(folder):
        assert not (folder / "nothing-there").exists()


def test_an_interrupted_update_that_is_a_link_moves_nothing(folder, outside):
    (folder / ".hf_seqrl-update").symlink_to(outside)
    with pytest.raises(ValueError, match=r"\.hf_seqrl-update is a link"):
        Agent.from_pretrained(folder)


def test_an_interrupted_update_brings_only_files_of_an_agent(folder):
    update = folder / ".hf_seqrl-update"
    shutil.copytree(folder, update)
    write_manifest(update)
    for name in (".git", "checkpoint-2"):
        (folder / name).mkdir()
        (folder / name / "mine").write_text("precious")
        (update / name).mkdir()
    Agent.from_pretrained(folder)
    assert [(folder / name / "mine").read_text() for name in (".git", "checkpoint-2")] == ["precious"] * 2
    assert not update.exists()


def test_leftovers_that_are_links_are_removed_and_not_what_they_point_to(folder, outside):
    (folder / ".hf_seqrl-01234567.partial").symlink_to(outside)
    (folder.parent / ".agent.01234567.partial").symlink_to(outside)
    (folder.parent / ".agent.01234567.former").symlink_to(outside)
    Agent.from_pretrained(folder)
    assert not list(folder.parent.glob(".agent*"))


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "model.safetensors", "evaluation.json"])
@pytest.mark.parametrize("kind", ["chain", "folder", "relative"])
def test_no_way_of_linking_leads_out(folder, tmp_path, name, kind):
    away = tmp_path / "away"
    shutil.copytree(folder, away)
    (folder / name).unlink()
    if kind == "chain":
        (folder / "inner").symlink_to(away / name)
        (folder / name).symlink_to("inner")
    elif kind == "folder":
        (folder / "inner").symlink_to(away)
        (folder / name).symlink_to(f"inner/{name}")
    else:
        (folder / name).symlink_to(f"../away/{name}")
    if name == "evaluation.json" and kind != "folder":
        with pytest.warns(UserWarning, match="is a link out of its folder"):
            assert Agent.from_pretrained(folder).evaluation is None
    else:
        with pytest.raises(ValueError, match=rf"({re.escape(name)}|inner/config.json) is a link out of its folder"):
            Agent.from_pretrained(folder)


def _header(entries, length=None, data=b""):
    text = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        _header({}, length=2**63),
        _header({}, length=0),
        _header(b"[]"),
        _header(b"{" * 100_000),
        _header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, data=b"\0" * 4),
        _header({"a": {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 4]}}, data=b"\0" * 4),
        _header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}),
        _header({"a": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}}, data=b"\0" * 4),
        _header({"__metadata__": {"format": 3}}),
        _header({"__metadata__": {"format": "pt"}}),
        _header({}, data=b"trailing"),
    ],
    ids=range(13),
)
def test_odd_safetensors_are_named(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"the weights of .*agent"):
        Agent.from_pretrained(folder)


@pytest.mark.parametrize("change", ["missing", "other shape"])
def test_weights_that_are_not_those_of_the_config_are_named(folder, change):
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("embed_state.weight"))
    if change == "missing":
        del tensors[name]
    else:
        tensors[name] = tensors[name][:1].contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"the weights of .*(embed_state\.weight|mismatched_sizes)"):
        Agent.from_pretrained(folder)


@pytest.mark.parametrize(
    "manifest",
    [
        '{"files": {"../home/notes.txt": "0"}}',
        '{"files": {"/etc/passwd": "0"}}',
        '{"files": {"model.safetensors": null}}',
        '{"files": {"config.json/": "0"}}',
        '{"files": {"\\u0000": "0"}}',
        '{"files": [["model.safetensors", 3]]}',
        '{"files": {}}',
        '{"files": 3}',
        "null",
        "[" * 100_000,
        '{"files": {"x": "0"}, "files": {"model.safetensors": "0"}}',
    ],
)
def test_odd_manifests_are_named(folder, outside, manifest):
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(ValueError, match=r"manifest\.json|is a link out of its folder"):
        Agent.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "processor_config.json"])
@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b'"x"', b"\xff\xfe{", b"[" * 100_000, b'{"a": 1' + b"0" * 5000 + b"}"]
)
def test_json_that_is_none_of_an_agent_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises((ValueError, OSError), match="agent"):
        Agent.from_pretrained(folder)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("processor_config.json", {"context_length": "4"}),
        ("processor_config.json", {"context_length": -1}),
        ("processor_config.json", {"context_length": 1e300}),
        ("processor_config.json", {"context_length": None}),
        ("processor_config.json", {"env_id": 3, "task": {}}),
        ("processor_config.json", {"env_id": ["payload:x"], "task": {}}),
        ("processor_config.json", {"state_mean": ["a", "b", "c", "d"]}),
        ("processor_config.json", {"target_returns": "many"}),
        ("processor_config.json", {"task": {"action_space": {"type": "Discrete", "n": 10**12}}}),
        ("processor_config.json", {"task": {"action_space": {"type": "os.system", "n": 2}}}),
        ("processor_config.json", {"task": 3}),
        ("config.json", {"hidden_size": 4096, "n_layer": 20}),
        ("config.json", {"hidden_size": "16"}),
        ("config.json", {"hidden_size": -16}),
        ("config.json", {"n_layer": [10**9]}),
        ("config.json", {"n_head": 0}),
        ("config.json", {"n_inner": 10**9}),
        ("config.json", {"model_type": ["decision_transformer"]}),
        ("config.json", {"model_type": "gpt2"}),
        ("config.json", {"activation_function": "__import__('os').system('true')"}),
        ("config.json", {"state_dim": 5}),
        ("config.json", {"dtype": "pickle"}),
    ],
)
def test_odd_values_are_named(folder, file, changes):
    edit(folder / file, **changes)
    with pytest.raises((ValueError, OSError), match="agent"):
        Agent.from_pretrained(folder).reset(1, 30.0)


@pytest.fixture
def guided(tiny_agent, cartpole_dataset, tmp_path):
    """An agent with a critic in a folder of its own, as others publish it, without a manifest."""
    made = prepare_critic(cartpole_dataset, CriticOptions(hidden_size=8))
    critic = Agent(made.model, made.processor)
    guided = Agent(tiny_agent.model, tiny_agent.processor, critic=critic, candidate_targets=[10.0, 20.0])
    guided.save_pretrained(tmp_path / "guided")
    (tmp_path / "guided" / "manifest.json").unlink()
    return tmp_path / "guided"


def test_the_critic_of_an_agent_names_no_code(guided):
    edit(guided / "critic" / "processor_config.json", env_id="payload:Env-v0")
    with pytest.raises(ValueError, match=r"names the environment 'payload:Env-v0'.*trust_remote_code"):
        Agent.from_pretrained(guided)


def test_the_critic_of_an_agent_is_no_link_out_of_its_folder(guided, tmp_path):
    (guided / "critic").rename(tmp_path / "elsewhere")
    (guided / "critic").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"critic/config\.json is a link out of its folder"):
        Agent.from_pretrained(guided)


@pytest.mark.parametrize(
    "text",
    [
        "[[[",
        "[]",
        '{"candidate_targets": "many"}',
        '{"candidate_targets": ["many", "more"]}',
        '{"candidate_targets": [1e400, 1]}',
        '{"candidate_targets": 3}',
        '{"candidate_actions": "many"}',
        '{"candidate_actions": 1000000000}',
    ],
)
def test_odd_candidates_of_an_agent_are_refused(guided, text):
    (guided / "critic" / "candidates_config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"{re.escape(str(guided))}.*critic/candidates_config\.json"):
        Agent.from_pretrained(guided)


def test_what_does_not_fit_an_agent_is_not_blamed_on_its_files(folder):
    with pytest.raises(ValueError, match=r"^candidate_targets and candidate_actions need a critic"):
        Agent.from_pretrained(folder, candidate_actions=3)
    with pytest.raises(TypeError, match="no_such_option"):
        Agent.from_pretrained(folder, no_such_option=3)


@pytest.mark.parametrize(
    ("kind", "options", "file", "changes"),
    [
        ("trajectory-transformer", {"n_embd": 8, "n_layer": 1, "n_head": 1}, "processor_config.json", changes)
        for changes in (
            {"planner_options": {"beam_width": "many"}},
            {"planner_options": {"horizon": True}},
            {"planner_options": {"discount": None}},
            {"planner_options": {"no_such_option": 1}},
            {"task": {"observation_space": {"type": "Box", "shape": 4}}},
        )
    ]
    + [
        ("cloning", {"hidden_size": 8}, "processor_config.json", {"task": "x"}),
        ("cloning", {"hidden_size": 8}, "processor_config.json", {"return_scale": 0}),
        ("cloning", {"hidden_size": 8}, "processor_config.json", {"target_returns": [float("nan")]}),
        ("decision-transformer", {"hidden_size": 8}, "processor_config.json", {"task": {"return_range": [1]}}),
        ("decision-transformer", {"hidden_size": 8}, "processor_config.json", {"task": {"max_episode_steps": 1e300}}),
        ("decision-transformer", {"hidden_size": 8}, "config.json", {"sliding_attention": 1.5}),
        ("decision-transformer", {"hidden_size": 8}, "config.json", {"n_head": -1}),
        ("trajectory-seq2seq", {"hidden_size": 16}, "config.json", {"num_attention_heads": -1}),
        ("trajectory-seq2seq", {"hidden_size": 16}, "config.json", {"model_type": {"a": 1}}),
    ],
)
def test_a_value_of_a_wrong_type_names_file_and_folder(cartpole_dataset, tmp_path, kind, options, file, changes):
    family = family_named(kind)
    made = family.prepare(cartpole_dataset, family.options_class(**options))
    Agent(made.model, made.processor).save_pretrained(tmp_path / "agent")
    (tmp_path / "agent" / "manifest.json").unlink()
    edit(tmp_path / "agent" / file, **changes)
    with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path / 'agent'))}.*{re.escape(file)}"):
        Agent.from_pretrained(tmp_path / "agent")


HOSTILE = "x`\n```\n# own heading\n<script>alert(1)</script> {{ 7 * 7 }} | [a](javascript:b)"


@pytest.mark.parametrize("where", ["names", "words", "units", "provenance", "run", "evaluation", "repository"])
def test_nothing_that_others_name_leaves_its_quotes_in_the_card(tiny_agent, tmp_path, where):
    agent, processor = tiny_agent, tiny_agent.processor
    agent.run = RunRecord("decision-transformer", seed=3)
    if where == "names":
        processor.task = processor.task.updated(observation_names=[HOSTILE + str(i) for i in range(4)])
    elif where == "words":
        processor.task = processor.task.updated(action_names=["a"], categories={"a": [HOSTILE, "b"]})
    elif where == "units":
        processor.task = processor.task.updated(action_names=["a"], units={"a": HOSTILE})
    elif where in ("provenance", "run"):
        agent.run = RunRecord(
            HOSTILE,
            command=HOSTILE,
            options={HOSTILE: HOSTILE},
            chosen=[HOSTILE],
            hyperparameters={HOSTILE: HOSTILE},
            machine=HOSTILE,
            data={
                "name": HOSTILE,
                "return_min": 0.0,
                "return_max": 1.0,
                "episodes": 1,
                "steps": 1,
                "return_mean": 0.5,
                "return_std": 0.1,
                "fingerprint": HOSTILE,
                "provenance": {HOSTILE: [HOSTILE]},
            },
        )
    elif where == "evaluation":
        agent.evaluation = replace(rollout(agent, "CartPole-v1", num_episodes=2), env_id=HOSTILE)
    agent.save_pretrained(tmp_path / "agent", repo_id=HOSTILE if where == "repository" else None)
    body = (tmp_path / "agent" / "README.md").read_text().split("---\n", 2)[2]
    prose = re.sub(r"(?ms)^(`{3,}).*?^\1$", "", body)
    prose = re.sub(r"(?s)(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", prose)
    assert "own heading" not in prose and "<script>" not in prose and "javascript:" not in prose
    assert "49" not in prose
    for block in re.findall(r"(?ms)^```python\n(.*?)^```$", body):
        ast.parse(block)
    Agent.from_pretrained(tmp_path / "agent")
