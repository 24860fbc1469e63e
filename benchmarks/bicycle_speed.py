"""How many bicycle steps a second: the vectorized worlds against plain ones behind gymnasium's SyncVectorEnv.

    python benchmarks/bicycle_speed.py --num_envs 1024

Rounds of both are interleaved; the medians are printed with their ratio.
"""

import argparse
import statistics
import time

import gymnasium
import numpy as np

import hf_seqrl  # noqa: F401


def steps_per_second(env: gymnasium.vector.VectorEnv, actions: list[np.ndarray]) -> float:
    start = time.perf_counter()
    for action in actions:
        env.step(action)
    return len(actions) * env.num_envs / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_envs", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--random_starts", action="store_true")
    arguments = parser.parse_args()
    modes = {"vector_entry_point": 500, "sync": 5}  # steps a round: plain worlds take a hundred times longer
    rates: dict[str, list[float]] = {mode: [] for mode in modes}
    envs = {
        mode: gymnasium.make_vec(
            "hf_seqrl/BicycleGrid-v0",
            arguments.num_envs,
            vectorization_mode=mode,
            random_starts=arguments.random_starts,
        )
        for mode in modes
    }
    for env in envs.values():
        env.reset(seed=0)
        env.action_space.seed(0)
    for _ in range(arguments.rounds):
        for mode, steps in modes.items():
            actions = [envs[mode].action_space.sample() for _ in range(steps)]
            rates[mode].append(steps_per_second(envs[mode], actions))
    for mode, values in rates.items():
        print(f"{mode:20} {statistics.median(values):14,.0f} steps/s (median of {len(values)} rounds)")
    print(f"ratio {statistics.median(rates['vector_entry_point']) / statistics.median(rates['sync']):.0f}")


if __name__ == "__main__":
    main()
