"""Opening a data set and making batches of it: ours, and the way of the blog post's collator.

    python benchmarks/data_windows.py [DATA] [--batches 2000] [--rounds 7]

DATA is a folder with a parquet file of one row an episode (hopper-medium for the figures in the README). All contenders
take their turn in each round of one process on one core; medians over the rounds, of processor time, are printed. "gather"
is what comes before the collator, "batch" what arrives at the model: normalized, scaled, padded, as tensors.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from datasets import load_dataset
from peers_blog_collator import BlogCollator

from hf_seqrl import (
    DecisionTransformerGymDataCollator,
    DecisionTransformerProcessor,
    TrajectoryWindows,
    load_trajectories,
)

BATCH_SIZE, CONTEXT_LENGTH = 64, 20


def seconds(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="../shared/data/hopper-medium")
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    dataset = load_trajectories(arguments.data)
    processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=CONTEXT_LENGTH)
    collator = DecisionTransformerGymDataCollator(dataset, processor)
    windows = TrajectoryWindows(dataset, processor)
    rows = load_dataset("parquet", data_files=f"{arguments.data}/*.parquet", split="train")
    blog = BlogCollator(rows)

    generator = np.random.default_rng(0)
    batches = [generator.integers(len(windows), size=BATCH_SIZE).tolist() for _ in range(arguments.batches)]
    few = max(1, arguments.batches // 400)
    chosen_rows = [generator.integers(len(rows), size=BATCH_SIZE).tolist() for _ in range(few)]

    def decode(indices: list[int]) -> list[dict]:
        return rows.__getitems__(indices)  # as a DataLoader asks for rows

    contenders = {
        "ours, open and build": (1, lambda: TrajectoryWindows(load_trajectories(arguments.data), context_length=20)),
        "blog, build": (1, lambda: BlogCollator(rows)),
        "ours, gather": (len(batches), lambda: [windows.__getitems__(batch) for batch in batches]),
        "ours, batch": (len(batches), lambda: [collator(windows.__getitems__(batch)) for batch in batches]),
        "blog, collator alone": (few, lambda: [blog(range(BATCH_SIZE)) for _ in range(few)]),
        "blog, batch": (few, lambda: [blog(decode(indices)) for indices in chosen_rows]),
    }
    rounds = [
        {name: seconds(action) / count for name, (count, action) in contenders.items()}
        for _ in range(arguments.rounds)
    ]
    for name in contenders:
        each = [times[name] for times in rounds]
        print(f"{name:22} {median(each) * 1e3:10.3f} ms  (least {min(each) * 1e3:.3f})  {1 / median(each):10.1f} /s")
    ratio = median(times["blog, batch"] / times["ours, batch"] for times in rounds)
    alone = median(times["blog, collator alone"] / times["ours, batch"] for times in rounds)
    print(
        f"ours makes {ratio:.0f} x as many batches a second as the blog's way, {alone:.0f} x as many as its collator alone"
    )


if __name__ == "__main__":
    main()
