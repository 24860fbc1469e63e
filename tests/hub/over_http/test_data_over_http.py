"""Trajectories go to a Hub and come back."""

import inspect

import numpy as np
import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard, HfApi

from hf_seqrl import DecisionTransformerProcessor, TrajectoryStream, load_trajectories, push_trajectories
from hf_seqrl.cli.main import main
from hf_seqrl.data.metadata import metadata_of, with_metadata
from hf_seqrl.data.writing import save_trajectories

COLUMNS = ["observations", "actions", "rewards", "terminations", "truncations"]


def test_trajectories_come_back_as_they_went(hub, cartpole_dataset):
    push_trajectories(cartpole_dataset, "tester/cartpole", license="mit")
    repository = hub.repositories["dataset", "tester/cartpole"]
    assert len(repository.commits) == 2  # that which made it, and one push
    loaded = load_trajectories("tester/cartpole")
    assert loaded.to_dict() == cartpole_dataset.to_dict()
    assert metadata_of(loaded) == metadata_of(cartpole_dataset)
    assert load_dataset("tester/cartpole", split="train").column_names == COLUMNS


def test_the_command_pushes_data_too(hub, cartpole_dataset, tmp_path, capsys):
    save_trajectories(cartpole_dataset, tmp_path / "data")
    assert main(["push", str(tmp_path / "data"), "tester/by-command", "--license", "mit"]) == 0
    assert "datasets/tester/by-command" in capsys.readouterr().out
    assert load_trajectories("tester/by-command").to_dict() == cartpole_dataset.to_dict()


def test_the_card_says_what_the_data_are(hub, cartpole_dataset):
    metadata = metadata_of(cartpole_dataset).updated(reference_returns=(20.0, 500.0))
    push_trajectories(with_metadata(cartpole_dataset, metadata), "tester/described", license="mit")
    files = hub.repositories["dataset", "tester/described"].files
    card = DatasetCard(files["README.md"].decode())
    assert card.data.license == "mit"
    assert "CartPole-v1" in card.data.tags
    assert 'load_trajectories("tester/described")' in card.text
    assert "30 episodes" in card.text
    assert "Box(4,) float32" in card.text
    assert "Discrete(2)" in card.text
    assert "made_by: hf_seqrl.collect" in card.text
    assert "0 for a return of 20 (random) and 100 for 500 (expert)" in card.text
    mean = np.mean([sum(rewards) for rewards in cartpole_dataset["rewards"]])
    assert f"| return | {mean:.4g} |" in card.text
    assert files["returns.png"].startswith(b"\x89PNG")
    if "ENDPOINT" in inspect.getsource(DatasetCard.validate):  # in 1.31 it asks the public Hub, whatever the endpoint
        card.validate(repo_type="dataset")


def test_data_that_were_there_are_replaced_and_an_edited_card_stays(hub, cartpole_dataset):
    hub.put("dataset", "tester/old", {"data/train-00000-of-00002.parquet": b"old", "README.md": b"# Mine\n\nWords.\n"})
    with pytest.warns(UserWarning, match="edited by hand"):
        push_trajectories(cartpole_dataset.select(range(3)), "tester/old")
    files = hub.repositories["dataset", "tester/old"].files
    assert sorted(name for name in files if name.endswith(".parquet")) == ["data/train-00000-of-00001.parquet"]
    assert files["README.md"] == b"# Mine\n\nWords.\n"
    assert len(load_trajectories("tester/old")) == 3


