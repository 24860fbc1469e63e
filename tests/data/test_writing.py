import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from datasets import Dataset, load_dataset, load_from_disk

from hf_seqrl import load_trajectories
from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.metadata import metadata_of
from hf_seqrl.data.writing import dataset_from_stream, save_trajectories


def _episode(number, length=4):
    steps = number + np.arange(length, dtype=np.float32)
    return {
        "observations": np.stack([steps, -steps], axis=1),
        "actions": np.arange(length) % 2,
        "rewards": steps,
        "terminations": np.arange(length) == length - 1,
        "truncations": np.zeros(length, bool),
    }


def test_pieces_do_not_show(tmp_path):
    episodes = [_episode(number, 2 + number % 3) for number in range(20)]
    dataset = dataset_from_stream(iter(episodes), tmp_path, piece_bytes=200)
    assert TrajectoryColumns(dataset).num_episodes == 20
    for row, episode in zip(dataset.with_format("numpy"), episodes, strict=True):
        for name, values in episode.items():
            np.testing.assert_array_equal(row[name], values)
    assert dataset.cache_files[0]["filename"].startswith(str(tmp_path))  # on disk, memory-mapped


def test_memory_does_not_grow_with_the_number_of_episodes(tmp_path):
    def peak(count):
        tracemalloc.start()
        dataset_from_stream((_episode(number, 500) for number in range(count)), tmp_path, piece_bytes=1 << 18)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(20)  # what is imported on the way
    assert peak(1000) < peak(100) + (1 << 18)


def test_an_episode_of_another_shape_is_refused_and_nothing_stays(tmp_path):
    odd = _episode(3) | {"observations": np.zeros((4, 2, 2))}
    with pytest.raises(ValueError, match="does not fit those before it"):
        dataset_from_stream([_episode(0), _episode(1), odd], tmp_path, piece_bytes=1)
    assert not list(tmp_path.iterdir())


def test_no_episode_at_all_is_said(tmp_path):
    with pytest.raises(ValueError, match="expected at least one"):
        dataset_from_stream([], tmp_path)


def test_a_streaming_data_set_loads_like_one_in_memory():
    whole = Dataset.from_list([{name: values.tolist() for name, values in _episode(n).items()} for n in range(7)])
    streamed = load_trajectories(whole.to_iterable_dataset(), env_id="Somewhere-v0")
    assert streamed.to_dict() == load_trajectories(whole).to_dict()


def dataset_of(reward):
    episode = {"observations": [[0.0]], "actions": [0], "rewards": [reward], "terminations": [True]}
    return load_trajectories([episode], env_id="CartPole-v1")


def test_a_saved_folder_opens_with_datasets(tmp_path):
    saved = save_trajectories(dataset_of(1.0), tmp_path / "data")
    opened = load_dataset(str(saved), cache_dir=str(tmp_path / "cache"))
    assert opened["train"]["rewards"][:] == [[1.0]]
    assert next(iter(load_dataset(str(saved), split="train", streaming=True)))["actions"] == [0]
    assert metadata_of(load_trajectories(saved)).env_id == "CartPole-v1"


def test_a_folder_of_an_earlier_version_still_opens(tmp_path):
    dataset_of(1.0).save_to_disk(tmp_path / "data")
    assert metadata_of(load_trajectories(tmp_path / "data")).env_id == "CartPole-v1"


def test_nothing_is_overwritten_unless_asked(tmp_path):
    path = tmp_path / "deep" / "data"
    save_trajectories(dataset_of(1.0), path)
    with pytest.raises(FileExistsError, match=r"exists already: .* overwrite=True"):
        save_trajectories(dataset_of(2.0), path)
    assert load_from_disk(path)["train"]["rewards"][:] == [[1.0]]
    save_trajectories(dataset_of(2.0), path, overwrite=True)
    assert load_from_disk(path)["train"]["rewards"][:] == [[2.0]]
    assert os.listdir(path.parent) == ["data"]


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "data"
    save_trajectories(dataset_of(1.0), path)
    broken = dataset_of(2.0)
    monkeypatch.setattr(type(broken), "save_to_disk", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_trajectories(broken, path, overwrite=True)
    assert load_from_disk(path)["train"]["rewards"][:] == [[1.0]]
    assert os.listdir(tmp_path) == ["data"]


def test_a_killed_process_leaves_nothing_that_looks_whole(tmp_path):
    script = """
import os, signal, sys
from datasets import Dataset
from hf_seqrl.data.writing import save_trajectories

write = Dataset.save_to_disk
def killed_after_writing(self, path):
    write(self, path)
    os.kill(os.getpid(), signal.SIGKILL)
Dataset.save_to_disk = killed_after_writing
save_trajectories(Dataset.from_dict({"rewards": [[1.0]]}), sys.argv[1])
"""
    process = subprocess.run([sys.executable, "-c", script, str(tmp_path / "data")], capture_output=True)
    assert process.returncode == -9
    assert not (tmp_path / "data").exists()
    with pytest.raises(ValueError, match="holds no trajectories"):
        load_trajectories(tmp_path)


def test_loading_clears_away_what_a_killed_writer_left(tmp_path, cartpole_dataset):
    save_trajectories(cartpole_dataset, tmp_path / "data")
    (tmp_path / ".data.lock").touch()
    (tmp_path / ".data.0123abcd.partial").mkdir()
    assert len(load_trajectories(str(tmp_path / "data"))) == 30
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    (tmp_path / "data").rename(tmp_path / ".data.0123abcd.former")  # killed between two renames
    assert len(load_trajectories(str(tmp_path / "data"))) == 30
