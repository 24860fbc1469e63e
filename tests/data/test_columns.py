import gc
import weakref

import numpy as np
import pyarrow as pa
import pytest
from datasets import Array2D, Dataset, Features, List, Value, concatenate_datasets, load_from_disk

from hf_seqrl.data.columns import TrajectoryColumns, episode_blocks
from hf_seqrl.data.writing import dataset_from_steps

LENGTHS = [4, 1, 6, 3]


def rows(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "observations": [rng.normal(size=(length, 3)).astype(np.float32).tolist() for length in LENGTHS],
        "actions": [rng.integers(0, 5, length).tolist() for length in LENGTHS],
        "rewards": [rng.normal(size=length).astype(np.float32).tolist() for length in LENGTHS],
        "terminations": [[False] * (length - 1) + [length > 3] for length in LENGTHS],
        "truncations": [[False] * (length - 1) + [length <= 3] for length in LENGTHS],
    }


def flat(dataset, name):
    return np.concatenate([np.asarray(values) for values in dataset[name][:]])


def assert_columns_equal_rows(dataset):
    columns = TrajectoryColumns(dataset)
    everything = np.arange(columns.num_steps)
    backwards = everything[::-1].reshape(1, -1)
    for name in ("observations", "actions", "rewards", "terminations", "truncations"):
        column, expected = getattr(columns, name), flat(dataset, name)
        np.testing.assert_allclose(column.take(everything), expected, err_msg=name)
        np.testing.assert_allclose(column.take(backwards), expected[backwards], err_msg=name)
        np.testing.assert_allclose(np.concatenate(list(column.blocks())), expected, err_msg=name)
        assert column.take(everything).dtype == column.dtype
        assert column.shape_per_step == expected.shape[1:]
    lengths = [len(rewards) for rewards in dataset["rewards"][:]]
    np.testing.assert_array_equal(np.diff(columns.episode_offsets), lengths)
    np.testing.assert_array_equal(columns.episode_of(everything), np.repeat(np.arange(len(lengths)), lengths))


def with_observation_type(kind):
    dataset = Dataset.from_dict(rows())
    return dataset.cast(Features({**dataset.features, "observations": kind}))


def large_lists():
    table = pa.table(rows())
    large = pa.large_list(pa.large_list(pa.float32()))
    return Dataset(table.set_column(0, "observations", table["observations"].cast(large)))