def test_large_data_go_in_several_files(hub, cartpole_dataset, monkeypatch):
    monkeypatch.setattr("hf_seqrl.hub.trajectories._SHARD_BYTES", cartpole_dataset.data.nbytes // 3)
    push_trajectories(cartpole_dataset, "tester/large")
    assert sum(name.endswith(".parquet") for name in hub.repositories["dataset", "tester/large"].files) > 1
    assert load_trajectories("tester/large").to_dict() == cartpole_dataset.to_dict()


def test_an_interrupted_push_of_data_leaves_nothing(hub, cartpole_dataset, impatient):
    hub.interrupt("PUT", "/lfs/")
    with pytest.raises(OSError, match="connection to the Hub broke off"):
        push_trajectories(cartpole_dataset, "tester/broken-data")
    assert not hub.repositories["dataset", "tester/broken-data"].files


def test_a_streaming_data_set_loads(hub, cartpole_dataset):
    push_trajectories(cartpole_dataset, "tester/stream")
    stream = load_dataset("tester/stream", split="train", streaming=True)
    assert load_trajectories(stream.take(5))["rewards"][:] == cartpole_dataset["rewards"][:5]


def test_others_data_sets_with_one_row_an_episode_load(hub):
    rows = {"observations": [[[0.0, 1.0]] * 2], "actions": [[0, 1]], "rewards": [[1.0, 2.0]], "dones": [[False, True]]}
    Dataset.from_dict(rows).push_to_hub("tester/replay")
    dataset = load_trajectories("tester/replay", env_id="CartPole-v1")
    assert dataset["rewards"][:] == [[1.0, 2.0]]


def test_lerobots_data_sets_load_as_episodes(hub):
    rows = {
        "observation.state": [[float(step), 0.0] for step in range(5)],
        "action": [[0.1 * step] for step in range(5)],
        "next.reward": [0.0, 1.0, 0.0, 0.0, 2.0],
        "next.done": [False, True, False, False, False],
        "episode_index": [0, 0, 1, 1, 1],
        "frame_index": [0, 1, 0, 1, 2],
        "timestamp": [0.0, 0.1, 0.0, 0.1, 0.2],
    }
    Dataset.from_dict(rows).push_to_hub("tester/robot")
    dataset = load_trajectories("tester/robot")
    assert dataset["rewards"][:] == [[0.0, 1.0], [0.0, 0.0, 2.0]]
    assert dataset["observations"][1] == [[2.0, 0.0], [3.0, 0.0], [4.0, 0.0]]
    assert dataset["terminations"][:] == [[False, True], [False, False, False]]
    Dataset.from_dict(rows).remove_columns("next.reward").push_to_hub("tester/no-rewards")
    with pytest.raises(ValueError, match=r"no column 'next.reward'.*name another column"):
        load_trajectories("tester/no-rewards")


def test_private_data_without_a_token_say_what_to_do(hub, cartpole_dataset, monkeypatch):
    push_trajectories(cartpole_dataset, "tester/secret-data", private=True)
    assert HfApi().dataset_info("tester/secret-data").private
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(FileNotFoundError, match="private"):
        load_trajectories("tester/secret-data")


def test_a_stream_knows_the_statistics_of_all_that_was_pushed(cartpole_dataset):
    push_trajectories(cartpole_dataset, "tester/measured")
    sample = TrajectoryStream("tester/measured", sample_episodes=3).sample
    processors = [DecisionTransformerProcessor.from_dataset(data) for data in (sample, cartpole_dataset)]
    assert len(sample) == 3 and processors[0].target_returns == processors[1].target_returns
    np.testing.assert_array_equal(processors[0].state_mean, processors[1].state_mean)
    assert metadata_of(load_trajectories("tester/measured")) == metadata_of(cartpole_dataset)


def test_a_model_can_be_trained_on_the_stream_of_a_data_set(cartpole_dataset):
    push_trajectories(cartpole_dataset, "tester/streamed")
    stream = TrajectoryStream("tester/streamed", buffer_episodes=4, shuffle=False)
    assert stream.metadata.env_id == "CartPole-v1"
    assert len(stream.sample) == len(cartpole_dataset)
    read, epoch = [], len(cartpole_dataset)
    for block in stream.blocks():
        read += block.dataset["rewards"]
        if len(read) >= epoch:
            break
    assert sorted(read) == sorted(cartpole_dataset["rewards"])
