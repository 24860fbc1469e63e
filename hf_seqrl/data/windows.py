"""Windows of trajectories: one for every step of the data, gathered in batches."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import best_episodes, lowest_return, returns_of_episodes, returns_to_go
from hf_seqrl.data.sampling import Opening, ReturnWeights, WeightedDraw

if TYPE_CHECKING:
    from datasets import Dataset


class WindowBatch(Mapping):
    """The gathered arrays of a batch of windows, as the `DataLoader` passes them to a collator.

    It is not a `dict`, because `Trainer` removes the keys of dictionaries that are not arguments of `model.forward`, and a
    collator needs all columns. See `gathered_windows`.
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


class WindowOf(Mapping):
    """One item of a `GatheredDataset`, named and not gathered yet: `gathered_windows` gathers a whole batch of them at once.

    Like a `WindowBatch` it is not a `dict`.
    """

    def __init__(self, windows: "GatheredDataset", index: int) -> None:
        self.windows, self.index = windows, index

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return self.windows[self.index]


def _gathered_at_once(items: Sequence[Any]) -> dict[str, np.ndarray]:
    parts = []
    for _, run in groupby(items, key=lambda item: id(item.windows)):
        of_one = list(run)
        parts.append(of_one[0].windows.gather(np.array([item.index for item in of_one])))
    return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def gathered_windows(features: Sequence[Mapping] | Mapping) -> dict[str, np.ndarray]:
    """One dictionary of `(batch, context_length, ...)` arrays from the input of a collator.

    Args:
        features: The result of `TrajectoryWindows.__getitems__`, a list of results of `TrajectoryWindows.__getitem__` or of items of
            a stream, or a mapping of gathered arrays.
    """
    if isinstance(features, Mapping):
        return dict(features)
    if isinstance(features[0], WindowOf):
        return _gathered_at_once(features)
    if len(features) == 1 and isinstance(features[0], WindowBatch):
        return features[0].arrays
    return {name: np.stack([window[name] for window in features]) for name in features[0]}


