"""How fast trajectories come off the disk and become batches: what an estimate for a larger data set starts from.

    python benchmarks/reading_speed.py [--steps 4000000] [--shards 16]

The data are random steps of Hopper's sizes (11 observation entries, 3 actions), episodes of 500 steps, in shards of Arrow files.
"cold" is read after the files were dropped from the page cache (`posix_fadvise`), in seconds of the wall; the others are seconds of
processor time, on one thread. A batch has 64 windows of 20 steps.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from datasets import concatenate_datasets, load_from_disk

from hf_seqrl import DecisionTransformerGymDataCollator, DecisionTransformerProcessor, TrajectoryWindows
from hf_seqrl.data.writing import dataset_from_steps

EPISODE_STEPS, BATCH_SIZE, CONTEXT_LENGTH = 500, 64, 20


def write_shards(folder: Path, num_steps: int, num_shards: int) -> list[Path]:
    generator, count = np.random.default_rng(0), num_steps // num_shards
    for number in range(num_shards):
        steps = {
            "observations": generator.standard_normal((count, 11), np.float32),
            "actions": generator.uniform(-1, 1, (count, 3)).astype(np.float32),
            "rewards": generator.standard_normal(count, np.float32),
            "terminations": np.arange(1, count + 1) % EPISODE_STEPS == 0,
            "truncations": np.zeros(count, bool),
        }
        shard = dataset_from_steps(steps, np.arange(0, count + 1, EPISODE_STEPS))
        shard.save_to_disk(folder / f"shard-{number:05}")
    return sorted(folder.iterdir())


def drop_from_cache(files: list[Path]) -> None:
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read_all(files: list[Path]) -> None:
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def seconds(action: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    began = clock()
    action()
    return clock() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4_000_000)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--batches", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        shards = write_shards(Path(folder), options.steps, options.shards)
        files = sorted(Path(folder).rglob("*.arrow"))
        size = sum(path.stat().st_size for path in files)
        print(
            f"{options.steps:,} steps, {options.shards} shards: {size / 1e6:.0f} MB, {size / options.steps:.1f} bytes a step"
        )

        drop_from_cache(files)
        wall = seconds(lambda: read_all(files), time.perf_counter)
        print(f"reading, cold: {size / wall / 1e6:.0f} MB/s")

        began = time.process_time()
        dataset = concatenate_datasets([load_from_disk(str(shard)) for shard in shards])
        opened = time.process_time() - began
        windows = TrajectoryWindows(dataset, context_length=CONTEXT_LENGTH)
        ready = time.process_time() - began
        print(
            f"opening: {1000 * opened / options.shards:.1f} ms a shard; returns-to-go: {(ready - opened) / options.steps * 1e9:.0f} ns a step"
        )

        processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=CONTEXT_LENGTH)
        collator = DecisionTransformerGymDataCollator(dataset, processor)
        generator = np.random.default_rng(0)
        batches = [generator.integers(len(windows), size=BATCH_SIZE) for _ in range(options.batches)]
        for name, make in {
            "windows at random": windows.gather,
            "windows at random, collated": lambda indices: collator(windows.__getitems__(indices)),
        }.items():
            taken = seconds(lambda make=make: [make(indices) for indices in batches])
            rate = options.batches * BATCH_SIZE / taken
            print(
                f"{name}: {rate:,.0f} windows/s, {rate * CONTEXT_LENGTH * size / options.steps / 1e6:.0f} MB/s of data"
            )


if __name__ == "__main__":
    main()
