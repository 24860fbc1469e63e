"""Teacher forcing: when the decoder is fed with the truth."""

from typing import Literal

import torch
from torch import Tensor


def draw_forced_steps(
    ratio: float, unit: Literal["step", "sequence"], shape: tuple[int, int], device: torch.device | str = "cpu"
) -> Tensor:
    """At which steps the decoder is fed with the true token: boolean `(batch, length)`.

    Draws from torch's global generator, which `Trainer` seeds and restores when it resumes.

    Args:
        ratio: Chance of the true token.
        unit: `"step"`: a draw for each step of each example; `"sequence"`: one for each example.
        shape: `(batch, length)`.
    """
    batch_size, length = shape
    if ratio in (0.0, 1.0):
        return torch.full(shape, bool(ratio), device=device)
    draws = torch.rand(batch_size, length if unit == "step" else 1, device=device) < ratio
    return draws.expand(shape)