class GatheredDataset(ABC):
    """A map-style data set whose batches are gathered all at once, for `Trainer` and `DataLoader`.

    Attributes:
        dataset: The trajectories.
    """

    dataset: "Dataset"

    @abstractmethod
    def __len__(self) -> int:
        """The number of items."""

    @abstractmethod
    def gather(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """These items, `(batch, ...)` arrays."""

    def over(self, dataset: "Dataset") -> "GatheredDataset | None":
        """The same kind of items of other episodes, for a stream; `None` where there is none of these episodes.

        Raises:
            ValueError: the items depend on something that is known for their own episodes alone.
        """
        raise ValueError(
            f"{type(self).__name__} cannot be streamed: it has no method `over`, which makes the same items of further episodes."
        )

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """One item, as `gather` gives a batch, without the first axis."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} does not exist: the data set has {len(self)} of them.")
        return {name: values[0] for name, values in self.gather([index % len(self)]).items()}

    def __getitems__(self, indices: Sequence[int]) -> list[WindowBatch]:
        """A whole batch, in the form that `DataLoader` and `Trainer` pass on to the collator unchanged."""
        return [WindowBatch(self.gather(indices))]


class TrajectoryWindows(GatheredDataset):
    """A map-style data set with one window for every step of the trajectories, for `Trainer` and `DataLoader`.

    The window of a step begins at the step and ends after `context_length` steps or with the episode, whichever comes first
    (as in the Decision Transformer paper's code); shorter windows are padded on the left. An epoch visits every step once,
    so long episodes have more weight. The order of the windows is that of the sampler, so that `Trainer` controls the order,
    its seed, workers, processes and resuming.

    Args:
        dataset (`datasets.Dataset`): Trajectories, one row per episode (see `load_trajectories`).
        processor (*optional*): A processor with a `context_length` and, if it conditions on returns, a `discount`.
        context_length (`int`, *optional*): Steps in a window; by default that of the processor.
        discount (`float`, *optional*): Of the returns-to-go; by default that of the processor, or 1.
        best_fraction, min_return (`float`, *optional*): Only the windows of the best episodes; see `best_episodes`.
        episode_weights (`(episodes,)` or `ReturnWeights`, *optional*): How often the windows of an episode are drawn, relative to
            those of the others; see [`~hf_seqrl.data.sampling.WeightedDraw`]. The episodes are those of `dataset` after
            `best_fraction`. A rule can be streamed.
        opening (`Opening`, *optional*): First steps of every episode that are drawn more often.
        step_weights (`(steps,)` or a function of `dataset`, *optional*): Weight of each step in the loss: a further column
            `weights`. A function can be streamed.
        least_return (`float`, *optional*): Of a stream, only episodes of at least this raw return; `dataset` stays whole.

    A batch has these arrays, each `(batch, context_length, ...)` with zeros as padding: `observations`, `actions` and `rewards`
    as they are in the data (raw units; `float32` for every kind of float), `terminations` (`bool`), `returns_to_go`
    (raw units, `float32`), `timesteps` (the step's index in its episode, `int64`), and `attention_mask` (`int64`).

    Example:
        >>> from datasets import Dataset
        >>> dataset = Dataset.from_dict({
        ...     "observations": [[[1.0], [2.0], [3.0]]], "actions": [[0, 1, 0]], "rewards": [[1.0, 1.0, 5.0]],
        ...     "dones": [[False, False, True]]})
        >>> windows = TrajectoryWindows(dataset, context_length=2)
        >>> len(windows), windows[0]["returns_to_go"], windows[2]["returns_to_go"]
        (3, array([7., 6.], dtype=float32), array([0., 5.], dtype=float32))
    """

    def __init__(
        self,
        dataset: "Dataset",
        processor: Any = None,
        *,
        context_length: int | None = None,
        discount: float | None = None,
        best_fraction: float | None = None,
        min_return: float | None = None,
        episode_weights: np.ndarray | ReturnWeights | None = None,
        opening: Opening | None = None,
        step_weights: "np.ndarray | Callable[[Dataset], np.ndarray] | None" = None,
        least_return: float | None = None,
    ) -> None:
        if context_length is None and processor is not None:
            context_length = processor.context_length
        if context_length is None or context_length < 1:
            raise ValueError(
                f"context_length is {context_length}: expected a number of steps, at least 1, or a processor."
            )
        if best_fraction is not None or min_return is not None:
            dataset = best_episodes(dataset, best_fraction, min_return)
            least_return = lowest_return(dataset) if best_fraction is not None else min_return
        self.least_return = least_return
        self._rules: dict[str, Any] = {
            "episode_weights": episode_weights,
            "opening": opening,
            "step_weights": step_weights,
        }
        self.context_length = int(context_length)
        self.discount = getattr(processor, "discount", 1.0) if discount is None else discount
        self.dataset = dataset
        self._open()
        self._returns_to_go = returns_to_go(self.columns, self.discount)
        self.draw = None
        if episode_weights is not None or opening is not None:
            self.draw = self._weighted_draw(episode_weights, opening)
        if callable(step_weights):
            step_weights = step_weights(dataset)
        self.step_weights = None if step_weights is None else np.asarray(step_weights, np.float32)
        num_steps = self.columns.num_steps
        if self.step_weights is not None and self.step_weights.shape != (num_steps,):
            raise ValueError(
                f"step_weights have shape {self.step_weights.shape}: expected ({num_steps},), one a step."
            )

    def _weighted_draw(
        self, episode_weights: np.ndarray | ReturnWeights | None, opening: Opening | None
    ) -> WeightedDraw:
        offsets, num_items = self.columns.episode_offsets, None
        if episode_weights is None:
            episode_weights = np.ones(len(offsets) - 1)
        elif isinstance(episode_weights, ReturnWeights):
            episode_weights = episode_weights.of(returns_of_episodes(self.columns))
            num_items = round((episode_weights * np.diff(offsets)).sum())
        return WeightedDraw(episode_weights, offsets, num_items, opening)

    def _open(self) -> None:
        self.columns = TrajectoryColumns.of(self.dataset)
        self._gathered = {
            name: getattr(self.columns, name) for name in ("observations", "actions", "rewards", "terminations")
        }
        self._places = np.arange(self.context_length)

    def __len__(self) -> int:
        return self.columns.num_steps if self.draw is None else self.draw.num_items

    def gather(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """The windows of these items, `(batch, context_length, ...)` arrays: without `episode_weights` and `opening`, item `i` is the window
        that begins at step `i`."""
        return self.beginning_at(self.first_steps(np.asarray(indices, dtype=np.int64)))

    def over(self, dataset: "Dataset") -> "TrajectoryWindows | None":
        """See `GatheredDataset.over`. Weights of episodes and of steps are those of the rules that were given."""
        if any(isinstance(rule, np.ndarray) for rule in self._rules.values()):
            raise ValueError(
                "windows with an array of weights cannot be streamed: give a ReturnWeights as episode_weights, a function of the "
                "data set as step_weights, or none."
            )
        if self.least_return is not None:
            returns = returns_of_episodes(TrajectoryColumns.of(dataset))
            if not (returns >= self.least_return).all():
                dataset = dataset.select(np.flatnonzero(returns >= self.least_return))
            if not len(dataset):
                return None
        return type(self)(
            dataset,
            context_length=self.context_length,
            discount=self.discount,
            least_return=self.least_return,
            **self._rules,
        )

    def first_steps(self, indices: np.ndarray) -> np.ndarray:
        """The step that each of these items begins at."""
        return indices if self.draw is None else self.draw.steps(indices)

    def of_length(self, context_length: int) -> "TrajectoryWindows":
        """The same windows with another number of steps; nothing is copied."""
        other = copy(self)
        other.context_length = context_length
        other._places = np.arange(context_length)
        return other

    def beginning_at(self, first: np.ndarray) -> dict[str, np.ndarray]:
        """The windows that begin at these steps, whether they are drawn or not."""
        episodes = self.columns.episode_of(first)
        offsets = self.columns.episode_offsets
        padding = np.maximum(self.context_length - offsets[episodes + 1] + first, 0)[:, None]
        places = self._places - padding  # (batch, context_length): steps since the window's first, negative if padded
        # a padded place reads the window's first step, and is zeroed below
        steps = first[:, None] + np.maximum(places, 0)
        stored = self.columns.order.stored(steps, episodes[:, None])
        batch = {name: column.take_stored(stored) for name, column in self._gathered.items()}
        batch["returns_to_go"] = self._returns_to_go.take(steps, mode="clip")
        if self.step_weights is not None:
            batch["weights"] = self.step_weights.take(steps, mode="clip")
        batch["timesteps"] = steps - offsets[episodes][:, None]
        padded = np.nonzero(places < 0)
        if len(padded[0]):
            for values in batch.values():
                values[padded] = 0
        batch["attention_mask"] = (places >= 0).astype(np.int64)
        return batch

    def __getstate__(self) -> dict[str, Any]:
        # the views would be pickled as copies: a worker opens its own
        kept = {
            name: value for name, value in self.__dict__.items() if name not in ("columns", "_gathered", "_places")
        }
        if isinstance(self._returns_to_go, np.memmap):
            kept["_returns_to_go"] = self._returns_to_go.filename
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not isinstance(self._returns_to_go, np.ndarray):
            self._returns_to_go = np.memmap(self._returns_to_go, np.float32, "r")
        self._open()


class StepHistories(TrajectoryWindows):
    """A map-style data set with one history for every step: the input of an agent when it chooses that step's action.

    A history ends with the state of its step and begins `context_length - 1` steps earlier or with the episode, so that
    it has the same length, and the same timesteps, as when an agent acts.
    """

    def gather(self, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """Windows that begin where the histories of these steps do, and `history_lengths` `(batch,)`, the number of
        their steps that belong to the history."""
        steps = np.asarray(indices, dtype=np.int64)
        episode_starts = self.columns.episode_offsets[self.columns.episode_of(steps)]
        first = np.maximum(steps - self.context_length + 1, episode_starts)
        return {**self.beginning_at(first), "history_lengths": steps - first + 1}
