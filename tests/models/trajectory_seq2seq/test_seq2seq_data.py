import json

import gymnasium
import numpy as np
import pytest
import torch
from datasets import Dataset, load_from_disk
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_seqrl import TrajectorySeq2SeqDataCollator, TrajectorySeq2SeqModel, TrajectoryWindows, load_trajectories
from hf_seqrl.data.metadata import TrajectoryMetadata, metadata_of, with_metadata
from hf_seqrl.data.spaces import space_from_dict, space_to_dict
from hf_seqrl.data.windows import StepHistories
from hf_seqrl.models.trajectory_seq2seq.histories import EpisodeHistories, random_histories
from hf_seqrl.models.trajectory_seq2seq.processing_trajectory_seq2seq import TrajectorySeq2SeqProcessor

SPACES = {
    "discrete": Discrete(4, start=1),
    "multi_discrete": MultiDiscrete([2, 3]),
    "box": Box(-1, 1, (2,)),
}


def _dataset(observation_space, action_space, lengths=(3, 1, 2), seed=0):
    observation_space.seed(seed)
    action_space.seed(seed)
    rows = {
        "observations": [[np.asarray(observation_space.sample()).tolist() for _ in range(n)] for n in lengths],
        "actions": [[np.asarray(action_space.sample()).tolist() for _ in range(n)] for n in lengths],
        "rewards": [[float(step + 1) for step in range(n)] for n in lengths],
        "dones": [[step == n - 1 for step in range(n)] for n in lengths],
    }
    metadata = TrajectoryMetadata(
        observation_space=space_to_dict(observation_space), action_space=space_to_dict(action_space)
    )
    return with_metadata(Dataset.from_dict(rows), metadata)


def _batch(dataset, histories, indices, **options):
    processor = TrajectorySeq2SeqProcessor.from_dataset(dataset, **options)
    return TrajectorySeq2SeqDataCollator(processor=processor)(histories(dataset, processor).__getitems__(indices))


