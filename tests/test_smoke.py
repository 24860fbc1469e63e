"""Each family from data to a loaded agent: what is tried in an environment that holds other versions of the libraries."""

import numpy as np
import pytest
from transformers import TrainingArguments

from hf_seqrl import Agent, Judgement, rollout, train_agent
from hf_seqrl.models.registry import family_named, family_names

pytestmark = pytest.mark.smoke

SMALL = {
    "decision-transformer": {"context_length": 4, "hidden_size": 16, "n_layer": 1},
    "trajectory-transformer": {"num_bins": 10, "n_layer": 1, "n_head": 2, "n_embd": 16, "horizon": 2, "beam_width": 2},
    "trajectory-seq2seq": {"context_length": 4, "hidden_size": 16, "num_layers": 1, "num_attention_heads": 2},
    "policy-gradient": {"env_id": "CartPole-v1", "hidden_size": 16, "num_episodes": 8},
}


@pytest.mark.parametrize("name", family_names())
def test_trains_acts_saves_and_loads(name, cartpole_dataset, tmp_path):
    family = family_named(name)
    arguments = {"max_steps": 1, "logging_steps": 1, "per_device_train_batch_size": 4}
    arguments |= {"use_cpu": True, "disable_tqdm": True, "report_to": "none"}
    agent = train_agent(
        family,
        None if family.online else cartpole_dataset,
        family.options_class(**SMALL.get(name, {})),
        TrainingArguments(str(tmp_path), **family.training_defaults | arguments),
        judgement=Judgement("CartPole-v1", num_episodes=2, num_envs=2, seed=3, replay=False),
    )
    assert np.isfinite(agent.run.final_loss)
    loaded = Agent.from_pretrained(tmp_path)
    if family.make_actor is None:  # a critic values actions and takes none
        assert type(loaded.model) is family.model_class
        return
    again = rollout(loaded, loaded.env_id, 2, loaded.target_returns or None, num_envs=2, seed=3)
    np.testing.assert_array_equal(again.returns, agent.evaluation.returns)
