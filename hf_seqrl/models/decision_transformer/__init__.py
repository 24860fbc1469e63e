"""The Decision Transformer (Chen et al., 2021): actions conditioned on a target return."""

from transformers import DecisionTransformerConfig

from hf_seqrl.data.returns import returns_differ
from hf_seqrl.models.decision_transformer.acting import DecisionTransformerActor
from hf_seqrl.models.decision_transformer.legacy import legacy_processor
from hf_seqrl.models.decision_transformer.modeling_decision_transformer import TrainableDT
from hf_seqrl.models.decision_transformer.processing_decision_transformer import DecisionTransformerProcessor
from hf_seqrl.models.decision_transformer.step_graph import step_graph
from hf_seqrl.models.decision_transformer.training import (
    TRAINING_DEFAULTS,
    DecisionTransformerOptions,
    action_losses,
    make_batches,
    prepare,
)
from hf_seqrl.models.registry import ModelFamily, TrainingMethod

FAMILY = ModelFamily(
    name="decision-transformer",
    model_type="decision_transformer",
    config_class=DecisionTransformerConfig,
    model_class=TrainableDT,
    processor_class=DecisionTransformerProcessor,
    options_class=DecisionTransformerOptions,
    prepare=prepare,
    make_actor=DecisionTransformerActor,
    make_batches=make_batches,
    training_defaults=TRAINING_DEFAULTS,
    legacy_processor=legacy_processor,
    action_losses=action_losses,
    step_graph=step_graph,
    methods=(
        TrainingMethod("Decision Transformer", suits=returns_differ),
        TrainingMethod(
            "Transformer cloning, best 10 %", {"conditioning": "none", "best_fraction": 0.1}, suits=returns_differ
        ),
    ),
)
