"""Training of the small models that an evaluation without a simulator needs, by transformers' `Trainer`."""

import contextlib
import tempfile
from typing import Any

from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed

from hf_seqrl.models.processor import TrajectoryProcessor
from hf_seqrl.models.registry import Prepared


def fit(
    make: Any, defaults: dict[str, Any], seed: int, **arguments: Any
) -> tuple[PreTrainedModel, TrajectoryProcessor]:
    """Train a model that is only needed here: nothing is written that stays, reported or printed.

    Args:
        make: Makes the [`~hf_seqrl.models.registry.Prepared`]; called with the seed set, as it draws the weights.
        defaults: `TrainingArguments` of the family's recipe.
        seed: Of the weights and of the order of the batches.
        arguments: `TrainingArguments` beside these.
    """
    set_seed(seed)
    prepared: Prepared = make()
    quiet = {"save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True}
    quiet |= {"dataloader_pin_memory": False, "seed": seed}  # it would warn where there is no accelerator
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/log", "w") as log:
        settings = TrainingArguments(folder, **{**defaults, **arguments, **quiet})
        trainer = Trainer(
            prepared.model,
            settings,
            prepared.data_collator,
            prepared.train_dataset,
            processing_class=prepared.processor,
            **prepared.trainer_arguments,
        )
        trainer.remove_callback(_printing_callback())
        with contextlib.redirect_stdout(log):
            trainer.train()
    return prepared.model.eval(), prepared.processor


def _printing_callback() -> type:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback
