"""Values of states and actions, learned from recorded transitions."""

from hf_seqrl.models.critic.advantages import network_values
from hf_seqrl.models.critic.configuration_critic import CriticConfig
from hf_seqrl.models.critic.modeling_critic import CriticModel
from hf_seqrl.models.critic.processing_critic import CriticProcessor
from hf_seqrl.models.critic.step_graph import step_graph
from hf_seqrl.models.critic.training import TRAINING_DEFAULTS, CriticOptions, prepare, prepare_fitted_q_evaluation
from hf_seqrl.models.critic.values import CriticValues
from hf_seqrl.models.registry import ModelFamily, PolicyEvaluation

FAMILY = ModelFamily(
    name="critic",
    model_type="critic",
    config_class=CriticConfig,
    model_class=CriticModel,
    processor_class=CriticProcessor,
    options_class=CriticOptions,
    prepare=prepare,
    make_actor=None,
    make_values=CriticValues,
    training_defaults=TRAINING_DEFAULTS,
    policy_evaluation=PolicyEvaluation(
        prepare=prepare_fitted_q_evaluation, action_values=network_values, training_defaults=TRAINING_DEFAULTS
    ),
    step_graph=step_graph,
)
