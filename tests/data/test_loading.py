import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, load_from_disk
from gymnasium.spaces import Box, Discrete

from hf_seqrl import load_trajectories
from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.metadata import metadata_of
from hf_seqrl.data.writing import save_trajectories

LENGTHS = [3, 5, 2]


@pytest.fixture
def episodes():
    rng = np.random.default_rng(0)
    return [
        {
            "observations": rng.normal(size=(length, 2)).astype(np.float32),
            "actions": rng.integers(0, 3, length),
            "rewards": rng.normal(size=length).astype(np.float32),
            "terminations": np.arange(length) == (length - 1 if length > 2 else -1),
            "truncations": np.arange(length) == (length - 1 if length <= 2 else -1),
        }
        for length in LENGTHS
    ]


def assert_same_episodes(dataset, episodes):
    assert len(dataset) == len(episodes)
    columns = TrajectoryColumns(dataset)
    everything = np.arange(columns.num_steps)
    for name in episodes[0]:
        expected = np.concatenate([episode[name] for episode in episodes])
        np.testing.assert_array_equal(getattr(columns, name).take(everything), expected, err_msg=name)
    np.testing.assert_array_equal(np.diff(columns.episode_offsets), [len(episode["rewards"]) for episode in episodes])


def as_columns(episodes):
    return {name: [episode[name] for episode in episodes] for name in episodes[0]}


def test_a_list_of_episodes_and_a_dictionary_of_columns(episodes):
    assert_same_episodes(load_trajectories(episodes), episodes)
    assert_same_episodes(load_trajectories(as_columns(episodes)), episodes)


def test_an_array_of_episodes_of_equal_length():
    arrays = {
        "observations": np.zeros((4, 6, 2)),
        "actions": np.ones((4, 6, 1)),
        "rewards": np.ones((4, 6)),
        "terminations": np.zeros((4, 6), bool),
    }
    dataset = load_trajectories(arrays)
    assert len(dataset) == 4 and len(dataset[0]["rewards"]) == 6


def test_one_entry_a_step_with_the_names_of_d4rl(episodes):
    steps = {name: np.concatenate(values) for name, values in as_columns(episodes).items()}
    d4rl = {
        "terminals": steps.pop("terminations"),
        "timeouts": steps.pop("truncations"),
        **steps,
        "metadata": "not one entry per step",
    }
    assert_same_episodes(load_trajectories(d4rl), episodes)
    with pytest.raises(ValueError, match="no column 'terminations'"):
        load_trajectories({name: steps[name] for name in ("observations", "actions", "rewards")})


def test_data_sets_and_their_splits(episodes, tmp_path):
    dataset = load_trajectories(episodes)
    splits = DatasetDict(train=dataset.select([0, 1]), test=dataset.select([2]))
    assert_same_episodes(load_trajectories(dataset), episodes)
    assert_same_episodes(load_trajectories(splits), episodes[:2])
    assert_same_episodes(load_trajectories(splits, split="test"), episodes[2:])
    splits.save_to_disk(tmp_path / "splits")
    assert_same_episodes(load_trajectories(tmp_path / "splits", split="test"), episodes[2:])
    with pytest.raises(ValueError, match="no split 'valid': expected split to be one of train, test"):
        load_trajectories(splits, split="valid")


def test_a_saved_folder_keeps_data_and_metadata(episodes, tmp_path):
    dataset = load_trajectories(episodes, env_id="CartPole-v1", action_space=Discrete(3), provenance={"by": "hand"})
    save_trajectories(dataset, tmp_path / "saved")
    loaded = load_trajectories(tmp_path / "saved")
    assert_same_episodes(loaded, episodes)
    assert metadata_of(loaded) == metadata_of(dataset)
    assert metadata_of(load_from_disk(tmp_path / "saved")["train"]) == metadata_of(dataset)


