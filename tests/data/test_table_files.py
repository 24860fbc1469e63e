"""Tables with one row a step that are larger than what may be held in memory."""

import tracemalloc

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from hf_seqrl import load_trajectories, metadata_of
from hf_seqrl.data.table_files import open_table
from hf_seqrl.data.tables import StepTableColumns, episodes_from_table

ROWS, SIZE, LENGTH = 20_000, 100, 50
BYTES = ROWS * SIZE * 8
NAMES = StepTableColumns(episode="episode", step="step", observation="state", action="action", reward="reward")


def _table(order):
    """Row `i` of episode `i // LENGTH` observes `i`, in this order."""
    states = np.repeat(order.astype(np.float64), SIZE)
    offsets = np.arange(0, ROWS * SIZE + 1, SIZE, dtype=np.int32)
    return pa.table(
        {
            "episode": order // LENGTH,
            "step": order % LENGTH,
            "state": pa.ListArray.from_arrays(offsets, states),
            "action": order % 3,
            "reward": order.astype(np.float64),
        }
    )


_POOLS = []  # they must outlive what is allocated from them


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch):
    for module in ("sources", "table_files"):
        monkeypatch.setattr(f"hf_seqrl.data.{module}.MOST_BYTES_IN_MEMORY", 0)


def _peak(function):
    """What a function returns, and the most bytes that NumPy and Arrow held on the way; what is memory-mapped is not held."""
    pool, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    _POOLS.append(pool)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        return function(), tracemalloc.get_traced_memory()[1] + pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_large_table_is_never_in_memory_as_a_whole(tmp_path, shuffled):
    order = np.random.default_rng(0).permutation(ROWS) if shuffled else np.arange(ROWS)
    pq.write_table(_table(order), tmp_path / "steps.parquet", row_group_size=1000)
    table = open_table(tmp_path / "steps.parquet", NAMES.all)
    dataset, peak = _peak(lambda: episodes_from_table(table, NAMES, piece_bytes=BYTES // 50))
    assert peak < BYTES / 4
    _, whole = _peak(lambda: episodes_from_table(table, NAMES, piece_bytes=2 * BYTES))
    assert whole > BYTES / 2  # single floats
    assert dataset.num_rows == ROWS // LENGTH
    first_seen = order[np.sort(np.unique(order // LENGTH, return_index=True)[1])] // LENGTH
    for row in (0, 1, 200, 399):
        steps = first_seen[row] * LENGTH + np.arange(LENGTH)
        np.testing.assert_array_equal(np.array(dataset[row]["observations"])[:, -1], steps)
        assert dataset[row]["rewards"] == steps.tolist()
        assert dataset[row]["actions"] == (steps % 3).tolist()
        assert dataset[row]["truncations"] == [False] * (LENGTH - 1) + [True]


def test_a_data_set_on_disk_is_read_by_and_by_whatever_its_order(tmp_path):
    Dataset(_table(np.arange(ROWS))).save_to_disk(tmp_path / "saved")
    stored = Dataset.load_from_disk(str(tmp_path / "saved")).shuffle(seed=0)
    table, peak = _peak(lambda: open_table(stored, NAMES.all))
    assert peak < BYTES / 2  # `datasets` flattens a thousand rows at a time
    dataset, peak = _peak(lambda: episodes_from_table(table, NAMES, piece_bytes=BYTES // 50))
    assert peak < BYTES / 4
    assert sorted(dataset["rewards"][:]) == np.arange(ROWS).reshape(-1, LENGTH).tolist()


def test_a_csv_file_goes_to_disk_as_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_seqrl.data.table_files._CSV_BLOCK_BYTES", 200)
    lines = [f"{row // 4},{row % 4},{row}.5,{row % 2},{row}\n" for row in range(200)]
    (tmp_path / "log.csv").write_text("run,t,x,a,r\n" + "".join(lines))
    columns = {"episode": "run", "step": "t", "observation": ["x"], "action": "a", "reward": "r"}
    dataset = load_trajectories(tmp_path / "log.csv", **columns)
    assert dataset[30]["observations"] == [[120.5], [121.5], [122.5], [123.5]]
    lines[150] = "37,2,150.5,1,0.25\n"  # a fraction where whole numbers came before
    (tmp_path / "log.csv").write_text("run,t,x,a,r\n" + "".join(lines))
    with pytest.raises(ValueError, match=r"cannot be read piece by piece .* convert the file to \.parquet"):
        load_trajectories(tmp_path / "log.csv", **columns)


def test_a_downloaded_lerobot_folder_loads(tmp_path):
    rows = {"observation.state": [[0.0, 1.0]] * 3, "action": [[0.5]] * 3, "next.reward": [1.0, 2.0, 3.0]}
    rows |= {"episode_index": [0, 0, 1], "frame_index": [0, 1, 0], "next.done": [False, True, False]}
    (tmp_path / "data" / "chunk-000").mkdir(parents=True)
    Dataset.from_dict(rows).to_parquet(tmp_path / "data" / "chunk-000" / "episode_000000.parquet")
    assert load_trajectories(tmp_path)["rewards"][:] == [[1.0, 2.0], [3.0]]


# How files are written

TEXT = "run;x;a;r\n0;0,5;1;1,25\n0;1,5;0;2\n"
COLUMNS = {"episode": "run", "observation": ["x"], "action": "a", "reward": "r"}


def load_text(folder, text, name="log.csv", encoding="utf-8", **options):
    (folder / name).write_bytes(text.encode(encoding))
    return load_trajectories(folder / name, **COLUMNS | options)


def test_separators_and_decimal_commas_are_found(tmp_path):
    for text, name in ((TEXT, "log.csv"), (TEXT.replace(";", "\t"), "log.tsv"), (TEXT.replace(";", "|"), "other.csv")):
        dataset = load_text(tmp_path, text, name)
        assert dataset["observations"][0] == [[0.5], [1.5]] and dataset["rewards"][0] == [1.25, 2.0]
        assert metadata_of(dataset).guesses["decimal"].startswith("','")


def test_what_is_stated_about_a_file_is_used(tmp_path):
    assert load_text(tmp_path, TEXT, separator=";", decimal=",")["rewards"][0] == [1.25, 2.0]
    with pytest.raises(ValueError, match=r"column 'x' holds text \('0,5', '1,5'\)"):
        load_text(tmp_path, TEXT, separator=";", decimal=".")


def test_a_comma_that_may_divide_thousands_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"numbers such as 1,250: the comma may be a decimal point or divide thousands"
    ):
        load_text(tmp_path, "run;x;a;r\n0;1,250;1;1\n")
    assert load_text(tmp_path, "run;x;a;r\n0;1,250;1;1\n", decimal=",")["observations"][0] == [[1.25]]


def test_another_encoding_has_to_be_stated(tmp_path):
    text = "run,x,a,r\nmüll,0.5,1,1\n"
    with pytest.raises(ValueError, match="encoding='latin-1'"):
        load_text(tmp_path, text, encoding="latin-1")
    (tmp_path / "log.csv").write_bytes(text.encode("latin-1"))
    assert len(load_trajectories(tmp_path / "log.csv", encoding="latin-1", **COLUMNS)) == 1


def test_workbooks_by_their_sheets(tmp_path):
    pytest.importorskip("openpyxl")
    frame = pd.DataFrame({"run": [0, 0], "x": [0.5, 1.5], "a": [1, 0], "r": [1.0, 2.0]})
    with pd.ExcelWriter(tmp_path / "log.xlsx") as book:
        frame.to_excel(book, sheet_name="first", index=False)
        frame.assign(r=9.0).to_excel(book, sheet_name="second", index=False)
    assert load_trajectories(tmp_path / "log.xlsx", **COLUMNS)["rewards"][0] == [1.0, 2.0]
    assert load_trajectories(tmp_path / "log.xlsx", sheet="second", **COLUMNS)["rewards"][0] == [9.0, 9.0]


def test_a_missing_shard_is_named(tmp_path):
    table = pa.table({"run": [0], "x": [0.5], "a": [1], "r": [1.0]})
    for number in (0, 2):
        pq.write_table(table, tmp_path / f"train-{number:05}-of-00003.parquet")
    with pytest.raises(ValueError, match="train has 3 shards, and 1 of them are missing: 1"):
        load_trajectories(tmp_path, **COLUMNS)
