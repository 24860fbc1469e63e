"""The processor: saved with its discretizer, found by the Auto classes, exact where a dimension is discrete."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from datasets import Dataset
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from transformers import AutoModel, AutoProcessor

import hf_seqrl
from hf_seqrl import TrajectoryTransformerModel
from hf_seqrl.data.spaces import space_to_dict
from hf_seqrl.models.trajectory_transformer.processing_trajectory_transformer import TrajectoryTransformerProcessor


def dataset_of(space, steps=40, seed=0):
    space.seed(seed)
    generator = np.random.default_rng(seed)
    row = {
        "observations": generator.standard_normal((steps, 3), dtype=np.float32),
        "actions": np.stack([space.sample() for _ in range(steps)]),
        "rewards": generator.standard_normal(steps, dtype=np.float32),
        "dones": np.arange(steps) == steps - 1,
    }
    return Dataset.from_list([row])


def processor_of(space, **options):
    return TrajectoryTransformerProcessor.from_dataset(
        dataset_of(space), **{"num_bins": 8, "action_space": space_to_dict(space), **options}
    )


@pytest.fixture(scope="module")
def processor():
    return processor_of(
        Box(-1, 1, (2,), np.float32),
        termination_penalty=-100,
        max_truncation_bias=0.1,
        planner_options={"horizon": 3, "beam_width": 4},
        sequence_transitions=5,
    )


def test_saving_and_loading_keeps_every_argument_and_the_bins(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "discretizer" / "model.safetensors").exists()
    for loaded in (
        TrajectoryTransformerProcessor.from_pretrained(tmp_path),
        TrajectoryTransformerProcessor.from_pretrained(str(tmp_path.parent), subfolder=tmp_path.name),
    ):
        assert type(loaded) is TrajectoryTransformerProcessor
        assert loaded.to_dict() == processor.to_dict()
        assert loaded.planner_options == {"horizon": 3, "beam_width": 4} and loaded.target_returns == []
        for name, bins in processor.discretizer.state_dict().items():
            assert torch.equal(loaded.discretizer.state_dict()[name], bins)


def test_the_auto_classes_find_model_and_processor(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    TrajectoryTransformerModel(processor.model_config(n_layer=1, n_head=1, n_embd=8)).save_pretrained(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is TrajectoryTransformerProcessor
    assert type(AutoModel.from_pretrained(tmp_path)) is TrajectoryTransformerModel


def test_the_model_config_fits_the_task(processor):
    config = processor.model_config(n_layer=1, n_head=1, n_embd=8)
    assert (config.vocab_size, config.observation_dim, config.action_dim, config.transition_dim) == (8, 3, 2, 7)
    assert config.block_size == 34 and config.n_layer == 1
    with torch.no_grad():
        logits = TrajectoryTransformerModel(config).eval()(torch.zeros(1, 34, dtype=torch.long)).logits
    assert logits.shape == (1, 34, 9)


@pytest.mark.parametrize("space", [Discrete(3, start=-1), MultiDiscrete([2, 4])], ids=str)
def test_discrete_actions_survive_encoding_and_decoding(space):
    processor = processor_of(space)
    actions = np.stack([space.sample() for _ in range(20)])
    tokens = processor.encode(np.zeros((20, 3)), actions, np.zeros(20), np.zeros(20))
    assert tokens.shape == (20, processor.transition_dim)
    decoded = processor.decode(tokens)["actions"]
    np.testing.assert_array_equal(decoded, actions)
    assert all(space.contains(action) for action in decoded)
    starts = np.ravel(space.start)
    np.testing.assert_array_equal(tokens[:, 3:-2], actions.reshape(20, -1) - starts)


def test_decoding_stays_within_the_width_of_a_bin_and_within_the_space(processor):
    space, generator = Box(-1, 1, (2,), np.float32), np.random.default_rng(1)
    raw = generator.uniform(-0.5, 0.5, (50, 7)).astype(np.float32)
    decoded = processor.decode(processor.encode(raw[:, :3], raw[:, 3:5], raw[:, 5], raw[:, 6]))
    assert decoded["observations"].shape == (50, 3) and decoded["rewards"].shape == (50,)
    widths = processor.discretizer.edges.diff(dim=1).max(1).values.numpy()
    parts = (decoded["observations"], decoded["actions"], decoded["rewards"][:, None], decoded["values"][:, None])
    assert (np.abs(np.concatenate(parts, axis=1) - raw) <= widths).all()
    assert all(space.contains(action) for action in decoded["actions"])


def test_the_stop_token_is_no_value(processor):
    decoded = processor.decode(torch.full((7,), 8))
    assert np.isnan(decoded["observations"]).all() and np.isnan(decoded["rewards"])


def test_discrete_observations_are_one_token():
    row = {"observations": [0, 3, 1], "actions": [1, 0, 1], "rewards": [0.0, 1.0, 0.0], "dones": [False] * 3}
    processor = TrajectoryTransformerProcessor.from_dataset(
        Dataset.from_list([row]), num_bins=8, observation_space=space_to_dict(Discrete(5))
    )
    assert processor.observation_dim == 1 and processor.discrete_entries() == {0: [0, 1, 2, 3, 4], 1: [0, 1]}
    decoded = processor.decode(processor.encode(np.array([4]), np.array([1]), np.array([0.0]), np.array([0.0])))
    assert decoded["observations"].tolist() == [4]


def test_real_data_bring_their_environment_and_its_time_limit(shared_data):
    dataset = hf_seqrl.load_trajectories(shared_data("cartpole-mixed"))
    processor = TrajectoryTransformerProcessor.from_dataset(dataset)
    assert processor.env_id == "CartPole-v1" and processor.max_episode_steps == 500
    assert processor.action_space == space_to_dict(gym.make("CartPole-v1").action_space)
    assert processor.discretizer.clipped_counts.sum() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"discount": 1.5}, "discount is 1.5"),
        ({"truncation": "ends"}, "truncation is 'ends'"),
        ({"step": 0}, "step 0"),
        ({"sequence_transitions": 0}, "sequence_transitions is 0"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrajectoryTransformerProcessor(**options)


def test_a_processor_without_bins_says_how_to_get_them():
    with pytest.raises(ValueError, match="from_dataset"):
        TrajectoryTransformerProcessor().model_config()
