"""Agents go to a Hub and come back, and others' work there is respected."""

import json
from threading import Thread

import numpy as np
import pytest
import torch
import yaml
from gymnasium.spaces import Box, Discrete
from huggingface_hub import HfApi, ModelCard, parse_eval_result_entries
from transformers import AutoModel, AutoProcessor, TrainingArguments

from hf_seqrl import Agent, TrajectorySeq2SeqModel, TrajectoryTransformerModel, collect, rollout
from hf_seqrl.cli.main import main
from hf_seqrl.data.spaces import space_to_dict
from hf_seqrl.hub.run_record import RunRecord
from hf_seqrl.models.policy import PolicyGradientModel, PolicyGradientProcessor
from hf_seqrl.models.registry import families, family_of
from hf_seqrl.models.trajectory_seq2seq.processing_trajectory_seq2seq import TrajectorySeq2SeqProcessor
from hf_seqrl.models.trajectory_transformer.processing_trajectory_transformer import TrajectoryTransformerProcessor
from hf_seqrl.training.trainer import TrajectoryTrainer

SPACES = {
    "env_id": "CartPole-v1",
    "observation_space": space_to_dict(Box(-np.inf, np.inf, (4,))),
    "action_space": space_to_dict(Discrete(2)),
}
FILES = {"README.md", "config.json", "manifest.json", "model.safetensors", "processor_config.json"}
RESULTS = {"results.json", "evaluation.json", "training_run.json", "target_returns.png"}


def _trajectory_transformer(dataset):
    options = {"horizon": 2, "beam_width": 2}
    processor = TrajectoryTransformerProcessor.from_dataset(dataset, num_bins=8, planner_options=options)
    return TrajectoryTransformerModel(processor.model_config(n_layer=1, n_head=2, n_embd=16)), processor


def _trajectory_seq2seq(dataset):
    processor = TrajectorySeq2SeqProcessor(**SPACES, context_length=3)
    config = processor.model_config(backbone="gru", hidden_size=16, num_attention_heads=2)
    return TrajectorySeq2SeqModel(config), processor


def _policy_gradient(dataset):
    processor = PolicyGradientProcessor(**SPACES)
    return PolicyGradientModel(processor.model_config()), processor


def _with_defaults(model_type):
    def make(dataset):
        family = family_of(model_type)
        processor = family.processor_class.from_dataset(dataset)
        return family.model_class(processor.model_config()), processor

    return make


@pytest.fixture
def make_agent(cartpole_dataset, tiny_agent):
    """`make_agent(model_type)`: an untrained agent for CartPole."""
    makers = {
        "trajectory_transformer": _trajectory_transformer,
        "trajectory_seq2seq": _trajectory_seq2seq,
        "policy_gradient": _policy_gradient,
        "policy": _with_defaults("policy"),
        "critic": _with_defaults("critic"),
    }

    def make(model_type):
        torch.manual_seed(0)
        return Agent(*makers[model_type](cartpole_dataset)) if model_type in makers else tiny_agent

    return make


def _play(agent):
    return collect(agent, "CartPole-v1", num_episodes=2, num_envs=2, seed=5, env_kwargs={"max_episode_steps": 5})


@pytest.mark.parametrize("model_type", sorted(families()))
def test_an_agent_comes_back_as_it_went(hub, make_agent, model_type):
    agent = make_agent(model_type)
    agent.push_to_hub(f"agent-{model_type}")  # the user's name goes without saying
    repo_id = f"tester/agent-{model_type}"
    repository = hub.repositories["model", repo_id]
    assert set(repository.files) >= FILES
    assert len(repository.commits) == 2  # that which made it, and one push
    loaded = Agent.from_pretrained(repo_id)
    ours = agent.model.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in loaded.model.state_dict().items())
    assert loaded.processor.to_dict() == agent.processor.to_dict()
    assert type(AutoProcessor.from_pretrained(repo_id)) is family_of(model_type).processor_class
    assert AutoModel.from_pretrained(repo_id).config.model_type == model_type


def test_results_and_the_way_to_them_travel_along(hub, tiny_agent):
    tiny_agent.evaluation = rollout(tiny_agent, "CartPole-v1", num_episodes=2, target_return=[120.0, 50.0])
    tiny_agent.run = RunRecord("decision-transformer", command="hf-seqrl train decision-transformer", seed=3)
    tiny_agent.push_to_hub("tester/judged")
    assert set(hub.repositories["model", "tester/judged"].files) == FILES | RESULTS
    tiny_agent.push_to_hub("tester/judged", benchmark="tester/suite:cartpole")
    reported = hub.repositories["model", "tester/judged"].files[".eval_results/hf-seqrl.yaml"]
    (entry,) = parse_eval_result_entries(yaml.safe_load(reported))
    assert entry.value == pytest.approx(tiny_agent.evaluation.by_target()[120.0].mean_return)
    tiny_agent.push_to_hub("tester/judged")  # no benchmark any more, so no claim that is left over
    assert set(hub.repositories["model", "tester/judged"].files) == FILES | RESULTS
    loaded = Agent.from_pretrained("tester/judged")
    np.testing.assert_array_equal(loaded.evaluation.returns, tiny_agent.evaluation.returns)
    assert loaded.run == tiny_agent.run
    info = HfApi().model_info("tester/judged")
    assert info.pipeline_tag == "reinforcement-learning"
    assert "CartPole-v1" in info.tags
    result = info.card_data.eval_results[0]
    assert (result.dataset_name, result.metric_type) == ("CartPole-v1", "mean_reward")
    assert (
        result.metric_value == f"{tiny_agent.evaluation.returns[:2].mean():.2f} +/- 0.00"
        or "+/-" in result.metric_value
    )


