"""What a `Trainer` iterates over where the data do not exist yet: places for episodes still to be ridden."""

from collections.abc import Sequence

import torch


class EpisodePlaces:
    """A map-style data set of `num_episodes` places. Its items say nothing; their number is the size of an update.

    The loader may fetch them as early as it likes: the episodes themselves are ridden when the update begins.
    """

    def __init__(self, num_episodes: int) -> None:
        if num_episodes < 1:
            raise ValueError(f"num_episodes is {num_episodes}: expected at least 1 episode to train on.")
        self.num_episodes = num_episodes

    def __len__(self) -> int:
        return self.num_episodes

    def __getitem__(self, index: int) -> dict[str, int]:
        if not -self.num_episodes <= index < self.num_episodes:
            raise IndexError(f"place {index} of {self.num_episodes}")
        return {"place": index}


def collate_places(features: Sequence[dict]) -> dict[str, torch.Tensor]:
    """A batch of places: `places` `(batch,)`, which are only counted."""
    return {"places": torch.zeros(len(features), dtype=torch.int64)}
