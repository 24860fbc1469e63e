"""Memory while windows are drawn from 20 million steps on disk, against 0.2 million.

    python benchmarks/memory_20m_steps.py [--steps 200000 20000000] [--batches 3000]

For each size a parquet file of random Hopper-like episodes is written in pieces to a temporary folder (about 2.5 GB with
the cache of `datasets` for 20 million steps, deleted afterwards) and opened in a fresh process. "private" is RssAnon of
/proc/self/status, what the process holds for itself; "mapped" is RssFile, pages of files that the kernel may drop at
any time. Growth counts from the moment when everything has been imported and used once. Times are processor time.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

EPISODE_STEPS, PIECE_STEPS = 500, 500_000
OBSERVATION_SIZE, ACTION_SIZE = 11, 3


def write_parquet(path: Path, num_steps: int) -> None:
    """Random episodes, `PIECE_STEPS` steps at a time, one row group each."""
    import pyarrow.parquet as pq

    from hf_seqrl.data.writing import dataset_from_steps

    writer = None
    for first in range(0, num_steps, PIECE_STEPS):
        size = min(PIECE_STEPS, num_steps - first)
        generator = np.random.default_rng(first)
        ends = np.arange(1, size + 1) % EPISODE_STEPS == 0
        steps = {
            "observations": generator.standard_normal((size, OBSERVATION_SIZE), np.float32),
            "actions": generator.standard_normal((size, ACTION_SIZE), np.float32),
            "rewards": generator.standard_normal(size, np.float32),
            "terminations": ends,
            "truncations": np.zeros(size, bool),
        }
        table = dataset_from_steps(steps, np.arange(0, size + 1, EPISODE_STEPS)).data.table
        writer = writer or pq.ParquetWriter(path, table.schema, compression="none", use_dictionary=False)
        writer.write_table(table)
    writer.close()


def megabytes() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith("Rss")}
    return {"private": sizes["RssAnon"], "mapped": sizes["RssFile"]}


def draw(folder: Path, num_batches: int) -> None:
    """Open, build the windows, draw batches; print what each stage has added to the memory."""
    from hf_seqrl import TrajectoryWindows, load_trajectories

    sample = np.zeros((50, 2), np.float32)
    warm_up = {
        "observations": [sample],
        "actions": [sample],
        "rewards": [sample[:, 0]],
        "terminations": [sample[:, 0] > 0],
    }
    TrajectoryWindows(load_trajectories(warm_up), context_length=20).gather([3, 4])

    start = megabytes()

    def report(stage: str, seconds: float, unit: str = "s") -> None:
        now = megabytes()
        grown = {kind: now[kind] - start[kind] for kind in now}
        print(
            f"  {stage:18} {seconds:8.3f} {unit:10} private {grown['private']:+8.1f} MB   mapped {grown['mapped']:+8.1f} MB"
        )

    began = time.process_time()
    dataset = load_trajectories(folder)
    report("opened, checked", time.process_time() - began)
    began = time.process_time()
    windows = TrajectoryWindows(dataset, context_length=20)
    report("windows built", time.process_time() - began)
    generator = np.random.default_rng(0)
    for _ in range(3):
        began = time.process_time()
        for _ in range(num_batches):
            windows.gather(generator.integers(len(windows), size=64))
        report(f"{num_batches} batches of 64", 1e3 * (time.process_time() - began) / num_batches, "ms/batch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[200_000, 20_000_000])
    parser.add_argument("--batches", type=int, default=3000)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # set for the process that draws
    arguments = parser.parse_args()
    if arguments.folder:
        draw(arguments.folder, arguments.batches)
        return
    for num_steps in arguments.steps:
        with tempfile.TemporaryDirectory(prefix="hf_seqrl_memory_") as folder:
            write_parquet(Path(folder, "train.parquet"), num_steps)
            print(
                f"{num_steps:,} steps, {sum(f.stat().st_size for f in Path(folder).iterdir()) / 1e6:,.0f} MB",
                flush=True,
            )
            environment = {**os.environ, "HF_DATASETS_CACHE": f"{folder}/cache"}
            command = [sys.executable, __file__, "--folder", folder, "--batches", str(arguments.batches)]
            subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
