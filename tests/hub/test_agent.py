import json
import os
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel, DecisionTransformerModel

from hf_seqrl import Agent, collect, rollout
from hf_seqrl.hub import checkpoint as checkpoint_module
from hf_seqrl.hub.checkpoint import weights_checksum
from hf_seqrl.hub.run_record import RunRecord

EVERYTHING = {
    "config.json",
    "model.safetensors",
    "processor_config.json",
    "README.md",
    "results.json",
    "evaluation.json",
    "training_run.json",
    "target_returns.png",
    "manifest.json",
}


def _play(agent):
    return collect(agent, "CartPole-v1", num_episodes=3, num_envs=3, seed=5)


@pytest.fixture
def evaluated(tiny_agent):
    tiny_agent.evaluation = rollout(tiny_agent, "CartPole-v1", num_episodes=3, target_return=[120.0, 50.0])
    tiny_agent.run = RunRecord("decision-transformer", command="hf-seqrl train decision-transformer", seed=3)
    return tiny_agent


def test_one_folder_holds_everything(evaluated, tmp_path):
    evaluated.save_pretrained(tmp_path / "agent")
    assert {path.name for path in (tmp_path / "agent").iterdir()} == EVERYTHING
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]


def test_a_loaded_agent_acts_as_the_saved_one_and_remembers_how_it_was_judged(evaluated, tmp_path):
    evaluated.save_pretrained(tmp_path / "agent")
    loaded = Agent.from_pretrained(tmp_path / "agent")
    assert _play(loaded).to_dict() == _play(evaluated).to_dict()
    assert loaded.target_returns == [120.0, 50.0]
    assert loaded.env_id == "CartPole-v1"
    np.testing.assert_array_equal(loaded.evaluation.returns, evaluated.evaluation.returns)
    assert loaded.run == evaluated.run


def test_plain_transformers_loads_the_same_folder(tiny_agent, tmp_path):
    tiny_agent.save_pretrained(tmp_path / "agent")
    plain = DecisionTransformerModel.from_pretrained(tmp_path / "agent")
    ours = tiny_agent.model.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in plain.state_dict().items())
    assert AutoModel.from_pretrained(tmp_path / "agent").config.model_type == "decision_transformer"


def test_results_are_those_that_leaderboards_read(evaluated, tmp_path):
    evaluated.save_pretrained(tmp_path / "agent")
    results = json.loads((tmp_path / "agent" / "results.json").read_text())
    asked_for_most = evaluated.evaluation.returns[:3]  # the default target was evaluated first
    assert set(results) == {
        "mean_reward",
        "std_reward",
        "is_deterministic",
        "n_eval_episodes",
        "eval_datetime",
        "environment",
    }
    assert results["mean_reward"] == asked_for_most.mean()
    assert results["std_reward"] == asked_for_most.std()
    assert results["n_eval_episodes"] == 3
    assert results["environment"] == "CartPole-v1"
    assert results["is_deterministic"] is True


def test_results_say_when_an_agent_draws_its_actions(evaluated, tmp_path):
    sampling = Agent(evaluated.model, evaluated.processor, temperature=1.0)
    sampling.save_pretrained(tmp_path / "agent", evaluated.evaluation)
    assert json.loads((tmp_path / "agent" / "results.json").read_text())["is_deterministic"] is False


def test_a_folder_without_processor_says_how_to_make_one(tiny_agent, cartpole_dataset, tmp_path):
    tiny_agent.model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"dataset=load_trajectories\(...\)"):
        Agent.from_pretrained(tmp_path)
    agent = Agent.from_pretrained(tmp_path, processor=tiny_agent.processor)
    assert _play(agent).to_dict() == _play(tiny_agent).to_dict()


def test_a_model_of_another_library_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="'bert' is none of hf_seqrl's"):
        Agent.from_pretrained(tmp_path)


def test_an_error_while_saving_leaves_the_former_agent_as_it_was(evaluated, tmp_path, monkeypatch):
    evaluated.save_pretrained(tmp_path / "agent")
    before = {path.name: path.read_bytes() for path in (tmp_path / "agent").iterdir()}
    monkeypatch.setattr(type(evaluated.processor), "save_pretrained", _full_disk)
    with pytest.raises(OSError, match="No space left"):
        evaluated.save_pretrained(tmp_path / "agent")
    assert {path.name: path.read_bytes() for path in (tmp_path / "agent").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]


def _full_disk(*_, **__):
    raise OSError("No space left on device")


@pytest.mark.parametrize("moves", range(5))
def test_a_process_that_dies_while_replacing_leaves_no_half_agent(tiny_agent, tmp_path, monkeypatch, moves):
    tiny_agent.save_pretrained(tmp_path / "agent")
    replace, done = os.replace, []

    def die_after(source, destination):
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(source)
        replace(source, destination)

    monkeypatch.setattr(checkpoint_module.os, "replace", die_after)
    with pytest.raises(KeyboardInterrupt):
        tiny_agent.save_pretrained(tmp_path / "agent")
    # other readers see the old agent or none, never a mixture
    under_way = (tmp_path / "agent" / ".hf_seqrl-update").exists()
    assert (tmp_path / "agent" / "config.json").exists() != under_way
    monkeypatch.undo()
    agent = Agent.from_pretrained(tmp_path / "agent")  # what was on the disk is completed
    assert weights_checksum(agent.model) == weights_checksum(tiny_agent.model)
    assert not list((tmp_path / "agent").glob(".*"))


def test_results_of_other_weights_do_not_stay_and_other_files_do(evaluated, tmp_path):
    evaluated.save_pretrained(tmp_path / "agent")
    (tmp_path / "agent" / "checkpoint-7").mkdir()
    (tmp_path / "agent" / "notes.txt").write_text("mine")
    evaluated.evaluation = evaluated.run = None
    evaluated.save_pretrained(tmp_path / "agent")
    kept = {path.name for path in (tmp_path / "agent").iterdir()}
    assert kept == {
        "config.json",
        "model.safetensors",
        "processor_config.json",
        "README.md",
        "manifest.json",
        "checkpoint-7",
        "notes.txt",
    }


def test_acting_options_reach_the_actor(tiny_agent):
    with pytest.raises(ValueError, match="temperature is -1"):
        Agent(tiny_agent.model, tiny_agent.processor, temperature=-1)


def test_an_agent_of_a_model_in_training_acts_without_dropout(tiny_agent):
    tiny_agent.model.train()
    first, second = _play(tiny_agent), _play(tiny_agent)
    assert first.to_dict() == second.to_dict()


def test_precision_and_device_are_those_asked_for(tiny_agent, tmp_path):
    tiny_agent.save_pretrained(tmp_path / "agent")
    agent = Agent.from_pretrained(tmp_path / "agent", device="cpu", dtype="bfloat16")
    assert {parameter.dtype for parameter in agent.model.parameters()} == {torch.bfloat16}


def test_a_moved_folder_still_loads(tiny_agent, tmp_path):
    tiny_agent.save_pretrained(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert Agent.from_pretrained(tmp_path / "there").env_id == "CartPole-v1"
