"""The small policy network, trained by behavior cloning or by REINFORCE."""

from functools import partial

from hf_seqrl.data.returns import returns_differ
from hf_seqrl.models.policy.acting import PolicyActor, action_losses
from hf_seqrl.models.policy.configuration_policy import PolicyConfig, PolicyGradientConfig
from hf_seqrl.models.policy.modeling_policy import PolicyGradientModel, PolicyModel
from hf_seqrl.models.policy.processing_policy import PolicyGradientProcessor, PolicyProcessor
from hf_seqrl.models.policy.step_graph import step_graph
from hf_seqrl.models.policy.training import (
    CloningOptions,
    PolicyGradientOptions,
    make_cloning_batches,
    prepare_behavior_model,
    prepare_cloning,
    prepare_policy_gradient,
)
from hf_seqrl.models.registry import BehaviorModel, ModelFamily, TrainingMethod

_RECIPE = {
    "max_steps": 2_000,
    "per_device_train_batch_size": 1024,  # large, since Trainer itself takes as long as a small one
    "per_device_eval_batch_size": 4096,
    "learning_rate": 4e-3,
    "lr_scheduler_type": "linear",
    "max_grad_norm": 0.0,
    "save_strategy": "no",
}
_METHODS = (
    TrainingMethod("cloning", {"weighting": "none"}),
    TrainingMethod("cloning, best 10 %", {"best_fraction": 0.1}, suits=returns_differ),
    TrainingMethod("cloning, good episodes more often", suits=returns_differ),
    TrainingMethod(
        "cloning, weighted by a critic",
        {"weighting": "none"},
        trained_first={"critic": "critic"},
        suits=returns_differ,
    ),
)
CLONING = ModelFamily(
    name="cloning",
    model_type="policy",
    config_class=PolicyConfig,
    model_class=PolicyModel,
    processor_class=PolicyProcessor,
    options_class=CloningOptions,
    prepare=prepare_cloning,
    make_actor=PolicyActor,
    make_batches=make_cloning_batches,
    training_defaults=_RECIPE,
    action_losses=action_losses,
    behavior_model=BehaviorModel(
        prepare=prepare_behavior_model,
        make_actor=partial(PolicyActor, deterministic=False),
        # as it was measured for off-policy evaluation
        training_defaults=_RECIPE | {"max_steps": 1_250, "learning_rate": 2e-3},
    ),
    step_graph=step_graph,
    methods=_METHODS,
)
POLICY_GRADIENT = ModelFamily(
    name="policy-gradient",
    model_type="policy_gradient",
    config_class=PolicyGradientConfig,
    model_class=PolicyGradientModel,
    processor_class=PolicyGradientProcessor,
    options_class=PolicyGradientOptions,
    prepare=prepare_policy_gradient,
    make_actor=PolicyActor,
    training_defaults={
        "num_train_epochs": 1,
        "per_device_train_batch_size": 64,  # episodes an update
        "learning_rate": 3e-3,
        "lr_scheduler_type": "linear",
        "max_grad_norm": 1.0,
        "dataloader_drop_last": True,
    },
    online=True,
    action_losses=action_losses,
    step_graph=step_graph,
)
