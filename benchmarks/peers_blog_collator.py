"""How the blog post "Train your first Decision Transformer" makes a batch, written anew from its description.

Every sample is drawn, decoded, cut, padded and normalized by itself, in Python: what `data_windows.py` compares with.
"""

import random

import numpy as np
import torch
from datasets import Dataset


class BlogCollator:
    """Ignores the rows it is given and draws as many windows itself, episodes in proportion to their length."""

    def __init__(
        self, dataset: Dataset, context_length: int = 20, scale: float = 1000.0, max_steps: int = 1000
    ) -> None:
        self.dataset, self.context_length, self.scale, self.max_steps = dataset, context_length, scale, max_steps
        observations = [np.array(episode) for episode in dataset["observations"]]
        lengths = np.array([len(episode) for episode in observations])
        self.probabilities = lengths / lengths.sum()
        self.mean = np.concatenate(observations).mean(axis=0)
        self.std = np.concatenate(observations).std(axis=0) + 1e-6

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        episodes = np.random.choice(len(self.dataset), size=len(rows), p=self.probabilities)
        windows = [self._window(self.dataset[int(episode)]) for episode in episodes]
        return {name: torch.from_numpy(np.stack([window[name] for window in windows])) for name in windows[0]}

    def _window(self, row: dict) -> dict[str, np.ndarray]:
        start = random.randint(0, len(row["rewards"]) - 1)
        stop = start + self.context_length
        states = np.array(row["observations"][start:stop])
        steps = np.minimum(np.arange(start, start + len(states)), self.max_steps - 1)
        returns = self._returns(np.array(row["rewards"][start:]))[: len(states)]
        states = self._padded(states, 0.0)
        return {
            "states": ((states - self.mean) / self.std).astype(np.float32),
            "actions": self._padded(np.array(row["actions"][start:stop]), -10.0).astype(np.float32),
            "rewards": self._padded(np.array(row["rewards"][start:stop])[:, None], 0.0).astype(np.float32),
            "returns_to_go": (self._padded(returns[:, None], 0.0) / self.scale).astype(np.float32),
            "timesteps": self._padded(steps, 0),
            "attention_mask": self._padded(np.ones(len(steps), np.float32), 0.0),
        }

    def _padded(self, values: np.ndarray, filler: float) -> np.ndarray:
        missing = self.context_length - len(values)
        return np.concatenate([np.full((missing, *values.shape[1:]), filler, values.dtype), values])

    @staticmethod
    def _returns(rewards: np.ndarray) -> np.ndarray:
        returns = np.zeros_like(rewards)
        returns[-1] = rewards[-1]
        for step in reversed(range(len(rewards) - 1)):
            returns[step] = rewards[step] + returns[step + 1]
        return returns
