"""Whether bf16 is worth it on this machine's CPU, by measuring."""

import statistics
import time
import warnings
from functools import cache

import torch
from torch import nn

_MULTIPLICATIONS = 2**24  # in a product: 0.1 to 0.2 s for all, on a slow core
_MOST_ROWS = 1024
_LARGEST_SIDE = 512  # leaves at least 64 rows: a product of a few rows waits for memory in both precisions
_REPETITIONS = 5
_SLOWER = 1.5  # less may be noise, and the other operations dilute it


def warn_if_bf16_is_slow(model: nn.Module) -> None:
    """Warn if bf16 slows down the matrix products of a model on this CPU.

    CPUs without instructions for bf16 (AVX-512 BF16, AMX) emulate it, several times slower than fp32.

    Args:
        model (`nn.Module`): The model that is about to be trained; its largest matrix gives the shapes.
    """
    shape = largest_matrix(model)
    if shape is None:
        return
    slowdown = bf16_slowdown(*shape)
    if slowdown > _SLOWER:
        warnings.warn(
            f"bf16 is {slowdown:.1f} x slower than fp32 in matrix products of this model's shapes on this CPU, which has no fast "
            "instructions for it: train in fp32 (--bf16 False).",
            stacklevel=3,
        )


def largest_matrix(model: nn.Module) -> tuple[int, int] | None:
    """The shape of the largest matrix that inputs are multiplied by; embeddings are looked up and do not count."""
    shapes = [
        tuple(weight.shape)
        for module in model.modules()
        if not isinstance(module, nn.Embedding)
        for weight in module.parameters(recurse=False)
        if weight.ndim == 2
    ]
    return max(shapes, key=lambda shape: shape[0] * shape[1], default=None)


@cache
def bf16_slowdown(num_out: int, num_in: int) -> float:
    """How many times longer a matrix product takes in bf16 than in fp32 on this CPU, measured once for each shape.

    Args:
        num_out (`int`), num_in (`int`): The shape of the weights, of which a part of at most 512 x 512 is taken; the number of rows
            is chosen so that it takes 0.1 to 0.2 s.

    Returns:
        `float`: The ratio of the medians; the two precisions are measured in turn.
    """
    num_out, num_in = min(num_out, _LARGEST_SIDE), min(num_in, _LARGEST_SIDE)
    num_rows = min(_MULTIPLICATIONS // (num_out * num_in), _MOST_ROWS)
    operands = [
        (torch.ones(num_rows, num_in, dtype=dtype), torch.ones(num_out, num_in, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    ]
    seconds: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        for _ in range(_REPETITIONS + 1):
            for (inputs, weights), measured in zip(operands, seconds, strict=True):
                start = time.perf_counter()
                nn.functional.linear(inputs, weights)
                measured.append(time.perf_counter() - start)
    fp32, bf16 = (statistics.median(measured[1:]) for measured in seconds)  # the first products warm up
    return bf16 / fp32
