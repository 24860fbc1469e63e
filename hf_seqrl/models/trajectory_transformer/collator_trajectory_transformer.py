"""Windows of transitions as the token sequences that a Trajectory Transformer trains on."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from hf_seqrl.data.windows import gathered_windows
from hf_seqrl.models.trajectory_transformer.processing_trajectory_transformer import TrajectoryTransformerProcessor


class TrajectoryTransformerDataCollator:
    """Discretizes a batch of [`TrajectoryTransformerWindows`].

    Args:
        processor (`TrajectoryTransformerProcessor`): Holds the discretizer.
    """

    return_tensors = "pt"

    def __init__(self, processor: TrajectoryTransformerProcessor) -> None:
        self.processor = processor

    def __call__(self, features: Sequence[Mapping[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """What the model's `forward` takes.

        Returns:
            `trajectories` and `targets` `(batch, sequence_transitions * transition_dim - 1)`: the tokens, and the
            token that follows each of them; behind an episode's end they are the stop token. `attention_mask` of the
            same shape: the weight of each target in the loss.
        """
        windows = gathered_windows(features)
        discretizer = self.processor.discretizer
        tokens = discretizer.encode(windows["transitions"])  # (B, time, T)
        tokens[torch.from_numpy(windows["ended"])] = discretizer.config.num_bins
        tokens = tokens.flatten(1)
        return {
            "trajectories": tokens[:, :-1].contiguous(),
            "targets": tokens[:, 1:].contiguous(),
            "attention_mask": torch.from_numpy(windows["attention_mask"]),
        }
