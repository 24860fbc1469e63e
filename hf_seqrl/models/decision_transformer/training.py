"""From a data set and options to what a `Trainer` needs; and how far a model's actions are from recorded ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import DecisionTransformerConfig

from hf_seqrl.data.windows import TrajectoryWindows
from hf_seqrl.models.decision_transformer.modeling_decision_transformer import TrainableDT, action_loss
from hf_seqrl.models.decision_transformer.processing_decision_transformer import (
    DecisionTransformerGymDataCollator,
    DecisionTransformerProcessor,
)
from hf_seqrl.models.metrics import ActionMetrics
from hf_seqrl.models.registry import Prepared

if TYPE_CHECKING:
    from datasets import Dataset

# The paper's recipe for the Gym tasks (appendix A.2), its warm-up in proportion to the run as in Hugging Face's post.
TRAINING_DEFAULTS = {
    "learning_rate": 1e-4,
    "weight_decay": 1e-4,
    "max_grad_norm": 0.25,
    "warmup_steps": 0.1,  # below 1: a share of all steps
    "lr_scheduler_type": "linear",
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 256,
    "batch_eval_metrics": True,  # predictions of one batch at a time
    "remove_unused_columns": False,
}


@dataclass
class DecisionTransformerOptions:
    """The options of a Decision Transformer."""

    env_id: str | None = field(default=None, metadata={"help": "Gymnasium id, where the data set does not name it."})
    context_length: int = field(default=20, metadata={"help": "Steps that the model sees when it acts."})
    sliding: bool = field(
        default=False,
        metadata={
            "help": "Every token sees the last `context_length` steps at every layer: acting gets several times faster."
        },
    )
    window_length: int | None = field(
        default=None,
        metadata={"help": "Steps of a training window; default: `context_length`, twice that with sliding attention."},
    )
    hidden_size: int = field(default=128, metadata={"help": "Width of the model."})
    n_layer: int = field(default=3, metadata={"help": "Number of blocks."})
    n_head: int = field(default=1, metadata={"help": "Attention heads of a block."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout of embeddings, attention and residuals."})
    conditioning: str = field(
        default="return",
        metadata={
            "help": "What actions are conditioned on; `none` makes it behavior cloning.",
            "choices": ["return", "none"],
        },
    )
    best_fraction: float | None = field(
        default=None,
        metadata={"help": "Train on the best episodes with this share of the steps (0.1: '10 %%' cloning)."},
    )
    return_scale: float | None = field(
        default=None, metadata={"help": "Raw returns are divided by it; default: from the data, at most 1000."}
    )
    target_returns: list[float] | None = field(
        default=None,
        metadata={"help": "Raw returns to ask for, the default first; default: best and median of the data."},
    )
    discount: float = field(default=1.0, metadata={"help": "Discount of the returns-to-go."})
    state_loss_weight: float = field(default=0.0, metadata={"help": "Weight of the loss of the next state."})
    return_loss_weight: float = field(default=0.0, metadata={"help": "Weight of the loss of the next return-to-go."})
    eval_fraction: float = field(default=0.0, metadata={"help": "Share of the episodes held out for the eval loss."})
    split_seed: int = field(default=0, metadata={"help": "Seed by which the held-out episodes are drawn."})


def prepare(dataset: "Dataset", options: DecisionTransformerOptions) -> Prepared:
    """The model, its processor, the windows and the collator for a data set.

    Args:
        dataset: The trajectories.
        options: What to make of them. Statistics come from the episodes that are trained on.
    """
    held_out = None
    if options.eval_fraction > 0:
        parts = dataset.train_test_split(test_size=options.eval_fraction, seed=options.split_seed)
        dataset, held_out = parts["train"], parts["test"]
    length = options.window_length or options.context_length * (2 if options.sliding else 1)
    window_arguments = {"context_length": length, "discount": options.discount}
    windows = TrajectoryWindows(dataset, best_fraction=options.best_fraction, **window_arguments)
    processor = _processor(windows.dataset, options)
    return Prepared(
        model=TrainableDT(_config(processor, options)),
        processor=processor,
        train_dataset=windows,
        data_collator=DecisionTransformerGymDataCollator(windows.dataset, processor),
        eval_dataset=None if held_out is None else TrajectoryWindows(held_out, **window_arguments),
        trainer_arguments={"compute_metrics": _metrics(processor, options)},
    )


def _metrics(processor: DecisionTransformerProcessor, options: DecisionTransformerOptions) -> ActionMetrics:
    more_than_actions = options.state_loss_weight > 0 or options.return_loss_weight > 0
    scale = 1.0 if processor.action_scale is None else processor.action_scale
    return ActionMetrics(processor.action_groups, scale, position=int(more_than_actions))


def _processor(dataset: "Dataset", options: DecisionTransformerOptions) -> DecisionTransformerProcessor:
    chosen = {"return_scale": options.return_scale, "target_returns": options.target_returns}
    return DecisionTransformerProcessor.from_dataset(
        dataset,
        context_length=options.context_length,
        env_id=options.env_id,
        conditioning=options.conditioning,
        discount=options.discount,
        **{name: value for name, value in chosen.items() if value is not None},
    )


def _config(processor: DecisionTransformerProcessor, options: DecisionTransformerOptions) -> DecisionTransformerConfig:
    return processor.model_config(
        hidden_size=options.hidden_size,
        n_layer=options.n_layer,
        n_head=options.n_head,
        resid_pdrop=options.dropout,
        embd_pdrop=options.dropout,
        attn_pdrop=options.dropout,
        sliding_attention=options.context_length if options.sliding else None,
        state_loss_weight=options.state_loss_weight,
        return_loss_weight=options.return_loss_weight,
    )


@torch.no_grad()
def action_losses(
    model: TrainableDT, processor: DecisionTransformerProcessor, histories: Mapping[str, np.ndarray]
) -> np.ndarray:
    """See `ModelFamily.action_losses`."""
    batch = DecisionTransformerGymDataCollator(None, processor)(histories)
    batch = {name: values.to(model.device) for name, values in batch.items()}
    predictions = model.eval()(**batch, return_loss=False).action_preds  # (B, T, act_dim)
    losses = action_loss(predictions, batch["actions"], model.config.action_groups).cpu().numpy()  # (B, T)
    padding = losses.shape[1] - histories["attention_mask"].sum(axis=1)  # on the left
    return losses[np.arange(len(losses)), padding + histories["history_lengths"] - 1]