def test_results_of_the_former_weights_do_not_stay(hub, tiny_agent):
    theirs = {"results.json": b"{}", "replay.mp4": b"film", "pytorch_model.bin": b"old", "notes.txt": b"mine"}
    hub.put("model", "tester/again", theirs)
    tiny_agent.push_to_hub("tester/again")
    assert set(hub.repositories["model", "tester/again"].files) == FILES | {"notes.txt"}


def test_our_own_card_is_replaced_without_a_word(hub, tiny_agent, recwarn):
    tiny_agent.push_to_hub("tester/twice")
    tiny_agent.processor.target_returns = [77.0]
    tiny_agent.push_to_hub("tester/twice")
    files = hub.repositories["model", "tester/twice"].files
    assert b"target_return=77" in files["README.md"]
    assert set(files) == FILES
    assert not [one for one in recwarn if "card" in str(one.message)]


def test_an_edited_card_stays_and_the_new_one_stands_beside_it(hub, tiny_agent):
    tiny_agent.push_to_hub("tester/edited")
    repository = hub.repositories["model", "tester/edited"]
    edited = repository.files["README.md"].replace(b"## Limits", b"## What I found out\n\nIt falls over.\n\n## Limits")
    hub.put("model", "tester/edited", {"README.md": edited})
    with pytest.warns(UserWarning, match=r"card of tester/edited was edited by hand.*generated_card.md"):
        tiny_agent.push_to_hub("tester/edited")
    assert repository.files["README.md"] == edited
    assert b'Agent.from_pretrained("tester/edited")' in repository.files["generated_card.md"]


def test_a_new_repositorys_licence_is_taken_over(hub, tiny_agent):
    hub.put("model", "tester/licensed", {"README.md": b"---\nlicense: mit\n---\n"})
    tiny_agent.push_to_hub("tester/licensed")
    card = ModelCard(hub.repositories["model", "tester/licensed"].files["README.md"].decode())
    assert card.data.license == "mit"
    assert 'Agent.from_pretrained("tester/licensed")' in card.text
    tiny_agent.push_to_hub("tester/licensed")  # and it is no edit
    assert "generated_card.md" not in hub.repositories["model", "tester/licensed"].files


def _trainer(agent, dataset, folder, **arguments):
    from hf_seqrl import DecisionTransformerGymDataCollator, TrajectoryWindows

    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "remove_unused_columns": False}
    return TrajectoryTrainer(
        agent.model,
        TrainingArguments(str(folder), max_steps=1, per_device_train_batch_size=4, **quiet, **arguments),
        DecisionTransformerGymDataCollator(dataset, agent.processor),
        TrajectoryWindows(dataset, agent.processor),
        processing_class=agent.processor,
    )


def test_the_trainer_pushes_an_agent_with_its_card(hub, tiny_agent, cartpole_dataset, tmp_path):
    trainer = _trainer(tiny_agent, cartpole_dataset, tmp_path / "run", hub_model_id="tester/trained")
    trainer.train()
    trainer.push_to_hub()
    files = hub.repositories["model", "tester/trained"].files
    assert set(files) == FILES | {"training_run.json", "replay.mp4"}
    assert b'Agent.from_pretrained("tester/trained")' in files["README.md"]
    assert json.loads(files["training_run.json"])["updates"] == 1
    assert Agent.from_pretrained("tester/trained").run.updates == 1


def test_the_trainer_keeps_an_edited_card_too(hub, tiny_agent, cartpole_dataset, tmp_path):
    hub.put("model", "tester/kept", {"README.md": b"# Mine\n\nMy own words.\n"})
    trainer = _trainer(tiny_agent, cartpole_dataset, tmp_path / "run", hub_model_id="tester/kept")
    trainer.train()
    with pytest.warns(UserWarning, match="edited by hand"):
        trainer.push_to_hub(replay=False)
    files = hub.repositories["model", "tester/kept"].files
    assert files["README.md"] == b"# Mine\n\nMy own words.\n"
    assert b'Agent.from_pretrained("tester/kept")' in files["generated_card.md"]


