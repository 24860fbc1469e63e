"""Fine-tune an agent online: it plays, its episodes join the data, and training goes on.

    python examples/fine_tune_online.py
    python examples/fine_tune_online.py --env hf_seqrl/BicycleGrid-v0
    python examples/fine_tune_online.py --agent me/my-agent --dataset me/my-data

Without an agent, a Decision Transformer is trained on random episodes first. `hf-seqrl finetune` does the same from the command line.
"""

import argparse
from pathlib import Path

from transformers import Trainer, TrainingArguments, set_seed

from hf_seqrl import (
    Agent,
    DecisionTransformerGymDataCollator,
    DecisionTransformerProcessor,
    Judgement,
    OnlineOptions,
    TrainableDT,
    TrajectoryWindows,
    collect,
    finetune_online,
    load_trajectories,
    rollout,
)


def weak_agent(dataset, options: argparse.Namespace) -> Agent:
    """A Decision Transformer that has learned from random episodes."""
    processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=5)
    model = TrainableDT(processor.model_config(hidden_size=64, n_layer=2, n_head=1))
    arguments = TrainingArguments(
        str(options.output_dir), max_steps=500, learning_rate=1e-3, per_device_train_batch_size=64, save_strategy="no"
    )
    collator = DecisionTransformerGymDataCollator(dataset, processor)
    Trainer(model, arguments, collator, TrajectoryWindows(dataset, processor)).train()
    return Agent(model, processor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", help="a folder or a Hub id; default: a new agent, trained first")
    parser.add_argument("--dataset", help="a folder, a file or a Hub id; default: random episodes")
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--updates_per_round", type=int, default=200)
    parser.add_argument("--num_episodes", type=int, default=20, help="episodes of each evaluation")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/fine-tuned-online"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    set_seed(options.seed)

    dataset = load_trajectories(options.dataset) if options.dataset else None
    if options.agent:
        agent = Agent.from_pretrained(options.agent)
    else:
        dataset = dataset or collect("random", options.env, num_episodes=200, seed=options.seed)
        agent = weak_agent(dataset, options)
    print(f"before\n{rollout(agent, options.env, num_episodes=options.num_episodes, seed=1000).table()}")
    tuned = finetune_online(
        agent,
        options.output_dir,
        dataset,
        options.env,
        OnlineOptions(rounds=options.rounds, updates_per_round=options.updates_per_round, seed=options.seed),
        judgement=Judgement(options.env, options.num_episodes, seed=1000, replay=False),
    )
    print(f"after\n{tuned.evaluation.table()}")


if __name__ == "__main__":
    main()
