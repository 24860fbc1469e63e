"""Encoder and decoder over histories, with a GRU and a Transformer as backbones."""

from hf_seqrl.models.registry import ModelFamily
from hf_seqrl.models.trajectory_seq2seq.acting import TrajectorySeq2SeqActor, action_losses
from hf_seqrl.models.trajectory_seq2seq.configuration_trajectory_seq2seq import TrajectorySeq2SeqConfig
from hf_seqrl.models.trajectory_seq2seq.modeling_trajectory_seq2seq import TrajectorySeq2SeqModel
from hf_seqrl.models.trajectory_seq2seq.processing_trajectory_seq2seq import TrajectorySeq2SeqProcessor
from hf_seqrl.models.trajectory_seq2seq.step_graph import step_graph
from hf_seqrl.models.trajectory_seq2seq.training import TrajectorySeq2SeqOptions, prepare

FAMILY = ModelFamily(
    name="trajectory-seq2seq",
    model_type="trajectory_seq2seq",
    config_class=TrajectorySeq2SeqConfig,
    model_class=TrajectorySeq2SeqModel,
    processor_class=TrajectorySeq2SeqProcessor,
    options_class=TrajectorySeq2SeqOptions,
    prepare=prepare,
    make_actor=TrajectorySeq2SeqActor,
    training_defaults={
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 64,
        "per_device_eval_batch_size": 256,
        "max_grad_norm": 1.0,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 100,
        "weight_decay": 0.0,
    },
    action_losses=action_losses,
    step_graph=step_graph,
)
