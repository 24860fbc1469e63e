"""What a layer costs against sequence length and width: self-attention, recurrence and convolution.

    python benchmarks/seq2seq_complexity.py --output results

Table 1 of Vaswani et al. (2017) gives the operations of a layer on `n` tokens of width `d` as `n^2 d` (self-attention),
`n d^2` (recurrence) and `k n d^2` (convolution of width `k`), and the operations that must follow one another as 1, `n`
and 1. Measured is one forward pass over one sequence, on one thread: the least CPU seconds of several, taken in turns, which
depends little on what else the machine does.

* attention: `softmax(Q K^T / sqrt(d)) V` itself, as in the table, and the whole sublayer with its four projections,
  whose `4 n d^2` the table leaves out;
* recurrence: a GRU layer;
* convolution: width 3, padded.

The exponent of `n` (of `d`) is the slope of log time against log `n` (log `d`) over the upper half of the range.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from devices import add_device_option, clock_of
from torch import nn

from hf_seqrl import TrajectorySeq2SeqConfig
from hf_seqrl.models.trajectory_seq2seq.attention import MultiHeadAttention, attention_weights
from hf_seqrl.models.trajectory_seq2seq.recurrence import GRULayer

KERNEL = 3
ORDERS = {  # operations of Table 1; the sublayer adds its projections
    "attention": lambda n, d: n * n * d,
    "attention sublayer": lambda n, d: n * n * d + 4 * n * d * d,
    "recurrence": lambda n, d: n * d * d,
    "convolution": lambda n, d: KERNEL * n * d * d,
}


def layers(length: int, width: int, device: str) -> dict[str, Callable[[], object]]:
    """One forward pass of each layer on a sequence of this length and width."""
    config = TrajectorySeq2SeqConfig(hidden_size=width, num_attention_heads=1, attn_implementation="sdpa")
    attention = MultiHeadAttention(config, layer_idx=0).to(device)
    gru = GRULayer(width, width).to(device)
    convolution = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2).to(device)
    tokens = torch.randn(1, length, width, device=device)
    channels = tokens.transpose(1, 2).contiguous()
    return {
        "attention": lambda: attention_weights(tokens, tokens, "dot_product", 1 / math.sqrt(width)) @ tokens,
        "attention sublayer": lambda: attention(tokens),
        "recurrence": lambda: gru(tokens),
        "convolution": lambda: convolution(channels),
    }


def measure(length: int, width: int, repetitions: int, device: str) -> dict[str, float]:
    """Least seconds of each layer, taken in turns: CPU seconds, on another device those of the wall."""
    runs, clock = layers(length, width, device), clock_of(device)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for run in runs.values():
            run()  # warms up
        for _ in range(repetitions):
            for name, run in runs.items():
                started = clock()
                run()
                seconds[name].append(clock() - started)
    return {name: min(values) for name, values in seconds.items()}


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """Slope of log time against log size over the upper half."""
    upper = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[upper:]), np.log(seconds[upper:]), 1)[0])


def plot(results: dict[str, dict[int, dict[str, float]]], fixed: dict[str, int], path: Path) -> None:
    """Measured seconds, and the orders of Table 1 through the last measured point."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    for axes, (variable, by_size) in zip(panels, results.items()):
        sizes = list(by_size)
        for index, (name, order) in enumerate(ORDERS.items()):
            seconds = [by_size[size][name] for size in sizes]
            axes.loglog(sizes, seconds, "o-", color=f"C{index}", label=name)
            counts = [order(size, fixed["d"]) if variable == "n" else order(fixed["n"], size) for size in sizes]
            axes.loglog(sizes, np.array(counts) * (seconds[-1] / counts[-1]), ":", color=f"C{index}", alpha=0.7)
        other = "d" if variable == "n" else "n"
        names = {"n": "length n", "d": "width d"}
        axes.set(xlabel=f"{names[variable]}  ({other} = {fixed[other]})", xticks=sizes, xticklabels=sizes)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("CPU seconds a layer")
    panels[0].legend(title="dotted: order of Table 1")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/seq2seq"), help="folder for figures and plot")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256, 512, 1024, 2048])
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256, 512, 1024])
    parser.add_argument("--fixed-length", type=int, default=256)
    parser.add_argument("--fixed-width", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=15)
    add_device_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    fixed = {"n": arguments.fixed_length, "d": arguments.fixed_width}
    how = (arguments.repetitions, arguments.device)
    results = {
        "n": {length: measure(length, fixed["d"], *how) for length in arguments.lengths},
        "d": {width: measure(fixed["n"], width, *how) for width in arguments.widths},
    }
    for variable, by_size in results.items():
        for name in ORDERS:
            seconds = [by_size[size][name] for size in by_size]
            print(f"{name:20s} time ~ {variable}^{exponent(list(by_size), seconds):.2f}")
    (arguments.output / "seq2seq_complexity.json").write_text(json.dumps(results, indent=1))
    plot(results, fixed, arguments.output / "seq2seq_complexity.png")


if __name__ == "__main__":
    main()
