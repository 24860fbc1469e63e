"""An option says something about the source, or it is an error; nothing that is stated is dropped."""

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from hf_seqrl import load_trajectories
from hf_seqrl.data.columns import TrajectoryColumns

ARRAYS = {
    "observations": np.arange(12.0).reshape(6, 2),
    "actions": np.array([0, 1, 0, 1, 0, 1]),
    "rewards": np.arange(6.0),
    "terminals": np.array([0, 0, 1, 0, 0, 1], bool),
}
ROWS = Dataset.from_dict(
    {
        "observations": [[[0.0], [1.0], [2.0]]],
        "actions": [[0, 1, 1]],
        "rewards": [[0.0, 1.0, 2.0]],
        "terminations": [[False, False, True]],
        "time": [[0.0, 1.0, 9.0]],
    }
)
FRAME = pd.DataFrame(
    {"run": [0] * 4, "t": range(4), "x": [0.1, 0.2, 0.3, 0.4], "u": [0, 1, 0, 1], "r": [0.0, 1.0, 2.0, 3.0]}
)
COLUMNS = {"episode": "run", "step": "t", "observation": ["x"], "action": "u", "reward": "r"}


def lengths(dataset):
    return np.diff(TrajectoryColumns(dataset).episode_offsets).tolist()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (ARRAYS, {"time_format": "%d"}, "time_format='%d' has no meaning for arrays: it is for a table"),
        (ARRAYS, {"gaps": "allow"}, "gaps='allow' has no meaning for arrays"),
        (ARRAYS, {"files": "continue"}, "files='continue' has no meaning for arrays"),
        (ARRAYS, {"split": "test"}, "split='test' has no meaning for arrays: it is for a data set on the Hub"),
        (ARRAYS, {"name": "config"}, "name='config' has no meaning for arrays"),
        (ARRAYS, {"step": "time"}, "step='time' has no meaning for arrays, whose steps are in order"),
        (ROWS, {"step": "time"}, "step='time' has no meaning for a data set with one row per episode"),
        (ROWS, {"layout": "time_env"}, "layout='time_env' has no meaning for a data set with one row per episode"),
        (
            FRAME,
            {**COLUMNS, "separator": ";"},
            "separator=';' has no meaning for a table with one row per step: it is for a text",
        ),
        (FRAME, {**COLUMNS, "sheet": "two"}, "sheet='two' has no meaning"),
        (FRAME, {**COLUMNS, "layout": "steps"}, "layout='steps' has no meaning"),
        (FRAME, {**COLUMNS, "step": None, "time_format": "%d"}, "time_format='%d' is about the step column"),
    ],
)
def test_an_option_of_another_kind_of_source_is_refused(source, options, message):
    with pytest.raises(ValueError, match=message):
        load_trajectories(source, **options)


@pytest.mark.parametrize("write, option", [("to_csv", "sheet"), ("to_parquet", "decimal")])
def test_an_option_of_another_kind_of_file_is_refused(tmp_path, write, option):
    path = tmp_path / f"log.{write.removeprefix('to_')}"
    getattr(FRAME, write)(path, index=False)
    assert lengths(load_trajectories(path, **COLUMNS)) == [4]
    with pytest.raises(ValueError, match=f"{option}=',' has no meaning"):
        load_trajectories(path, **COLUMNS, **{option: ","})


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"observation_names": ["a"]}, r"observation_names has 1 names \(a\): expected 2"),
        ({"observation_names": ["a", "a"]}, "observation_names has 'a' more than once"),
        ({"action_names": ["a", "b"]}, "action_names has 2 names .*: expected 1"),
        ({"units": {"c": "m"}}, "units are given for 'c': .* there are none"),
        ({"units": {"c": "m"}, "observation_names": ["a", "b"]}, "units are given for 'c': expected .* a, b"),
        ({"categories": {"c": ["x"]}, "action_names": ["order"]}, "categories are given for 'c'"),
    ],
)
def test_what_is_stated_must_fit(stated, message):
    with pytest.raises(ValueError, match=message):
        load_trajectories(ARRAYS, **stated)


def test_entries_of_arrays_take_the_names_that_are_given():
    arrays = {
        "obs": ARRAYS["observations"],
        "act": ARRAYS["actions"],
        "rew": ARRAYS["rewards"],
        "crashed": ARRAYS["terminals"],
    }
    names = {"observation": "obs", "action": "act", "reward": "rew", "termination": "crashed"}
    expected = load_trajectories(ARRAYS).to_dict()
    assert load_trajectories(arrays, **names).to_dict() == expected
    episodes = [{name: values[part] for name, values in arrays.items()} for part in (slice(0, 3), slice(3, 6))]
    assert load_trajectories(episodes, **names)["rewards"][:] == expected["rewards"]
    with pytest.raises(ValueError, match="there is no column 'state', which was named as observation: found obs, act"):
        load_trajectories(arrays, observation="state")


def test_rows_are_cut_as_arrays_are():
    assert lengths(load_trajectories(ROWS, cut_every=2)) == [2, 1]
    assert lengths(load_trajectories(ROWS, step="time", cut_at_gap=2)) == [2, 1]
    with pytest.raises(ValueError, match="cut_at_gap needs the times of the steps"):
        load_trajectories(ROWS, cut_at_gap=2)


def test_a_dictionary_of_columns_and_a_list_of_files_are_tables(tmp_path):
    table = {name: FRAME[name].to_numpy() for name in FRAME}
    expected = load_trajectories(FRAME, **COLUMNS).to_dict()
    assert load_trajectories(table, **COLUMNS).to_dict() == expected
    for number in range(2):
        FRAME.assign(run=number).to_csv(tmp_path / f"{number}.csv", index=False)
        load_trajectories(FRAME, **COLUMNS).to_parquet(tmp_path / f"{number}.parquet")
    files = [tmp_path / "1.csv", tmp_path / "0.csv"]
    assert lengths(load_trajectories(files, **COLUMNS)) == [4, 4]
    assert lengths(load_trajectories([tmp_path / "0.parquet", tmp_path / "1.parquet"])) == [4, 4]
    with pytest.raises(ValueError, match=r"of the list is no \.parquet file with one row per episode"):
        load_trajectories(files)


def test_an_archive_of_arrays(tmp_path):
    np.savez(tmp_path / "data.npz", **ARRAYS)
    assert load_trajectories(tmp_path / "data.npz").to_dict() == load_trajectories(ARRAYS).to_dict()


def test_a_folder_in_the_place_of_a_data_set_on_the_hub_is_read_by_the_same_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ROWS.save_to_disk("me/data")
    assert lengths(load_trajectories("me/data", name="default", revision="main")) == [3]
