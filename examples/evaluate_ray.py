"""Evaluate an agent on all machines of a Ray cluster: Ray plays a few episodes wherever a core is free.

    ray start --head                       # on the first machine, here called node0
    ray start --address node0:6379         # on each of the others
    python examples/evaluate_ray.py --address node0:6379 --agent me/dt-hopper-medium --target_return 3600 1800
    python examples/evaluate_ray.py        # without a cluster: all cores of this machine

Every episode has its own seed, so the returns do not depend on the number of machines, nor on one that fails: Ray plays
its episodes elsewhere. The machines need the same packages; the agent is sent to them. Without --agent, an untrained agent
is used.
"""

import argparse
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from evaluate_distributed import example_agent
from tqdm.auto import tqdm

from hf_seqrl import Agent, RolloutResult, rollout
from hf_seqrl.installation import install_command

try:
    import ray
except ImportError:
    sys.exit(f"Ray is not installed, which this example needs: {install_command('ray')}")


@ray.remote(num_cpus=1, max_retries=-1)
def play(agent: Agent, targets: list[float], num_episodes: int, seed: int) -> tuple[str, RolloutResult]:
    """Episodes in as many parallel environments, and the address of the machine that played them."""
    result = rollout(agent, agent.env_id, num_episodes, target_return=targets, num_envs=num_episodes, seed=seed)
    return ray.util.get_node_ip_address(), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of the cluster; default: RAY_ADDRESS, else this machine alone")
    parser.add_argument("--agent", help="a folder or a Hub id")
    parser.add_argument("--target_return", type=float, nargs="+", help="raw returns; default: those of the agent")
    parser.add_argument("--num_episodes", type=int, default=50, help="for each target, over all machines")
    parser.add_argument("--num_envs", type=int, default=16, help="episodes of each target that a core plays at a time")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first episode; episode i has seed + i")
    parser.add_argument("--output", type=Path, default=Path("outputs/evaluation.json"))
    options = parser.parse_args()

    agent = Agent.from_pretrained(options.agent) if options.agent else example_agent()
    targets = options.target_return or agent.target_returns
    ray.init(address=options.address)
    shared = ray.put(agent)  # one copy on each machine
    began = time.perf_counter()
    pending = [
        play.remote(shared, targets, min(options.num_envs, options.num_episodes - first), options.seed + first)
        for first in range(0, options.num_episodes, options.num_envs)
    ]
    shares, played = list(pending), Counter()
    with tqdm(total=options.num_episodes * len(targets), unit="episode", mininterval=0.5) as bar:
        while pending:
            (finished,), pending = ray.wait(pending)
            host, part = ray.get(finished)
            played[host] += part.num_episodes
            bar.set_postfix(played, refresh=False)
            bar.update(part.num_episodes)
    for host, count in sorted(played.items()):
        print(f"{host} has played {count} episodes")
    result = RolloutResult.merged([part for _, part in ray.get(shares)])
    result = replace(result, seconds=time.perf_counter() - began)
    print(result.table())
    print(f"wrote {result.save(options.output)}")


if __name__ == "__main__":
    main()
