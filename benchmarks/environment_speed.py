"""How much of the environments' own speed a rollout keeps, with a policy that costs nothing.

    python benchmarks/environment_speed.py [--rounds 5]

The bare loops reset, step and add up, with the same seeds and actions; shares are of the first. All ways run in turn in one
process; shares are medians over the rounds.
"""

import argparse
import time
from statistics import median

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from hf_seqrl.evaluation.collect import collect
from hf_seqrl.evaluation.rollout import rollout

# environment, episodes of a round, action of every step
CASES = [
    ("CartPole-v1", 2000, np.int64(1)),
    ("MountainCar-v0", 50, np.int64(1)),
    ("Hopper-v5", 200, np.zeros(3, np.float32)),
    ("HalfCheetah-v5", 16, np.zeros(6, np.float32)),
]


def bare(envs: list[gym.Env], num_episodes: int, action: np.ndarray) -> None:
    """The plain loop."""
    for seed in range(num_episodes):
        envs[0].reset(seed=seed)
        done, total = False, 0.0
        while not done:
            _, reward, terminated, truncated, _ = envs[0].step(action)
            total += reward
            done = terminated or truncated


def side_by_side(envs: list[gym.Env], num_episodes: int, action: np.ndarray) -> None:
    """The plain loop, a step of each environment in turn: physics that take turns in the caches are slower."""
    seeds, totals = iter(range(num_episodes)), [0.0] * len(envs)
    playing = [env for env, seed in zip(envs, seeds) if env.reset(seed=seed)]
    while playing:
        for lane, env in enumerate(list(playing)):
            _, reward, terminated, truncated, _ = env.step(action)
            totals[lane] += reward
            if terminated or truncated:
                seed = next(seeds, None)
                playing.remove(env) if seed is None else env.reset(seed=seed)


def rolling(envs: list[gym.Env], num_episodes: int, action: np.ndarray) -> None:
    """`rollout`."""
    rollout(constantly(action), envs.pop, num_episodes, num_envs=len(envs))


def rolling_vector(envs: list[gym.Env], num_episodes: int, action: np.ndarray) -> None:
    """`rollout` over gymnasium's own vector environment."""
    vector = SyncVectorEnv([envs.pop] * len(envs), autoreset_mode=AutoresetMode.DISABLED)
    rollout(constantly(action), vector, num_episodes)


def collecting(envs: list[gym.Env], num_episodes: int, action: np.ndarray) -> None:
    """`collect`, writing the file included."""
    collect(constantly(action), envs.pop, num_episodes, num_envs=len(envs))


def constantly(action: np.ndarray):
    return lambda observations: np.repeat(action[None], len(observations), axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num-envs", type=int, default=32)
    arguments = parser.parse_args()
    ways = {
        "bare, one by one": bare,
        "bare, side by side": side_by_side,
        "rollout": rolling,
        "rollout, SyncVectorEnv": rolling_vector,
        "collect": collecting,
    }
    print(f"steps per second of processor time (share of the bare loop's speed), {arguments.num_envs} environments")
    print(f"{'environment':16}" + "".join(f"{name:>26}" for name in ways))
    for env_id, num_episodes, action in CASES:
        num_steps = rollout(constantly(action), env_id, num_episodes).lengths.sum()
        rounds = [
            [
                num_steps / seconds(way, env_id, min(arguments.num_envs, num_episodes), num_episodes, action)
                for way in ways.values()
            ]
            for _ in range(arguments.rounds)
        ]
        columns = list(zip(*rounds))
        shares = [median(speed / plain for speed, plain in zip(column, columns[0])) for column in columns]
        cells = [f"{median(column):,.0f} ({share:.0%})" for column, share in zip(columns, shares)]
        print(f"{env_id:16}" + "".join(f"{cell:>26}" for cell in cells), flush=True)


def seconds(way, env_id: str, num_envs: int, num_episodes: int, action: np.ndarray) -> float:
    """Processor time of one way, the making of the environments left out."""
    envs = [gym.make(env_id, disable_env_checker=True) for _ in range(num_envs)]
    began = time.process_time()
    way(envs, num_episodes, action)
    return time.process_time() - began


if __name__ == "__main__":
    main()
