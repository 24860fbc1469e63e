"""Train an agent on a table of your own: a CSV or Parquet file with one row per step and any column names.

    python examples/train_from_logs.py
    python examples/train_from_logs.py --table plant.csv --episode batch --step minute \\
        --observation temperature pressure --action valve --reward profit --output_dir outputs/plant

The first command writes a small table of CartPole episodes of varying quality and trains on it. Held-out episodes show how well
the agent predicts the recorded actions; with --env_id it is evaluated in an environment, too. Every field of
`TrainingArguments` is an option.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from transformers import HfArgumentParser, Trainer, TrainingArguments

from hf_seqrl import (
    Agent,
    DecisionTransformerGymDataCollator,
    DecisionTransformerProcessor,
    TrainableDT,
    TrajectoryWindows,
    balance_cartpole,
    collect,
    judge_offline,
    load_trajectories,
    noisy,
    rollout,
)


@dataclass
class Options:
    """The table and its columns."""

    table: str | None = field(default=None, metadata={"help": "a .csv or .parquet file; default: a generated one"})
    episode: str = field(default="run", metadata={"help": "the column that identifies the episode"})
    step: str = field(default="tick", metadata={"help": "the column that orders the steps of an episode"})
    observation: list[str] = field(default_factory=lambda: ["position", "velocity", "angle", "spin"])
    action: list[str] = field(default_factory=lambda: ["push"])
    reward: str = field(default="upright")
    termination: str | None = field(default=None, metadata={"help": "the column that is 1 where an episode ended"})
    env_id: str | None = field(default=None, metadata={"help": "gymnasium id of an environment for evaluation"})
    context_length: int = field(default=10, metadata={"help": "steps that the agent sees when it acts"})


@dataclass
class Arguments(TrainingArguments):
    """Training arguments with the defaults of this example."""

    output_dir: str = "outputs/from-logs"
    max_steps: int = 500
    learning_rate: float = 1e-3
    per_device_train_batch_size: int = 64
    save_strategy: str = "no"


def write_example_table(path: Path) -> Path:
    """Write a hundred episodes as a table."""
    episodes = collect(noisy(balance_cartpole, epsilon=(0.1, 0.9)), "CartPole-v1", num_episodes=100)
    rows = [
        (run, tick, *observation, action, reward, fell)
        for run, one in enumerate(episodes)
        for tick, (observation, action, reward, fell) in enumerate(
            zip(one["observations"], one["actions"], one["rewards"], one["terminations"])
        )
    ]
    columns = ["run", "tick", "position", "velocity", "angle", "spin", "push", "upright", "fell"]
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return path


def main() -> None:
    options, arguments = HfArgumentParser((Options, Arguments)).parse_args_into_dataclasses()
    folder = Path(arguments.output_dir)
    env_id = options.env_id or (None if options.table else "CartPole-v1")
    dataset = load_trajectories(
        options.table or write_example_table(folder / "example.csv"),
        episode=options.episode,
        step=options.step,
        observation=options.observation,
        action=options.action if len(options.action) > 1 else options.action[0],  # several columns are a vector
        reward=options.reward,
        termination=options.termination if options.table else "fell",
        env_id=env_id,
    )
    parts = dataset.train_test_split(0.1, seed=arguments.seed)
    processor = DecisionTransformerProcessor.from_dataset(parts["train"], context_length=options.context_length)
    model = TrainableDT(processor.model_config(hidden_size=64, n_layer=2, n_head=1))
    collator = DecisionTransformerGymDataCollator(parts["train"], processor)
    windows = TrajectoryWindows(parts["train"], processor)
    Trainer(model, arguments, collator, windows, processing_class=processor).train()

    agent = Agent(model, processor)
    judgement = judge_offline(agent, parts["test"])
    print(judgement.table())
    judgement.plot(folder / "judgement.png")
    if env_id is not None:
        agent.evaluation = rollout(agent, env_id, num_episodes=20, target_return=agent.target_returns, seed=1000)
        print(agent.evaluation.table())
    agent.save_pretrained(folder)
    print(f"{folder}: load the agent with Agent.from_pretrained({str(folder)!r})")


if __name__ == "__main__":
    main()