def test_the_trainer_leaves_nothing_of_the_weights_before(hub, tiny_agent, cartpole_dataset, tmp_path):
    theirs = {"replay.gif": b"film", "evaluation.json": b"{}", "pytorch_model.bin": b"old", "notes.txt": b"mine"}
    hub.put("model", "tester/again", theirs)
    trainer = _trainer(tiny_agent, cartpole_dataset, tmp_path / "run", hub_model_id="tester/again")
    trainer.train()
    trainer.push_to_hub(replay=False)
    files = hub.repositories["model", "tester/again"].files
    assert set(files) == FILES | {"training_run.json", "notes.txt"}
    assert len(hub.repositories["model", "tester/again"].commits) == 3


def test_the_trainer_notices_that_another_pushed_meanwhile(hub, tiny_agent, cartpole_dataset, tmp_path):
    trainer = _trainer(tiny_agent, cartpole_dataset, tmp_path / "run", hub_model_id="tester/busy-trainer")
    trainer.train()
    trainer.push_to_hub(replay=False)
    repository = hub.repositories["model", "tester/busy-trainer"]
    with torch.no_grad():
        next(trainer.model.parameters()).add_(1)  # or there might be nothing to push
    hub.interrupt("POST", "/commit/", lambda: hub.put("model", "tester/busy-trainer", {"notes.txt": b"in between"}))
    with pytest.raises(OSError, match=r"somebody else pushed to tester/busy-trainer while .* nothing of this one"):
        trainer.push_to_hub("Mine", replay=False)
    assert "Mine" not in [commit.title for commit in repository.commits]
    trainer.push_to_hub("Again", blocking=False, replay=False).result()
    assert repository.commits[-1].title == "Again"
    assert repository.files["notes.txt"] == b"in between"


def test_a_replay_comes_along_from_one_repository_to_the_next(hub, tiny_agent):
    tiny_agent.record_replay()
    tiny_agent.push_to_hub("tester/filmed")
    film = hub.repositories["model", "tester/filmed"].files["replay.mp4"]
    Agent.from_pretrained("tester/filmed").push_to_hub("tester/filmed-again")
    files = hub.repositories["model", "tester/filmed-again"].files
    assert files["replay.mp4"] == film
    assert b"[replay.mp4](replay.mp4)" in files["README.md"]


def test_a_checkpoint_without_a_processor_is_an_agent_by_its_id_alone(hub, tiny_agent, tmp_path):
    tiny_agent.model.save_pretrained(tmp_path)
    card = b"# Decision Transformer\n\nmean = [0.0, 0.5, 0.0, 0.0]\n\nstd = [1.0, 2.0, 1.0, 1.0]\n"
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    hub.put("model", "somebody/decision-transformer-cartpole", files | {"README.md": card})
    agent = Agent.from_pretrained("somebody/decision-transformer-cartpole")
    assert agent.processor.state_mean.tolist() == [0.0, 0.5, 0.0, 0.0]
    assert agent.processor.state_std.tolist() == [1.0, 2.0, 1.0, 1.0]
    converted = tmp_path / "converted"
    command = ["convert", "somebody/decision-transformer-cartpole", str(converted), "--push", "tester/converted"]
    assert main(command) == 0
    assert set(hub.repositories["model", "tester/converted"].files) == FILES
    assert Agent.from_pretrained("tester/converted").processor.state_std.tolist() == [1.0, 2.0, 1.0, 1.0]


def test_the_command_pushes_what_a_folder_holds(hub, tiny_agent, tmp_path, capsys):
    tiny_agent.save_pretrained(tmp_path / "agent")
    (tmp_path / "agent" / "replay.gif").write_bytes(b"GIF89a of an episode")
    assert main(["push", str(tmp_path / "agent"), "tester/by-command", "--private"]) == 0
    assert "tester/by-command is at" in capsys.readouterr().out
    repository = hub.repositories["model", "tester/by-command"]
    assert repository.private
    assert repository.files["replay.gif"] == b"GIF89a of an episode"
    (tmp_path / "agent" / "replay.gif").write_bytes(b"GIF89a of another")
    hub.interrupt("POST", "/commit/", lambda: hub.put("model", "tester/by-command", {"notes.txt": b"in between"}))
    assert main(["push", str(tmp_path / "agent"), "tester/by-command"]) == 1
    assert "somebody else pushed to tester/by-command" in capsys.readouterr().err


def test_of_two_pushes_at_once_one_is_told(hub, tiny_agent):
    tiny_agent.push_to_hub("tester/busy")
    other = Agent(tiny_agent.model, tiny_agent.processor)

    def push_in_between():
        thread = Thread(target=other.push_to_hub, args=("tester/busy",), kwargs={"commit_message": "The other"})
        thread.start()
        thread.join()

    tiny_agent.processor.target_returns = [77.0]
    hub.interrupt("POST", r"/api/models/tester/busy/commit/main", push_in_between)
    with pytest.raises(OSError, match=r"somebody else pushed to tester/busy while .* nothing of this one is there"):
        tiny_agent.push_to_hub("tester/busy", commit_message="Mine")
    assert [commit.title for commit in hub.repositories["model", "tester/busy"].commits][2:] == ["The other"]
