"""What others left on the Hub before there were processors."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DecisionTransformerConfig, DecisionTransformerModel

from hf_seqrl import Agent, TrajectoryDiscretizer
from hf_seqrl.cli.main import main
from hf_seqrl.data.writing import dataset_from_episodes
from hf_seqrl.models.decision_transformer.legacy import legacy_processor
from hf_seqrl.models.registry import LegacyCheckpoint

# the numbers of edbeeching/decision-transformer-gym-hopper-expert, laid out as in its card
MEAN = """1.3490015,  -0.11208222, -0.5506444,  -0.13188992, -0.00378754,  2.6071432,
  0.02322114, -0.01626922, -0.06840388, -0.05183131,  0.04272673"""
STD = """0.15980862, 0.0446214,  0.14307782, 0.17629202, 0.5912333,  0.5899924, 1.5405099,
  0.8152689,  2.0173461,  2.4107876,  5.8440027 """
CARD = f"""---
tags:
- reinforcement-learning
---
# Decision Transformer model trained on expert trajectories sampled from the Gym Hopper environment

These coefficients are required to use this model:

mean = [ {MEAN}]

std = [{STD}]
"""
OLD_CONFIG = {
    "architectures": ["DecisionTransformerModel"],
    "model_type": "decision_transformer",
    "state_dim": 11,
    "act_dim": 3,
    "hidden_size": 16,
    "n_layer": 1,
    "n_head": 1,
    "n_inner": None,
    "n_positions": 1024,
    "max_ep_len": 1000,
    "max_length": 20,
    "action_tanh": True,
    "activation_function": "relu",
    "transformers_version": "4.18.0.dev0",
    "vocab_size": 1,
}


@pytest.fixture
def old_hopper(tmp_path):
    """A small checkpoint of the kind: old config, pickled weights with the buffers of an old GPT-2, and the card."""
    folder = tmp_path / "decision-transformer-gym-hopper-expert"
    folder.mkdir()
    torch.manual_seed(0)
    keys = {key: value for key, value in OLD_CONFIG.items() if key not in ("architectures", "max_length")}
    weights = DecisionTransformerModel(DecisionTransformerConfig(**keys)).state_dict()
    weights["encoder.h.0.attn.bias"] = torch.tril(torch.ones(1024, 1024, dtype=torch.uint8))[None, None]
    weights["encoder.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(OLD_CONFIG))
    (folder / "README.md").write_text(CARD)
    return folder


def _plan(agent):
    """The actions for two fixed observations, one after the other."""
    observations = np.random.default_rng(0).normal(size=(2, 1, 11))
    agent.reset(1, target_return=3600.0)
    actions = []
    for observation in observations:
        actions.append(agent.act(observation))
        agent.observe(np.ones(1), np.zeros(1, bool))
    return np.stack(actions)


def test_a_checkpoint_with_its_statistics_in_the_card_is_an_agent(old_hopper):
    agent = Agent.from_pretrained(old_hopper)
    assert agent.env_id == "Hopper-v5"
    assert agent.target_returns == [3600.0, 1800.0]
    processor = agent.processor
    assert (processor.return_scale, processor.context_length, processor.max_episode_steps) == (1000.0, 20, 1000)
    np.testing.assert_array_equal(processor.state_mean, np.array(MEAN.split(","), dtype=np.float32))
    np.testing.assert_array_equal(processor.state_std, np.array(STD.split(","), dtype=np.float32))
    assert _plan(agent).shape == (2, 1, 3)


def test_it_acts_as_the_published_loop_does(old_hopper):
    """The loop of the post "Introducing Decision Transformers on Hugging Face", with the stock model, for two steps."""
    model = DecisionTransformerModel.from_pretrained(old_hopper).eval()
    mean, std = (torch.tensor(np.array(text.split(","), dtype=np.float32)) for text in (MEAN, STD))
    observations = torch.tensor(np.random.default_rng(0).normal(size=(2, 11)), dtype=torch.float32)
    states = ((observations - mean) / std)[None]
    targets = torch.tensor([[[3.6], [3.599]]])  # one unit of reward was paid out
    actions, expected = torch.zeros(1, 2, 3), []
    for step in range(2):
        with torch.no_grad():
            output = model(
                states=states[:, : step + 1],
                actions=actions[:, : step + 1],
                rewards=torch.zeros(1, step + 1, 1),
                returns_to_go=targets[:, : step + 1],
                timesteps=torch.arange(step + 1)[None],
                attention_mask=torch.ones(1, step + 1),
            )
        actions[:, step] = output.action_preds[0, -1]
        expected.append(output.action_preds[0, -1].numpy())
    np.testing.assert_allclose(_plan(Agent.from_pretrained(old_hopper))[:, 0], expected, atol=1e-5)


def test_without_statistics_the_error_says_how_to_give_them(old_hopper):
    (old_hopper / "README.md").write_text(CARD.replace("std =", "deviation"))
    with pytest.raises(
        ValueError, match=r"no line 'std = \[\.\.\.\]'.*dataset=load_trajectories.*state_std=\[\.\.\.\]"
    ):
        Agent.from_pretrained(old_hopper)
    (old_hopper / "README.md").unlink()
    with pytest.raises(ValueError, match=r"no line 'mean = \[\.\.\.\]'"):
        Agent.from_pretrained(old_hopper)


def test_the_training_data_give_what_the_card_does_not(old_hopper):
    (old_hopper / "README.md").unlink()
    rng = np.random.default_rng(0)
    steps = {"observations": rng.normal(size=(9, 11)), "actions": rng.uniform(-1, 1, (9, 3)), "rewards": np.ones(9)}
    agent = Agent.from_pretrained(old_hopper, dataset=dataset_from_episodes([steps | {"dones": np.arange(9) == 8}]))
    np.testing.assert_allclose(agent.processor.state_mean, steps["observations"].mean(0), atol=1e-6)


@pytest.mark.parametrize("broken", [MEAN.replace("1.349", "__import__('os').abort()"), "1.0, 2.0", MEAN + ", nan"])
def test_what_is_no_list_of_numbers_is_refused(old_hopper, broken):
    (old_hopper / "README.md").write_text(CARD.replace(MEAN, broken))
    with pytest.raises(ValueError, match="expected 11 numbers, one for each entry of a state"):
        Agent.from_pretrained(old_hopper)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=9), st.sampled_from(["", "  ", "> ", "**"]))
def test_any_numbers_are_read_as_they_are_printed(values, before):
    card = f"Words.\n\n{before}mean = {values}\n{before}std = {[1.0] * len(values)}\n"
    config = {"state_dim": len(values), "act_dim": 2}
    processor = legacy_processor(LegacyCheckpoint("somebody/robot", config, card))
    np.testing.assert_array_equal(processor.state_mean, np.float32(values))
    assert processor.env_id is None


def test_the_environment_is_guessed_only_where_the_model_fits_it(old_hopper):
    elsewhere = old_hopper.parent / "decision-transformer-gym-walker2d-medium"
    shutil.copytree(old_hopper, elsewhere)
    assert Agent.from_pretrained(elsewhere).env_id == "Hopper-v5"  # a Walker2d has 17 entries; the card says Hopper
    (elsewhere / "README.md").write_text(CARD.replace("Hopper", "Walker2d"))
    assert Agent.from_pretrained(elsewhere).env_id is None


def test_one_command_makes_it_complete(old_hopper, tmp_path, capsys):
    before = _plan(Agent.from_pretrained(old_hopper))
    assert main(["convert", str(old_hopper), str(tmp_path / "hopper")]) == 0
    assert "Hopper-v5" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "hopper").iterdir()}
    assert names == {"README.md", "config.json", "manifest.json", "model.safetensors", "processor_config.json"}
    np.testing.assert_array_equal(_plan(Agent.from_pretrained(tmp_path / "hopper")), before)


class _Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('the pickle was executed')",)


def test_a_pickle_that_runs_code_is_refused_and_not_run(old_hopper):
    with open(old_hopper / "pytorch_model.bin", "wb") as file:
        pickle.dump({"predict_action.0.weight": _Bomb()}, file, protocol=2)
    with pytest.raises(ValueError, match="such a file can run any code: it was not loaded"):
        Agent.from_pretrained(old_hopper)


def _trajectories(observation_size):
    rng = np.random.default_rng(0)
    steps = {"observations": rng.normal(size=(60, observation_size)), "actions": rng.uniform(-1, 1, (60, 2))}
    return dataset_from_episodes([steps | {"rewards": rng.normal(size=60), "dones": np.arange(60) == 59}])


def test_a_trajectory_transformer_without_bins_says_how_to_fit_them(shared_fixture, tmp_path):
    folder = tmp_path / "trajectory-transformer"
    source = shared_fixture("trajectory_transformer", "hf_tiny")
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(
        ValueError, match=r"no discretizer.*dataset=load_trajectories.*TrajectoryDiscretizer\.from_dataset"
    ):
        Agent.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"observations of 5 entries.*trained on 3 and 2"):
        Agent.from_pretrained(folder, dataset=_trajectories(5))
    agent = Agent.from_pretrained(folder, dataset=_trajectories(3), horizon=2, beam_width=2)
    assert agent.processor.sequence_transitions == 6
    bins = TrajectoryDiscretizer.from_dataset(_trajectories(3), num_bins=20)
    assert torch.equal(agent.processor.discretizer.edges, bins.edges)
    agent.save_pretrained(tmp_path / "complete")
    complete = Agent.from_pretrained(tmp_path / "complete")
    ours = agent.model.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in complete.model.state_dict().items())


def test_other_families_name_the_processor_that_is_missing(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "policy_gradient"}')
    with pytest.raises(ValueError, match=r"no processor_config.json.*a PolicyGradientProcessor"):
        Agent.from_pretrained(tmp_path)
