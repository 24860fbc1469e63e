"""Memory and the time to the first batch of an epoch, by the number of steps: a computed order against torch's list.

    python benchmarks/sampling_memory.py [--steps 1000000 100000000 1000000000] [--torch_up_to 100000000]

The data are one million random steps on disk, memory-mapped, joined with themselves as often as the size asks for, so that
indices, episodes and the order are those of the size and the disk is not. Each row is a fresh process. "private" is RssAnon
of /proc/self/status, what the process holds for itself beyond what it held before the data were opened; the returns-to-go, 4
bytes a step, are a memory-mapped temporary file. Times are processor time, once for the windows (returns-to-go of all steps)
and once for each epoch (the order and the first batch of 64 windows). With --weighted, episodes are drawn by their return.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

EPISODE_STEPS, PIECE_STEPS = 500, 1_000_000


def write_piece(folder: str) -> None:
    from hf_seqrl.data.writing import dataset_from_steps

    generator = np.random.default_rng(0)
    steps = {
        "observations": generator.standard_normal((PIECE_STEPS, 2), np.float32),
        "actions": generator.standard_normal((PIECE_STEPS, 1), np.float32),
        "rewards": generator.standard_normal(PIECE_STEPS, np.float32),
        "terminations": np.arange(1, PIECE_STEPS + 1) % EPISODE_STEPS == 0,
        "truncations": np.zeros(PIECE_STEPS, bool),
    }
    dataset_from_steps(steps, np.arange(0, PIECE_STEPS + 1, EPISODE_STEPS)).save_to_disk(folder)


def private_megabytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def measure(folder: str, num_steps: int, sampler_name: str, weighted: bool) -> None:
    from datasets import concatenate_datasets, load_from_disk
    from torch.utils.data import DataLoader, RandomSampler

    from hf_seqrl import TrajectoryWindows
    from hf_seqrl.data.permutation import PermutationSampler
    from hf_seqrl.data.sampling import return_weights
    from hf_seqrl.data.windows import gathered_windows

    piece = load_from_disk(folder)
    TrajectoryWindows(piece.select(range(2)), context_length=20).gather([3, 4])
    before = private_megabytes()
    began = time.process_time()
    dataset = concatenate_datasets([piece] * (num_steps // PIECE_STEPS))
    weights = None
    if weighted:
        episodes = num_steps // EPISODE_STEPS
        weights = return_weights(np.random.default_rng(0).normal(size=episodes), np.full(episodes, EPISODE_STEPS), 0.1)
    windows = TrajectoryWindows(dataset, context_length=20, episode_weights=weights)
    built = time.process_time() - began
    began = time.process_time()
    sampler = RandomSampler(windows) if sampler_name == "torch" else PermutationSampler(len(windows))
    batches = iter(DataLoader(windows, batch_size=64, sampler=sampler, collate_fn=gathered_windows))
    next(batches)
    first = time.process_time() - began
    for _ in range(500):
        next(batches)
    private = private_megabytes() - before
    kind = sampler_name + (", weighted" if weighted else "")
    print(f"{num_steps:>14,}  {kind:20} {built:10.1f} {first:12.3f} {private:12.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[10**6, 10**8, 10**9])
    parser.add_argument("--torch_up_to", type=int, default=10**8, help="torch's list takes some 36 bytes an item")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)  # set for the process that measures
    arguments = parser.parse_args()
    if arguments.one:
        folder, num_steps, sampler_name, weighted = arguments.one
        measure(folder, int(num_steps), sampler_name, weighted == "weighted")
        return
    print(f"{'steps':>14}  {'order':20} {'windows, s':>10} {'1st batch, s':>12} {'private, MB':>12}")
    with tempfile.TemporaryDirectory(prefix="hf_seqrl_sampling_") as folder:
        write_piece(folder)
        for num_steps in arguments.steps:
            rows = [("computed", "uniform"), ("computed", "weighted")]
            rows += [("torch", "uniform")] * (num_steps <= arguments.torch_up_to)
            for row in rows:
                command = [sys.executable, __file__, "--one", folder, str(num_steps), *row]
                subprocess.run(command, env={**os.environ, "TMPDIR": folder}, check=True)


if __name__ == "__main__":
    main()
