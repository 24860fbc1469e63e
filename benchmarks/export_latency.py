"""What an export costs and gives, for each way of acting: size, latency of a step, difference from the original.

    python benchmarks/export_latency.py

States of 11 and actions of 3 entries, as Hopper's; untrained models of the sizes that `hf-seqrl train` makes by default, the agents of
`controller_latency.py`. 300 steps of drawn observations in whole episodes. Time is the CPU time of the one thread, which other work on
the machine does not lengthen by itself; `torch` is `Agent.act` on the same observations, `int8` the quantized graph.
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from controller_latency import CASES, agent_of

from hf_seqrl import Agent

STEPS, WARM_UP = 300, 20


def torch_latency(agent: Agent) -> float:
    """Milliseconds of the median step of the agent itself."""
    rng = np.random.default_rng(0)
    agent.reset(1, 100.0 if agent.is_conditioned else None)
    times = []
    for _ in range(STEPS):
        seen = rng.normal(size=(1, 11)).astype(np.float32)
        began = time.thread_time()
        agent.act(seen)
        times.append(1000 * (time.thread_time() - began))
        agent.observe(np.ones(1), np.zeros(1, bool))
    return float(np.median(times[WARM_UP:]))


def main() -> None:
    torch.set_num_threads(1)
    print(
        "| agent | parameters | graph, KiB | int8 | step p50, ms | p99 | int8 p50 | torch p50 | difference | of int8 |"
    )
    print("| --- " + "| ---: " * 9 + "|")
    for name, (family, options) in CASES.items():
        agent = agent_of(family, options)
        with tempfile.TemporaryDirectory() as folder:
            exported = agent.export(Path(folder) / "agent", quantize=True)
            sizes = [(exported / graph).stat().st_size / 1024 for graph in ("step.onnx", "step.int8.onnx")]
            about = json.loads((exported / "agent.json").read_text())
        plain, quantized = about["measured"].values()
        latency = plain["latency_ms"]
        print(
            f"| {name} | {about['parameters']} | {sizes[0]:.0f} | {sizes[1]:.0f} | {latency['p50']:.2f} | {latency['p99']:.2f} | "
            f"{quantized['latency_ms']['p50']:.2f} | {torch_latency(agent):.2f} | {plain['greatest_difference']:.0e} | "
            f"{quantized['greatest_difference']:.0e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
