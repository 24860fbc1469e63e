"""How a critic is trained."""

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from hf_seqrl.data.sampling import held_out_split
from hf_seqrl.models.critic.modeling_critic import CriticModel
from hf_seqrl.models.critic.processing_critic import CriticDataCollator, CriticProcessor, Transitions
from hf_seqrl.models.registry import Prepared

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

TRAINING_DEFAULTS = {
    "max_steps": 10_000,
    "per_device_train_batch_size": 256,
    "per_device_eval_batch_size": 4096,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "linear",
    "max_grad_norm": 0.0,
}


@dataclass
class CriticOptions:
    """Options of `hf-seqrl train critic`: implicit Q-learning of the values in a data set."""

    env_id: str | None = field(default=None, metadata={"help": "Gymnasium id, where the data set does not name it."})
    expectile: float = field(
        default=0.7, metadata={"help": "0.5: values of the policy behind the data; towards 1: of its best actions."}
    )
    discount: float = field(default=0.99, metadata={"help": "Weight of a reward one step later, between 0 and 1."})
    return_expectile: float = field(
        default=0.95,
        metadata={
            "help": "Of the undiscounted returns that episodes achieve from a state on, learned beside: what `target_return=auto` "
            "asks for. 0 leaves it out."
        },
    )
    target_update: float = field(
        default=0.05, metadata={"help": "Share of the networks that enters the target networks at each update."}
    )
    hidden_size: int = field(default=128, metadata={"help": "Width of the hidden layers."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Number of hidden layers."})
    eval_fraction: float = field(default=0.0, metadata={"help": "Share of the episodes held out for the eval loss."})
    split_seed: int = field(default=0, metadata={"help": "Seed by which the held-out episodes are drawn."})


def prepare(dataset: "Dataset", options: CriticOptions) -> Prepared:
    """A new critic, its processor and the transitions of a data set."""
    dataset, held_out = held_out_split(dataset, options.eval_fraction, options.split_seed)
    processor = CriticProcessor.from_dataset(dataset, options.env_id, options.discount)
    return_discount = processor.return_discount if options.return_expectile else None
    transitions = partial(Transitions, return_discount=return_discount)
    config = processor.model_config(
        expectile=options.expectile,
        return_expectile=options.return_expectile,
        target_update=options.target_update,
        hidden_size=options.hidden_size,
        num_hidden_layers=options.num_hidden_layers,
    )
    held_out_transitions = None if held_out is None else transitions(held_out)
    return _prepared(CriticModel(config), processor, transitions(dataset), held_out_transitions)


def prepare_fitted_q_evaluation(
    dataset: "Dataset",
    policy_actions: "np.ndarray",
    env_id: str | None = None,
    discount: float = 0.99,
    episode_weights: "np.ndarray | None" = None,
    **config: Any,
) -> Prepared:
    """What a `Trainer` needs to estimate the value of a policy by fitted Q evaluation (Le et al., 2019).

    Args:
        dataset: The trajectories.
        policy_actions (`(steps, *action_shape)`): What the policy does at each step of the data; drawn, where it is stochastic,
            or `(steps, samples, *action_shape)` of several draws.
        env_id: The environment, where the data set does not name it.
        discount: Weight of a reward one step later.
        episode_weights (`(episodes, num_critics)`, *optional*): See [`Transitions`].
        config: Further fields of the [`CriticConfig`].
    """
    processor = CriticProcessor.from_dataset(dataset, env_id, discount)
    model = CriticModel(processor.model_config(method="fqe", **config))
    return _prepared(model, processor, Transitions(dataset, policy_actions, episode_weights))


def _prepared(
    model: CriticModel, processor: CriticProcessor, transitions: Transitions, held_out: Transitions | None = None
) -> Prepared:
    from hf_seqrl.models.critic.target_updates import TargetUpdateCallback  # imports what only training needs

    return Prepared(
        model=model,
        processor=processor,
        train_dataset=transitions,
        data_collator=CriticDataCollator(processor),
        eval_dataset=held_out,
        trainer_arguments={"callbacks": [TargetUpdateCallback()]},
        acts=False,
    )
