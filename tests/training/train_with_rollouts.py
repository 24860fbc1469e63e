"""Trains for two steps in each of the processes that torchrun starts and writes down what the rollouts gave."""

import json
import sys
from pathlib import Path

from transformers import TrainingArguments

from hf_seqrl import RolloutCallback, collect
from hf_seqrl.models.decision_transformer import DecisionTransformerOptions
from hf_seqrl.models.registry import family_of
from hf_seqrl.training.trainer import TrajectoryTrainer

folder = Path(sys.argv[1])
dataset = collect("random", "CartPole-v1", num_episodes=20)
options = DecisionTransformerOptions(context_length=4, hidden_size=16, n_layer=1)
prepared = family_of("decision_transformer").prepare(dataset, options)
trainer = TrajectoryTrainer(
    prepared.model,
    TrainingArguments(
        str(folder / "run"), max_steps=2, eval_strategy="steps", eval_steps=1, use_cpu=True, save_strategy="no"
    ),
    prepared.data_collator,
    prepared.train_dataset,
    processing_class=prepared.processor,
    callbacks=[RolloutCallback(num_episodes=5)],
)
trainer.train()
entries = [entry for entry in trainer.state.log_history if "eval_return" in entry]
assert trainer.args.world_size == 2 and len(entries) == 2
(folder / f"{trainer.args.process_index}.json").write_text(json.dumps(entries))
