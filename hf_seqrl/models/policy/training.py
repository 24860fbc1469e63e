"""How policy networks are trained: the options of `hf-seqrl train`, and what becomes of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from hf_seqrl.models.policy.modeling_policy import PolicyGradientModel
from hf_seqrl.models.policy.processing_policy import PolicyGradientProcessor
from hf_seqrl.models.registry import Prepared

if TYPE_CHECKING:
    from datasets import Dataset


class EpisodePlaces:
    """A map-style data set of `num_episodes` empty items: their number in a batch is the number of episodes to collect.

    The loader may fetch them as early as it likes: the episodes are collected when the update begins.
    """

    def __init__(self, num_episodes: int) -> None:
        if num_episodes < 1:
            raise ValueError(f"num_episodes is {num_episodes}: expected at least 1 episode to train on.")
        self.num_episodes = num_episodes

    def __len__(self) -> int:
        return self.num_episodes

    def __getitem__(self, index: int) -> dict[str, int]:
        if not -self.num_episodes <= index < self.num_episodes:
            raise IndexError(f"place {index} of {self.num_episodes}")
        return {"place": index}


def collate_places(features: Sequence[dict]) -> dict[str, torch.Tensor]:
    """A batch of places: `places` `(batch,)`, which are only counted."""
    return {"places": torch.zeros(len(features), dtype=torch.int64)}


@dataclass
class PolicyGradientOptions:
    """Options of `hf-seqrl train policy-gradient`, which collects its own episodes and needs no data set."""

    env_id: str = field(
        default="hf_seqrl/BicycleGrid-v0",
        metadata={"help": "The gymnasium environment to learn, for instance CartPole-v1."},
    )
    env_kwargs: str = field(
        default="{}",
        metadata={"help": """Options of the environment as JSON, for instance '{"random_starts": true}'."""},
    )
    num_episodes: int = field(
        default=6_400,
        metadata={"help": "Episodes of an epoch; each update takes per_device_train_batch_size of them."},
    )
    discount: float = field(default=0.99, metadata={"help": "Weight of a reward one step later, between 0 and 1."})
    use_baseline: bool = field(
        default=True, metadata={"help": "Learn the expected return and subtract it from the return achieved."}
    )
    entropy_coef: float = field(
        default=0.01, metadata={"help": "Weight of the entropy bonus, in nats a step; 0 for none."}
    )
    hidden_size: int = field(default=64, metadata={"help": "Width of the hidden layers."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Number of hidden layers."})


def prepare_policy_gradient(dataset: "Dataset | None", options: PolicyGradientOptions) -> Prepared:
    """A new policy, its processor, and places for the episodes that it will collect.

    Raises:
        ValueError: a data set was given.
    """
    if dataset is not None:
        raise ValueError(
            "a policy network learns from episodes of its own, but a data set was given: leave it out and name the "
            "environment with env_id. `hf-seqrl train cloning` learns from a data set."
        )
    from hf_seqrl.models.policy.policy_gradient import (
        PolicyGradientTrainer,  # imports Trainer, which acting does not need
    )

    env_kwargs = json.loads(options.env_kwargs)
    processor = PolicyGradientProcessor.from_env(options.env_id, env_kwargs)
    config = processor.model_config(
        hidden_size=options.hidden_size,
        num_hidden_layers=options.num_hidden_layers,
        use_baseline=options.use_baseline,
        entropy_coef=options.entropy_coef,
    )
    return Prepared(
        model=PolicyGradientModel(config),
        processor=processor,
        train_dataset=EpisodePlaces(options.num_episodes),
        data_collator=collate_places,
        trainer_arguments={"discount": options.discount, "env_kwargs": env_kwargs},
        trainer_class=PolicyGradientTrainer,
    )
