from itertools import pairwise

import numpy as np
import pytest

from hf_seqrl import load_trajectories
from hf_seqrl.data import arrays
from hf_seqrl.data.metadata import metadata_of

h5py = pytest.importorskip("h5py")


@pytest.fixture
def write(tmp_path):
    """`write(steps, leave_out=())`: a file as D4RL writes it, and its columns."""

    def build(steps=50, leave_out=()):
        rng = np.random.default_rng(0)
        columns = {
            "observations": rng.normal(size=(steps, 3)).astype(np.float32),
            "next_observations": rng.normal(size=(steps, 3)).astype(np.float32),
            "actions": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
            "rewards": rng.normal(size=steps).astype(np.float32),
            "terminals": np.isin(np.arange(steps), [6, 20]),
            "timeouts": np.isin(np.arange(steps), [11, 33]),
        }
        path = tmp_path / "hopper_medium-v2.hdf5"
        with h5py.File(path, "w") as file:
            for name in columns.keys() - set(leave_out):
                file[name] = columns[name]
            file["metadata/algorithm"] = "SAC"
            file["infos/qpos"] = np.zeros((steps, 6))
        return path, columns

    return build


@pytest.mark.parametrize("read_steps", [1, 15, 1 << 16])
def test_episodes_end_at_terminals_and_timeouts(write, monkeypatch, read_steps):
    monkeypatch.setattr(arrays, "_READ_STEPS", read_steps)
    path, columns = write()
    dataset = load_trajectories(path, env_id="Hopper-v5")
    bounds = [0, 7, 12, 21, 34, 50]
    assert [len(rewards) for rewards in dataset["rewards"]] == np.diff(bounds).tolist()
    for row, (first, end) in zip(dataset.with_format("numpy"), pairwise(bounds), strict=True):
        for name in ("observations", "actions", "rewards"):
            np.testing.assert_array_equal(row[name], columns[name][first:end])
    assert [flags[-1] for flags in dataset["terminations"]] == [True, False, True, False, False]
    assert [flags[-1] for flags in dataset["truncations"]] == [False, True, False, True, True]
    assert metadata_of(dataset).reference_returns == (-20.272305, 3234.3)


def test_old_files_have_no_timeouts(write):
    path, _ = write(leave_out=["timeouts"])
    assert [len(rewards) for rewards in load_trajectories(str(path))["rewards"]] == [7, 14, 29]


def test_other_files_are_refused_by_what_they_lack(write):
    path, _ = write(leave_out=["terminals"])
    with pytest.raises(ValueError, match="has no 'terminals': expected the columns of D4RL"):
        load_trajectories(path)
