"""Evaluate an agent at a range of target returns, inside and above the returns of its training data.

    python examples/sweep_targets.py
    python examples/sweep_targets.py --agent me/dt-hopper-medium --num_targets 12 --num_episodes 50

The targets range from the lowest return of the training data to slightly above the highest, or from --lowest to --highest.
All targets are evaluated in one rollout, with the same seeds. Writes a plot and a JSON file with every episode. Without
--agent, a small agent is trained on the bicycle in a few seconds.
"""

import argparse
from pathlib import Path

import numpy as np
from transformers import Trainer, TrainingArguments

from hf_seqrl import (
    Agent,
    DecisionTransformerGymDataCollator,
    DecisionTransformerProcessor,
    TrainableDT,
    TrajectoryWindows,
    collect,
    rollout,
)

STARTS = {"random_starts": True}  # without random starts, all episodes of the bicycle are the same


def example_agent(options: argparse.Namespace) -> tuple[Agent, tuple[float, float]]:
    """An agent for the bicycle, and the lowest and highest return of its data."""
    dataset = collect("random", "hf_seqrl/BicycleGrid-v0", num_episodes=500, env_kwargs=STARTS)
    processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=5)
    model = TrainableDT(processor.model_config(hidden_size=64, n_layer=2, n_head=1))
    arguments = TrainingArguments(
        str(options.output_dir),
        max_steps=options.max_steps,
        learning_rate=1e-3,
        per_device_train_batch_size=64,
        save_strategy="no",
    )
    collator = DecisionTransformerGymDataCollator(dataset, processor)
    Trainer(model, arguments, collator, TrajectoryWindows(dataset, processor)).train()
    returns = [sum(rewards) for rewards in dataset["rewards"]]
    return Agent(model, processor), (min(returns), max(returns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", help="a folder or a Hub id; default: a new agent, trained first")
    parser.add_argument("--lowest", type=float, help="raw return")
    parser.add_argument("--highest", type=float, help="raw return")
    parser.add_argument("--num_targets", type=int, default=8)
    parser.add_argument("--num_episodes", type=int, default=20, help="episodes for each target")
    parser.add_argument("--seed", type=int, default=1000, help="seed of the first episode")
    parser.add_argument("--max_steps", type=int, default=500, help="training steps of the new agent")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/sweep"))
    options = parser.parse_args()

    if options.agent:
        agent = Agent.from_pretrained(options.agent)
        data_returns = None if agent.run is None else (agent.run.data["return_min"], agent.run.data["return_max"])
    else:
        agent, data_returns = example_agent(options)
    lowest, highest = data_returns or (0.0, max(agent.target_returns))
    lowest = lowest if options.lowest is None else options.lowest
    highest = highest + 0.1 * (highest - lowest) if options.highest is None else options.highest
    result = rollout(
        agent,
        agent.env_id,
        options.num_episodes,
        target_return=np.linspace(lowest, highest, options.num_targets).round(1),
        num_envs=64,
        seed=options.seed,
        env_kwargs=None if options.agent else STARTS,
        progress=True,
    )
    print(result.table())
    best = max(result.by_target().items(), key=lambda pair: pair[1].mean_return)
    print(f"the best target return is {best[0]:g}, with a mean return of {best[1].mean_return:.1f}")
    print(f"wrote {result.save(options.output_dir / 'sweep.json')}")
    print(f"wrote {result.plot(options.output_dir / 'sweep.png', data_returns)}")


if __name__ == "__main__":
    main()
