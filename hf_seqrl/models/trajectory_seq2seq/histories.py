"""Histories as training examples, and random histories."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from gymnasium.spaces import Discrete

from hf_seqrl.data.metadata import TrajectoryMetadata, with_metadata
from hf_seqrl.data.spaces import space_to_dict
from hf_seqrl.data.windows import TrajectoryWindows

if TYPE_CHECKING:
    from datasets import Dataset


def random_histories(
    num_histories: int, horizon: int = 2, state_size: int = 3, action_size: int = 3, seed: int = 0
) -> "Dataset":
    """Histories `s_0 a_0 s_1 ... s_h` of uniformly random states and actions, with `h` uniform in `0 ... horizon`.

    They are a trajectory data set in which episode `i` has `h_i + 1` steps. (The action of an episode's last step
    is random as well; no history contains it.) Rewards are zero; all episodes are truncated.

    Args:
        num_histories: Number of episodes.
        horizon: Greatest number of actions in a history.
        state_size: Number of states.
        action_size: Number of actions.
        seed: Random seed.

    Example:
        >>> random_histories(2, horizon=3, seed=1).column_names
        ['observations', 'actions', 'rewards', 'terminations', 'truncations']
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, horizon + 2, size=num_histories)
    ends = np.cumsum(lengths)
    num_steps = int(ends[-1])
    truncations = np.zeros(num_steps, dtype=bool)
    truncations[ends - 1] = True
    columns = {
        "observations": rng.integers(0, state_size, size=num_steps),
        "actions": rng.integers(0, action_size, size=num_steps),
        "rewards": np.zeros(num_steps, dtype=np.float32),
        "terminations": np.zeros(num_steps, dtype=bool),
        "truncations": truncations,
    }
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
    table = pa.table({name: pa.ListArray.from_arrays(offsets, pa.array(values)) for name, values in columns.items()})
    metadata = TrajectoryMetadata(
        observation_space=space_to_dict(Discrete(state_size)),
        action_space=space_to_dict(Discrete(action_size)),
        max_episode_steps=horizon + 1,
        provenance={"generator": "random_histories", "horizon": horizon, "seed": seed},
    )
    from datasets import Dataset  # heavy, and acting does without

    return with_metadata(Dataset(table), metadata)


class EpisodeHistories(TrajectoryWindows):
    """A map-style data set with one history for every episode, for models that write histories or their actions.

    Args:
        dataset (`datasets.Dataset`): Trajectories, one row per episode.
        processor: With a `context_length`, in steps: longer episodes are cut at the end.
    """

    def __len__(self) -> int:
        return self.columns.num_episodes

    def gather(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """These episodes, as `TrajectoryWindows.gather` gives windows."""
        return super().gather(self.columns.episode_offsets[np.asarray(indices, dtype=np.int64)])
