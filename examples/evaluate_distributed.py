"""Evaluate an agent with several processes, on one or more machines: each plays a share of the episodes.

    torchrun --nproc_per_node 4 examples/evaluate_distributed.py --agent me/dt-hopper-medium --target_return 3600 1800
    torchrun --nproc_per_node 2 examples/evaluate_distributed.py
    python examples/evaluate_distributed.py

Every episode has its own seed, so the returns do not depend on the number of processes. Without --agent, an untrained
agent is used.
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import gather_object

from hf_seqrl import Agent, DecisionTransformerProcessor, RolloutResult, TrainableDT, collect, rollout


def example_agent() -> Agent:
    """The same agent in every process, as it is made from the same seeds."""
    processor = DecisionTransformerProcessor.from_dataset(collect("random", "CartPole-v1", num_episodes=20))
    torch.manual_seed(0)
    return Agent(TrainableDT(processor.model_config(hidden_size=32, n_layer=1, n_head=1)), processor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", help="a folder or a Hub id")
    parser.add_argument("--target_return", type=float, nargs="+", help="raw returns; default: those of the agent")
    parser.add_argument("--num_episodes", type=int, default=50, help="for each target, over all processes")
    parser.add_argument("--num_envs", type=int, default=16, help="parallel environments in each process")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first episode; episode i has seed + i")
    parser.add_argument("--output", type=Path, default=Path("outputs/evaluation.json"))
    options = parser.parse_args()

    state = PartialState(cpu=not torch.cuda.is_available())
    agent = Agent.from_pretrained(options.agent, device=state.device) if options.agent else example_agent()
    with state.split_between_processes(list(range(options.num_episodes))) as share:
        part = None
        if share:
            part = rollout(
                agent,
                agent.env_id,
                num_episodes=len(share),
                target_return=options.target_return or agent.target_returns,
                num_envs=options.num_envs,
                seed=options.seed + share[0],
            )
    print(f"process {state.process_index} of {state.num_processes} has played {len(share)} episodes for each target")
    parts = gather_object([part])
    if state.is_main_process:
        result = RolloutResult.merged([one for one in parts if one is not None])
        print(result.table())
        print(f"wrote {result.save(options.output)}")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
