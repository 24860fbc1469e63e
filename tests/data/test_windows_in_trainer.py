"""The order of the windows is the Trainer's: its seed, its epochs, its workers, its resuming."""

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from transformers import Trainer, TrainingArguments

from hf_seqrl import TrajectoryWindows, load_trajectories
from hf_seqrl.data.windows import gathered_windows

LENGTHS = [7, 1, 12, 4]


@pytest.fixture
def windows():
    """The reward of every step is its own number."""
    offsets = np.cumsum([0, *LENGTHS])
    episodes = [
        {
            "observations": np.zeros((length, 2)),
            "actions": np.zeros((length, 1)),
            "rewards": np.arange(offset, offset + length),
            "terminations": np.zeros(length, bool),
        }
        for offset, length in zip(offsets, LENGTHS, strict=False)
    ]
    return TrajectoryWindows(load_trajectories(episodes), context_length=3)


def first_steps(features):
    """The number of the step at which each window begins."""
    batch = gathered_windows(features)
    padding = (batch["attention_mask"] == 0).sum(axis=1)
    return {"numbers": torch.from_numpy(batch["rewards"][np.arange(len(padding)), padding])}


class Recorder(torch.nn.Module):
    """Remembers which windows it was trained on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def forward(self, numbers):
        self.seen.append(numbers.long().tolist())
        return {"loss": self.weight**2}


def train(windows, folder, resume_from=None, **options):
    model = Recorder()
    arguments = TrainingArguments(
        folder, per_device_train_batch_size=5, report_to="none", use_cpu=True, disable_tqdm=True, **options
    )
    trainer = Trainer(model, arguments, train_dataset=windows, data_collator=first_steps)
    trainer.train(resume_from_checkpoint=resume_from)
    return model.seen


def test_every_epoch_visits_every_step_once_in_the_order_of_the_seed(windows, tmp_path):
    seen = train(windows, tmp_path, num_train_epochs=2, seed=1, save_strategy="no")
    epochs = np.array_split(np.concatenate(seen), 2)
    for epoch in epochs:
        assert sorted(epoch) == list(range(sum(LENGTHS)))
    assert list(epochs[0]) != list(epochs[1])
    assert train(windows, tmp_path, num_train_epochs=2, seed=1, save_strategy="no") == seen
    assert train(windows, tmp_path, num_train_epochs=2, seed=2, save_strategy="no") != seen


def test_a_resumed_run_goes_on_with_the_windows_that_were_next(windows, tmp_path):
    whole = train(windows, tmp_path, max_steps=12, save_steps=7, seed=3)
    rest = train(windows, tmp_path, tmp_path / "checkpoint-7", max_steps=12, save_strategy="no", seed=3)
    assert rest == whole[7:]


def test_processes_share_an_epoch_without_overlap(windows):
    def shard(process):
        order = RandomSampler(windows, generator=torch.Generator().manual_seed(4))
        batches = BatchSamplerShard(BatchSampler(order, 3, drop_last=False), 2, process, even_batches=False)
        loader = DataLoader(windows, batch_sampler=batches, collate_fn=first_steps)
        return np.concatenate([batch["numbers"] for batch in loader])

    shares = [shard(process) for process in range(2)]
    assert sorted(np.concatenate(shares)) == list(range(sum(LENGTHS)))