@pytest.mark.parametrize("most_bytes", [0, 1 << 28], ids=["memory-mapped", "in memory"])
@pytest.mark.parametrize("folder", [False, True])
def test_parquet_with_its_description(episodes, tmp_path, monkeypatch, most_bytes, folder):
    monkeypatch.setattr("hf_seqrl.data.sources.MOST_BYTES_IN_MEMORY", most_bytes)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    load_trajectories(episodes[:2]).to_parquet(tmp_path / "a.parquet")
    load_trajectories(episodes[2:]).to_parquet(tmp_path / "b.parquet")
    (tmp_path / "episodes.json").write_text(json.dumps({"info": {"env": "Hopper-v5", "seed": 3}, "episodes": []}))
    dataset = load_trajectories(str(tmp_path if folder else tmp_path / "a.parquet"))
    assert_same_episodes(dataset, episodes if folder else episodes[:2])
    assert bool(dataset.cache_files) == (most_bytes == 0)
    metadata = metadata_of(dataset)
    assert metadata.env_id == "Hopper-v5" and metadata.provenance == {"seed": 3}
    assert metadata.reference_returns == (-20.272305, 3234.3)


def test_a_description_that_cannot_be_read_is_named(episodes, tmp_path):
    load_trajectories(episodes).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "episodes.json").write_text("{}")
    with pytest.raises(ValueError, match=r"cannot read .*episodes.json"):
        load_trajectories(tmp_path)


def test_arguments_override_what_the_source_says(episodes):
    first = load_trajectories(episodes, env_id="Hopper-v5", provenance={"by": "hand"})
    second = load_trajectories(first, env_id="CartPole-v1", reference_returns=(0, 500), max_episode_steps=500)
    metadata = metadata_of(second)
    assert (metadata.env_id, metadata.reference_returns, metadata.max_episode_steps) == (
        "CartPole-v1",
        (0.0, 500.0),
        500,
    )
    assert metadata.provenance == {"by": "hand"}


def test_spaces_are_kept_and_checked(episodes):
    dataset = load_trajectories(episodes, action_space=Discrete(3), observation_space=Box(-np.inf, np.inf, (2,)))
    assert metadata_of(dataset).action_space == {"type": "Discrete", "n": 3, "start": 0}
    with pytest.raises(ValueError, match="expected an action of"):
        load_trajectories(episodes, action_space=Discrete(2))


def test_floats_are_cast_once(episodes):
    doubles = [{**episode, "rewards": episode["rewards"].astype(np.float64)} for episode in episodes]
    rows = Dataset.from_dict(
        {name: [values.tolist() for values in column] for name, column in as_columns(doubles).items()}
    )
    assert rows.features["rewards"].feature.dtype == "float64"
    dataset = load_trajectories(rows)
    assert dataset.features["rewards"].feature.dtype == "float32"
    assert dataset.features["actions"].feature.dtype == "int64"
    assert_same_episodes(dataset, episodes)


def test_integers_become_floats_but_for_actions_and_bytes(episodes):
    whole = [
        {**e, "rewards": np.ones(len(e["rewards"]), int), "observations": e["actions"][:, None]} for e in episodes
    ]
    dataset = load_trajectories(whole)
    assert dataset.features["rewards"].feature.dtype == "float32"
    assert dataset.features["observations"].feature.feature.dtype == "float32"
    assert dataset.features["actions"].feature.dtype == "int64"


def test_other_names_for_the_columns_of_episodes(episodes):
    dataset = load_trajectories(episodes).rename_column("observations", "states").rename_column("rewards", "r")
    assert_same_episodes(load_trajectories(dataset, observation="states", reward="r"), episodes)
    with pytest.raises(ValueError, match="no column 'obs', which was named as observation"):
        load_trajectories(dataset, observation="obs")


