"""How policy networks are trained: the options of `hf-seqrl train`, and what becomes of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import best_episodes, lowest_return, returns_of_episodes
from hf_seqrl.data.sampling import Opening, ReturnWeights, effective_episodes, held_out_split, return_temperature
from hf_seqrl.data.windows import TrajectoryWindows
from hf_seqrl.models.critic.advantages import CriticWeights
from hf_seqrl.models.policy.modeling_policy import PolicyGradientModel, PolicyModel
from hf_seqrl.models.policy.processing_policy import PolicyDataCollator, PolicyGradientProcessor, PolicyProcessor
from hf_seqrl.models.policy.temperature import checked_temperature
from hf_seqrl.models.registry import Prepared

if TYPE_CHECKING:
    from datasets import Dataset

# lower than where a model reads the return and tells good steps from others by it
_LOWEST_TEMPERATURE, _FEWEST_EPISODES = 0.05, 10


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
class CloningOptions:
    """Options of `hf-seqrl train cloning`: behavior cloning by a multilayer perceptron."""

    env_id: str | None = field(default=None, metadata={"help": "Gymnasium id, where the data set does not name it."})
    conditioning: str = field(
        default="none",
        metadata={
            "help": "What actions are conditioned on; `return` makes it RvS (Emmons et al., 2022).",
            "choices": ["none", "return"],
        },
    )
    return_form: str = field(
        default="pace",
        metadata={
            "help": "What of a target return is read: the return-to-go, or its pace, the rate of a whole episode.",
            "choices": ["pace", "to_go"],
        },
    )
    best_fraction: float | None = field(
        default=None,
        metadata={"help": "Clone the best episodes only, with this share of the steps (0.1: '10 %%' cloning)."},
    )
    min_return: float | None = field(
        default=None, metadata={"help": "Clone episodes of at least this raw return only."}
    )
    weighting: str | None = field(
        default=None,
        metadata={
            "help": "`return` draws good episodes more often, by weights exp(return / temperature); default: `return`, but `none` with `best_fraction` or `min_return`.",
            "choices": ["none", "return"],
        },
    )
    return_temperature: float | None = field(
        default=None,
        metadata={
            "help": "In ranges of the returns, with `weighting=return`; default: as low as leaves enough episodes, at least 0.05, and, "
            "without conditioning, does not predict held-out good episodes worse than a higher one."
        },
    )
    uniform_share: float | None = field(
        default=None,
        metadata={
            "help": "With `weighting=return`, the share of draws that go to all steps alike; default: 0.25 with conditioning, else 0."
        },
    )
    opening_share: float | None = field(
        default=None,
        metadata={
            "help": "The first twentieth of the episodes gets at least this share of the draws; default: 0.1 where no episode "
            "terminates, since what goes wrong there lasts to the end; else 0."
        },
    )
    critic: str | None = field(
        default=None,
        metadata={
            "help": "A folder or Hub id of a critic, which is saved with the agent, and whose advantages weight the loss: exp(beta * advantage)."
        },
    )
    advantage_beta: float = field(
        default=1.0, metadata={"help": "With `critic`: how sharply, per standard deviation of the advantages."}
    )
    target_returns: list[float] | None = field(
        default=None,
        metadata={
            "help": "Raw returns to ask for, the default first; default: the best of the data, and one in the middle of their range."
        },
    )
    discount: float = field(default=1.0, metadata={"help": "Discount of the returns-to-go."})
    hidden_size: int = field(default=256, metadata={"help": "Width of the hidden layers."})
    num_hidden_layers: int = field(default=2, metadata={"help": "Number of hidden layers."})
    num_members: int = field(
        default=3, metadata={"help": "Networks that are trained side by side and whose outputs are averaged."}
    )
    average_decay: float = field(
        default=0.0,
        metadata={
            "help": "The model ends with a moving average of its weights over the second half, with this decay a step; 0 ends with "
            "the last weights."
        },
    )
    eval_fraction: float = field(default=0.0, metadata={"help": "Share of the episodes held out for the eval loss."})
    split_seed: int = field(default=0, metadata={"help": "Seed by which the held-out episodes are drawn."})


def prepare_cloning(dataset: "Dataset", options: CloningOptions) -> Prepared:
    """A new policy, its processor, and the steps of the data set, drawn as the options say."""
    from hf_seqrl.models.averaging import WeightAveraging  # with what only training needs

    dataset, held_out = held_out_split(dataset, options.eval_fraction, options.split_seed)
    least_return = options.min_return
    if options.best_fraction is not None or options.min_return is not None:
        dataset = best_episodes(dataset, options.best_fraction, options.min_return)
        least_return = lowest_return(dataset) if options.best_fraction is not None else least_return
    rule, weights, notes = _episode_weights(dataset, options)
    opening = Opening.suited_to(TrajectoryColumns.of(dataset), weights, options.opening_share)
    notes += () if opening is None else (f"{opening}.",)
    chosen = {"target_returns": options.target_returns} if options.target_returns else {}
    processor = PolicyProcessor.from_dataset(
        dataset,
        options.env_id,
        weights,
        conditioning=options.conditioning,
        return_form=options.return_form,
        discount=options.discount,
        **chosen,
    )
    config = processor.model_config(
        hidden_size=options.hidden_size,
        num_hidden_layers=options.num_hidden_layers,
        num_members=options.num_members,
    )
    return Prepared(
        model=PolicyModel(config),
        processor=processor,
        train_dataset=TrajectoryWindows(
            dataset,
            processor,
            episode_weights=rule,
            opening=opening,
            step_weights=_step_weights(dataset, options),
            least_return=least_return,
        ),
        data_collator=PolicyDataCollator(processor),
        critic=options.critic,
        eval_dataset=None if held_out is None else TrajectoryWindows(held_out, processor),
        trainer_arguments={
            "callbacks": [WeightAveraging(options.average_decay)] if options.average_decay else [],
        },
        notes=notes,
    )


def prepare_behavior_model(dataset: "Dataset") -> Prepared:
    """As `prepare_cloning`, a model of the policy behind the data itself: of all steps alike, whatever the returns."""
    return prepare_cloning(
        dataset,
        CloningOptions(conditioning="none", weighting="none", opening_share=0.0, hidden_size=128, num_members=1),
    )


def make_cloning_batches(
    dataset: "Dataset", processor: PolicyProcessor, episode_weights: np.ndarray | None
) -> tuple[TrajectoryWindows, PolicyDataCollator]:
    """See `ModelFamily.make_batches`."""
    windows = TrajectoryWindows(dataset, processor, episode_weights=episode_weights)
    return windows, PolicyDataCollator(processor)


def _episode_weights(
    dataset: "Dataset", options: CloningOptions
) -> tuple[ReturnWeights | None, np.ndarray | None, tuple[str, ...]]:
    """The rule of how often the steps of each episode are drawn, `None` for all alike, its weights, and what was chosen."""
    filtered = options.best_fraction is not None or options.min_return is not None
    if (options.weighting or ("none" if filtered else "return")) == "none":
        return None, None, ()
    columns = TrajectoryColumns.of(dataset)
    returns, lengths = returns_of_episodes(columns), np.diff(columns.episode_offsets)
    temperature, why = _temperature(dataset, options, returns, lengths)
    if temperature is None:
        return None, None, (f"all steps alike: {why}.",)
    uniform_share = options.uniform_share
    if uniform_share is None:
        uniform_share = 0.25 if options.conditioning == "return" else 0.0
    rule = ReturnWeights.fit(returns, lengths, temperature, uniform_share)
    weights = rule.of(returns)
    left = f"steps come as from {effective_episodes(weights, lengths):.0f} of {len(lengths)} episodes"
    return rule, weights, (f"return_temperature {temperature:.3g}: {why}; {left}.",)


def _temperature(
    dataset: "Dataset", options: CloningOptions, returns: np.ndarray, lengths: np.ndarray
) -> tuple[float | None, str]:
    """The temperature of the weights, `None` for all steps alike, and why."""
    if options.return_temperature:
        return options.return_temperature, "as given"
    lowest = return_temperature(returns, lengths, _LOWEST_TEMPERATURE, _FEWEST_EPISODES)
    if lowest is None:
        return None, "returns are equal, or too few episodes to favor good ones"
    if options.conditioning == "return":
        return lowest, "as low as leaves enough episodes"
    return checked_temperature(dataset, lowest, options.hidden_size, options.num_hidden_layers)


def _step_weights(dataset: "Dataset", options: CloningOptions) -> CriticWeights | None:
    if options.critic is None:
        return None
    return CriticWeights(options.critic, dataset, options.advantage_beta)


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
