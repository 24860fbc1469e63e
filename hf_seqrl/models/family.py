"""What a model family offers to the rest of the package.

`data/`, `evaluation/`, `hub/`, `training/` and `cli/` know no family by name: they find a `ModelFamily` in
`hf_seqrl.models.families()` by the `model_type` of a checkpoint's config or by the name typed after `hf-seqrl train`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch.optim import Optimizer
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainingArguments


class Actor(Protocol):
    """Chooses the actions of `num_envs` episodes that run side by side, each with a history of its own.

    The calls of one step are `act` (before the environments step) and `observe` (after). `observe` is told which
    episodes have ended; their histories are dropped, and `restart` may give the next episode another target or seed.

    Attributes:
        deterministic: Whether the actions depend on the histories alone, and not on random numbers too.
        is_conditioned: Whether it is told a return to reach. `returns_to_go` `(num_envs,)`, raw, is then what it is
            still asked for.
    """

    deterministic: bool
    is_conditioned: bool

    def reset(self, num_envs: int, target_return: Any = None, seed: Any = None) -> None:
        """Begin `num_envs` new episodes. `target_return`: raw return units, a scalar or `(num_envs,)`; `None` means
        the processor's default. `seed`: an int or `(num_envs,)` ints, for actors that sample; `None` draws one."""

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Raw observations `(num_envs, *observation_shape)` to actions `(num_envs, *action_shape)` that the
        environment's action space contains."""

    def observe(self, rewards: np.ndarray, dones: np.ndarray) -> None:
        """What the actions brought: raw rewards `(num_envs,)` and whether the episode ended `(num_envs,)`."""

    def restart(self, env_indices: np.ndarray, target_return: Any = None, seed: Any = None) -> None:
        """Begin new episodes in these environments `(n,)`; all others go on. Values are scalars or `(n,)`."""

    def select(self, env_indices: np.ndarray) -> None:
        """Go on with these environments only, in this order: `num_envs` becomes `len(env_indices)`."""


@dataclass(frozen=True)
class Prepared:
    """Everything that a `Trainer` needs, built from a data set and a family's options."""

    model: PreTrainedModel
    processor: ProcessorMixin
    train_dataset: Any
    data_collator: Callable
    eval_dataset: Any = None
    trainer_arguments: dict[str, Any] = field(default_factory=dict)  # passed on to the Trainer: callbacks ...
    acts: bool = True  # whether what is trained can be judged in an environment
    make_optimizer: Callable[["TrainingArguments"], Optimizer] | None = (
        None  # where the Trainer's own is not the recipe's
    )


@dataclass(frozen=True)
class LegacyCheckpoint:
    """What a checkpoint without a processor tells.

    Attributes:
        name: Its folder or Hub id.
        config: Its `config.json`.
        card: The text of its README.md, empty where it has none.
    """

    name: str
    config: dict[str, Any]
    card: str


@dataclass(frozen=True)
class ModelFamily:
    """One folder under `models/`.

    Attributes:
        name: What is typed after `hf-seqrl train`, for instance `decision-transformer`.
        model_type: The `model_type` in the `config.json` of its checkpoints.
        config_class, model_class, processor_class: The triad of the family.
        options_class: A dataclass whose fields are the family's own options of `hf-seqrl train` (`HfArgumentParser`).
        prepare: `prepare(dataset, options) -> Prepared`.
        make_actor: `make_actor(model, processor, **acting_options) -> Actor`.
        training_defaults: `TrainingArguments` that differ from transformers' defaults (the paper's recipe).
        online: Whether it is trained on episodes of its own (`prepare` then takes `None` as data set).
        legacy_processor: `legacy_processor(checkpoint, dataset) -> processor` for checkpoints that were saved without one;
            the data set may be `None`. It raises a `ValueError` that says what is missing.
        action_losses: `action_losses(model, processor, histories) -> (batch,)`: how far the actions that the model would take
            are from the recorded ones. `histories` are what `StepHistories.gather` yields for steps of a data set; the
            action of each history's last step counts. Discrete actions: negative log-likelihood in nats, summed over the
            components; `Box`: squared error in the action's units, mean over its entries. `None` for families whose
            actions are not predicted but planned.
        other_models: Configs and models that the family has beside its own, for transformers' Auto classes.
    """

    name: str
    model_type: str
    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel]
    processor_class: type[ProcessorMixin]
    options_class: type
    prepare: Callable[["Dataset | None", Any], Prepared]
    make_actor: Callable[..., Actor]
    training_defaults: dict[str, Any] = field(default_factory=dict)
    online: bool = False
    legacy_processor: Callable[[LegacyCheckpoint, "Dataset | None"], ProcessorMixin] | None = None
    action_losses: Callable[[PreTrainedModel, ProcessorMixin, Mapping[str, np.ndarray]], np.ndarray] | None = None
    other_models: tuple[tuple[type[PreTrainedConfig], type[PreTrainedModel]], ...] = ()
