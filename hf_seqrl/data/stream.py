"""Trajectories that are read while they are used: a sample for what has to be known before, and blocks of episodes for training."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, IterableDataset
from datasets.fingerprint import generate_random_fingerprint

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.loading import load_trajectories
from hf_seqrl.data.metadata import TrajectoryMetadata, metadata_of, with_metadata
from hf_seqrl.data.returns import check_sample
from hf_seqrl.data.source_kinds import is_step_table
from hf_seqrl.data.statistics import DataStatistics
from hf_seqrl.data.stream_blocks import BlockReader, RowBlock, ShardPart, ShardRows
from hf_seqrl.data.stream_sources import StreamSource, open_stream
from hf_seqrl.data.table_columns import lerobot_columns
from hf_seqrl.data.window_stream import EpisodeBlock, WindowStream
from hf_seqrl.data.windows import GatheredDataset

_MOST_SAMPLED_SHARDS = 32  # each one that is opened takes a request where the data are far away
_ROLES = ("observation", "action", "reward", "termination", "truncation")
_CHANGES_VALUES = (*_ROLES, "final_observations", "out_of_bounds")  # so that stored statistics are of something else
# arguments of `load_trajectories` that can be followed episode by episode
_ADMITTED = {
    *_ROLES,
    *("final_observations", "out_of_bounds", "env_id", "observation_space", "action_space", "reference_returns"),
    *("max_episode_steps", "observation_names", "action_names", "units", "categories", "provenance", "validate"),
}


class TrajectoryStream:
    """Trajectories that are read from where they are while a model is trained on them: no copy on disk, constant memory.

    A stream has one row per episode. It is read in blocks of `buffer_episodes` episodes that come from several shards in turn, and
    training draws its windows at random from one block after the other (`windows`). What has to be known of the whole
    data set (means and deviations, bins, the spread of returns, the spaces) comes from a sample, which is read first, and from
    the statistics that `save_trajectories` and `push_trajectories` store with the data.

    Args:
        source: A folder of `save_trajectories` or `.parquet` files (those that `push_trajectories` wrote, or one's own), a URL for
            fsspec (`s3://bucket/data/*.parquet`), the id of a data set on the Hub, or a data set of `datasets`.
        name, split, revision (`str`, *optional*): Of a data set on the Hub, as in `load_trajectories`.
        buffer_episodes (`int`, *optional*, defaults to 1000): Episodes that are in memory at a time. More of them are shuffled better.
        sample_episodes (`int`, *optional*, defaults to 1000): Episodes of the sample; all of the data where there are fewer. They
            come from up to 32 shards, from the beginning of each.
        windows_per_episode (`int`, *optional*, defaults to 100): How many windows of a block are drawn before the next one is read, in
            the mean over its episodes; others are drawn in the next epoch. `None` draws all.
        open_shards (`int`, *optional*, defaults to 8): Shards that are read in turn.
        shuffle (`bool`, *optional*, defaults to `True`): Whether shards and windows come in random order.
        seed (`int`, *optional*, defaults to 0): Chooses the order.
        trust_remote_code (`bool`, *optional*, defaults to `False`): As in `load_trajectories`.
        loading: Further arguments of `load_trajectories`: names of columns, `final_observations`, `out_of_bounds`, `env_id`, spaces,
            `max_episode_steps`, names and units, and `validate`, by which every block is checked.

    Attributes:
        source: The data set that streams, a `datasets.IterableDataset`.

    Raises:
        ValueError: the source has one row per step or another form, or an argument would need all of the data.

    Example:
        >>> from hf_seqrl import collect
        >>> stream = TrajectoryStream(collect("random", "CartPole-v1", num_episodes=20), buffer_episodes=8)
        >>> [len(block.dataset) for block, _ in zip(stream.blocks(), range(3))], len(stream.sample)
        ([8, 8, 4], 20)
    """

    def __init__(
        self,
        source: StreamSource,
        name: str | None = None,
        *,
        split: str | None = None,
        revision: str | None = None,
        buffer_episodes: int = 1000,
        sample_episodes: int = 1000,
        windows_per_episode: int | None = 100,
        open_shards: int = 8,
        shuffle: bool = True,
        seed: int = 0,
        trust_remote_code: bool = False,
        **loading: Any,
    ) -> None:
        sizes = {"buffer_episodes": buffer_episodes, "sample_episodes": sample_episodes, "open_shards": open_shards}
        sizes |= {} if windows_per_episode is None else {"windows_per_episode": windows_per_episode}
        for size, value in sizes.items():
            if value < 1:
                raise ValueError(f"{size} is {value}: expected a number >= 1.")
        _refuse(loading)
        self.buffer_episodes, self.sample_episodes, self.open_shards = buffer_episodes, sample_episodes, open_shards
        self.windows_per_episode = windows_per_episode
        self.shuffle, self.seed = shuffle, seed
        self._loading = {**loading, "trust_remote_code": trust_remote_code}
        self.source: IterableDataset
        self._opened = open_stream(source, name, split, revision)
        self.source, self._stored = self._opened.rows, self._opened.metadata

    @cached_property
    def sample(self) -> Dataset:
        """The episodes from which statistics are taken, in the order of the shards and of their rows.

        Where statistics of the whole data set were stored with it, its metadata hold them, and processors use them in the place
        of those of the sample. They are not used, with a warning, where they are damaged or do not fit the data.
        """
        table, _ = self._sampled
        sample = self._episodes(table, self._loading)
        whole = self._whole(sample)
        return sample if whole is None else with_metadata(sample, replace(metadata_of(sample), sample_of=whole))

    @property
    def metadata(self) -> TrajectoryMetadata:
        """What is known about the task, with what was guessed by the sample."""
        return replace(metadata_of(self.sample), sample_of=None)

    def blocks(
        self,
        start: Mapping[str, Any] | None = None,
        consumer: int = 0,
        num_consumers: int = 1,
        without: Sequence[int] | np.ndarray = (),
    ) -> Iterator[EpisodeBlock]:
        """Blocks of episodes, epoch after epoch without an end.

        Args:
            start: The `start` of a block, by which the same blocks come again; from the beginning by default.
            consumer, num_consumers: Which one of how many readers; in each epoch every episode comes to one of them.
            without: Episodes of the sample, by their number in it, that are left out of the stream.

        Raises:
            ValueError: an episode is invalid; or this reader is given no episode.
        """
        _, places = self._sampled
        skipped: dict[int, list[int]] = {}
        for shard, row in places[np.asarray(without, np.int64)].tolist():
            skipped.setdefault(shard, []).append(row)
        reader = BlockReader(
            self.source,
            self.buffer_episodes,
            self.open_shards,
            self.shuffle,
            self.seed,
            consumer,
            num_consumers,
            skipped,
        )
        for block in reader.blocks(start):
            try:
                yield EpisodeBlock(block.start, self._like_sample(block.table))
            except ValueError as error:
                raise ValueError(f"in a block of the stream with {_places_in_words(block)}: {error}") from error

    def windows(self, like: GatheredDataset) -> WindowStream:
        """The windows of the stream, for training.

        Args:
            like: Windows of the sample, by a family's own class; those of the stream are made in the same way.
        """
        return WindowStream(self, like)

    def settings(self) -> dict[str, Any]:
        """What the order of the windows depends on, beside the data; values that JSON can hold."""
        names = ("buffer_episodes", "sample_episodes", "windows_per_episode", "open_shards", "shuffle", "seed")
        return {name: getattr(self, name) for name in names} | {"num_shards": self.source.num_shards}

    @cached_property
    def _sampled(self) -> tuple[pa.Table, np.ndarray]:
        """The rows of the sample, and the shard and row of each, `(episodes, 2)`."""
        num_shards = self.source.num_shards
        spread = np.linspace(0, num_shards - 1, min(num_shards, _MOST_SAMPLED_SHARDS)).astype(np.int64)
        waiting = list(dict.fromkeys([*spread.tolist(), *range(num_shards)]))
        tables: list[pa.Table] = []
        places: list[np.ndarray] = []
        missing = self.sample_episodes
        readers: list[tuple[int, ShardRows]] = []
        while missing and (readers or waiting):
            if not readers:  # at first, and where so many shards hold too few episodes
                shards, waiting = waiting[:_MOST_SAMPLED_SHARDS], waiting[_MOST_SAMPLED_SHARDS:]
                readers = [(shard, ShardRows(self.source, ShardPart(shard))) for shard in shards]
            share = -(-missing // len(readers))
            for entry in list(readers):
                read, numbers = entry[1].read(min(share, missing))
                tables += read
                places.append(np.stack([np.full(len(numbers), entry[0]), numbers], axis=1))
                missing -= len(numbers)
                if len(numbers) < share:
                    readers.remove(entry)
        if not tables:
            raise ValueError("the stream has no episodes: expected at least one row.")
        found = np.concatenate(places)
        order = np.lexsort((found[:, 1], found[:, 0]))
        return pa.concat_tables(tables).combine_chunks().take(pa.array(order)), found[order]

    def _whole(self, sample: Dataset) -> dict[str, Any] | None:
        """The stored statistics, if the sample is not all there is, and nothing that is known speaks against them."""
        stored = self._opened.statistics
        if stored is None or any(self._loading.get(name) is not None for name in _CHANGES_VALUES):
            return None
        try:
            statistics = DataStatistics.from_dict(stored)
            for name, counted, told in (
                ("episodes", self._opened.num_episodes, statistics.num_episodes),
                ("steps", self._opened.num_steps, statistics.num_steps),
            ):
                if counted not in (None, told):
                    raise ValueError(f"they are of {told} {name}, and there are {counted}")
            columns = TrajectoryColumns.of(sample)
            if columns.num_episodes < self.sample_episodes and columns.num_episodes != statistics.num_episodes:
                raise ValueError(
                    f"they are of {statistics.num_episodes} episodes, and there are {columns.num_episodes}"
                )
            if columns.num_episodes == statistics.num_episodes:
                return None
            check_sample(statistics, columns)
        except ValueError as error:
            warnings.warn(
                f"the statistics that are stored with the data are not used, and those of {len(sample)} episodes take their "
                f"place: {error}; save or push the data again.",
                stacklevel=2,
            )
            return None
        return statistics.to_dict()

    def _like_sample(self, table: pa.Table) -> Dataset:
        """Episodes in the form of the sample: what was found out about it is stated for them."""
        known = self.metadata
        found = {
            "observation_space": known.source_observation_space or known.observation_space,
            "action_space": known.action_space,
            "categories": known.categories,
        }
        stated = {
            name: value for name, value in found.items() if value is not None and getattr(self._stored, name) is None
        }
        return with_metadata(self._episodes(table, {**stated, **self._loading}), known)

    def _episodes(self, table: pa.Table, loading: Mapping[str, Any]) -> Dataset:
        rows = Dataset(
            table, fingerprint=generate_random_fingerprint()
        )  # hashing the values would take a pass over them
        if self._stored != TrajectoryMetadata():
            rows = with_metadata(rows, self._stored)
        names = {role: loading.get(role) for role in _ROLES}
        if is_step_table(rows, names) or lerobot_columns(rows.column_names, has_rewards=False) is not None:
            raise ValueError(
                "the rows of the source are steps: a stream has one row per episode, so write such a data set once, "
                "save_trajectories(load_trajectories(source, ...), folder) or push_trajectories, and stream that."
            )
        return load_trajectories(rows, **loading)


def _refuse(loading: Mapping[str, Any]) -> None:
    if unknown := sorted(set(loading) - _ADMITTED):
        raise ValueError(
            f"{unknown[0]}={loading[unknown[0]]!r} cannot be followed in a stream, which has one row per episode: write the data set "
            "once, save_trajectories(load_trajectories(source, ...), folder), and stream that."
        )
    if loading.get("out_of_bounds") == "rescale":
        raise ValueError(
            "out_of_bounds='rescale' needs the range of all actions, which a stream does not know: use 'clip', or state the "
            "bounds of the data, action_space=Box(low, high)."
        )


def _places_in_words(block: RowBlock) -> str:
    """`rows 0 to 124 of shard 3 and ...`, of the first few shards."""
    shards = np.unique(block.places[:, 0])
    said = []
    for shard in shards[:4]:
        rows = block.places[block.places[:, 0] == shard, 1]
        said.append(f"rows {rows.min()} to {rows.max()} of shard {shard}")
    return ", ".join(said) + (f" and rows of {len(shards) - 4} more shards" if len(shards) > 4 else "")
