import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_seqrl import load_trajectories

NAMES = {"episode": "run", "step": "t", "observation": ["x", "y"], "action": "a", "reward": "r", "termination": "done"}


def log(lengths, seed=0):
    """A table with one row a step, in order."""
    rng = np.random.default_rng(seed)
    frames = [
        pd.DataFrame(
            {
                "run": f"run-{number}",
                "t": np.arange(length),
                "x": rng.normal(size=length),
                "y": rng.normal(size=length),
                "a": rng.integers(0, 4, length),
                "r": rng.normal(size=length),
                "done": np.arange(length) == (length - 1 if number % 2 else -1),
            }
        )
        for number, length in enumerate(lengths)
    ]
    return pd.concat(frames, ignore_index=True)


def assert_holds(dataset, frame):
    """Row by row, as pandas groups them."""
    for row, (_, group) in zip(dataset, frame.groupby("run", sort=False), strict=True):
        group = group.sort_values("t")
        np.testing.assert_allclose(row["observations"], group[["x", "y"]], rtol=1e-6)
        np.testing.assert_allclose(row["rewards"], group["r"], rtol=1e-6)
        assert row["actions"] == group["a"].tolist()
        assert row["terminations"] == group["done"].tolist()
        cut = [False] * (len(group) - 1) + [not group["done"].iloc[-1]]
        assert row["truncations"] == cut


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_shuffled_rows_are_sorted_into_their_episodes(lengths, random):
    frame = log(lengths)
    order = list(range(len(frame)))
    random.shuffle(order)
    frame = frame.iloc[order]
    assert_holds(load_trajectories(frame, **NAMES), frame)


def test_without_a_step_column_the_order_of_the_table_counts():
    frame = log([3, 4])
    interleaved = frame.iloc[[3, 0, 4, 1, 5, 2, 6]]
    names = {name: column for name, column in NAMES.items() if name != "step"}
    assert_holds(load_trajectories(interleaved, **names), interleaved)


def test_csv_parquet_folders_and_data_sets(tmp_path):
    frame = log([3, 4, 2])
    frame.to_csv(tmp_path / "log.csv", index=False)
    frame.to_parquet(tmp_path / "log.parquet")
    (tmp_path / "folder").mkdir()
    frame[:4].to_csv(tmp_path / "folder" / "a.csv", index=False)
    frame[4:].to_csv(tmp_path / "folder" / "b.csv", index=False)
    flat = Dataset.from_pandas(frame)
    flat.save_to_disk(tmp_path / "saved")
    sources = (
        tmp_path / "log.csv",
        str(tmp_path / "log.parquet"),
        tmp_path / "folder",
        tmp_path / "saved",
        flat,
        DatasetDict(train=flat),
    )
    for source in sources:
        assert_holds(load_trajectories(source, **NAMES), frame)


def test_columns_of_lists_and_of_images(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    table = pa.table(
        {
            "episode": [0, 0, 1, 1, 1],
            "image": images.tolist(),
            "command": [[0.1 * step, 0.5] for step in range(5)],
            "gain": [1, 1, 1, 0, 2],
        },
        schema=pa.schema(
            {
                "episode": pa.int64(),
                "image": pa.list_(pa.list_(pa.list_(pa.uint8()))),
                "command": pa.list_(pa.float64()),
                "gain": pa.int64(),
            }
        ),
    )
    pq.write_table(table, tmp_path / "steps.parquet")
    names = {"observation": "image", "action": "command", "reward": "gain"}
    dataset = load_trajectories(tmp_path / "steps.parquet", episode="episode", **names)
    np.testing.assert_array_equal(dataset[1]["observations"], images[2:])
    np.testing.assert_allclose(dataset[1]["actions"], [[0.2, 0.5], [0.3, 0.5], [0.4, 0.5]], rtol=1e-6)
    assert dataset[1]["rewards"] == [1.0, 0.0, 2.0] and dataset.features["observations"].feature is not None


def test_lists_that_a_csv_file_holds_as_text(tmp_path):
    (tmp_path / "log.csv").write_text('run,state,a,r\n0,"[0.5, 1]",1,0\n0,"[2, 3]",0,1\n')
    dataset = load_trajectories(tmp_path / "log.csv", episode="run", observation="state", action="a", reward="r")
    assert dataset[0]["observations"] == [[0.5, 1.0], [2.0, 3.0]]
    (tmp_path / "log.csv").write_text("run,state,a,r\n0,[0.5 1],1,0\n")
    with pytest.raises(ValueError, match="'state' holds text"):
        load_trajectories(tmp_path / "log.csv", episode="run", observation="state", action="a", reward="r")


def test_several_action_columns_and_one_of_floats():
    frame = log([3]).assign(b=[0.5, 0.25, 0.125])
    assert load_trajectories(frame, **{**NAMES, "action": ["b", "x"]})[0]["actions"][1][0] == 0.25
    assert load_trajectories(frame, **{**NAMES, "action": "b"})[0]["actions"] == [[0.5], [0.25], [0.125]]


def test_flags_may_be_numbers_but_only_zero_and_one():
    frame = log([3, 2]).astype({"done": int})
    assert load_trajectories(frame, **NAMES)[1]["terminations"] == [False, True]
    frame.loc[4, "done"] = 7
    with pytest.raises(ValueError, match="'done' has the value 7 at row 4"):
        load_trajectories(frame, **NAMES)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda frame: frame.drop(columns="y"),
            "no column 'y', which was named as observation: expected one of run, t",
        ),
        (lambda frame: frame.assign(t=[0, 1, 1, 0, 1]), r"episode run-0 has step 1 more than once \(row 2\)"),
        (lambda frame: frame.assign(run=["a", "a", None, "b", "b"]), "'run' has no value at row 2"),
        (lambda frame: frame.assign(r=[0, 1, None, 3, 4]), "'r' of the table: row 2 has no value"),
        (
            lambda frame: frame.assign(r=list("lrlrl")),
            r"'r' holds text \('l', 'r'\) at row 0, row 1, row 2, .* \(5 rows\)",
        ),
        (lambda frame: frame[:0], "the table has no rows"),
    ],
)
def test_bad_tables_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        load_trajectories(change(log([3, 2])), **NAMES)


def test_a_role_without_a_column_is_named():
    with pytest.raises(ValueError, match="no column is named for 'action'"):
        load_trajectories(log([2]), **{**NAMES, "action": None})
    with pytest.raises(ValueError, match=r"no column 'rewards', which was named as reward: .*give reward=None"):
        load_trajectories(log([2]), **{name: column for name, column in NAMES.items() if name != "reward"})
