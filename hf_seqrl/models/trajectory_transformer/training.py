"""How a Trajectory Transformer is trained: the paper's optimizer groups, recipe and options, and metrics for plain `Trainer`.

Source: [Janner et al. 2021](https://arxiv.org/abs/2106.02039), appendix A, and the original implementation.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import returns_differ
from hf_seqrl.data.sampling import held_out_split
from hf_seqrl.models.registry import Prepared
from hf_seqrl.models.trajectory_transformer.modeling_trajectory_transformer import (
    TrajectoryTransformerHead,
    TrajectoryTransformerModel,
)
from hf_seqrl.models.trajectory_transformer.processing_trajectory_transformer import (
    IGNORED_LABEL,
    TrajectoryTransformerDataCollator,
    TrajectoryTransformerProcessor,
)
from hf_seqrl.models.trajectory_transformer.windows import TrajectoryTransformerWindows

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import EvalPrediction, TrainingArguments

# The learning rate rises over one of twenty epochs and falls along a cosine to a tenth, where it stays. (The original
# cuts its cosine off at a tenth instead of flattening it out, at most 9 % of the peak apart, and does not stop: its
# rate rises again after the twentieth epoch.)
TRAINING_DEFAULTS = {
    "per_device_train_batch_size": 256,
    "num_train_epochs": 20,
    "learning_rate": 6e-4,
    "weight_decay": 0.1,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "max_grad_norm": 1.0,
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
    "warmup_steps": 0.05,  # a share of all updates
}


@dataclass
class TrajectoryTransformerOptions:
    """Options of `hf-seqrl train trajectory-transformer`."""

    env_id: str | None = field(
        default=None, metadata={"help": "The gymnasium environment, where the data set does not name it."}
    )
    num_bins: int = field(default=100, metadata={"help": "Bins of each entry of a transition."})
    bins: str = field(default="quantile", metadata={"help": "quantile (equally full) or uniform (equally wide)."})
    discount: float = field(default=0.99, metadata={"help": "Of the values-to-go, between 0 and 1."})
    termination_penalty: float | None = field(
        default=None,
        metadata={
            "help": "Replaces the reward with which an episode terminates; the paper: -100 for Hopper, Walker2d."
        },
    )
    sequence_transitions: int = field(default=10, metadata={"help": "Transitions of a training window."})
    step: int = field(default=1, metadata={"help": "Steps from one transition of a window to the next."})
    truncation: str = field(
        default="unknown",
        metadata={"help": "Behind a truncation: unknown (does not count) or stop (as in the original)."},
    )
    max_truncation_bias: float = field(
        default=1.0,
        metadata={"help": "Values whose share discount^(steps left) behind a truncation is greater do not count."},
    )
    n_layer: int = field(default=4, metadata={"help": "Transformer blocks."})
    n_head: int = field(default=4, metadata={"help": "Attention heads."})
    n_embd: int = field(default=128, metadata={"help": "Width of the hidden states."})
    dropout: float = field(default=0.1, metadata={"help": "Of embeddings, attention and residuals."})
    action_weight: float = field(default=5.0, metadata={"help": "Of action tokens in the loss, as in the paper."})
    value_weight: float = field(
        default=1.0, metadata={"help": "Of value tokens in the loss; where plans are short, they count for more."}
    )
    horizon: int = field(
        default=5, metadata={"help": "Transitions that the agent plans ahead (Hopper, Walker2d: 15)."}
    )
    beam_width: int = field(default=32, metadata={"help": "Plans that the agent keeps (Hopper, Walker2d: 128)."})
    max_context_transitions: int = field(
        default=5, metadata={"help": "Transitions that it sees while it plans, the planned one among them."}
    )
    cdf_act: float = field(
        default=0.6, metadata={"help": "The least likely actions that hold this much are not planned; 0: all may be."}
    )
    plan_every: int = field(default=1, metadata={"help": "Actions that the agent takes from a plan."})
    eval_fraction: float = field(default=0.0, metadata={"help": "Share of the episodes held out for the eval loss."})
    split_seed: int = field(default=0, metadata={"help": "Seed by which the held-out episodes are drawn."})


def decay_parameter_names(model: nn.Module) -> list[str]:
    """The parameters under weight decay: the matrices of linear layers and of the head; no bias, norm or embedding."""
    return [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | TrajectoryTransformerHead)
    ]


def make_optimizer(model: nn.Module, arguments: "TrainingArguments") -> Optimizer:
    """The optimizer that `arguments` describe, with the paper's weight decay groups.

    `Trainer`'s own would let the embeddings decay too. Hand it over as
    `Trainer(model, arguments, optimizers=(make_optimizer(model, arguments), None), ...)`: the schedule stays the
    Trainer's, and so do saving and resuming.
    """
    from transformers import Trainer  # with all that training needs: acting does without

    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    decaying = set(decay_parameter_names(model))
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [parameter for name, parameter in trained if (name in decaying) is decays],
            "weight_decay": arguments.weight_decay if decays else 0.0,
        }
        for decays in (True, False)
    ]
    return optimizer_class(groups, **options)


class TokenAccuracy:
    """The shares of tokens that the model predicts, for `Trainer(compute_metrics=...)`: `observation_accuracy`,
    `action_accuracy`, `reward_accuracy` and `value_accuracy`, each of the tokens that count in the loss.

    Give `Trainer` [`likeliest_tokens`] as `preprocess_logits_for_metrics`. With `batch_eval_metrics=True` nothing is kept
    but the counts, whatever the size of the data set.

    Args:
        observation_dim, action_dim: Tokens of an observation and of an action.
    """

    def __init__(self, observation_dim: int, action_dim: int) -> None:
        kinds = np.repeat(np.arange(4), [observation_dim, action_dim, 1, 1])
        self._kinds = np.roll(kinds, -1)  # of the labels: a sequence of labels begins with the second token
        self._reset()

    def __call__(self, prediction: "EvalPrediction", compute_result: bool = True) -> dict[str, float]:
        """Count one batch, or all at once.

        Args:
            prediction: Its `predictions` and `label_ids` are tokens `(batch, time)`, arrays or tensors; labels of -100 do not
                count.
            compute_result: Whether this was the last batch.
        """
        tokens, labels = (np.asarray(part) for part in (prediction.predictions, prediction.label_ids))
        kinds = np.broadcast_to(np.resize(self._kinds, labels.shape[1]), labels.shape)
        counts = labels != IGNORED_LABEL
        self._right += np.bincount(kinds[counts & (tokens == labels)], minlength=4)
        self._all += np.bincount(kinds[counts], minlength=4)
        if not compute_result:
            return {}
        shares = (self._right / np.maximum(self._all, 1)).tolist()
        self._reset()
        return {f"{kind}_accuracy": share for kind, share in zip(("observation", "action", "reward", "value"), shares)}

    def _reset(self) -> None:
        self._right, self._all = np.zeros(4, np.int64), np.zeros(4, np.int64)


def likeliest_tokens(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Scores `(batch, time, vocab_size + 1)` to tokens `(batch, time)`, so that `Trainer` need not keep all scores."""
    return logits.argmax(-1)


