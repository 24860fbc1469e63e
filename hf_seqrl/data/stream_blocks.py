"""Blocks of episodes from a data set that streams: which shards are read in which order, by whom, and where reading goes on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import IterableDataset

from hf_seqrl.data.permutation import Permutation

_ROWS_AT_ONCE = 256  # of a shard; what it is read in at the source (row groups, record batches) may be more


@dataclass(frozen=True)
class ShardPart:
    """The rows of a shard whose number leaves the remainder `part` when divided by `parts`."""

    shard: int
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class RowBlock:
    """Rows of several shards.

    Attributes:
        start: Where its reading began, for `BlockReader.blocks`.
        table: The rows.
        places: The shard and the number in it of each row, `(rows, 2)`.
    """

    start: dict[str, Any]
    table: pa.Table
    places: np.ndarray


def shard_parts(num_shards: int, consumer: int, num_consumers: int, order: np.ndarray) -> list[ShardPart]:
    """What one of several consumers reads of an epoch; together they read every row once.

    As many shards as can be shared out evenly are read whole, by one consumer each; of each of the others every consumer reads
    its part of the rows.

    Args:
        num_shards: Of the data set.
        consumer, num_consumers: Which one of how many: processes times the workers of each.
        order: The shards in the order of the epoch.

    Example:
        >>> [[(one.shard, one.parts) for one in shard_parts(5, consumer, 2, np.arange(5))] for consumer in (0, 1)]
        [[(0, 1), (2, 1), (4, 2)], [(1, 1), (3, 1), (4, 2)]]
    """
    whole = num_shards // num_consumers * num_consumers
    mine = [ShardPart(int(shard)) for shard in order[:whole][consumer::num_consumers]]
    # another remainder in each shard, or small shards would all give to the first consumers
    return mine + [
        ShardPart(int(shard), int(consumer + shard) % num_consumers, num_consumers) for shard in order[whole:]
    ]


class ShardRows:
    """The rows of a part of a shard, a number at a time.

    Args:
        source: The data set that streams.
        part: What to read of it.
        first: The number of the first row to read.
        skipped: Numbers of rows that are left out.

    Attributes:
        position: The number of the row after the last one that was returned.
    """

    def __init__(
        self, source: IterableDataset, part: ShardPart, first: int = 0, skipped: Sequence[int] | np.ndarray = ()
    ) -> None:
        shard = source.shard(num_shards=source.num_shards, index=part.shard)
        self._tables = shard.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE)
        self._part, self._first, self._skipped = part, first, np.asarray(skipped, np.int64)
        self.position = first
        self._passed = 0
        self._rest: pa.Table | None = None
        self._numbers = np.zeros(0, np.int64)

    def read(self, count: int) -> tuple[list[pa.Table], np.ndarray]:
        """The next rows, at most `count`, and their numbers; fewer only at the end of the shard."""
        tables, numbers = [], []
        while count > 0 and (len(self._numbers) or self._advance()):
            assert self._rest is not None
            tables.append(self._rest.slice(0, count))
            numbers.append(self._numbers[:count])
            self._rest, self._numbers = self._rest.slice(count), self._numbers[count:]
            count -= len(numbers[-1])
            self.position = int(numbers[-1][-1]) + 1
        return tables, np.concatenate([np.zeros(0, np.int64), *numbers])

    def _advance(self) -> bool:
        for table in self._tables:
            numbers = np.arange(self._passed, self._passed + len(table))
            self._passed += len(table)
            wanted = (numbers >= self._first) & (numbers % self._part.parts == self._part.part)
            wanted &= ~np.isin(numbers, self._skipped)
            if wanted.all():
                self._rest, self._numbers = table, numbers
                return True
            if wanted.any():
                self._rest, self._numbers = table.filter(pa.array(wanted)), numbers[wanted]
                return True
        return False


@dataclass
class BlockReader:
    """Reads a data set that streams in blocks of rows, epoch after epoch without an end.

    A block takes its rows from several shards in turn, since neighbors in a shard are often alike. The shards of each epoch come
    in a new order.

    Args:
        source: One row an episode.
        rows: Of a block; the last one of an epoch may have fewer.
        open_shards: How many shards are read at the same time.
        shuffle, seed: Whether the order of the shards is random, and by what it is chosen.
        consumer, num_consumers: See `shard_parts`.
        skipped: Rows that are left out, by shard.
    """

    source: IterableDataset
    rows: int
    open_shards: int
    shuffle: bool
    seed: int
    consumer: int = 0
    num_consumers: int = 1
    skipped: Mapping[int, Sequence[int]] | None = None

    def blocks(self, start: Mapping[str, Any] | None = None) -> Iterator[RowBlock]:
        """Blocks from the beginning, or from the `start` of one on.

        Raises:
            ValueError: a whole epoch has no row for this consumer.
        """
        state = dict(start or {"epoch": 0, "block": 0, "next": 0, "open": []})
        while True:
            before = state["block"]
            yield from self._blocks_of_epoch(state)
            if state["block"] == before == 0:
                raise ValueError(
                    f"the stream has no episode for reader {self.consumer + 1} of {self.num_consumers} (processes times "
                    "dataloader workers): give fewer of them, or more data."
                )
            state = {"epoch": state["epoch"] + 1, "block": 0, "next": 0, "open": []}

    def _blocks_of_epoch(self, state: dict[str, Any]) -> Iterator[RowBlock]:
        parts = self._parts(state["epoch"])
        readers = [(place, self._reader(parts[place], first)) for place, first in state["open"]]
        share = max(1, -(-self.rows // self.open_shards))
        while True:
            start = {**state, "open": [[place, reader.position] for place, reader in readers]}
            tables: list[pa.Table] = []
            places: list[np.ndarray] = []
            missing = self.rows
            while missing:
                while len(readers) < self.open_shards and state["next"] < len(parts):
                    readers.append((state["next"], self._reader(parts[state["next"]])))
                    state["next"] += 1
                if not readers:
                    break
                for entry in list(readers):
                    read, numbers = entry[1].read(min(share, missing))
                    tables += read
                    places.append(np.stack([np.full(len(numbers), parts[entry[0]].shard), numbers], axis=1))
                    missing -= len(numbers)
                    if not missing:
                        break
                    if len(numbers) < share:
                        readers.remove(entry)
            if not tables:
                return
            state["block"] += 1
            yield RowBlock(start, pa.concat_tables(tables).combine_chunks(), np.concatenate(places))

    def _parts(self, epoch: int) -> list[ShardPart]:
        num_shards = self.source.num_shards
        order = np.arange(num_shards)
        if self.shuffle:
            order = Permutation(num_shards, (self.seed, epoch))[order]
        return shard_parts(num_shards, self.consumer, self.num_consumers, order)

    def _reader(self, part: ShardPart, first: int = 0) -> ShardRows:
        return ShardRows(self.source, part, first, (self.skipped or {}).get(part.shard, ()))
