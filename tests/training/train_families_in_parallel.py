"""Under torchrun: trains every family with DDP, and compares its gradients under FSDP2 with those of one process.

`train_families_in_parallel.py DATA FOLDER`
"""

import copy
import sys

import torch
import torch.distributed
from datasets import load_from_disk
from test_trainer_options import FAMILIES
from torch.distributed.fsdp import fully_shard
from transformers import Trainer, TrainingArguments

from hf_seqrl.models.registry import family_named


def train(prepared, folder):
    """Two updates; all processes end with the same weights, which are others than before."""
    before = [parameter.detach().clone() for parameter in prepared.model.parameters()]
    arguments = TrainingArguments(
        folder, use_cpu=True, max_steps=2, per_device_train_batch_size=4, report_to="none", save_strategy="no",
        disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    trainer_class = prepared.trainer_class or Trainer
    trainer_class(
        prepared.model, arguments, prepared.data_collator, prepared.train_dataset, **prepared.trainer_arguments
    ).train()
    assert any(not torch.equal(old, new) for old, new in zip(before, prepared.model.parameters(), strict=True))
    for parameter in prepared.model.parameters():
        first = parameter.detach().clone()
        torch.distributed.broadcast(first, 0)
        assert torch.equal(first, parameter)


def shard(model, batch):
    """The gradients of a sharded copy are those of the model."""
    model = model.eval()  # no dropout
    sharded = copy.deepcopy(model)
    names = set(model._no_split_modules or ())
    for module in sharded.modules():
        if type(module).__name__ in names and list(module.parameters()):
            fully_shard(module)
    fully_shard(sharded)
    for one in (model, sharded):
        one.zero_grad()
        one(**batch).loss.backward()
    for (name, expected), actual in zip(model.named_parameters(), sharded.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(actual.grad.full_tensor(), expected.grad, msg=name)


if __name__ == "__main__":
    data, folder = sys.argv[1:]
    dataset = load_from_disk(data)
    for name, options in FAMILIES.items():
        torch.manual_seed(0)
        family = family_named(name.split(",")[0])
        prepared = family.prepare(dataset, family.options_class(**options))
        train(prepared, f"{folder}/{name}")
        shard(prepared.model, prepared.data_collator(prepared.train_dataset.__getitems__(range(4))))
        if torch.distributed.get_rank() == 0:
            print("trained and sharded:", name, flush=True)
    torch.distributed.destroy_process_group()
