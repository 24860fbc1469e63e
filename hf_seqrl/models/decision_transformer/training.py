"""From a data set and options to what a `Trainer` needs; and how far a model's actions are from recorded ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModel

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import best_episodes, lowest_return, returns_of_episodes
from hf_seqrl.data.sampling import Opening, ReturnWeights, effective_episodes, held_out_split
from hf_seqrl.data.windows import TrajectoryWindows
from hf_seqrl.models.critic.advantages import CriticWeights
from hf_seqrl.models.decision_transformer.backbones import backbone_shape
from hf_seqrl.models.decision_transformer.modeling_decision_transformer import TrainableDT, action_loss
from hf_seqrl.models.decision_transformer.processing_decision_transformer import (
    DecisionTransformerGymDataCollator,
    DecisionTransformerProcessor,
)
from hf_seqrl.models.decision_transformer.recipes import PAPER, suited_to
from hf_seqrl.models.metrics import ActionMetrics
from hf_seqrl.models.registry import Prepared

if TYPE_CHECKING:
    from datasets import Dataset

# The recipe `auto` was measured with this rate and number of updates, and with half of both where few episodes count, which are
# learned by heart otherwise; the paper's rate is 1e-4 (appendix A.2). Its warm-up is
# in proportion to the run, as in Hugging Face's post.
TRAINING_DEFAULTS = {
    "learning_rate": 2e-3,
    "max_steps": 5_000,
    "weight_decay": 1e-4,
    "max_grad_norm": 0.25,
    "warmup_steps": 0.1,  # below 1: a share of all steps
    "lr_scheduler_type": "linear",
    "per_device_train_batch_size": 64,
    "per_device_eval_batch_size": 256,
    "batch_eval_metrics": True,  # predictions of one batch at a time
    "remove_unused_columns": False,
}
_FEW_EPISODES, _GENTLE = 50, {"max_steps": 2_500, "learning_rate": 1e-3}


@dataclass
class DecisionTransformerOptions:
    """The options of a Decision Transformer. What is `None` follows from `recipe`, and for `"auto"` from the data;
    `Prepared.notes` says what was chosen."""

    env_id: str | None = field(default=None, metadata={"help": "Gymnasium id, where the data set does not name it."})
    recipe: str = field(
        default="auto",
        metadata={
            "help": "What the options mean that are not given. `auto`: a narrow model reads 4 steps, its weights are averaged, good "
            "episodes are drawn more often, and time and past actions are left out unless every step has the same reward. `paper`: "
            "Chen et al., 2021, whose learning rate is 1e-4.",
            "choices": ["auto", "paper"],
        },
    )
    context_length: int | None = field(
        default=None, metadata={"help": "Steps that the model sees when it acts (auto: 4, paper: 20)."}
    )
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
    hidden_size: int | None = field(default=None, metadata={"help": "Width of the model (auto: 64, paper: 128)."})
    n_layer: int = field(default=3, metadata={"help": "Number of blocks."})
    n_head: int = field(default=1, metadata={"help": "Attention heads of a block."})
    dropout: float | None = field(
        default=None, metadata={"help": "Dropout of embeddings, attention and residuals (auto: 0, paper: 0.1)."}
    )
    backbone: str | None = field(
        default=None,
        metadata={
            "help": "What encodes the tokens in the place of the stock GPT-2: a causal model of transformers, named by its type "
            "(`llama`, `qwen3`, `mamba`, ...) and made with hidden_size, n_layer and n_head; or a folder or Hub id of a "
            "pretrained one."
        },
    )
    freeze_backbone: bool = field(default=False, metadata={"help": "Leave the weights of that backbone as they are."})
    lora_rank: int = field(
        default=0,
        metadata={"help": "Freeze it, and train low-rank adapters (LoRA) of this rank beside its layers; 0: none."},
    )
    conditioning: str = field(
        default="return",
        metadata={
            "help": "What actions are conditioned on; `none` makes it behavior cloning.",
            "choices": ["return", "none"],
        },
    )
    return_form: str | None = field(
        default=None,
        metadata={
            "help": "What is read of a return: `to_go`, what is left of it (paper), or `pace`, that over the share of time that is "
            "left.",
            "choices": ["to_go", "pace"],
        },
    )
    timesteps: str | None = field(
        default=None,
        metadata={
            "help": "What is read of time: `absolute`, the step of the episode (paper), or `none`.",
            "choices": ["absolute", "none"],
        },
    )
    past_actions: bool | None = field(default=None, metadata={"help": "Whether past actions are read (paper: yes)."})
    best_fraction: float | None = field(
        default=None,
        metadata={"help": "Train on the best episodes with this share of the steps (0.1: '10 %%' cloning)."},
    )
    return_temperature: float | None = field(
        default=None,
        metadata={
            "help": "Draw good episodes more often: weights exp(return / temperature), in ranges of the returns; 0 draws all steps "
            "alike (paper). Auto: as low as leaves enough episodes."
        },
    )
    uniform_share: float | None = field(
        default=None, metadata={"help": "With a temperature: the share of draws that go to all steps alike."}
    )
    opening_share: float | None = field(
        default=None,
        metadata={
            "help": "The first twentieth of the episodes gets at least this share of the draws (auto: 0.1 where no episode "
            "terminates, since what goes wrong there lasts to the end; else 0. paper: 0)."
        },
    )
    return_scale: float | None = field(
        default=None, metadata={"help": "What is read of a return is divided by it; default: from the data."}
    )
    critic: str | None = field(
        default=None,
        metadata={
            "help": "A folder or Hub id of a critic, which is saved with the agent (target_return=auto); its advantages weight the "
            "loss: exp(advantage_beta * advantage)."
        },
    )
    advantage_beta: float = field(
        default=0.0,
        metadata={"help": "With `critic`: how sharply, per standard deviation of the advantages; 0 does not weight."},
    )
    target_returns: list[float] | None = field(
        default=None,
        metadata={
            "help": "Raw target returns, the default first; default: the best of the data, and one in the middle of their range."
        },
    )
    discount: float = field(default=1.0, metadata={"help": "Discount of the returns-to-go."})
    average_decay: float | None = field(
        default=None,
        metadata={
            "help": "The model ends with a moving average of its weights over the second half, with this decay a step; 0 ends with "
            "the last weights (auto: 0.998, paper: 0)."
        },
    )
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
    from hf_seqrl.models.averaging import WeightAveraging  # with what only training needs

    dataset, held_out = held_out_split(dataset, options.eval_fraction, options.split_seed)
    least_return = None
    if options.best_fraction is not None:
        dataset = best_episodes(dataset, options.best_fraction)
        least_return = lowest_return(dataset)
    options, rule, weights, notes = _closed(dataset, options)
    lengths = np.diff(TrajectoryColumns.of(dataset).episode_offsets)
    effective = effective_episodes(np.ones(len(lengths)) if weights is None else weights, lengths)
    opening = Opening.suited_to(TrajectoryColumns.of(dataset), weights, options.opening_share)
    notes += () if opening is None else (f"{opening}.",)
    processor = _processor(dataset, options, weights)
    length = options.window_length or options.context_length * (2 if options.sliding else 1)
    windows = {"processor": processor, "context_length": length}
    return Prepared(
        model=_model(processor, options),
        processor=processor,
        train_dataset=TrajectoryWindows(
            dataset,
            episode_weights=rule,
            opening=opening,
            step_weights=_step_weights(dataset, options),
            least_return=least_return,
            **windows,
        ),
        data_collator=DecisionTransformerGymDataCollator(dataset, processor),
        eval_dataset=None if held_out is None else TrajectoryWindows(held_out, **windows),
        trainer_arguments={
            "compute_metrics": _metrics(processor, options),
            "callbacks": [WeightAveraging(options.average_decay)] if options.average_decay else [],
        },
        notes=notes,
        critic=options.critic,
        training=_GENTLE if options.recipe == "auto" and effective < _FEW_EPISODES else {},
        training_because=f"steps come as from {effective:.0f} episodes",
    )


def _step_weights(dataset: "Dataset", options: DecisionTransformerOptions) -> CriticWeights | None:
    """The weights of the action losses, by the advantages of a critic."""
    if options.advantage_beta and options.critic is None:
        raise ValueError(
            f"advantage_beta is {options.advantage_beta}: advantages are a critic's, so name one with critic."
        )
    if not options.advantage_beta:
        return None
    return CriticWeights(options.critic, dataset, options.advantage_beta)


def _closed(
    dataset: "Dataset", options: DecisionTransformerOptions
) -> tuple[DecisionTransformerOptions, ReturnWeights | None, np.ndarray | None, tuple[str, ...]]:
    """The options with nothing left open that a recipe knows, the rule and the weights of the episodes' steps (`None`: all
    alike), and what was chosen by the data."""
    meaning, notes = PAPER, []
    if options.recipe == "auto":
        favor = options.best_fraction is None and options.return_temperature is None
        meaning, notes = suited_to(dataset, options.conditioning, favor)
    options = replace(options, **{name: value for name, value in meaning.items() if getattr(options, name) is None})
    if not options.return_temperature:
        return options, None, None, tuple(notes)
    columns = TrajectoryColumns.of(dataset)
    returns, lengths = returns_of_episodes(columns), np.diff(columns.episode_offsets)
    rule = ReturnWeights.fit(returns, lengths, options.return_temperature, options.uniform_share)
    weights = rule.of(returns)
    notes.append(f"steps come as from {effective_episodes(weights, lengths):.0f} of {len(lengths)} episodes.")
    return options, rule, weights, tuple(notes)


def _metrics(processor: DecisionTransformerProcessor, options: DecisionTransformerOptions) -> ActionMetrics:
    more_than_actions = options.state_loss_weight > 0 or options.return_loss_weight > 0
    scale = 1.0 if processor.action_scale is None else processor.action_scale
    return ActionMetrics(processor.action_groups, scale, position=int(more_than_actions))


def _processor(
    dataset: "Dataset", options: DecisionTransformerOptions, weights: np.ndarray | None
) -> DecisionTransformerProcessor:
    given = {"return_scale": options.return_scale, "target_returns": options.target_returns}
    return DecisionTransformerProcessor.from_dataset(
        dataset,
        context_length=options.context_length,
        env_id=options.env_id,
        episode_weights=weights,
        conditioning=options.conditioning,
        discount=options.discount,
        return_form=options.return_form,
        timesteps=options.timesteps,
        past_actions=options.past_actions,
        **{name: value for name, value in given.items() if value is not None},
    )


def _model(processor: DecisionTransformerProcessor, options: DecisionTransformerOptions) -> TrainableDT:
    """A new model, around a pretrained backbone where the options name one."""
    sizes = {"hidden_size": options.hidden_size, "n_layer": options.n_layer, "n_head": options.n_head}
    backbone = None
    arguments = {
        "resid_pdrop": options.dropout,
        "embd_pdrop": options.dropout,
        "attn_pdrop": options.dropout,
        "sliding_attention": options.context_length if options.sliding else None,
        "state_loss_weight": options.state_loss_weight,
        "return_loss_weight": options.return_loss_weight,
    }
    if options.backbone is None:
        arguments |= sizes
    elif options.backbone in CONFIG_MAPPING:
        arguments["backbone_config"] = backbone_shape(options.backbone, **sizes)
    else:
        backbone = AutoModel.from_pretrained(options.backbone, dtype=torch.float32)
        arguments["backbone_config"] = backbone.config
    if options.backbone is not None or options.freeze_backbone or options.lora_rank:
        arguments |= {"freeze_backbone": options.freeze_backbone, "lora_rank": options.lora_rank}
    return TrainableDT(processor.model_config(**arguments), backbone)


def make_batches(
    dataset: "Dataset", processor: DecisionTransformerProcessor, episode_weights: np.ndarray | None
) -> tuple[TrajectoryWindows, DecisionTransformerGymDataCollator]:
    """See `ModelFamily.make_batches`."""
    windows = TrajectoryWindows(dataset, processor, episode_weights=episode_weights)
    return windows, DecisionTransformerGymDataCollator(dataset, processor)


@torch.no_grad()
def action_losses(
    model: TrainableDT, processor: DecisionTransformerProcessor, histories: Mapping[str, np.ndarray]
) -> np.ndarray:
    """See `ModelFamily.action_losses`."""
    batch = DecisionTransformerGymDataCollator(None, processor)(histories)
    batch = {name: values.to(model.device) for name, values in batch.items()}
    predictions = model.eval()(**batch, return_loss=False).action_preds  # (B, T, act_dim)
    losses = action_loss(predictions, batch["labels"], model.config.action_groups).cpu().numpy()  # (B, T)
    padding = losses.shape[1] - histories["attention_mask"].sum(axis=1)  # on the left
    return losses[np.arange(len(losses)), padding + histories["history_lengths"] - 1]
