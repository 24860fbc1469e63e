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


# Arrays


def columns_of(steps=6, ends=(2,), **changes):
    return {
        "observations": np.arange(steps * 2.0).reshape(steps, 2),
        "actions": np.arange(steps) % 2,
        "rewards": np.arange(float(steps)),
        "terminals": np.isin(np.arange(steps), ends),
    } | changes


def lengths_of(source, **options):
    return [len(row) for row in load_trajectories(source, **options)["rewards"]]


def test_without_timeouts_episodes_are_cut_at_the_limit_of_the_environment_or_the_stated_one():
    long = columns_of(7, ends=[])
    assert lengths_of(long, max_episode_steps=3) == [3, 3, 1]
    hopper = {**columns_of(2500, ends=[]), "observations": np.zeros((2500, 11)), "actions": np.zeros((2500, 3))}
    dataset = load_trajectories(hopper, env_id="Hopper-v5")
    assert [len(row) for row in dataset["rewards"]] == [1000, 1000, 500]
    assert "cut after 1000 steps" in metadata_of(dataset).guesses["truncations"]
    assert [row[-1] for row in dataset["truncations"]] == [True] * 3


def test_an_episode_that_is_longer_than_the_stated_limit_is_refused():
    with pytest.raises(ValueError, match=r"episode 1 has 4 steps, more than max_episode_steps=3: .* cut_every=3"):
        load_trajectories(columns_of(7, timeouts=np.zeros(7, bool)), max_episode_steps=3)


def test_hdf5_files_without_timeouts_are_cut_at_the_limit_too(write):
    path, _ = write(leave_out=["timeouts"])
    assert [len(row) for row in load_trajectories(path, max_episode_steps=10)["rewards"]] == [7, 10, 4, 10, 10, 9]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timeouts": np.array([True])}, "'truncations' has 1 steps, column 'actions' has 6"),
        ({"rewards": np.arange(7.0)}, "'rewards' has 7 steps, column 'actions' has 6"),
        ({"observations": np.zeros((7, 2))}, "'observations' has 7 steps, .*; drop the final observation"),
        ({"rewards": np.zeros((6, 2))}, r"'rewards' has shape \(6, 2\): expected \(steps,\)"),
        ({"terminals": np.array([0, np.nan, 1, 0, 0.5, 0])}, "'terminations' has the value nan at step 1"),
        ({"dones": np.ones(6, bool), "timeouts": np.zeros(6, bool)}, "'dones' and 'terminations' contradict"),
    ],
    ids=["short", "long", "final observation", "two rewards", "half a flag", "dones"],
)
def test_arrays_that_do_not_fit_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        load_trajectories(columns_of(**changes))


def test_environments_side_by_side_are_read_by_the_layout_that_is_stated():
    rng = np.random.default_rng(0)
    ends = np.zeros((4, 3), bool)
    ends[1, 2] = True
    source = {
        "observations": rng.normal(size=(4, 3, 2)).astype(np.float32),
        "actions": rng.integers(0, 2, (4, 3)),
        "rewards": np.arange(12.0).reshape(4, 3),
        "terminals": ends,
    }
    with pytest.raises(ValueError, match=r"shape \(4, 3\) and episodes end within their rows: .*layout='time_env'"):
        load_trajectories({**source, "terminals": ends[:, ::-1]})
    dataset = load_trajectories(source, layout="time_env")
    assert dataset["rewards"][:] == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5], [8, 11]]
    np.testing.assert_array_equal(dataset["observations"][1], source["observations"][:, 1])
    turned = {name: values.swapaxes(0, 1) for name, values in source.items()}
    assert load_trajectories(turned, layout="env_time")["rewards"][:] == dataset["rewards"][:]
    with pytest.raises(ValueError, match="layout is 'time': expected one of steps, episodes"):
        load_trajectories(source, layout="time")


def test_rows_of_arrays_that_might_be_steps_are_a_guess():
    source = {
        "observations": np.zeros((4, 6, 2)),
        "actions": np.ones((4, 6, 1)),
        "rewards": np.ones((4, 6)),
        "dones": np.zeros((4, 6)),
    }
    assert "layout='time_env'" in metadata_of(load_trajectories(source)).guesses["layout"]
