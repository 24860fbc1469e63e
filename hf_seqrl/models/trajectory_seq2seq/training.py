"""What `Trainer` needs to train an encoder-decoder, from a data set and a few options."""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from torch.optim import Adam, Optimizer

from hf_seqrl.data.sampling import held_out_split
from hf_seqrl.data.windows import StepHistories
from hf_seqrl.models.registry import Prepared
from hf_seqrl.models.trajectory_seq2seq.configuration_trajectory_seq2seq import TrajectorySeq2SeqConfig
from hf_seqrl.models.trajectory_seq2seq.histories import EpisodeHistories
from hf_seqrl.models.trajectory_seq2seq.modeling_trajectory_seq2seq import TrajectorySeq2SeqModel
from hf_seqrl.models.trajectory_seq2seq.processing_trajectory_seq2seq import (
    TrajectorySeq2SeqDataCollator,
    TrajectorySeq2SeqProcessor,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainingArguments


@dataclass
class TrajectorySeq2SeqOptions:
    """The family's own options of `hf-seqrl train`."""

    task: str = field(
        default="next_action",
        metadata={
            "help": "what is written: 'history', 'actions' (from states) or 'next_action'; only the last one acts in an "
            "environment, the others are judged by what they write of held-out episodes"
        },
    )
    env_id: str | None = field(default=None, metadata={"help": "gymnasium id, where the data set does not name it"})
    backbone: str = field(default="transformer", metadata={"help": "'gru' or 'transformer'"})
    context_length: int | None = field(
        default=None, metadata={"help": "states in a history (default: 10 to act, else the longest episode)"}
    )
    conditioning: str = field(
        default="none", metadata={"help": "'return' puts the return that is still wanted in front; 'none' does not"}
    )
    shared_vocabulary: bool = field(
        default=True, metadata={"help": "whether the target has the symbols of states and actions, or its own alone"}
    )
    hidden_size: int = field(default=64, metadata={"help": "width of the model"})
    num_layers: int = field(default=2, metadata={"help": "layers of the encoder and of the decoder"})
    num_attention_heads: int = field(default=4, metadata={"help": "heads of each attention (Transformer)"})
    attention_scoring: str = field(
        default="dot_product", metadata={"help": "'dot_product', 'gaussian', 'boxcar' or 'epanechnikov'"}
    )
    norm_position: str = field(default="pre", metadata={"help": "'pre' or 'post' (as in Vaswani et al. 2017)"})
    position_embedding: str = field(default="sinusoidal", metadata={"help": "'sinusoidal' or 'learned'"})
    context_feeding: str = field(
        default="every_step", metadata={"help": "context of the GRU decoder at its 'start' or at 'every_step'"}
    )
    dropout: float = field(default=0.0, metadata={"help": "dropout"})
    label_smoothing: float = field(default=0.0, metadata={"help": "label smoothing of the training loss"})
    teacher_forcing: str = field(
        default="constant",
        metadata={"help": "schedule of the ratio: 'constant', 'linear', 'exponential' or 'inverse_sigmoid'"},
    )
    teacher_forcing_ratio: float = field(default=1.0, metadata={"help": "the ratio at the start"})
    teacher_forcing_end: float = field(default=0.0, metadata={"help": "the ratio never falls below this"})
    teacher_forcing_unit: str = field(default="step", metadata={"help": "a draw for each 'step' or 'sequence'"})
    vaswani_optimizer: bool = field(
        default=False,
        metadata={
            "help": "train as Vaswani et al. 2017 (section 5.3): give --lr_scheduler_type inverse_sqrt and "
            "--warmup_steps; the learning rate follows from them and from the width"
        },
    )
    eval_fraction: float = field(default=0.05, metadata={"help": "Share of the episodes held out for the eval loss."})
    split_seed: int = field(default=0, metadata={"help": "Seed by which the held-out episodes are drawn."})


def prepare(dataset: "Dataset", options: TrajectorySeq2SeqOptions) -> Prepared:
    """Model, processor and data for `Trainer`, which then evaluates free-running decodes of held-out episodes."""
    processor = TrajectorySeq2SeqProcessor.from_dataset(
        dataset,
        target=options.task,
        context_length=options.context_length,
        env_id=options.env_id,
        conditioning=options.conditioning,
        shared_vocabulary=options.shared_vocabulary,
    )
    model = TrajectorySeq2SeqModel(_model_config(processor, options))
    histories = StepHistories if options.task == "next_action" else EpisodeHistories
    train_rows, eval_rows = held_out_split(dataset, options.eval_fraction, options.split_seed)
    # what `Trainer` calls, imported where something is trained: acting does without
    from hf_seqrl.models.trajectory_seq2seq.metrics import HistoryMetrics, PrintExamplesCallback
    from hf_seqrl.models.trajectory_seq2seq.teacher_forcing_schedule import (
        TeacherForcingCallback,
        TeacherForcingSchedule,
    )

    schedule = TeacherForcingSchedule(
        options.teacher_forcing, options.teacher_forcing_ratio, options.teacher_forcing_end
    )
    callbacks = [TeacherForcingCallback(schedule)]
    if options.task != "next_action":
        callbacks.append(PrintExamplesCallback(wanted="fed" if options.task == "history" else "wanted"))
    return Prepared(
        model=model,
        processor=processor,
        train_dataset=histories(train_rows, processor),
        eval_dataset=None if eval_rows is None else histories(eval_rows, processor),
        data_collator=TrajectorySeq2SeqDataCollator(processor=processor),
        trainer_arguments={"compute_metrics": HistoryMetrics(), "callbacks": callbacks},
        make_optimizer=partial(vaswani_optimizer, model) if options.vaswani_optimizer else None,
        acts=options.task == "next_action",
    )


def vaswani_learning_rate(hidden_size: int, warmup_steps: int) -> float:
    """The greatest learning rate of `d^-0.5 min(step^-0.5, step warmup^-1.5)` (Vaswani et al. 2017, equation 3), which
    it reaches at the end of the warm-up.

    With it as `learning_rate`, `TrainingArguments(lr_scheduler_type="inverse_sqrt", warmup_steps=...)` is that equation.
    """
    return 1 / math.sqrt(hidden_size * warmup_steps)


def vaswani_optimizer(model: TrajectorySeq2SeqModel, arguments: "TrainingArguments") -> Optimizer:
    """Adam as in section 5.3 of Vaswani et al. (2017), with the learning rate that fits the warm-up.

    Raises:
        ValueError: the schedule is not `inverse_sqrt`, or has no warm-up.
    """
    if arguments.lr_scheduler_type != "inverse_sqrt" or arguments.warmup_steps < 1:
        raise ValueError(
            f"lr_scheduler_type={str(arguments.lr_scheduler_type)!r}, warmup_steps={arguments.warmup_steps}: the learning "
            "rates of Vaswani et al. need lr_scheduler_type='inverse_sqrt' and at least 1 warm-up step (theirs: 4000)."
        )
    rate = vaswani_learning_rate(model.config.hidden_size, int(arguments.warmup_steps))
    return Adam(model.parameters(), lr=rate, betas=(0.9, 0.98), eps=1e-9)


def _model_config(processor: TrajectorySeq2SeqProcessor, options: TrajectorySeq2SeqOptions) -> TrajectorySeq2SeqConfig:
    return processor.model_config(
        backbone=options.backbone,
        hidden_size=options.hidden_size,
        num_encoder_layers=options.num_layers,
        num_decoder_layers=options.num_layers,
        num_attention_heads=options.num_attention_heads,
        attention_scoring=options.attention_scoring,
        norm_position=options.norm_position,
        position_embedding=options.position_embedding,
        context_feeding=options.context_feeding,
        dropout=options.dropout,
        label_smoothing=options.label_smoothing,
        teacher_forcing_ratio=options.teacher_forcing_ratio,
        teacher_forcing_unit=options.teacher_forcing_unit,
    )
