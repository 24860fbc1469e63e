"""Tables with one row a step that are larger than what may be held in memory."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from hf_seqrl import load_trajectories
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
