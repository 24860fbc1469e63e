"""Values of states and actions, learned from recorded transitions."""

from hf_seqrl.models.critic.configuration_critic import CriticConfig
from hf_seqrl.models.critic.modeling_critic import CriticModel
from hf_seqrl.models.critic.processing_critic import CriticProcessor
from hf_seqrl.models.critic.training import TRAINING_DEFAULTS, CriticOptions, prepare
from hf_seqrl.models.registry import ModelFamily

FAMILY = ModelFamily(
    name="critic",
    model_type="critic",
    config_class=CriticConfig,
    model_class=CriticModel,
    processor_class=CriticProcessor,
    options_class=CriticOptions,
    prepare=prepare,
    make_actor=None,
    training_defaults=TRAINING_DEFAULTS,
)