LAYOUTS = {
    "plain": lambda: Dataset.from_dict(rows()),
    "double": lambda: with_observation_type(List(List(Value("float64")))),
    "half": lambda: with_observation_type(List(List(Value("float16")))),
    "fixed-size": lambda: with_observation_type(List(List(Value("float32"), length=3))),
    "array2d": lambda: with_observation_type(Array2D((None, 3), "float32")),
    "large lists": large_lists,
    "slice": lambda: Dataset.from_dict(rows()).select(range(1, 3)),
    "selection": lambda: Dataset.from_dict(rows()).select([3, 1]),
    "shuffle": lambda: Dataset.from_dict(rows()).shuffle(seed=2),
    "chunks": lambda: concatenate_datasets([Dataset.from_dict(rows(seed)) for seed in range(3)]),
    "slice of chunks": lambda: concatenate_datasets([Dataset.from_dict(rows(s)) for s in range(3)]).select(
        range(2, 9)
    ),
    "shuffled chunks": lambda: concatenate_datasets([Dataset.from_dict(rows(s)) for s in range(3)]).shuffle(seed=1),
    "filtered": lambda: Dataset.from_dict(rows()).filter(lambda row: len(row["rewards"]) > 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_columns_equal_the_rows_in_every_layout(layout):
    assert_columns_equal_rows(LAYOUTS[layout]())


def test_columns_equal_the_rows_of_a_saved_data_set(tmp_path):
    Dataset.from_dict(rows()).save_to_disk(tmp_path, num_shards=2)
    assert_columns_equal_rows(load_from_disk(tmp_path))
    assert_columns_equal_rows(load_from_disk(tmp_path).shuffle(seed=3))


@pytest.mark.parametrize("unpacked", [0, 1 << 23])
def test_columns_equal_the_rows_over_several_files_of_several_record_batches(tmp_path, monkeypatch, unpacked):
    monkeypatch.setattr("hf_seqrl.data.columns._MOST_UNPACKED_STEPS", unpacked)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 4, 4500)
    steps = {
        "observations": rng.integers(0, 256, (lengths.sum(), 2, 3), dtype=np.uint8),
        "actions": rng.normal(size=(lengths.sum(), 2)),
        "rewards": rng.normal(size=lengths.sum()),
        "terminations": rng.random(lengths.sum()) < 0.5,
        "truncations": rng.random(lengths.sum()) < 0.5,
    }
    dataset_from_steps(steps, np.concatenate([[0], np.cumsum(lengths)])).save_to_disk(tmp_path, num_shards=2)
    dataset = load_from_disk(tmp_path)
    assert len(dataset.data.column("rewards").chunks) > 2
    columns = TrajectoryColumns(dataset)
    picked = rng.integers(0, lengths.sum(), (50, 4))
    for name, values in steps.items():
        expected = values if values.dtype.kind != "f" else values.astype(np.float32)
        np.testing.assert_array_equal(getattr(columns, name).take(picked), expected[picked], err_msg=name)
    assert_columns_equal_rows(dataset.shuffle(seed=0).select(range(100)))


def test_views_share_the_memory_of_arrow():
    dataset = Dataset.from_dict(rows()).cast_column("observations", List(List(Value("float32"))))
    (block,) = TrajectoryColumns(dataset).observations.blocks()
    values = dataset.data.column("observations").chunk(0).values.values
    assert block.__array_interface__["data"][0] == values.buffers()[1].address


def test_images_keep_their_shape_and_type():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3), dtype=np.uint8)
    features = Features({"observations": List(List(List(List(Value("uint8")))))})
    dataset = Dataset.from_dict({"observations": images.tolist()}, features=features)
    rest = {"actions": [[0] * 3] * 2, "rewards": [[1.0] * 3] * 2, "dones": [[False] * 3] * 2}
    columns = TrajectoryColumns(concatenate_datasets([dataset, Dataset.from_dict(rest)], axis=1))
    assert columns.observations.dtype == np.uint8
    np.testing.assert_array_equal(columns.observations.take(np.array([4])), images[1, 1][None])


def test_dones_are_terminations_and_other_episodes_count_as_truncated():
    dataset = Dataset.from_dict(rows())
    blog = dataset.remove_columns(["terminations", "truncations"]).add_column("dones", rows()["terminations"])
    columns = TrajectoryColumns(blog)
    steps = np.arange(columns.num_steps)
    np.testing.assert_array_equal(columns.terminations.take(steps), flat(dataset, "terminations"))
    np.testing.assert_array_equal(columns.truncations.take(steps), flat(dataset, "truncations"))
    np.testing.assert_array_equal(np.concatenate(list(columns.truncations.blocks())), flat(dataset, "truncations"))


def test_booleans_stay_packed_in_large_data_sets(monkeypatch):
    monkeypatch.setattr("hf_seqrl.data.columns._MOST_UNPACKED_STEPS", 3)
    for layout in ("plain", "slice", "shuffle", "slice of chunks"):
        assert_columns_equal_rows(LAYOUTS[layout]())


def test_a_data_set_is_opened_once_and_let_go_with_it():
    dataset, other = Dataset.from_dict(rows()), Dataset.from_dict(rows(1))
    columns = TrajectoryColumns.of(dataset)
    assert TrajectoryColumns.of(dataset) is columns and TrajectoryColumns.of(other) is not columns
    opened = weakref.ref(columns)
    del dataset, columns
    gc.collect()
    assert opened() is None


@pytest.mark.parametrize("most_steps", [1, 3, 7, 100])
def test_blocks_are_whole_episodes_as_many_as_fit(most_steps):
    offsets = np.cumsum([0, *LENGTHS])
    blocks = list(episode_blocks(offsets, most_steps))
    assert [episode for first, last in blocks for episode in range(first, last)] == list(range(len(LENGTHS)))
    for first, last in blocks:
        assert last == first + 1 or offsets[last] - offsets[first] <= most_steps
        assert last == len(LENGTHS) or offsets[last + 1] - offsets[first] > most_steps