@given(st.integers(1, 30), st.integers(0, 6), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_random_histories_stay_within_their_sizes_and_their_seed(number, horizon, state_size, action_size, seed):
    dataset = random_histories(number, horizon, state_size, action_size, seed)
    lengths = [len(row) for row in dataset["observations"]]
    assert len(lengths) == number and min(lengths) >= 1 and max(lengths) <= horizon + 1
    assert max(max(row) for row in dataset["observations"]) < state_size
    assert max(max(row) for row in dataset["actions"]) < action_size
    assert all(row[-1] and sum(row) == 1 for row in dataset["truncations"])
    assert dataset.to_dict() == random_histories(number, horizon, state_size, action_size, seed).to_dict()


def test_random_histories_are_uniform_and_survive_the_disk(tmp_path):
    dataset = random_histories(6000, horizon=2, state_size=3, action_size=3, seed=5)
    counts = np.bincount([len(row) for row in dataset["actions"]], minlength=4)[1:]
    assert abs(counts / 6000 - 1 / 3).max() < 0.03
    dataset.save_to_disk(tmp_path)
    metadata = metadata_of(load_from_disk(tmp_path))
    assert space_from_dict(metadata.observation_space) == Discrete(3)
    assert (
        load_trajectories(tmp_path)["observations"][:50] == dataset["observations"][:50]
    )  # numbers of states, no floats


def test_a_history_is_read_and_written_in_the_order_of_the_toy():
    dataset = random_histories(40, seed=3)
    batch = _batch(dataset, EpisodeHistories, range(40), target="history")
    for row, (states, actions) in enumerate(zip(dataset["observations"], dataset["actions"])):
        tokens = [token for pair in zip(states, actions) for token in pair][:-1]  # the last action is not part of it
        labels = batch["labels"][row]
        assert labels[labels != -100].tolist() == [*tokens, 3]  # EOS comes after three shared symbols
        assert batch["attention_mask"][row].sum() == len(tokens) + 1
        assert batch["states"][row, : len(states)].tolist() == states


def test_actions_are_written_from_states_alone():
    dataset = _dataset(SPACES["discrete"], MultiDiscrete([2, 3]))
    batch = _batch(dataset, EpisodeHistories, [0, 1, 2], target="actions", shared_vocabulary=False)
    assert "actions" not in batch
    assert batch["attention_mask"].sum(1).tolist() == [4, 2, 3]
    for row, actions in enumerate(dataset["actions"]):
        labels = batch["labels"][row]
        assert labels[labels != -100].tolist() == [*np.ravel(actions), 3]  # max(nvec) symbols of its own, then EOS


def test_a_step_is_written_from_what_was_seen_before_it():
    dataset = _dataset(Box(-1, 1, (2,)), Discrete(5), lengths=(4, 2))
    processor = TrajectorySeq2SeqProcessor.from_dataset(dataset, context_length=3, conditioning="return")
    batch = TrajectorySeq2SeqDataCollator(processor=processor)(
        StepHistories(dataset, processor).__getitems__(range(6))
    )
    first = [0, 0, 0, 1, 0, 0]
    for index, (episode, step) in enumerate([(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]):
        observations = np.asarray(dataset["observations"][episode], dtype=np.float32)[first[index] : step + 1]
        actions = dataset["actions"][episode][first[index] : step]
        states = batch["states"][index, : len(observations)].numpy()
        np.testing.assert_allclose(states * processor.state_std + processor.state_mean, observations, rtol=1e-5)
        assert batch["actions"][index, : len(actions)].tolist() == actions
        assert batch["attention_mask"][index].sum() == 1 + 2 * len(observations) - 1 + 1
        assert batch["labels"][index].tolist() == [dataset["actions"][episode][step], processor.eos_token_id]
        to_go = sum(dataset["rewards"][episode][step:])
        assert batch["returns_to_go"][index].item() == pytest.approx(to_go / processor.return_scale)


@pytest.mark.parametrize("observations", SPACES)
@pytest.mark.parametrize("actions", SPACES)
@pytest.mark.parametrize("task", ["history", "actions", "next_action"])
def test_every_pair_of_spaces_trains_and_decodes(observations, actions, task, backbone):
    dataset = _dataset(SPACES[observations], SPACES[actions])
    processor = TrajectorySeq2SeqProcessor.from_dataset(dataset, task=task, context_length=3)
    histories = StepHistories if task == "next_action" else EpisodeHistories
    batch = TrajectorySeq2SeqDataCollator(processor=processor)(histories(dataset, processor).__getitems__([0, 1, 2]))
    torch.manual_seed(0)
    model = TrajectorySeq2SeqModel(processor.model_config(backbone=backbone, hidden_size=16, num_attention_heads=2))
    special = {name: getattr(model.config, name) for name in ("eos_token_id", "pad_token_id", "bos_token_id")}
    assert vars(processor.tokenizer) == special and special["eos_token_id"] == processor.eos_token_id
    valid = batch["labels"][batch["labels"] != -100]
    assert valid.max() == processor.eos_token_id and (valid == processor.eos_token_id).sum() == 3
    if processor.value_size:
        is_vector = ~batch["target_values"].isnan().all(-1)
        assert torch.equal(is_vector, batch["labels"] == model.config.value_token_id)
    model.train()(**batch).loss.backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
    evaluated = model.eval()(**batch)
    assert evaluated.loss.isfinite() and evaluated.predictions.shape == batch["labels"].shape
    source = {name: batch[name] for name in batch if name in ("states", "actions", "attention_mask")}
    generated = model.generate(**source)
    assert len(generated["sequences"] if processor.value_size else generated) == 3


def test_written_vectors_are_the_normalized_states_and_the_raw_actions():
    dataset = _dataset(Box(-1, 1, (3,)), Box(-1, 1, (2,)), lengths=(2,))
    processor = TrajectorySeq2SeqProcessor.from_dataset(dataset, target="history")
    batch = TrajectorySeq2SeqDataCollator(processor=processor)(EpisodeHistories(dataset, processor).__getitems__([0]))
    assert batch["labels"].tolist() == [[0, 0, 0, 1]]  # three VALUE symbols, EOS
    np.testing.assert_allclose(batch["target_values"][0, [0, 2]], batch["states"][0], rtol=1e-6)
    np.testing.assert_allclose(batch["target_values"][0, 1, :2], dataset["actions"][0][0], rtol=1e-6)
    assert batch["target_values"][0, 1, 2:].isnan().all() and batch["target_values"][0, 3].isnan().all()


def test_rows_of_the_data_set_and_single_windows_give_the_same_batch():
    dataset = _dataset(Discrete(4), Box(-1, 1, (2,)))
    processor = TrajectorySeq2SeqProcessor.from_dataset(dataset, target="history")
    collator, histories = TrajectorySeq2SeqDataCollator(processor=processor), EpisodeHistories(dataset, processor)
    expected = collator(histories.__getitems__([0, 1, 2]))
    for features in ([histories[0], histories[1], histories[2]], [dataset[0], dataset[1], dataset[2]]):
        for name, values in collator(features).items():
            torch.testing.assert_close(values, expected[name], equal_nan=True)


def test_windows_that_begin_at_every_step_end_at_drawn_ones():
    dataset = _dataset(Box(-1, 1, (2,)), Discrete(5), lengths=(8,))
    processor = TrajectorySeq2SeqProcessor.from_dataset(dataset, context_length=3)
    collator, windows = TrajectorySeq2SeqDataCollator(processor=processor), TrajectoryWindows(dataset, processor)
    torch.manual_seed(0)
    lengths = torch.stack([collator(windows.__getitems__(range(6)))["attention_mask"].sum(1) // 2 for _ in range(60)])
    assert lengths.unique().tolist() == [1, 2, 3]
    torch.manual_seed(0)
    again = collator(windows.__getitems__(range(6)))["attention_mask"].sum(1) // 2
    assert torch.equal(again, lengths[0])


def test_processor_saves_what_it_knows(tmp_path):
    dataset = _dataset(Box(-1, 1, (2,)), MultiDiscrete([2, 3]))
    processor = TrajectorySeq2SeqProcessor.from_dataset(dataset, conditioning="return", env_id="Mine-v0")
    assert processor.num_symbols == 3  # cached properties must not get in the way of saving
    processor.save_pretrained(tmp_path)
    loaded = TrajectorySeq2SeqProcessor.from_pretrained(tmp_path)
    json.loads((tmp_path / "processor_config.json").read_text())
    for name in ("env_id", "observation_space", "action_space", "task", "context_length", "target_returns",
                 "return_scale", "conditioning", "max_episode_steps", "eos_token_id"):  # fmt: skip
        assert getattr(loaded, name) == getattr(processor, name)
    np.testing.assert_allclose(loaded.state_mean, processor.state_mean)
    assert loaded.target_returns == [6.0, 3.0]


def test_real_data_are_normalized(shared_data):
    dataset = load_trajectories(shared_data("cartpole-mixed"))
    processor = TrajectorySeq2SeqProcessor.from_dataset(dataset)
    assert processor.env_id == "CartPole-v1" and gymnasium.spec(processor.env_id).max_episode_steps == 500
    states = processor.encode_states(np.concatenate([np.asarray(row) for row in dataset["observations"]]))
    np.testing.assert_allclose(states.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(states.std(0), 1, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"target": "states"}, "'states'"), ({"conditioning": "goal"}, "'goal'"), ({"context_length": 0}, "is 0")],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        TrajectorySeq2SeqProcessor(**arguments)
