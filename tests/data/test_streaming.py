import tracemalloc

import numpy as np
import pytest
from datasets import Dataset

from hf_seqrl import load_trajectories
from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.streaming import dataset_from_stream


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