def test_images_stay_bytes_of_their_shape(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (length, 6, 5, 3), dtype=np.uint8) for length in LENGTHS]
    episodes = [
        {
            "observations": image,
            "actions": np.zeros(len(image), np.int64),
            "rewards": np.ones(len(image), np.float32),
            "terminations": np.zeros(len(image), bool),
        }
        for image in images
    ]
    dataset = load_trajectories(episodes)
    dataset.to_parquet(tmp_path / "images.parquet")
    save_trajectories(dataset, tmp_path / "saved")
    for source in (dataset, tmp_path / "images.parquet", tmp_path / "saved"):
        loaded = load_trajectories(source)
        assert TrajectoryColumns(loaded).observations.dtype == np.uint8
        assert_same_episodes(loaded, episodes)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda episodes: episodes[1].pop("actions"), "episode 1 has no column 'actions'"),
        (lambda episodes: episodes[2].update(rewards=np.ones(9)), "'rewards' of episode 2 has 9 steps"),
        (
            lambda episodes: episodes[1].update(observations=np.ones((5, 4))),
            r"'observations' of episode 1 .*shape \(4,\)",
        ),
        (lambda episodes: episodes[0].update(actions=[[1], [1, 2], [1]]), "'actions' of episode 0 is no array"),
        (lambda episodes: episodes.clear(), "list of episodes is empty"),
        (lambda episodes: episodes.append({name: [] for name in episodes[0]}), "episode 3 has no steps"),
    ],
)
def test_bad_episodes_are_named(episodes, change, message):
    change(episodes)
    with pytest.raises(ValueError, match=message):
        load_trajectories(episodes)


def test_sources_that_cannot_be_read_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_trajectories(tmp_path / "nothing")
    with pytest.raises(ValueError, match="holds no trajectories"):
        load_trajectories(tmp_path)
    (tmp_path / "log.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="name its columns"):
        load_trajectories(tmp_path / "log.csv")
    with pytest.raises(ValueError, match="from a int"):
        load_trajectories(3)


def test_the_data_sets_of_the_blog_are_read_as_they_are(shared_data):
    dataset = load_trajectories(shared_data("hopper-medium"))
    described = json.loads((shared_data("hopper-medium") / "episodes.json").read_text())
    metadata = metadata_of(dataset)
    assert metadata.env_id == described["info"]["env"] and metadata.provenance["seed"] == described["info"]["seed"]
    columns = TrajectoryColumns(dataset)
    last = columns.episode_offsets[1:] - 1
    np.testing.assert_array_equal(np.diff(columns.episode_offsets), [row["length"] for row in described["episodes"]])
    np.testing.assert_array_equal(
        columns.terminations.take(last), [row["terminated"] for row in described["episodes"]]
    )
    np.testing.assert_array_equal(columns.truncations.take(last), [row["truncated"] for row in described["episodes"]])


def test_a_name_that_is_no_path_is_a_data_set_on_the_hub(episodes, monkeypatch, tmp_path):
    asked = []

    def answer(*arguments, **options):
        asked.append((arguments, options))
        return DatasetDict(train=load_trajectories(episodes))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hf_seqrl.data.sources.load_dataset", answer)
    assert_same_episodes(load_trajectories("someone/replay", "hopper-medium-v2", revision="v1"), episodes)
    assert asked == [(("someone/replay", "hopper-medium-v2"), {"split": None, "revision": "v1", "streaming": False})]
    for path in ("data/hopper.parquet", "a/b/c", "/someone/replay"):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            load_trajectories(path)


def test_a_frame_of_episodes_is_read_as_rows(episodes):
    frame = pd.DataFrame(as_columns(episodes)).map(lambda values: [np.asarray(value).tolist() for value in values])
    assert_same_episodes(load_trajectories(frame), episodes)


def test_parquet_written_without_datasets(episodes, tmp_path):
    columns = {name: [values.tolist() for values in column] for name, column in as_columns(episodes).items()}
    pq.write_table(pa.table(columns), tmp_path / "plain.parquet", row_group_size=1)
    assert_same_episodes(load_trajectories(tmp_path / "plain.parquet"), episodes)
