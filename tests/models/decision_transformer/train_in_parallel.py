"""Trains a few steps under torchrun and saves the weights: `train_in_parallel.py DATA TARGET BATCH_SIZE [checkpointing]`."""

import sys

import torch
from datasets import load_from_disk
from transformers import Trainer, TrainingArguments

from hf_seqrl.models.decision_transformer.training import DecisionTransformerOptions, prepare

if __name__ == "__main__":
    data, target, batch_size, checkpointing = sys.argv[1:]
    torch.manual_seed(0)
    options = DecisionTransformerOptions(context_length=6, hidden_size=16, n_layer=2, dropout=0.0)
    prepared = prepare(load_from_disk(data), options)
    fields = TrainingArguments.__dataclass_fields__  # the name from transformers 5.23 on, and before
    option = "activation_checkpointing" if "activation_checkpointing" in fields else "gradient_checkpointing"
    arguments = TrainingArguments(
        f"{target}-run",
        use_cpu=True,
        **{option: bool(checkpointing)},
        max_steps=4,
        learning_rate=1e-2,
        per_device_train_batch_size=int(batch_size),
        report_to="none",
        save_strategy="no",
        seed=1,
    )
    trainer = Trainer(
        prepared.model, arguments, train_dataset=prepared.train_dataset, data_collator=prepared.data_collator
    )
    trainer.train()
    if trainer.is_world_process_zero():
        torch.save(prepared.model.state_dict(), target)
