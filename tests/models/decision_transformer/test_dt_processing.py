"""`DecisionTransformerProcessor` against NumPy, and its round trip."""

import numpy as np
import pytest
from datasets import Dataset
from gymnasium.spaces import Box, Discrete
from transformers import AutoProcessor

from hf_seqrl import DecisionTransformerProcessor, TrainableDT
from hf_seqrl.data.metadata import TrajectoryMetadata, with_metadata
from hf_seqrl.data.spaces import space_to_dict
from hf_seqrl.data.statistics import return_scaling


def test_statistics_are_those_of_all_steps(episodes):
    dataset = episodes()
    processor = DecisionTransformerProcessor.from_dataset(dataset)
    states = np.concatenate([np.asarray(row) for row in dataset["observations"]])
    np.testing.assert_allclose(processor.state_mean, states.mean(0), rtol=1e-6)
    np.testing.assert_allclose(processor.state_std, states.std(0), rtol=1e-6)
    normalized = processor.normalize_states(states.astype(np.float32))
    np.testing.assert_allclose(normalized.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(normalized.std(0), 1, atol=1e-5)


def test_targets_and_scale_come_from_the_returns(episodes):
    dataset = episodes(lengths=(30, 4, 11))
    returns = sorted(sum(row) for row in dataset["rewards"])
    processor = DecisionTransformerProcessor.from_dataset(dataset)
    np.testing.assert_allclose(processor.target_returns, [returns[2], returns[1]], rtol=1e-5)
    scaling = return_scaling(np.array(returns), np.arange(4))
    np.testing.assert_allclose([processor.return_shift, processor.return_scale], scaling, rtol=1e-5)


@pytest.mark.parametrize(
    ("reward", "scale"), [(12000.0, 1000.0), (500.0, 100.0), (-200.0, 100.0), (0.5, 0.1), (0.0, 1.0)]
)
def test_default_return_scale(reward, scale):
    dataset = Dataset.from_dict(
        {
            "observations": [[[0.0], [1.0]]],
            "actions": [[[0.0], [1.0]]],
            "rewards": [[0.0, reward]],
            "dones": [[False, True]],
        }
    )
    assert DecisionTransformerProcessor.from_dataset(dataset).return_scale == pytest.approx(scale)


def test_round_trip_is_exact(episodes, tmp_path):
    processor = DecisionTransformerProcessor.from_dataset(episodes(actions=4), env_id="Mine-v0", discount=0.99)
    processor.save_pretrained(tmp_path)
    loaded = DecisionTransformerProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.state_mean.dtype == np.float32 and np.array_equal(loaded.state_mean, processor.state_mean)
    assert np.array_equal(loaded.state_std, processor.state_std)


def test_auto_processor_finds_it_in_a_folder_with_the_model(episodes, tmp_path):
    processor = DecisionTransformerProcessor.from_dataset(episodes())
    TrainableDT(processor.model_config(hidden_size=8, n_layer=1)).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is DecisionTransformerProcessor


def test_the_metadata_of_the_data_set_is_taken_over(episodes):
    space = space_to_dict(Box(-1, 1, (3,)))
    metadata = TrajectoryMetadata(
        env_id="Mine-v0", action_space=space, observation_space=space_to_dict(Box(-9, 9, (5,))), max_episode_steps=77
    )
    processor = DecisionTransformerProcessor.from_dataset(with_metadata(episodes(), metadata))
    assert (processor.env_id, processor.max_episode_steps) == ("Mine-v0", 77)
    config = processor.model_config(hidden_size=16)
    assert (config.state_dim, config.act_dim, config.max_ep_len, config.hidden_size) == (5, 3, 77, 16)
    assert config.action_tanh and config.action_groups is None


def test_spaces_come_from_the_environment_where_the_data_set_has_none():
    row = {
        "observations": [[[0.0] * 4] * 3],
        "actions": [[0, 0, 0]],
        "rewards": [[1.0] * 3],
        "dones": [[False, False, True]],
    }
    processor = DecisionTransformerProcessor.from_dataset(Dataset.from_dict(row), env_id="CartPole-v1")
    assert processor.action_space == space_to_dict(Discrete(2)) and processor.max_episode_steps == 500
    config = processor.model_config()
    assert (config.act_dim, config.action_groups, config.action_tanh) == (2, [2], False)


def test_an_environment_of_other_sizes_is_refused(episodes):
    with pytest.raises(ValueError, match=r"'observations' has steps of shape \(5,\), the space of CartPole-v1"):
        DecisionTransformerProcessor.from_dataset(episodes(), env_id="CartPole-v1")


def test_tanh_bounds_only_actions_between_minus_one_and_one(episodes):
    metadata = TrajectoryMetadata(
        action_space=space_to_dict(Box(-2, 2, (3,))), observation_space=space_to_dict(Box(-9, 9, (5,)))
    )
    scaled = DecisionTransformerProcessor.from_dataset(with_metadata(episodes(), metadata))
    assert scaled.action_scale.tolist() == [2.0] * 3 and scaled.model_config().action_tanh
    spaces = {"action_space": metadata.action_space, "observation_space": metadata.observation_space}
    assert not DecisionTransformerProcessor(**spaces).model_config().action_tanh  # an old checkpoint, in raw units


@pytest.mark.parametrize(("shape", "image_shape"), [((12, 10, 3), [3, 12, 10]), ((4, 36, 36), [4, 36, 36])])
def test_images_stay_bytes_with_their_channels_in_front(shape, image_shape):
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    processor = DecisionTransformerProcessor(
        observation_space=space_to_dict(Box(0, 255, shape, np.uint8)), action_space=space_to_dict(Discrete(2))
    )
    states = processor.normalize_states(images)
    assert list(states.shape[1:]) == image_shape == processor.image_shape and states.dtype == np.uint8
    assert states[1, 2, 4, 5] == (images[1, 4, 5, 2] if image_shape[0] == 3 else images[1, 2, 4, 5])
    assert processor.model_config().state_dim == processor.state_dim


def test_behavior_cloning_reads_zeros_for_returns():
    assert (DecisionTransformerProcessor(conditioning="none").scale_returns(np.array([3.0, 4.0])) == 0).all()


@pytest.mark.parametrize(
    "arguments", [{"return_scale": 0}, {"context_length": 0}, {"conditioning": "yes"}, {"discount": 1.5}]
)
def test_values_out_of_range_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=name):
        DecisionTransformerProcessor(**arguments)


def test_behavior_cloning_is_asked_for_nothing(episodes):
    processor = DecisionTransformerProcessor.from_dataset(episodes(), conditioning="none")
    assert processor.target_returns == []
