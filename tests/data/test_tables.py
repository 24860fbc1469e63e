import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_seqrl import load_trajectories, metadata_of

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


# Order


def ordered(frame, **options):
    names = {"episode": "run", "step": "t", "observation": ["x"], "action": "a", "reward": "r"} | options
    return [[int(x[0]) for x in row] for row in load_trajectories(frame, **names)["observations"]]


def steps(labels, run=0):
    count = len(labels)
    return pd.DataFrame(
        {"run": run, "t": labels, "x": np.arange(count), "a": [0, 1] * (count // 2) + [0] * (count % 2), "r": 1.0}
    )


DAYS = ["28/01/2024", "29/01/2024", "30/01/2024", "31/01/2024", "01/02/2024", "02/02/2024"]


@pytest.mark.parametrize(
    "labels",
    [
        [str(step) for step in range(7, 13)],
        [f"{step / 2}" for step in range(18, 24)],
        [f"2024-01-{day:02}" for day in range(7, 13)],
        [f"2024-01-01T0{hour}:00:00+01:00" for hour in range(6)],
        [
            "2024-03-31T00:30:00+01:00",
            "2024-03-31T01:30:00+01:00",
            "2024-03-31T03:30:00+02:00",
            "2024-03-31T04:30:00+02:00",
        ],
        list(pd.date_range("2024-01-30", periods=6)),
    ],
    ids=["numbers", "fractions", "dates", "zoned", "summer time", "times"],
)
def test_steps_are_sorted_as_what_they_are(labels):
    frame = steps(labels)
    assert ordered(frame.iloc[::-1]) == [list(range(len(labels)))]


def test_dates_in_other_forms_are_sorted_by_the_stated_format():
    assert ordered(steps(DAYS).iloc[::-1], time_format="%d/%m/%Y") == [list(range(6))]
    with pytest.raises(ValueError, match=r"text such as '28/01/2024', .*: give time_format='%d/%m/%Y'"):
        ordered(steps(DAYS))
    with pytest.raises(ValueError, match=r"can be read as '%d/%m/%Y' or as '%m/%d/%Y': state which"):
        ordered(steps(["01/02/2024", "02/02/2024", "03/02/2024"]))
    with pytest.raises(
        ValueError, match=r"is '32/01/2024' at row 1: expected the time_format .*; 1 rows have another"
    ):
        ordered(steps(["28/01/2024", "32/01/2024"]), time_format="%d/%m/%Y")


def test_words_are_no_order():
    with pytest.raises(
        ValueError, match=r"'t', which was named as step, holds text such as 's8'.*expected numbers or ISO dates"
    ):
        ordered(steps(["s8", "s9", "s10"]))


@pytest.mark.parametrize("missing", [None, np.nan, ""], ids=repr)
def test_missing_steps_and_episodes_are_counted_and_placed(missing):
    frame = steps([0, 1, 2, 3]).astype(object)
    frame.loc[[1, 3], "t"] = missing
    with pytest.raises(ValueError, match=r"'t' has no value at row 1, row 3 \(2 rows\)"):
        ordered(frame.astype({"t": float}) if missing is not None and missing != "" else frame.astype({"t": "string"}))
    frame = steps([0, 1, 2, 3]).assign(run=["a", "b", missing if missing is not np.nan else None, "b"])
    with pytest.raises(ValueError, match="'run' has no value at row 2"):
        ordered(frame)


def test_a_missing_step_is_named_where_the_column_counts():
    frame = steps([0, 1, 2, 5, 6, 7])
    with pytest.raises(
        ValueError, match=r"episode 0 goes from step 2 to step 5 \(row 3\): expected no step to be missing"
    ):
        ordered(frame)
    assert ordered(frame, gaps="allow") == [[0, 1, 2, 3, 4, 5]]
    assert ordered(frame, cut_at_gap=1) == [[0, 1, 2], [3, 4, 5]]
    assert ordered(steps([0, 10, 20, 60])) == [[0, 1, 2, 3]]  # irregular times are no counter


def test_several_columns_together_make_an_id():
    frame = pd.concat([steps([0, 1]).assign(day=day, run=run) for day in (1, 2) for run in (0, 1)], ignore_index=True)
    assert len(ordered(frame, episode=["day", "run"])) == 4
    with pytest.raises(ValueError, match="episode 1/0 has step 0 more than once"):
        ordered(pd.concat([frame, frame[:1]], ignore_index=True), episode=["day", "run"])


# Folders


def write_folder(folder, frames, names):
    folder.mkdir()
    for frame, name in zip(frames, names, strict=True):
        frame.to_csv(folder / name, index=False)
    return folder


def test_ids_that_begin_anew_in_the_next_file_are_other_episodes(tmp_path):
    day = pd.DataFrame({"run": [0, 0, 1, 1], "t": [0, 1, 0, 1], "x": np.arange(4.0), "a": [0, 1] * 2, "r": 1.0})
    folder = write_folder(tmp_path / "days", [day, day], ["day-0.csv", "day-1.csv"])
    assert ordered(folder, step=None) == [[0, 1], [2, 3], [0, 1], [2, 3]]
    assert ordered(folder) == [[0, 1], [2, 3], [0, 1], [2, 3]]
    assert ordered(folder, step=None, files="continue") == [[0, 1, 0, 1], [2, 3, 2, 3]]


def test_the_parts_of_an_episode_follow_one_another_by_number(tmp_path):
    frames = [steps([part]).assign(x=part) for part in range(12)]
    folder = write_folder(tmp_path / "parts", frames, [f"part-{part}.csv" for part in range(12)])
    assert ordered(folder, step=None) == [list(range(12))]


def test_an_id_that_may_go_on_in_the_next_file_needs_a_word(tmp_path):
    folder = write_folder(tmp_path / "runs", [steps([0, 1]), steps([0, 1])], ["a.csv", "b.csv"])
    with pytest.raises(
        ValueError, match=r"episode 0 is at the end of a.csv and at the beginning of b.csv: .*files='restart'"
    ):
        ordered(folder, step=None)
    assert ordered(folder, step=None, files="restart") == [[0, 1], [0, 1]]
    assert ordered(write_folder(tmp_path / "more", [steps([0, 1]), steps([2, 3])], ["a.csv", "b.csv"])) == [
        [0, 1, 0, 1]
    ]


def test_folders_with_the_same_rows_twice_or_with_other_columns_are_refused(tmp_path):
    folder = write_folder(tmp_path / "both", [steps([0, 1])], ["a.csv"])
    steps([0, 1]).to_parquet(folder / "a.parquet")
    with pytest.raises(ValueError, match=r"tables of several kinds \(a.csv, a.parquet\)"):
        ordered(folder)
    folder = write_folder(tmp_path / "other", [steps([0]), steps([1]).rename(columns={"x": "y"})], ["a.csv", "b.csv"])
    with pytest.raises(ValueError, match=r"b.csv and a.csv have different columns \(x, y\)"):
        ordered(folder)


# Logs without episodes


@pytest.mark.parametrize(
    ("rule", "lengths"),
    [
        ({"cut_every": 4}, [4, 4, 2]),
        ({"cut_at_gap": 5, "step": "t"}, [6, 4]),
        ({"cut_at_change": "a"}, [3, 4, 3]),
        ({"cut_at_change": ["a"], "cut_every": 2}, [2, 1, 2, 2, 2, 1]),
    ],
    ids=["every", "gap", "change", "both"],
)
def test_a_log_is_cut_by_the_rule_that_is_named(rule, lengths):
    log = pd.DataFrame(
        {"t": [*range(6), *range(20, 24)], "x": np.arange(10.0), "a": [0] * 3 + [1] * 4 + [0] * 3, "r": 1.0}
    )
    dataset = load_trajectories(log, observation=["x"], action="a", reward="r", **rule)
    assert [len(row) for row in dataset["rewards"]] == lengths
    assert [row[-1] for row in dataset["truncations"]] == [True] * len(lengths)


def test_a_gap_of_time_is_a_duration():
    times = pd.to_datetime(["2024-01-01 00:00", "2024-01-01 00:05", "2024-01-01 03:00"])
    log = pd.DataFrame({"t": times, "x": 0.0, "a": [0, 1, 0], "r": 1.0})
    names = {"observation": ["x"], "action": "a", "reward": "r", "step": "t"}
    assert [len(row) for row in load_trajectories(log, cut_at_gap="10min", **names)["rewards"]] == [2, 1]
    with pytest.raises(ValueError, match="cut_at_gap is 'a while': expected a duration"):
        load_trajectories(log, cut_at_gap="a while", **names)
    with pytest.raises(ValueError, match="cut_at_gap needs the times of the steps"):
        load_trajectories(log, cut_at_gap="10min", **{**names, "step": None})


def test_a_log_that_is_not_cut_is_warned_of():
    count = 20_001
    log = {
        "observations": np.zeros((count, 1)),
        "actions": np.zeros(count, int),
        "rewards": np.ones(count),
        "dones": np.zeros(count),
    }
    with pytest.warns(UserWarning, match="longest episode has 20,001 steps: .*cut_every=1000"):
        dataset = load_trajectories(log)
    assert "20,001" in metadata_of(dataset).guesses["episodes"]
    assert len(load_trajectories(log, cut_every=1000)) == 21


# Words, problems, formats


def test_words_are_one_hot_in_observations_and_codes_in_actions():
    frame = pd.DataFrame(
        {"run": 0, "x": [0.5, 1.5], "mode": ["hand", "auto"], "a": ["sell", "buy"], "valve": [0.1, 0.2], "r": 1.0}
    )
    names = {"episode": "run", "observation": ["x", "mode"], "reward": "r"}
    dataset = load_trajectories(frame, action="a", **names)
    task = metadata_of(dataset)
    assert dataset["observations"][0] == [[0.5, 0, 1], [1.5, 1, 0]] and dataset["actions"][0] == [1, 0]
    assert task.observation_names == ("x", "mode=auto", "mode=hand")
    assert task.categories == {"mode": ["auto", "hand"], "a": ["buy", "sell"]}
    assert task.words(np.array([1, 0])) == ["sell", "buy"]
    assert task.observation_vector({"mode": "hand", "x": 0.5}).tolist() == [0.5, 0, 1]
    hybrid = load_trajectories(frame, action=["a", "valve"], **names)
    assert metadata_of(hybrid).words(np.array(hybrid["actions"][0])) == [
        ["sell", pytest.approx(0.1)],
        ["buy", pytest.approx(0.2)],
    ]


def test_all_problems_are_named_together(tmp_path):
    frame = log([3, 3])
    frame.loc[1, "x"] = None
    frame.loc[[2, 4], "r"] = np.inf
    frame["a"] = ["1", "2", "3", "err", "4", "5"]
    frame.to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(ValueError) as caught:
        load_trajectories(tmp_path / "log.csv", **NAMES)
    assert str(caught.value).splitlines() == [
        "the table has 3 problems:",
        "- column 'x' of the table: row 1 (line 3 of log.csv) has no value: expected a value; fill it in.",
        "- column 'a' holds text ('err') at row 3 (line 5 of log.csv): expected numbers.",
        "- column 'r' is inf at row 2 (line 4 of log.csv), row 4 (line 6 of log.csv) (2 rows): expected finite numbers.",
    ]
    with pytest.raises(
        ValueError, match=r"no column 'p', which was named as observation; the table has no column 'q', .* as action"
    ):
        load_trajectories(frame, **{**NAMES, "observation": ["p"], "action": "q"})


def test_patterns_stand_for_many_columns():
    frame = pd.DataFrame({"run": 0, "a": [0, 1], "r": 1.0, **{f"sensor_{i}": [float(i), 0.0] for i in range(2000)}})
    dataset = load_trajectories(frame, episode="run", observation="sensor_*", action="a", reward="r")
    assert np.shape(dataset["observations"][0]) == (2, 2000)
    assert metadata_of(dataset).observation_names[:2] == ("sensor_0", "sensor_1")
