"""Sweep the target: what does an agent achieve when it is asked for less, for more, for more than it has ever seen?

    python examples/sweep_targets.py
    python examples/sweep_targets.py --agent me/dt-hopper-medium --num_targets 12 --num_episodes 50

The targets go from the worst to somewhat above the best return of the training data, or lie between --lowest and
--highest. All are played in one batch, each with the same seeds. Writes a plot and a JSON file with every episode. Without
--agent, a small one is trained on the bicycle for some seconds.
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

STARTS = {"random_starts": True}  # episodes of the bicycle differ by where they start


def example_agent(options: argparse.Namespace) -> tuple[Agent, tuple[float, float]]:
    """An agent for the bicycle, with the returns of its data."""
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
    parser.add_argument("--agent", help="a folder or a Hub id; default: one that is trained on the spot")
    parser.add_argument("--lowest", type=float, help="raw return units")
    parser.add_argument("--highest", type=float, help="raw return units")
    parser.add_argument("--num_targets", type=int, default=8)
    parser.add_argument("--num_episodes", type=int, default=20, help="for each target")
    parser.add_argument("--seed", type=int, default=1000, help="of the first episode")
    parser.add_argument("--max_steps", type=int, default=500, help="updates of the agent that is trained on the spot")
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
    print(f"asking for {best[0]:g} achieves the most, {best[1].mean_return:.1f}")
    print(f"wrote {result.save(options.output_dir / 'sweep.json')}")
    print(f"wrote {result.plot(options.output_dir / 'sweep.png', data_returns)}")


if __name__ == "__main__":
    main()
