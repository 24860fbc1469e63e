"""The Trajectory Transformer (Janner et al., 2021): a model of whole trajectories that acts by planning in it."""

from hf_seqrl.models.registry import ModelFamily, TrainingMethod
from hf_seqrl.models.trajectory_transformer.acting import TrajectoryTransformerActor
from hf_seqrl.models.trajectory_transformer.configuration_trajectory_transformer import TrajectoryTransformerConfig
from hf_seqrl.models.trajectory_transformer.discretizer import TrajectoryDiscretizer, TrajectoryDiscretizerConfig
from hf_seqrl.models.trajectory_transformer.legacy import legacy_processor
from hf_seqrl.models.trajectory_transformer.modeling_trajectory_transformer import TrajectoryTransformerModel
from hf_seqrl.models.trajectory_transformer.processing_trajectory_transformer import TrajectoryTransformerProcessor
from hf_seqrl.models.trajectory_transformer.training import (
    TRAINING_DEFAULTS,
    TrajectoryTransformerOptions,
    planning_is_cheap,
    prepare,
)
from hf_seqrl.models.trajectory_transformer.world_model import ImaginedEpisodes

FAMILY = ModelFamily(
    name="trajectory-transformer",
    model_type="trajectory_transformer",
    config_class=TrajectoryTransformerConfig,
    model_class=TrajectoryTransformerModel,
    processor_class=TrajectoryTransformerProcessor,
    options_class=TrajectoryTransformerOptions,
    prepare=prepare,
    make_actor=TrajectoryTransformerActor,
    training_defaults=TRAINING_DEFAULTS | {"batch_eval_metrics": True},
    legacy_processor=legacy_processor,
    imagine=ImaginedEpisodes,
    methods=(TrainingMethod("Trajectory Transformer, planning", suits=planning_is_cheap),),
    other_models=((TrajectoryDiscretizerConfig, TrajectoryDiscretizer),),
)
