"""Offline reinforcement learning by sequence modeling, native to the Hugging Face ecosystem.

Importing the package does two things and no more: the names below become available (each is imported when it is
first used), and the model families and environments become known to transformers' Auto classes and to gymnasium.
"""

import sys
from importlib import import_module

__version__ = "0.1.0"

_MODULE_OF_NAME = {
    "Agent": "hf_seqrl.hub.agent",
    "BeamPlanner": "hf_seqrl.models.trajectory_transformer.beam_search",
    "Bounds": "hf_seqrl.deploy.constraints",
    "Comparison": "hf_seqrl.training.comparison",
    "Constrained": "hf_seqrl.deploy.constraints",
    "Controller": "hf_seqrl.deploy.controller",
    "CriticConfig": "hf_seqrl.models.critic.configuration_critic",
    "CriticDataCollator": "hf_seqrl.models.critic.processing_critic",
    "CriticModel": "hf_seqrl.models.critic.modeling_critic",
    "CriticProcessor": "hf_seqrl.models.critic.processing_critic",
    "DecisionTransformerGymDataCollator": "hf_seqrl.models.decision_transformer.processing_decision_transformer",
    "DecisionTransformerProcessor": "hf_seqrl.models.decision_transformer.processing_decision_transformer",
    "EpisodeHistories": "hf_seqrl.models.trajectory_seq2seq.histories",
    "ExportedActor": "hf_seqrl.deploy.exported_actor",
    "Forbidden": "hf_seqrl.deploy.constraints",
    "GoalConditionedDataCollator": "hf_seqrl.models.trajectory_transformer.processing_trajectory_transformer",
    "GoalConditionedWindows": "hf_seqrl.models.trajectory_transformer.windows",
    "Judgement": "hf_seqrl.training.run",
    "OfflineEvaluation": "hf_seqrl.evaluation.offline_results",
    "OfflineJudgement": "hf_seqrl.evaluation.offline_judgement",
    "OnlineOptions": "hf_seqrl.training.finetuning",
    "PolicyConfig": "hf_seqrl.models.policy.configuration_policy",
    "PolicyDataCollator": "hf_seqrl.models.policy.processing_policy",
    "PolicyGradientConfig": "hf_seqrl.models.policy.configuration_policy",
    "PolicyGradientModel": "hf_seqrl.models.policy.modeling_policy",
    "PolicyGradientProcessor": "hf_seqrl.models.policy.processing_policy",
    "PolicyGradientTrainer": "hf_seqrl.models.policy.policy_gradient",
    "PolicyModel": "hf_seqrl.models.policy.modeling_policy",
    "PolicyProcessor": "hf_seqrl.models.policy.processing_policy",
    "RateLimit": "hf_seqrl.deploy.constraints",
    "RolloutCallback": "hf_seqrl.training.callbacks",
    "RolloutResult": "hf_seqrl.evaluation.results",
    "Runner": "hf_seqrl.deploy.runner",
    "TrainableDT": "hf_seqrl.models.decision_transformer.modeling_decision_transformer",
    "TrajectoryDiscretizer": "hf_seqrl.models.trajectory_transformer.discretizer",
    "TrajectoryDiscretizerConfig": "hf_seqrl.models.trajectory_transformer.discretizer",
    "TrajectorySeq2SeqConfig": "hf_seqrl.models.trajectory_seq2seq.configuration_trajectory_seq2seq",
    "TrajectorySeq2SeqDataCollator": "hf_seqrl.models.trajectory_seq2seq.processing_trajectory_seq2seq",
    "TrajectorySeq2SeqModel": "hf_seqrl.models.trajectory_seq2seq.modeling_trajectory_seq2seq",
    "TrajectorySeq2SeqProcessor": "hf_seqrl.models.trajectory_seq2seq.processing_trajectory_seq2seq",
    "TrajectoryStream": "hf_seqrl.data.stream",
    "TrajectoryTrainer": "hf_seqrl.training.trainer",
    "TrajectoryTransformerConfig": "hf_seqrl.models.trajectory_transformer.configuration_trajectory_transformer",
    "TrajectoryTransformerDataCollator": "hf_seqrl.models.trajectory_transformer.processing_trajectory_transformer",
    "TrajectoryTransformerModel": "hf_seqrl.models.trajectory_transformer.modeling_trajectory_transformer",
    "TrajectoryTransformerProcessor": "hf_seqrl.models.trajectory_transformer.processing_trajectory_transformer",
    "TrajectoryTransformerWindows": "hf_seqrl.models.trajectory_transformer.windows",
    "TrajectoryWindows": "hf_seqrl.data.windows",
    "Transitions": "hf_seqrl.models.critic.processing_critic",
    "ValueEstimate": "hf_seqrl.evaluation.offline_results",
    "action_values": "hf_seqrl.models.critic.advantages",
    "advantage_weights": "hf_seqrl.models.critic.advantages",
    "attention_weights": "hf_seqrl.models.trajectory_seq2seq.attention",
    "balance_cartpole": "hf_seqrl.evaluation.policies",
    "collect": "hf_seqrl.evaluation.collect",
    "compare": "hf_seqrl.training.compare",
    "evaluate_offline": "hf_seqrl.evaluation.offline",
    "export_agent": "hf_seqrl.deploy.export",
    "family_of": "hf_seqrl.models.registry",
    "finetune_online": "hf_seqrl.training.finetuning",
    "judge_offline": "hf_seqrl.evaluation.offline_judgement",
    "load_trajectories": "hf_seqrl.data.loading",
    "metadata_of": "hf_seqrl.data.metadata",
    "noisy": "hf_seqrl.evaluation.policies",
    "predict_open_loop": "hf_seqrl.models.trajectory_transformer.generation",
    "push_trajectories": "hf_seqrl.hub.trajectories",
    "random_histories": "hf_seqrl.models.trajectory_seq2seq.histories",
    "record_run": "hf_seqrl.training.recipe",
    "register_family": "hf_seqrl.models.registry",
    "rollout": "hf_seqrl.evaluation.rollout",
    "save_trajectories": "hf_seqrl.data.writing",
    "step_advantages": "hf_seqrl.models.critic.advantages",
    "stochastic": "hf_seqrl.evaluation.policies",
    "to_minari": "hf_seqrl.data.minari_source",
    "train_agent": "hf_seqrl.training.run",
}
__all__ = sorted(_MODULE_OF_NAME)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module 'hf_seqrl' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_MODULE_OF_NAME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


# The command registers when it knows that there is work to do (`hf_seqrl.cli.main`), so that its help comes at once.
if "hf_seqrl_command" not in sys.modules:
    from hf_seqrl.models.registry import register_with_ecosystem

    register_with_ecosystem()
