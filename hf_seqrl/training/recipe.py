"""Recording a training run, so that the card can say how to repeat it."""

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.description import content_fingerprint, describe
from hf_seqrl.data.secrets import masked, masked_arguments
from hf_seqrl.data.stream import TrajectoryStream
from hf_seqrl.hub.card import is_hub_id
from hf_seqrl.hub.run_record import RunRecord

_SHAPES_WEIGHTS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "optim",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "bf16",
    "fp16",
)
# further settings that a resumed run must not change
_SHAPES_ORDER = (
    "seed",
    "data_seed",
    "dataloader_drop_last",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "train_sampling_strategy",
    "optim_args",
    "lr_scheduler_kwargs",
)
_PACKAGES = ("hf-seqrl", "torch", "transformers", "accelerate", "datasets", "gymnasium", "mujoco", "numpy")


def record_run(
    trainer: Trainer,
    family: str,
    dataset: Dataset | None,
    *,
    dataset_name: str | None = None,
    sampled: bool = False,
    options: Any = None,
    chosen: Sequence[str] = (),
    command: str | None = None,
    seconds: float | None = None,
    planned_updates: int | None = None,
) -> RunRecord:
    """The record of a training run; tokens, keys and passwords are masked.

    Args:
        trainer (`Trainer`): After `train()`.
        family (`str`): The name of the model family.
        dataset (`Dataset`, *optional*): The trajectories it was trained on.
        dataset_name (`str`, *optional*): The Hub id or folder by which they were loaded.
        sampled (`bool`, *optional*, defaults to `False`): Whether `dataset` is a sample of a stream that it was trained on.
        options (dataclass, *optional*): The family's options.
        chosen (`list[str]`, *optional*): What was chosen for the data where the options leave it open.
        command (`str`, *optional*): The command line; defaults to the running script with its arguments.
        seconds (`float`, *optional*): Wall-clock time; defaults to the runtime that the trainer logged.
        planned_updates (`int`, *optional*): Number of updates of the whole run, if it is not finished.
    """
    history = trainer.state.log_history
    facts = {
        "family": family,
        "command": command or _running_script(),
        "seed": trainer.args.seed,
        "updates": trainer.state.global_step,
        "seconds": seconds if seconds is not None else _last_logged(history, "train_runtime"),
        "final_loss": _last_logged(history, "loss"),
        "data": describe_data(dataset, dataset_name, sampled) if dataset is not None else {},
        "options": asdict(options) if options is not None else {},
        "chosen": list(chosen),
        "hyperparameters": hyperparameters(trainer.args),
        "versions": installed_versions(),
        "machine": describe_machine(trainer.args.device),
        "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds") if planned_updates is None else None,
        "planned_updates": planned_updates,
    }
    return RunRecord(**masked(facts))


def describe_data(dataset: Dataset, name: str | None = None, sampled: bool = False) -> dict[str, Any]:
    """Size, returns (raw units), origin and fingerprint of a data set, in plain JSON values; `sampled` is there where they are
    those of a sample of a stream."""
    facts = describe(dataset)
    return {
        "name": name,
        "hub_id": name if name and is_hub_id(name) else None,
        **{key: facts[key] for key in ("fingerprint", "episodes", "steps")},
        **{f"return_{key}": facts["returns"][key] for key in ("mean", "std", "min", "max")},
        **{key: facts[key] for key in ("reference_returns", "provenance")},
        **({"sampled": True} if sampled else {}),
    }


def hyperparameters(arguments: TrainingArguments) -> dict[str, Any]:
    """The arguments that affect the weights, and the number of processes, which multiplies the batch size."""
    values = arguments.to_dict()
    return {name: values[name] for name in _SHAPES_WEIGHTS} | {"num_processes": arguments.world_size}


def settings_of(
    family: str, options: Any, arguments: TrainingArguments, data: Dataset | TrajectoryStream | None
) -> dict[str, Any]:
    """All settings that must be equal when a run is resumed for the weights to be the same."""
    dataset = data.sample if isinstance(data, TrajectoryStream) else data
    columns = TrajectoryColumns.of(dataset) if dataset is not None else None
    values = arguments.to_dict()
    return {
        "family": family,
        "data": content_fingerprint(columns) if columns is not None else None,
        **({"stream": data.settings()} if isinstance(data, TrajectoryStream) else {}),
        "processes": arguments.world_size,
        **asdict(options),
        **hyperparameters(arguments),
        **{name: values[name] for name in _SHAPES_ORDER if name in values},
    }


def installed_versions() -> dict[str, str]:
    """Python and the libraries that can change a result, by name; missing ones are omitted."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def describe_machine(device: torch.device) -> str:
    """The accelerator's name, or the kind and number of CPU cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} {platform.machine()} CPU cores"


def _last_logged(history: list[dict[str, float]], name: str) -> float | None:
    return next((entry[name] for entry in reversed(history) if name in entry), None)


def _running_script() -> str | None:
    script = Path(sys.argv[0])
    in_notebook = script.name.endswith("kernel_launcher.py")  # Jupyter's, and that of Colab
    return (
        shlex.join(["python", script.name, *masked_arguments(sys.argv[1:])])
        if script.suffix == ".py" and not in_notebook
        else None
    )