def planning_is_cheap(dataset: "Dataset") -> bool:
    """Whether 20 episodes of planning take minutes and not hours: transitions of few entries, discrete actions."""
    columns = TrajectoryColumns.of(dataset)
    first = np.zeros(1, np.int64)
    entries = int(np.prod(columns.observations.take(first).shape[1:]))
    is_discrete = columns.actions.take(first).dtype.kind in "iu"
    return is_discrete and entries <= 8 and returns_differ(dataset)


def prepare(dataset: "Dataset", options: TrajectoryTransformerOptions) -> Prepared:
    """A fresh model with its processor and windows. The bins are fitted to the episodes that are trained on."""
    dataset, held_out = held_out_split(dataset, options.eval_fraction, options.split_seed)
    processor = TrajectoryTransformerProcessor.from_dataset(
        dataset,
        num_bins=options.num_bins,
        strategy=options.bins,
        env_id=options.env_id,
        discount=options.discount,
        termination_penalty=options.termination_penalty,
        sequence_transitions=options.sequence_transitions,
        step=options.step,
        truncation=options.truncation,
        max_truncation_bias=options.max_truncation_bias,
        planner_options={
            "horizon": options.horizon,
            "beam_width": options.beam_width,
            "max_context_transitions": options.max_context_transitions,
            "cdf_act": options.cdf_act or None,
            "plan_every": options.plan_every,
            "discount": options.discount,
        },
    )
    config = processor.model_config(
        n_layer=options.n_layer,
        n_head=options.n_head,
        n_embd=options.n_embd,
        action_weight=options.action_weight,
        value_weight=options.value_weight,
        **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), options.dropout),
    )
    model = TrajectoryTransformerModel(config)
    return Prepared(
        model=model,
        processor=processor,
        train_dataset=TrajectoryTransformerWindows(dataset, processor),
        data_collator=TrajectoryTransformerDataCollator(processor),
        eval_dataset=None if held_out is None else TrajectoryTransformerWindows(held_out, processor),
        trainer_arguments={
            "compute_metrics": TokenAccuracy(config.observation_dim, config.action_dim),
            "preprocess_logits_for_metrics": likeliest_tokens,
        },
        make_optimizer=partial(make_optimizer, model),
    )
