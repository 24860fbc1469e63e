"""Windows of trajectories that stream, in an order that is a function of the seed, and that goes on where it was."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from datasets import Dataset
from torch.utils.data import IterableDataset, get_worker_info

from hf_seqrl.data.permutation import Permutation
from hf_seqrl.data.windows import GatheredDataset, WindowOf


@dataclass(frozen=True)
class EpisodeBlock:
    """Some episodes of a stream, in memory.

    Attributes:
        start: Where reading it began; see `TrajectoryStream.blocks`.
        dataset: The episodes, as `load_trajectories` gives them.
    """

    start: dict[str, Any]
    dataset: Dataset


class EpisodeStream(Protocol):
    """What is read of a `TrajectoryStream`."""

    windows_per_episode: int | None
    shuffle: bool
    seed: int

    @property
    def sample(self) -> Dataset: ...

    def blocks(
        self,
        start: Mapping[str, Any] | None = None,
        consumer: int = 0,
        num_consumers: int = 1,
        without: Sequence[int] | np.ndarray = (),
    ) -> Iterator[EpisodeBlock]: ...


class StreamedWindow(WindowOf):
    """A window of a stream.

    Attributes:
        worker: Which dataloader worker reads it.
        position: Where that one goes on behind this window.
    """

    def __init__(
        self, windows: GatheredDataset, index: int, worker: int, start: Mapping[str, Any], place: int
    ) -> None:
        super().__init__(windows, index)
        self.worker, self._start, self._place = worker, start, place

    @property
    def position(self) -> dict[str, Any]:
        return {**self._start, "place": self._place + 1}


class WindowStream(IterableDataset):
    """The windows of a `TrajectoryStream`, without an end, for `DataLoader`, `TrajectoryTrainer` and `Trainer`.

    In each epoch every episode comes to one process and one dataloader worker. An item names a window; the collator of the
    family gathers those of a batch at once.

    Args:
        stream (`TrajectoryStream`): The episodes.
        like: Windows of its sample; those of the stream are made in the same way.
        without (*optional*): Episodes of the sample, by their number in it, that are left out: those that are held out.
        num_processes, process_index (`int`, *optional*): How many processes share the stream, and which one this is.
            `TrajectoryTrainer` sets them.

    Example:
        >>> from hf_seqrl import TrajectoryStream, TrajectoryWindows, collect
        >>> stream = TrajectoryStream(collect("random", "CartPole-v1", num_episodes=20))
        >>> windows = stream.windows(TrajectoryWindows(stream.sample, context_length=4))
        >>> next(iter(windows))["observations"].shape
        (4, 4)
    """

    def __init__(
        self,
        stream: EpisodeStream,
        like: GatheredDataset,
        without: Sequence[int] | np.ndarray = (),
        num_processes: int = 1,
        process_index: int = 0,
    ) -> None:
        self.stream, self.like, self.without = stream, like, np.asarray(without, np.int64)
        self.num_processes, self.process_index = num_processes, process_index
        self._start: dict[str, Any] = {}  # see `state_dict`
        self._reached: dict[str, Any] = {}

    @property
    def dataset(self) -> Dataset:
        """The episodes of the sample that are learned from."""
        return self.like.dataset

    def __iter__(self) -> Iterator[StreamedWindow]:
        worker, num_workers = 0, 1
        if (info := get_worker_info()) is not None:
            # the loader asks its workers in turn: the first one plays the one whose turn it was
            num_workers = info.num_workers
            worker = (info.id + self._start.get("next_worker", 0)) % num_workers
        self._refuse_other_readers(num_workers)
        start = self._start.get("positions", {}).get(str(worker))
        for window in self._windows(worker, num_workers, start):
            if info is None:
                self.note(worker, num_workers, window)
            yield window

    def note(self, worker: int, num_workers: int, reached: "StreamedWindow | dict[str, Any]") -> None:
        """Take in what the last window of a batch was, or the position behind it; `state_dict` goes on from there."""
        self._reached.setdefault("positions", {})[str(worker)] = reached
        self._reached["next_worker"] = (worker + 1) % num_workers
        self._reached["num_workers"] = num_workers

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is: values that JSON can hold, of this process."""
        positions = {**self._start.get("positions", {}), **self._reached.get("positions", {})}
        return {
            "num_processes": self.num_processes,
            "num_workers": self._reached.get("num_workers", self._start.get("num_workers", 1)),
            "next_worker": self._reached.get("next_worker", self._start.get("next_worker", 0)),
            "positions": {
                worker: one.position if isinstance(one, StreamedWindow) else one for worker, one in positions.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Let the next iteration begin where `state_dict` was; with `None` at the beginning."""
        self._start, self._reached = dict(state or {}), {}

    def _refuse_other_readers(self, num_workers: int) -> None:
        now = {"num_processes": self.num_processes, "num_workers": num_workers}
        for name, number in now.items():
            if self._start.get(name, number) != number:
                raise ValueError(
                    f"the stream was read with {name}={self._start[name]} and is to go on with {number}: resume with as many "
                    "processes and dataloader workers as before."
                )

    def _windows(self, worker: int, num_workers: int, start: Mapping[str, Any] | None) -> Iterator[StreamedWindow]:
        consumer = self.process_index * num_workers + worker
        place, epoch, found = 0, -1, True
        if start is not None:
            start = dict(start)
            place, epoch = start.pop("place"), start["epoch"]
        for block in self.stream.blocks(start, consumer, self.num_processes * num_workers, self.without):
            if block.start["epoch"] != epoch:
                if not found:
                    raise ValueError(
                        "no episode of a whole epoch is to be learned from: all are held out or have too low a return."
                    )
                found, epoch = False, block.start["epoch"]
            windows = self.like.over(block.dataset)
            if windows is not None and len(windows):
                found = True
                order = self._order(
                    windows, len(block.dataset), (consumer, block.start["epoch"], block.start["block"])
                )
                for number, index in enumerate(order[place:].tolist(), place):
                    yield StreamedWindow(windows, index, worker, block.start, number)
            place = 0

    def _order(self, windows: GatheredDataset, num_episodes: int, block: tuple[int, int, int]) -> np.ndarray:
        """The items of a block that are drawn, in their order."""
        if not self.stream.shuffle:
            return np.arange(len(windows))
        count = len(windows)
        if self.stream.windows_per_episode is not None:
            count = min(count, self.stream.windows_per_episode * num_episodes)
        return Permutation(len(windows), (self.stream.seed, *block))[np.arange(count)]
