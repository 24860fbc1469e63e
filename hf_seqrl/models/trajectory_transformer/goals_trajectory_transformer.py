"""Training on trajectories that begin with where they will end, for planning towards a goal.

Source: [Janner et al. 2021](https://arxiv.org/abs/2106.02039), section 3.2 (goal-conditioned reinforcement learning).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from hf_seqrl.models.trajectory_transformer.collator_trajectory_transformer import TrajectoryTransformerDataCollator
from hf_seqrl.models.trajectory_transformer.sequences_trajectory_transformer import TrajectoryTransformerWindows


class GoalConditionedWindows(TrajectoryTransformerWindows):
    """Windows whose first transition is the goal: the last observation of the episode. The others follow as they are.

    A window keeps its length, so it holds one step less. The goal does not count in the loss.
    """

    def gather(self, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """As [`TrajectoryTransformerWindows.gather`]; only the observation of the goal's transition has a meaning."""
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


class GoalConditionedDataCollator(TrajectoryTransformerDataCollator):
    """Discretizes a batch of [`GoalConditionedWindows`]: behind the goal's observation stand stop tokens.

    A planner gets the same tokens from [`BeamPlanner.goal_transition`].
    """

    def __call__(self, features: Sequence[Mapping[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """What the model's `forward` takes, see [`TrajectoryTransformerDataCollator`]."""
        batch = super().__call__(features)
        first, end = self.processor.observation_dim, self.processor.transition_dim
        stop = self.processor.discretizer.config.num_bins
        batch["trajectories"][:, first:end] = stop
        batch["targets"][:, first - 1 : end - 1] = stop
        return batch
