"""Training from a folder of Parquet shards: a stream against the whole data set, by memory, disk and the time to the first batch.

    python benchmarks/streaming.py [--steps 1000000 10000000] [--batches 500]

The data are random episodes of 500 steps (11 observations, 3 actions), 250 of them in a shard. Each row is a fresh process that
opens the folder, takes the statistics of a processor and makes batches of 64 windows of 20 steps: map style by `load_trajectories`
and `TrajectoryWindows` in random order, as a stream by `TrajectoryStream` with 1,000 episodes in memory. "private" is the most of
RssAnon in /proc/self/status, beyond what the process held before it opened the data; "disk" is what was written to the cache of
`datasets`; times are processor time. The last line of each size has the ratios of map style to stream.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

EPISODE_STEPS, SHARD_EPISODES, CONTEXT_LENGTH, BATCH_SIZE = 500, 250, 20, 64
SHARD_STEPS = EPISODE_STEPS * SHARD_EPISODES


def write_shards(folder: Path, num_steps: int) -> None:
    from hf_seqrl.data.writing import dataset_from_steps

    generator = np.random.default_rng(0)
    for number in range(num_steps // SHARD_STEPS):
        ends = np.arange(1, SHARD_STEPS + 1) % EPISODE_STEPS == 0
        steps = {
            "observations": generator.standard_normal((SHARD_STEPS, 11), np.float32),
            "actions": generator.uniform(-1, 1, (SHARD_STEPS, 3)).astype(np.float32),
            "rewards": generator.standard_normal(SHARD_STEPS, np.float32),
            "terminations": ends,
            "truncations": np.zeros(SHARD_STEPS, bool),
        }
        dataset = dataset_from_steps(steps, np.arange(0, SHARD_STEPS + 1, EPISODE_STEPS))
        dataset.to_parquet(str(folder / f"train-{number:05d}.parquet"))


def private_megabytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def written_megabytes(folder: str) -> float:
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) / 2**20


def batches_of(folder: str, streaming: bool) -> Iterator[Any]:
    from torch.utils.data import DataLoader, RandomSampler

    from hf_seqrl import DecisionTransformerProcessor, TrajectoryStream, TrajectoryWindows, load_trajectories
    from hf_seqrl.data.windows import gathered_windows

    source = TrajectoryStream(folder) if streaming else load_trajectories(folder)
    known = source.sample if streaming else source
    processor = DecisionTransformerProcessor.from_dataset(known, context_length=CONTEXT_LENGTH)
    windows = TrajectoryWindows(known, processor)
    if streaming:
        return iter(DataLoader(source.windows(windows), batch_size=BATCH_SIZE, collate_fn=gathered_windows))
    order = RandomSampler(windows)
    return iter(DataLoader(windows, batch_size=BATCH_SIZE, sampler=order, collate_fn=gathered_windows))


def measure(folder: str, cache: str, streaming: bool, num_batches: int) -> dict[str, float]:
    import hf_seqrl.data.stream  # noqa: F401  # imports are not part of the time
    from hf_seqrl import DecisionTransformerProcessor  # noqa: F401

    before, began = private_megabytes(), time.process_time()
    batches = batches_of(folder, streaming)
    next(batches)
    first = time.process_time() - began
    most = private_megabytes() - before
    began = time.process_time()
    for number, _ in enumerate(islice(batches, num_batches)):
        if number % 50 == 0:
            most = max(most, private_megabytes() - before)
    speed = num_batches / (time.process_time() - began)
    return {"first": first, "speed": speed, "private": most, "disk": written_megabytes(cache)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[10**6, 10**7])
    parser.add_argument("--batches", type=int, default=500)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # set for the process that measures
    arguments = parser.parse_args()
    if arguments.one:
        folder, cache, kind = arguments.one
        print(json.dumps(measure(folder, cache, kind == "stream", arguments.batches)))
        return
    print(f"{'steps':>12}  {'kind':9} {'1st batch, s':>12} {'batches/s':>10} {'private, MB':>12} {'disk, MB':>9}")
    for num_steps in arguments.steps:
        with tempfile.TemporaryDirectory(prefix="hf_seqrl_streaming_") as folder:
            shards = Path(folder, "shards")
            shards.mkdir()
            write_shards(shards, num_steps)
            found = {}
            for kind in ("map style", "stream"):
                cache = str(Path(folder, kind.replace(" ", "_")))
                Path(cache).mkdir()
                command = [
                    sys.executable,
                    __file__,
                    "--batches",
                    str(arguments.batches),
                    "--one",
                    str(shards),
                    cache,
                    kind,
                ]
                environment = {**os.environ, "HF_DATASETS_CACHE": cache, "TMPDIR": cache}
                done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                found[kind] = row = json.loads(done.stdout.splitlines()[-1])
                figures = f"{row['first']:12.2f} {row['speed']:10.0f} {row['private']:12.0f} {row['disk']:9.0f}"
                print(f"{num_steps:>12,}  {kind:9} {figures}", flush=True)
            ratios = {
                name: found["map style"][name] / max(found["stream"][name], 1e-3) for name in ("first", "private")
            }
            print(f"{'':12}  map style / stream: first batch {ratios['first']:.2f}, private {ratios['private']:.2f}")


if __name__ == "__main__":
    main()
