"""Episodes that stream are those of the data set, whatever it is read from, in an order of which every place can be found again."""

import json
from itertools import chain

import numpy as np
import pytest
from datasets import Dataset, IterableDataset, load_from_disk
from gymnasium.spaces import Box, Discrete

from hf_seqrl import (
    DecisionTransformerProcessor,
    TrajectorySeq2SeqProcessor,
    TrajectoryStream,
    load_trajectories,
    metadata_of,
    save_trajectories,
)
from hf_seqrl.data.metadata import TrajectoryMetadata
from hf_seqrl.data.returns import best_episodes
from hf_seqrl.data.sources import METADATA_NAME, write_metadata
from hf_seqrl.models.policy.processing_policy import PolicyProcessor

NUM_EPISODES = 23


@pytest.fixture(scope="module")
def dataset():
    """Episodes of one to five steps; every reward is the number of its episode."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 6, NUM_EPISODES)
    episodes = [
        {
            "observations": rng.normal(size=(length, 2)),
            "actions": rng.integers(0, 3, length),
            "rewards": np.full(length, number),
            "terminations": np.arange(length) == length - 1,
        }
        for number, length in enumerate(lengths)
    ]
    return load_trajectories(episodes, action_space=Discrete(3), max_episode_steps=9)


@pytest.fixture(scope="module")
def shards(dataset, tmp_path_factory):
    """A folder of five Parquet files."""
    folder = tmp_path_factory.mktemp("shards")
    for number in range(5):
        dataset.shard(5, number, contiguous=True).to_parquet(str(folder / f"part-{number}.parquet"))
    return folder


def numbers_in(dataset):
    return [int(rewards[0]) for rewards in dataset["rewards"]]


def numbers_of_an_epoch(stream, epoch=0, **reader):
    found = []
    for block in stream.blocks(**reader):
        if block.start["epoch"] > epoch:
            return found
        found += numbers_in(block.dataset) if block.start["epoch"] == epoch else []


def sources(dataset, shards, folder):
    saved = save_trajectories(dataset, folder / "saved")
    return {
        "parquet": shards,
        "a list of files": sorted(shards.glob("*.parquet")),
        "a URL": f"file://{shards}/*.parquet",
        "saved": saved,
        "saved, as text": str(saved),
        "map-style": dataset,
        "selected": dataset.select(range(NUM_EPISODES)),
        "iterable": dataset.to_iterable_dataset(num_shards=4),
        "rows of lists": IterableDataset.from_generator(lambda: iter(dataset.to_list())),
    }


def test_every_source_gives_every_episode_once_an_epoch(dataset, shards, tmp_path):
    for name, source in sources(dataset, shards, tmp_path).items():
        stream = TrajectoryStream(source, buffer_episodes=15, open_shards=2, action_space=Discrete(3))
        assert sorted(numbers_of_an_epoch(stream)) == list(range(NUM_EPISODES)), name
        assert numbers_in(stream.sample) == list(range(NUM_EPISODES)), name
        first = next(stream.blocks()).dataset
        for row, number in zip(first, numbers_in(first), strict=True):
            assert row == dataset[number], name


def test_metadata_come_along(dataset, shards, tmp_path):
    saved = save_trajectories(dataset, tmp_path / "saved")
    write_metadata(dataset, shards)
    try:
        for source in (dataset, saved, shards):
            stream = TrajectoryStream(source)
            assert stream.metadata == metadata_of(dataset)
            assert metadata_of(next(stream.blocks()).dataset) == metadata_of(dataset)
    finally:
        (shards / "trajectories.json").unlink()


def test_the_order_is_that_of_the_seed_and_epochs_differ(shards):
    def orders(**options):
        stream = TrajectoryStream(shards, buffer_episodes=12, **options)
        return [numbers_of_an_epoch(stream, epoch) for epoch in (0, 1)]

    first = orders(seed=1)
    assert first[0] != first[1]
    assert orders(seed=1) == first and orders(seed=2) != first
    assert orders(shuffle=False, open_shards=1) == [list(range(NUM_EPISODES))] * 2


def test_blocks_mix_shards(shards):
    stream = TrajectoryStream(shards, buffer_episodes=6, open_shards=3)
    shard_of = np.repeat(range(5), [5, 5, 5, 4, 4])
    assert len(set(shard_of[numbers_in(next(stream.blocks()).dataset)])) == 3


@pytest.mark.parametrize("reader", [{}, {"consumer": 1, "num_consumers": 3}])
def test_reading_goes_on_at_every_block(shards, reader):
    def first_blocks(start=None):
        blocks = TrajectoryStream(shards, buffer_episodes=4, open_shards=2).blocks(start, **reader)
        return [next(blocks) for _ in range(9)]

    whole = first_blocks()
    for number in (1, 2, 5):
        rest = [numbers_in(block.dataset) for block in first_blocks(whole[number].start)]
        assert rest[: 9 - number] == [numbers_in(block.dataset) for block in whole[number:]]


@pytest.mark.parametrize("num_consumers", [2, 3, 7])
def test_readers_share_an_epoch_without_overlap(shards, num_consumers):
    stream = TrajectoryStream(shards, buffer_episodes=4)
    parts = [
        numbers_of_an_epoch(stream, consumer=consumer, num_consumers=num_consumers)
        for consumer in range(num_consumers)
    ]
    assert all(parts)
    assert sorted(chain(*parts)) == list(range(NUM_EPISODES))


def test_more_readers_than_episodes_are_refused(dataset):
    stream = TrajectoryStream(dataset.select([0, 1]))
    with pytest.raises(ValueError, match=r"no episode for reader . of 3"):
        [next(stream.blocks(consumer=consumer, num_consumers=3)) for consumer in range(3)]


def test_a_sample_is_spread_over_the_shards_and_can_be_held_out(shards):
    stream = TrajectoryStream(shards, sample_episodes=10)
    assert numbers_in(stream.sample) == [0, 1, 5, 6, 10, 11, 15, 16, 19, 20]
    rest = numbers_of_an_epoch(stream, without=[0, 3, 9])
    assert sorted(rest) == [number for number in range(NUM_EPISODES) if number not in (0, 6, 20)]


def test_what_the_sample_shows_holds_for_all_blocks():
    """Words have the codes of the sample, also in a block that holds only some of them."""
    words = [["left"], ["right"], ["left"], ["stay"]]
    rows = [
        {"observations": [[float(n)]], "actions": word, "rewards": [1.0], "dones": [True]}
        for n, word in enumerate(words)
    ]
    stream = TrajectoryStream(Dataset.from_list(rows), buffer_episodes=1, shuffle=False, open_shards=1)
    actions = [block.dataset["actions"][0] for block, _ in zip(stream.blocks(), words, strict=False)]
    assert actions == [[0], [1], [0], [2]]
    few = TrajectoryStream(Dataset.from_list(rows), sample_episodes=3, buffer_episodes=1, shuffle=False, open_shards=1)
    with pytest.raises(ValueError, match=r"in a block of the stream with rows 0 to 0 of shard 3.*'stay'"):
        [block for block, _ in zip(few.blocks(), range(4), strict=False)]


def test_an_invalid_episode_is_named_with_its_place(dataset, tmp_path):
    broken = dataset.to_list()
    broken[20]["observations"][0][0] = float("nan")
    Dataset.from_list(broken).to_parquet(str(tmp_path / "one.parquet"))
    stream = TrajectoryStream(tmp_path, sample_episodes=5, buffer_episodes=10, action_space=Discrete(3))
    with pytest.raises(ValueError, match=r"rows 20 to 22 of shard 0: column 'observations' of episode 0 is nan"):
        numbers_of_an_epoch(stream)


REFUSED = {
    "steps": (
        {"source": Dataset.from_dict({"observations": [[0.0]], "actions": [0], "rewards": [0.0]})},
        "rows of the source are steps",
    ),
    "a table": ({"episode": "run"}, "episode='run' cannot be followed in a stream"),
    "cut": ({"cut_every": 10}, "cut_every=10 cannot be followed"),
    "rescaled": ({"out_of_bounds": "rescale"}, "needs the range of all actions"),
    "no buffer": ({"buffer_episodes": 0}, "buffer_episodes is 0"),
    "arrays": ({"source": {"observations": []}}, "cannot stream trajectories from a dict"),
    "nothing": ({"source": "missing/folder/x"}, "does not exist"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_streamed_is_refused_in_one_sentence(dataset, name):
    options, message = REFUSED[name]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        TrajectoryStream(**{"source": dataset, **options}).sample  # noqa: B018


def test_a_text_file_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "log.csv").write_text("run,x\n1,2\n")
    with pytest.raises(ValueError, match="makes such a folder once"):
        TrajectoryStream(tmp_path / "log.csv")


def test_columns_are_renamed_and_actions_clipped():
    rows = [{"state": [[0.0], [1.0]], "actions": [[3.0], [-0.5]], "rewards": [1.0, 1.0], "dones": [False, True]}]
    stream = TrajectoryStream(
        Dataset.from_list(rows * 3), observation="state", out_of_bounds="clip", action_space=Box(-1, 1, (1,))
    )
    block = next(stream.blocks()).dataset
    assert block["actions"][0] == [[1.0], [-0.5]] and "observations" in block.column_names


PROCESSORS = {
    "returns-to-go": (DecisionTransformerProcessor, {}),
    "cloning": (DecisionTransformerProcessor, {"conditioning": "none"}),
    "encoder-decoder": (TrajectorySeq2SeqProcessor, {"conditioning": "return"}),
    "policy": (PolicyProcessor, {"conditioning": "none"}),
}


@pytest.fixture
def described(dataset, shards, tmp_path):
    """A folder of the shards with metadata and statistics."""
    for file in shards.glob("*.parquet"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_metadata(dataset, tmp_path)
    return tmp_path


def values_of(processor):
    return json.dumps({**processor.to_dict(), "processor_class": ""}, default=lambda value: value.tolist())


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_processor_of_a_stream_is_that_of_the_whole_data_set(dataset, described, tmp_path, name):
    processor, options = PROCESSORS[name]
    expected = values_of(processor.from_dataset(dataset, **options))
    for source in (described, save_trajectories(dataset, tmp_path / "saved")):
        sample = TrajectoryStream(source, sample_episodes=6).sample
        assert len(sample) == 6
        assert values_of(processor.from_dataset(sample, **options)) == expected
        assert values_of(processor.from_dataset(sample.select([1, 4]), **options)) == expected


def test_the_target_of_a_pace_is_the_best_return_of_the_whole_data_set(dataset, described):
    options = {"conditioning": "return", "return_form": "pace"}
    sample = TrajectoryStream(described, sample_episodes=6).sample
    whole = PolicyProcessor.from_dataset(dataset, **options)
    streamed = PolicyProcessor.from_dataset(sample, **options)
    assert streamed.target_returns == whole.target_returns and streamed.return_bounds == whole.return_bounds


def test_what_is_selected_by_its_return_has_statistics_of_its_own(described):
    sample = TrajectoryStream(described, sample_episodes=6).sample
    best = best_episodes(sample, 0.5)
    assert metadata_of(sample).whole.num_episodes == NUM_EPISODES and metadata_of(best).whole is None
    assert metadata_of(best).updated(sample_of=metadata_of(sample).sample_of) == metadata_of(sample)


def test_statistics_stay_out_of_what_is_not_a_sample(dataset, described, tmp_path):
    stream = TrajectoryStream(described, sample_episodes=6)
    assert metadata_of(stream.sample).sample_of is not None
    assert stream.metadata == metadata_of(next(stream.blocks()).dataset) == metadata_of(dataset)
    saved = save_trajectories(stream.sample, tmp_path / "sample")
    assert metadata_of(load_trajectories(saved)) == metadata_of(dataset)
    assert metadata_of(TrajectoryStream(described).sample) == metadata_of(dataset)  # all there is


def replaced(file, change):
    rows = Dataset.from_parquet(str(file)).to_list()
    change(rows)
    Dataset.from_list(rows).to_parquet(str(file))


CHANGED_SHARDS = {
    "one more": (
        lambda folder: (folder / "part-9.parquet").write_bytes((folder / "part-0.parquet").read_bytes()),
        "they are of 23 episodes, and there are 28",
    ),
    "shorter": (
        lambda folder: replaced(
            folder / "part-0.parquet",
            lambda rows: rows.__setitem__(0, {name: values[:1] for name, values in rows[-1].items()}),
        ),
        r"they are of \d+ steps, and there are \d+",
    ),
    "other values": (
        lambda folder: replaced(
            folder / "part-0.parquet", lambda rows: rows[0]["observations"][0].__setitem__(1, 99.0)
        ),
        "they say that entry 1 of observations lies between .* to 99",
    ),
    "other rewards": (
        lambda folder: replaced(
            folder / "part-0.parquet", lambda rows: rows[0].__setitem__("rewards", [-7.0] * len(rows[0]["rewards"]))
        ),
        "they say that returns lie between 0 and",
    ),
}


@pytest.mark.parametrize("name", CHANGED_SHARDS)
def test_statistics_of_other_data_are_not_used(described, name):
    change, message = CHANGED_SHARDS[name]
    change(described)
    with pytest.warns(UserWarning, match=rf"not used, and those of 6 episodes take their place: {message}"):
        sample = TrajectoryStream(described, sample_episodes=6).sample
    (described / METADATA_NAME).write_text(json.dumps(TrajectoryMetadata.to_dict(metadata_of(sample))))
    plain = TrajectoryStream(described, sample_episodes=6).sample
    expected = values_of(DecisionTransformerProcessor.from_dataset(plain))
    assert values_of(DecisionTransformerProcessor.from_dataset(sample)) == expected


def with_change(*path, value):
    def change(statistics):
        for name in path[:-1]:
            statistics = statistics[name]
        statistics[path[-1]] = value

    return change


DAMAGED_STATISTICS = {
    "no numbers": with_change("returns", "high", value="high"),
    "true": with_change("returns", "low", value=True),
    "NaN": with_change("returns", "mean", value=float("nan")),
    "infinite": with_change("columns", "observations", "std", value=[1.0, float("inf")]),
    "a mean beyond the extremes": with_change("columns", "observations", "mean", value=[1e9, 0.0]),
    "a negative deviation": with_change("columns", "observations", "std", value=[-1.0, 1.0]),
    "too large a deviation": with_change("columns", "observations", "std", value=[1e9, 1.0]),
    "another length": with_change("columns", "observations", "low", value=[0.0]),
    "nested": with_change("columns", "observations", "low", value=[[0.0, 0.0]]),
    "a target beyond all returns": with_change("returns", "middle", value=1e9),
    "an upper quantile beyond all returns": with_change("returns", "upper", value=-1e9),
    "a huge number": with_change("num_episodes", value=10**400),
    "a fraction of an episode": with_change("num_episodes", value=23.0),
    "no steps": with_change("num_steps", value=0),
    "a missing part": lambda statistics: statistics["returns"].pop("span"),
    "an unknown part": with_change("returns", "another", value=1.0),
    "a list of columns": with_change("columns", value=[]),
    "a rounding error without bounds": with_change("columns", "observations", "precision", value=2.0),
}


@pytest.mark.parametrize("name", DAMAGED_STATISTICS)
def test_damaged_statistics_are_not_used(described, name):
    values = json.loads((described / METADATA_NAME).read_text())
    DAMAGED_STATISTICS[name](values["statistics"])
    (described / METADATA_NAME).write_text(json.dumps(values))
    with pytest.warns(UserWarning, match="statistics that are stored with the data are not used"):
        sample = TrajectoryStream(described, sample_episodes=6).sample
    assert metadata_of(sample).whole is None


@pytest.mark.parametrize("value", [[], "all", 7, {"returns": []}])
def test_what_is_no_statistics_at_all_is_not_used(described, value):
    values = json.loads((described / METADATA_NAME).read_text())
    (described / METADATA_NAME).write_text(json.dumps({**values, "statistics": value}))
    with pytest.warns(UserWarning, match="the statistics are damaged"):
        TrajectoryStream(described, sample_episodes=6).sample  # noqa: B018


def test_statistics_are_not_used_where_options_change_the_values(dataset, described):
    stream = TrajectoryStream(described, sample_episodes=6, out_of_bounds="clip", action_space=Discrete(3))
    assert metadata_of(stream.sample).whole is None


def test_data_without_statistics_are_saved_all_the_same(dataset, tmp_path):
    strange = Dataset.from_dict({"observations": [["far", "near"]], "rewards": [[1.0, 2.0]]})
    assert load_from_disk(save_trajectories(strange, tmp_path / "strange"))["train"].to_dict() == strange.to_dict()
    rows = dataset.to_list()
    rows[3]["rewards"][0] = float("inf")
    save_trajectories(Dataset.from_list(rows), tmp_path / "infinite")
    assert "statistics" not in (tmp_path / "infinite" / "train" / "dataset_info.json").read_text()
