"""The small policy network, trained by REINFORCE."""

from hf_seqrl.models.policy.acting import PolicyActor, action_losses
from hf_seqrl.models.policy.configuration_policy import PolicyGradientConfig
from hf_seqrl.models.policy.modeling_policy import PolicyGradientModel
from hf_seqrl.models.policy.processing_policy import PolicyGradientProcessor
from hf_seqrl.models.policy.training import PolicyGradientOptions, prepare_policy_gradient
from hf_seqrl.models.registry import ModelFamily

FAMILY = ModelFamily(
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
)
