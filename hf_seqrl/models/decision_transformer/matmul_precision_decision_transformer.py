"""Faster matrix products in single precision, where this machine computes them no worse."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

PRECISIONS = ("highest", "high", "medium")
_TOLERATED = (
    4.0  # times the rounding error of "highest": other orders of summation differ by so much, bfloat16 by 1000
)


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """`torch.set_float32_matmul_precision`, which holds for the whole process, for the duration of a block."""
    before = torch.get_float32_matmul_precision()
    if before == precision:
        yield
        return
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def require_exact(precision: str, device: torch.device) -> None:
    """Measure whether products under `precision` are as exact on this machine as under "highest".

    Raises:
        ValueError: they are not (they are rounded to a shorter format), or there is no such precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"matmul_precision is {precision!r}: expected one of {', '.join(PRECISIONS)}.")
    error, reference = _rounding_error(precision, device), _rounding_error("highest", device)
    if error > _TOLERATED * reference:
        raise ValueError(
            f'matmul_precision="{precision}" rounds to {error:.1e} on this machine, "highest" to {reference:.1e}: '
            'the actions would change; use "highest".'
        )


@cache
def _rounding_error(precision: str, device: torch.device) -> float:
    """The greatest error of a product of the size of a model's, relative to the greatest entry."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(shape, generator=generator).to(device) for shape in ((256, 512), (512, 512)))
    exact = left.double() @ right.double()
    with matmul_precision(precision):
        return float((left @ right - exact).abs().max() / exact.abs().max())
