"""Fine-tune an agent from a folder or the Hub on other data: all of its weights, or a LoRA adapter.

    python examples/fine_tune.py
    python examples/fine_tune.py --lora
    python examples/fine_tune.py --agent me/dt-hopper-medium --dataset me/hopper-expert --lora --target_return 3600

The first two commands train an agent on bad CartPole episodes and fine-tune it on good ones. The agent is evaluated before
and after. It is saved with the adapter merged into its weights, so that it loads like any other and does not need peft; the
adapter itself, about ten kilobytes, is saved in `adapter/`.
"""

import argparse
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments, set_seed

from hf_seqrl import (
    Agent,
    DecisionTransformerGymDataCollator,
    DecisionTransformerProcessor,
    RolloutResult,
    TrainableDT,
    TrajectoryWindows,
    balance_cartpole,
    collect,
    load_trajectories,
    noisy,
    rollout,
)


def train(agent: Agent, dataset: Dataset, options: argparse.Namespace, adapter: LoraConfig | None = None) -> None:
    """Continue training the weights of an agent, or train an adapter that is merged into them at the end."""
    model = agent.model if adapter is None else get_peft_model(agent.model, adapter)
    arguments = TrainingArguments(
        str(options.output_dir),
        max_steps=options.max_steps,
        learning_rate=options.learning_rate,
        per_device_train_batch_size=64,
        save_strategy="no",
        seed=options.seed,
    )
    collator = DecisionTransformerGymDataCollator(dataset, agent.processor)  # the agent's own statistics
    Trainer(model, arguments, collator, TrajectoryWindows(dataset, agent.processor)).train()
    if adapter is not None:
        model.save_pretrained(options.output_dir / "adapter")
        agent.model = model.merge_and_unload()


def bad_agent(options: argparse.Namespace) -> Agent:
    """An agent trained on random actions only."""
    dataset = collect("random", "CartPole-v1", num_episodes=200, seed=options.seed)
    processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=5, return_scale=100.0)
    agent = Agent(TrainableDT(processor.model_config(hidden_size=64, n_layer=2, n_head=1)), processor)
    train(agent, dataset, options)
    return agent


def evaluate(agent: Agent, options: argparse.Namespace) -> RolloutResult:
    return rollout(
        agent, agent.env_id, options.num_episodes, options.target_return, num_envs=options.num_episodes, seed=1000
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", help="a folder or a Hub id; default: a new agent, trained first")
    parser.add_argument("--dataset", help="a folder, a file or a Hub id; default: good CartPole episodes")
    parser.add_argument("--target_return", type=float, default=200.0, help="raw return")
    parser.add_argument("--lora", action="store_true", help="train a LoRA adapter instead of all weights")
    parser.add_argument("--rank", type=int, default=8, help="rank of the adapter")
    parser.add_argument("--max_steps", type=int, default=500)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--num_episodes", type=int, default=20, help="episodes of each evaluation")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/fine-tuned"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    set_seed(options.seed)

    agent = Agent.from_pretrained(options.agent) if options.agent else bad_agent(options)
    print(f"before\n{evaluate(agent, options).table()}")
    if options.dataset:
        dataset = load_trajectories(options.dataset)
    else:
        dataset = collect(noisy(balance_cartpole, epsilon=0.1), "CartPole-v1", num_episodes=50, seed=options.seed)
    projections = ["c_attn", "c_proj", "c_fc"]  # of attention and MLP
    adapter = LoraConfig(r=options.rank, lora_alpha=32, target_modules=projections, fan_in_fan_out=True)
    train(agent, dataset, options, adapter if options.lora else None)

    agent = Agent(agent.model, agent.processor)
    agent.evaluation = evaluate(agent, options)
    print(f"after\n{agent.evaluation.table()}")
    agent.save_pretrained(options.output_dir)
    print(f"{options.output_dir}: load the agent with Agent.from_pretrained({str(options.output_dir)!r})")


if __name__ == "__main__":
    main()
