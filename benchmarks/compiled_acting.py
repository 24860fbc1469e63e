"""Milliseconds of a step of a Decision Transformer, as it acts and with `compile=True`.

    python benchmarks/compiled_acting.py [--rounds 7] [--steps 20] [--device cuda]

Sizes are those of the paper: hidden 128, 3 layers, 1 head, 20 steps. Both act on the same random observations and take their turn
in each round; medians over the rounds are printed, and the seconds of the first step, in which the second is
compiled. Time is the CPU time of this process; on another device it is that of the wall.
"""

import argparse
from statistics import median

import numpy as np
import torch
from decision_transformer_rollout import CONTEXT_LENGTH, TARGET, untrained_processor
from devices import add_device_option, clock_of

from hf_seqrl import Agent, TrainableDT

CASES = [("sliding", 1), ("window", 1), ("sliding", 64), ("window", 32), ("sliding", 1024)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    add_device_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)

    processor, clock = untrained_processor(), clock_of(options.device)
    for attention, num_envs in CASES:
        reach = CONTEXT_LENGTH if attention == "sliding" else None
        model = TrainableDT(processor.model_config(sliding_attention=reach)).to(options.device).eval()
        observations = np.random.default_rng(0).normal(size=(num_envs, 11))

        def step(agent: Agent, observations: np.ndarray = observations) -> None:
            agent.act(observations)
            agent.observe(np.ones(len(observations)), np.zeros(len(observations), bool))

        agents = {"as it acts": Agent(model, processor), "compiled": Agent(model, processor, compile=True)}
        times: dict[str, list[float]] = {name: [] for name in agents}
        for agent in agents.values():
            agent.reset(num_envs, TARGET)
            began = clock()
            step(agent)
            first = clock() - began
        for _ in range(options.rounds):
            for name, agent in agents.items():
                began = clock()
                for _ in range(options.steps):
                    step(agent)
                times[name].append((clock() - began) / options.steps * 1e3)
        medians = {name: median(values) for name, values in times.items()}
        ratio = median(old / new for old, new in zip(*times.values(), strict=True))
        described = "   ".join(f"{name} {value:8.2f} ms" for name, value in medians.items())
        print(f"{attention:8} {num_envs:5} episodes   {described}   ratio {ratio:5.2f}   first step {first:.1f} s")


if __name__ == "__main__":
    main()
