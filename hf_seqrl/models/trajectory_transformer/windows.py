"""Windows of transitions for the Trajectory Transformer: what stands in them, and what of it counts in the loss.

Source: [Janner et al. 2021](https://arxiv.org/abs/2106.02039), section 3.1 and appendix A.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hf_seqrl.data.windows import GatheredDataset
from hf_seqrl.models.trajectory_transformer.processing_trajectory_transformer import TrajectoryTransformerProcessor
from hf_seqrl.models.trajectory_transformer.transitions import Transitions

if TYPE_CHECKING:
    from datasets import Dataset


class TrajectoryTransformerWindows(GatheredDataset):
    """A map-style data set with one window for every step, for `Trainer` and `DataLoader`.

    A window holds `processor.sequence_transitions` transitions, each `processor.step` steps after the one before it.
    Positions after the end of an episode are marked: the collator fills them with the stop token. Whether these count in
    the loss depends on the end of the episode:

    - After a termination they do: the model learns when an episode ends.
    - After a truncation they do not, as the episode would have continued. With `processor.truncation = "stop"` they
      do, up to `max_episode_steps`, and the weights are those of the input tokens instead of the predicted ones:
      this is the original implementation.

    A value-to-go lacks the rewards after a truncation, at most a share `discount ** (steps that follow)` of
    a constant reward's value. Where that share exceeds `processor.max_truncation_bias`, the value does not count.

    Args:
        dataset (`datasets.Dataset`): Trajectories, one row per episode (see `load_trajectories`).
        processor (`TrajectoryTransformerProcessor`): Defines windows and values.
    """

    def __init__(self, dataset: "Dataset", processor: TrajectoryTransformerProcessor) -> None:
        self.dataset = dataset
        self.processor = processor
        self.transitions = Transitions(dataset, processor.discount, processor.termination_penalty)
        self._places = np.arange(processor.sequence_transitions) * processor.step
        if processor.truncation == "stop" and processor.max_episode_steps is None:
            raise ValueError("truncation is 'stop', but the time limit is not known: give max_episode_steps.")

    def __reduce__(self) -> tuple:
        # the views of the columns would be pickled as copies: a worker opens its own
        return type(self), (self.dataset, self.processor)

    def __len__(self) -> int:
        return self.transitions.columns.num_steps

    def over(self, dataset: "Dataset") -> "TrajectoryTransformerWindows":
        """See [`~hf_seqrl.data.windows.GatheredDataset`]."""
        return type(self)(dataset, self.processor)

    def gather(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """The windows that begin at these steps.

        Returns:
            `transitions` `(batch, time, transition_dim)` in raw units, as `Transitions.take` gives them; `ended` `(batch, time)`, whether
            the position is after the episode's end; `attention_mask` `(batch, time * transition_dim - 1)`, the
            weight in the loss of the token that follows each one.
        """
        first = np.asarray(indices, dtype=np.int64)
        offsets = self.transitions.columns.episode_offsets
        episodes = self.transitions.columns.episode_of(first)
        end = offsets[episodes + 1][:, None]
        steps = first[:, None] + self._places  # (batch, time)
        transitions = self.transitions.take(np.minimum(steps, end - 1))
        counts = np.ones(transitions.shape, bool)
        if self.processor.truncation == "stop":
            last_place = self.processor.max_episode_steps - self.processor.step
            counts[steps - offsets[episodes][:, None] > last_place] = False
        else:
            counts[~self._is_known(steps, end, episodes)] = False
        counts[..., -1] &= self._has_value(steps, end, episodes)
        counts = counts.reshape(len(first), -1)
        mask = counts[:, :-1] if self.processor.truncation == "stop" else counts[:, 1:]
        return {"transitions": transitions, "ended": steps >= end, "attention_mask": mask.astype(np.float32)}

    def _is_known(self, steps: np.ndarray, end: np.ndarray, episodes: np.ndarray) -> np.ndarray:
        return (steps < end) | self.transitions.terminated[episodes][:, None]

    def _has_value(self, steps: np.ndarray, end: np.ndarray, episodes: np.ndarray) -> np.ndarray:
        missing_share = self.processor.discount ** np.maximum(end - 1 - steps, 0)
        return (
            (missing_share <= self.processor.max_truncation_bias)
            | (steps >= end)
            | self.transitions.terminated[episodes][:, None]
        )


class GoalConditionedWindows(TrajectoryTransformerWindows):
    """Windows whose first transition is the goal: the last observation of the episode. The others follow as they are.

    A window keeps its length, so it holds one step less. The goal does not count in the loss.
    """

    def gather(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """As [`TrajectoryTransformerWindows.gather`]; of the goal's transition only the observation is used."""
        windows = super().gather(indices)
        columns, size = self.transitions.columns, windows["transitions"].shape[-1]
        last_steps = columns.episode_offsets[columns.episode_of(np.asarray(indices, np.int64)) + 1] - 1
        goals = self.transitions.take(last_steps)[:, None]
        uncounted = np.zeros((len(goals), size - 1), np.float32)  # the weights of tokens, from the second one
        first_counts = np.ones((len(goals), 1), np.float32)
        weights = np.concatenate([uncounted, first_counts, windows["attention_mask"]], axis=1)
        return {
            "transitions": np.concatenate([goals, windows["transitions"][:, :-1]], axis=1),
            "ended": np.pad(windows["ended"], ((0, 0), (1, 0)))[:, :-1],
            "attention_mask": weights[:, : windows["attention_mask"].shape[1]],
        }
