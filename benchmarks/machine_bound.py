"""How fast this machine multiplies matrices, measured on the shapes of a Decision Transformer: the bound of its speed.

Time is CPU time: on an idle machine that is the time on the clock, on a busy one it is still worth something.
"""

from statistics import median

import torch
from devices import clock_of

HIDDEN_SIZE = 128


@torch.inference_mode()
def gemm_gflops(rows: int = 480, dtype: torch.dtype = torch.float32, rounds: int = 30, device: str = "cpu") -> float:
    """GFLOP/s of the two products of an MLP, `(rows, 128) x (128, 512)` and back, in the precision in force."""
    like, clock = {"dtype": dtype, "device": device}, clock_of(device)
    narrow, wide = torch.randn(rows, HIDDEN_SIZE, **like), torch.empty(rows, 4 * HIDDEN_SIZE, **like)
    first = torch.randn(HIDDEN_SIZE, 4 * HIDDEN_SIZE, **like)
    second = first.T.contiguous()
    times = []
    for _ in range(rounds):
        began = clock()
        torch.mm(narrow, first, out=wide)
        torch.mm(wide, second, out=narrow)
        times.append(clock() - began)
        narrow.normal_()
    return 16 * rows * HIDDEN_SIZE**2 / median(times) / 1e9


def training_gflop(batch_size: int = 64, steps: int = 20, layers: int = 3) -> float:
    """GFLOP of the matrix products of one update of the stock model: forward, and twice that backward."""
    tokens = 3 * steps
    per_token = 24 * HIDDEN_SIZE**2 + 4 * tokens * HIDDEN_SIZE
    return 3 * batch_size * tokens * layers * per_token / 1e9


def acting_gflop(steps: int = 20, layers: int = 3) -> float:
    """GFLOP of one environment step where the stock model reads a window."""
    return training_gflop(1, steps, layers) / 3
