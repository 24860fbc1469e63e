"""The latency of one step of a controller, for each way of acting, on one thread.

    python benchmarks/controller_latency.py [--steps 1000]

States of 11 and actions of 3 entries, as Hopper's; untrained models of the sizes that `hf-seqrl train` makes by default, the
Decision Transformer by window and with sliding attention of the same reach. `told` is what `observe` adds when reward and executed
action are told; `late` the next step after a reward was told five steps late; `saved` one `save` of the state, without the wait for the disk. Time is the CPU time of the thread, which other work on
the machine does not lengthen by itself; the first 100 steps do not count.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from devices import add_device_option, clock_of

from hf_seqrl import Agent, Controller, load_trajectories
from hf_seqrl.models.registry import family_named

WARM_UP = 100
CASES = {
    "Decision Transformer, window of 20": ("decision-transformer", {}),
    "Decision Transformer, sliding cache of 20": ("decision-transformer", {"sliding": True}),
    "encoder-decoder, GRU": ("trajectory-seq2seq", {"backbone": "gru"}),
    "encoder-decoder, Transformer": ("trajectory-seq2seq", {"backbone": "transformer"}),
    "policy network": ("cloning", {}),
}


def agent_of(family: str, options: dict, device: str) -> Agent:
    rng = np.random.default_rng(0)
    steps, ends = 2000, np.arange(1, 2001) % 200 == 0
    dataset = load_trajectories(
        {
            "observations": rng.normal(size=(steps, 11)).astype(np.float32),
            "actions": rng.uniform(-1, 1, (steps, 3)).astype(np.float32),
            "rewards": rng.uniform(0, 1, steps).astype(np.float32),
            "terminals": ends,
        }
    )
    torch.manual_seed(0)
    found = family_named(family)
    prepared = found.prepare(dataset, found.options_class(**options))
    return Agent(prepared.model.to(device), prepared.processor)


def timed(call: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    call()
    return (clock() - began) * 1000


def measured(agent: Agent, steps: int, folder: str) -> dict[str, list[float]]:
    """Milliseconds of every step, and of what stands beside it."""
    rng, clock = np.random.default_rng(1), clock_of(str(agent.model.device), time.thread_time)
    observations = rng.normal(size=(WARM_UP + steps, 11)).astype(np.float32)
    controller = Controller(agent)
    controller.begin(100.0 if agent.is_conditioned else None, seed=0)
    times: dict[str, list[float]] = {"step": [], "told": [], "late": [], "saved": []}
    for number, observation in enumerate(observations):
        step = timed(lambda seen=observation: controller.step(seen), clock)
        told = timed(lambda: controller.observe(reward=0.5, action=np.zeros(3, np.float32)), clock)
        kind = "late" if number % 50 == 49 else "step"
        if number >= WARM_UP:
            times[kind].append(step)
            times["told"].append(told)
        if number % 50 == 48:
            controller.observe(reward=0.4, step=number - 5)
            times["saved"].append(timed(lambda: controller.save(Path(folder) / "state.safetensors"), clock))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    add_device_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| ms | step p50 | p99 | told p50 | late p50 | saved p50 | state, KiB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for name, (family, options) in CASES.items():
            times = measured(agent_of(family, options, arguments.device), arguments.steps, folder)
            p50 = {kind: np.percentile(values, 50) for kind, values in times.items()}
            size = (Path(folder) / "state.safetensors").stat().st_size / 1024
            print(
                f"| {name} | {p50['step']:.2f} | {np.percentile(times['step'], 99):.2f} | {p50['told']:.3f} | "
                f"{p50['late']:.2f} | {p50['saved']:.2f} | {size:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
