"""The processor speaks the environment's language on one side and the model's on the other."""

import json

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st

import hf_seqrl  # noqa: F401
from hf_seqrl.data.spaces import space_to_dict
from hf_seqrl.models.policy import PolicyGradientProcessor

ACTION_SPACES = [
    Discrete(3),
    Discrete(3, start=-1),
    MultiDiscrete([2, 3]),
    MultiDiscrete([[2, 3], [4, 5]]),
    Box(-2.0, 5.0, (2,)),
    Box(np.array([0, -1], np.float32), np.array([1, 1], np.float32)),
    Box(-np.inf, np.inf, (1, 2)),
]


@settings(max_examples=40, deadline=None)
@given(space=st.sampled_from(ACTION_SPACES), seed=st.integers(0, 1000))
def test_actions_survive_the_way_to_the_model_and_back(space, seed):
    space.seed(seed)
    actions = np.stack([space.sample() for _ in range(6)])
    processor = PolicyGradientProcessor(
        observation_space=space_to_dict(Box(-1, 1, (2,))), action_space=space_to_dict(space)
    )
    encoded = processor.encode_actions(actions)
    assert encoded.shape == (6, processor.model_config().action_size)
    decoded = processor.decode_actions(encoded)
    assert all(space.contains(action) for action in decoded)
    np.testing.assert_allclose(decoded, actions, atol=1e-5)


def test_box_actions_beyond_the_bounds_are_clipped():
    processor = PolicyGradientProcessor(action_space=space_to_dict(Box(-2.0, 4.0, (1,))))
    decoded = processor.decode_actions(processor.encode_actions(np.array([[9.0], [-9.0], [1.0]])))
    assert decoded.tolist() == [[4.0], [-2.0], [1.0]]


def test_checkpoints_of_earlier_versions_scale_actions_by_their_bounds(tmp_path):
    spaces = {
        "observation_space": space_to_dict(Box(-1, 1, (2,))),
        "action_space": space_to_dict(Box(-2.0, 4.0, (1,))),
    }
    flat = {"env_id": "Some-v0", **spaces, "observation_mean": [1.0, 2.0], "observation_std": [2.0, 0.5]}
    (tmp_path / "processor_config.json").write_text(json.dumps(flat | {"target_returns": [], "max_episode_steps": 7}))
    processor = PolicyGradientProcessor.from_pretrained(tmp_path)
    assert processor.decode_actions(np.array([[0.0], [-1.0], [0.5]])).tolist() == [[1.0], [-2.0], [2.5]]
    assert processor(np.array([[1.0, 3.0]]))["observations"].tolist() == [[0.0, 2.0]]
    assert (processor.task.env_id, processor.task.max_episode_steps) == ("Some-v0", 7)


def test_observations_of_a_random_policy_are_normalized():
    processor = PolicyGradientProcessor.from_env("CartPole-v1", num_steps=10_000)
    env = gymnasium.make("CartPole-v1")
    env.action_space.seed(5)
    observations = [env.reset(seed=5)[0]]
    for _ in range(10_000):
        observation, _, terminated, _, _ = env.step(env.action_space.sample())
        observations.append(env.reset()[0] if terminated else observation)
    encoded = processor(np.stack(observations))["observations"].numpy()
    np.testing.assert_allclose(encoded.mean(0), 0, atol=0.25)
    np.testing.assert_allclose(encoded.std(0), 1, atol=0.25)
    assert processor.max_episode_steps == 500 and processor.env_id == "CartPole-v1"


def test_an_entry_that_never_varies_stays_finite():
    processor = PolicyGradientProcessor.from_env("hf_seqrl/BicycleGrid-v0", {"terrain": "flat"})
    encoded = processor(np.array([[0, 0, 1, 0], [4, 4, 16_777_216, 1]], np.float32))["observations"]
    assert encoded.abs().max() <= 10


def test_discrete_observations_become_one_hot_vectors():
    space = space_to_dict(Discrete(4))
    processor = PolicyGradientProcessor(observation_space=space, action_space=space)
    assert processor(np.array([2, 0]))["observations"].tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert processor.model_config().observation_size == 4


def test_loaded_equals_saved(tmp_path):
    processor = PolicyGradientProcessor.from_env("hf_seqrl/BicycleGrid-v0", num_steps=300)
    processor.save_pretrained(tmp_path)
    loaded = PolicyGradientProcessor.from_pretrained(tmp_path)
    observations = np.array([[3, 1, 2, 0]], np.float32)
    assert loaded(observations)["observations"].tolist() == processor(observations)["observations"].tolist()
    assert loaded.model_config().to_dict() == processor.model_config().to_dict()
    assert (loaded.env_id, loaded.max_episode_steps, loaded.target_returns) == ("hf_seqrl/BicycleGrid-v0", 200, [])


def test_options_of_the_environment_reach_it():
    processor = PolicyGradientProcessor.from_env("hf_seqrl/BicycleGrid-v0", {"continuous_actions": True})
    assert processor.action_space["type"] == "Box"
    with pytest.raises(TypeError, match="unknown_option"):
        PolicyGradientProcessor.from_env("hf_seqrl/BicycleGrid-v0", {"unknown_option": 1})
