"""Options of `TrainingArguments` for every family: honoured, or refused by one sentence before training.

To add a family, add a line to `FAMILIES`.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from hf_seqrl.models.registry import family_named
from hf_seqrl.training.trainer import TrajectoryTrainer

FAMILIES = {
    "decision-transformer": {"context_length": 4, "hidden_size": 16, "n_layer": 1},
    "trajectory-transformer": {"sequence_transitions": 3, "n_embd": 16, "n_layer": 1, "n_head": 1, "num_bins": 8},
    "trajectory-seq2seq, gru": {"backbone": "gru", "context_length": 4, "hidden_size": 16},
    "trajectory-seq2seq, transformer": {"backbone": "transformer", "context_length": 4, "hidden_size": 16},
    "cloning": {"hidden_size": 16},
    "critic": {"hidden_size": 16},
}
WITHOUT_EMBEDDINGS = ("cloning", "critic")
WITHOUT_CHECKPOINTING = ("trajectory-seq2seq, gru", "cloning", "critic")

HONOURED = {
    "accumulation": {"gradient_accumulation_steps": 2},
    "bf16": {"bf16": True},
    "bf16 evaluation": {"bf16_full_eval": True},
    "adafactor": {"optim": "adafactor"},
    "sgd and cosine": {"optim": "sgd", "lr_scheduler_type": "cosine", "warmup_steps": 1},
    "columns removed": {"remove_unused_columns": True},
    "workers": {"dataloader_num_workers": 1, "dataloader_drop_last": True},
    "metrics": {"include_for_metrics": ["inputs", "loss"]},
    "metrics by batch": {"batch_eval_metrics": True},
    "accumulated evaluation": {"eval_accumulation_steps": 1},
    "best model": {"load_best_model_at_end": True, "save_steps": 1, "metric_for_best_model": "loss"},
    "clipping": {"max_grad_norm": 0.1, "weight_decay": 0.1},
    "logging": {"logging_steps": 1, "logging_nan_inf_filter": False, "include_num_input_tokens_seen": "non_padding"},
    "full determinism": {"full_determinism": True},
    "compiled": {"torch_compile": True, "torch_compile_backend": "eager"},
    "checkpointing": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    "reentrant checkpointing": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
    },
    "noise": {"neftune_noise_alpha": 5.0},
}
REFUSED = {
    "label_smoothing_factor": 0.1,
    "train_sampling_strategy": "group_by_length",
    "use_liger_kernel": True,
}
TOGETHER = {  # what does not exclude one another, in one run
    **HONOURED["accumulation"],
    **HONOURED["bf16 evaluation"],
    **HONOURED["adafactor"],
    **HONOURED["columns removed"],
    **HONOURED["metrics"],
    **HONOURED["accumulated evaluation"],
}


@pytest.fixture
def trainer_for(cartpole_dataset, tmp_path):
    """`trainer_for(family, max_steps=2)`: a trainer of two updates that evaluates on the windows that it trains on."""

    def make(name, change=lambda arguments: None, **options):
        torch.manual_seed(0)
        family = family_named(name.split(",")[0])
        prepared = family.prepare(cartpole_dataset.select(range(4)), family.options_class(**FAMILIES[name]))
        settings = {"max_steps": 2, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 64}
        quiet = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "eval_strategy": "steps", "eval_steps": 1}
        arguments = TrainingArguments(
            str(tmp_path / "run"), **{**quiet, **settings, "remove_unused_columns": False, **options}
        )
        change(arguments)
        return (prepared.trainer_class or TrajectoryTrainer)(
            prepared.model,
            arguments,
            prepared.data_collator,
            prepared.train_dataset,
            prepared.train_dataset,
            processing_class=prepared.processor,
            **prepared.trainer_arguments,
        )

    return make


def check(trainer):
    """Train: the weights move, and the evaluation has a finite loss."""
    before = {name: values.clone() for name, values in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert losses and np.isfinite(losses).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_options_are_honoured_together(trainer_for, name):
    check(trainer_for(name, **TOGETHER))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("option", HONOURED)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_option_is_honoured_or_refused(trainer_for, name, option):
    refused = (option == "noise" and name in WITHOUT_EMBEDDINGS) or (
        "checkpointing" in option and name in WITHOUT_CHECKPOINTING
    )
    if not refused:
        return check(trainer_for(name, **HONOURED[option]))
    with pytest.raises(ValueError, match=r"embeddings|checkpointing"):
        trainer_for(name, **HONOURED[option]).train()


@pytest.mark.parametrize("option", REFUSED)
@pytest.mark.parametrize("name", FAMILIES)
def test_options_that_are_made_for_text_are_refused(trainer_for, name, option):
    def change(arguments):  # after the fact, because some look for a package of their own
        setattr(arguments, option, REFUSED[option])

    with pytest.raises(ValueError, match=r"so leave it|leave it out"):
        trainer_for(name, change)


@pytest.mark.parametrize("name", FAMILIES)
def test_accumulated_gradients_are_those_of_the_whole_batch(trainer_for, name):
    """With dropout off, two batches of 8 make the update of one of 16."""
    losses = []
    for batch, steps in ((16, 1), (8, 2)):
        trainer = trainer_for(
            name, max_steps=1, per_device_train_batch_size=batch, gradient_accumulation_steps=steps, eval_strategy="no"
        )
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout) or type(module).__name__ == "Dropout":
                module.p = 0.0
        trainer.train()
        losses.append(trainer.state.log_history[-1]["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.slow
def test_every_family_trains_in_two_processes_and_sharded(cartpole_dataset, tmp_path):
    cartpole_dataset.select(range(4)).save_to_disk(tmp_path / "data")
    script = Path(__file__).with_name("train_families_in_parallel.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29519", script]
    done = subprocess.run([*command, tmp_path / "data", tmp_path / "runs"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("trained and sharded:") == len(FAMILIES)
