"""Episodes that stream are those of the data set, whatever it is read from, in an order of which every place can be found again."""

from itertools import chain

import numpy as np
import pytest
from datasets import Dataset, IterableDataset
from gymnasium.spaces import Box, Discrete

from hf_seqrl import TrajectoryStream, load_trajectories, metadata_of, save_trajectories
from hf_seqrl.data.sources import write_metadata

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
