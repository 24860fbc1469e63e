"""The model families: what each offers to the rest of the package, and how it is found.

`data/`, `evaluation/`, `hub/`, `training/`, `deploy/` and `cli/` know no family by name. They find a `ModelFamily` by the
`model_type` of a checkpoint's config, or by the name typed after `hf-seqrl train`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoints, entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from torch.optim import Optimizer
    from transformers import PreTrainedConfig, PreTrainedModel, Trainer, TrainingArguments

    from hf_seqrl.models.actor import Actor
    from hf_seqrl.models.processor import TrajectoryProcessor
    from hf_seqrl.models.step_graph import StepGraph
    from hf_seqrl.models.values import Values

# name after `hf-seqrl train` -> the model_type of its checkpoints, and where its `ModelFamily` is
_PACKAGES = {
    "decision-transformer": ("decision_transformer", "hf_seqrl.models.decision_transformer:FAMILY"),
    "trajectory-transformer": ("trajectory_transformer", "hf_seqrl.models.trajectory_transformer:FAMILY"),
    "trajectory-seq2seq": ("trajectory_seq2seq", "hf_seqrl.models.trajectory_seq2seq:FAMILY"),
    "cloning": ("policy", "hf_seqrl.models.policy:CLONING"),
    "critic": ("critic", "hf_seqrl.models.critic:FAMILY"),
    "policy-gradient": ("policy_gradient", "hf_seqrl.models.policy:POLICY_GRADIENT"),
}
_REGISTERED: dict[str, "ModelFamily"] = {}  # families from outside, by their name


@dataclass(frozen=True)
class Prepared:
    """Everything that a `Trainer` needs, built from a data set and a family's options.

    Attributes:
        model, processor, train_dataset, data_collator, eval_dataset: As for `Trainer`.
        trainer_arguments: Further arguments of the trainer, such as `callbacks`.
        acts: Whether what is trained can be rolled out in an environment.
        make_optimizer: Where the optimizer of `Trainer` is not the recipe's.
        trainer_class: A subclass of `Trainer`, where the plain one does not do.
        notes: What was chosen for the data at hand, one sentence each.
        critic: The folder or Hub id of a critic that goes along with the agent.
        training: Fields of `TrainingArguments` that suit the data better than the family's defaults.
        training_because: Why.
    """

    model: "PreTrainedModel"
    processor: "TrajectoryProcessor"
    train_dataset: Any
    data_collator: Callable
    eval_dataset: Any = None
    trainer_arguments: dict[str, Any] = field(default_factory=dict)
    acts: bool = True
    make_optimizer: "Callable[[TrainingArguments], Optimizer] | None" = None
    trainer_class: "type[Trainer] | None" = None
    notes: tuple[str, ...] = ()
    critic: str | None = None
    training: dict[str, Any] = field(default_factory=dict)
    training_because: str = ""


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
class PolicyEvaluation:
    """How a family estimates the values of a policy's actions from recorded transitions, for `evaluate_offline`.

    Attributes:
        prepare: `prepare(dataset, policy_actions, discount=..., episode_weights=..., num_critics=..., **config) -> Prepared`.
            `policy_actions`: what the policy does at each step of the data, `(steps, samples, *action_shape)`.
            `episode_weights` `(episodes, num_critics)`: how much each of the `num_critics` estimates learns from each episode.
        action_values: `action_values(model, processor, observations, actions) -> (batch, num_critics)`, discounted raw returns.
        training_defaults: `TrainingArguments` that differ from transformers' defaults.
    """

    prepare: "Callable[..., Prepared]"
    action_values: "Callable[[PreTrainedModel, TrajectoryProcessor, np.ndarray, np.ndarray], np.ndarray]"
    training_defaults: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BehaviorModel:
    """How a family learns the policy behind a data set with discrete actions, for `evaluate_offline`.

    Attributes:
        prepare: `prepare(dataset) -> Prepared`, of all episodes alike.
        make_actor: `make_actor(model, processor) -> Actor`, one that draws its actions and can name their probabilities.
        training_defaults: `TrainingArguments` that differ from transformers' defaults.
    """

    prepare: "Callable[[Dataset], Prepared]"
    make_actor: "Callable[[PreTrainedModel, TrajectoryProcessor], Actor]"
    training_defaults: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingMethod:
    """A way to train a family that `hf-seqrl compare` tries.

    Attributes:
        title: Of its row in the table, for instance `cloning, best 10 %`.
        options: Fields of the family's `options_class` that differ from their defaults.
        trained_first: Options that take the folder of another model, and the family that is trained for it.
        suits: `suits(dataset)`: whether it is worth trying on these data; by default always.
    """

    title: str
    options: dict[str, Any] = field(default_factory=dict)
    trained_first: dict[str, str] = field(default_factory=dict)
    suits: "Callable[[Dataset], bool]" = lambda dataset: True


@dataclass(frozen=True)
class ModelFamily:
    """One way to train a model, and what the rest of the package needs to know of the model.

    Attributes:
        name: What is typed after `hf-seqrl train`, for instance `decision-transformer`.
        model_type: The `model_type` in the `config.json` of its checkpoints.
        config_class, model_class, processor_class: The triad of the family.
        options_class: A dataclass whose fields are the family's own options of `hf-seqrl train` (`HfArgumentParser`).
        prepare: `prepare(dataset, options) -> Prepared`.
        make_actor: `make_actor(model, processor, **acting_options) -> Actor`; `None` for a model that chooses no actions.
        make_values: `make_values(model, processor) -> Values` for a model that says how good states and actions are.
        make_batches: `make_batches(dataset, processor, episode_weights) -> (train_dataset, data_collator)`, for a model that is
            trained on with other data, its processor unchanged; `episode_weights` as for `TrajectoryWindows`.
        training_defaults: `TrainingArguments` that differ from transformers' defaults (the paper's recipe).
        online: Whether it learns from episodes of its own; `prepare` then takes `None` as data set.
        legacy_processor: `legacy_processor(checkpoint, dataset) -> processor` for checkpoints that were saved without one; the
            data set may be `None`. It raises a `ValueError` that says what is missing.
        action_losses: `action_losses(model, processor, histories) -> (batch,)`: how far the actions that the model would take
            are from the recorded ones. `histories` are what `StepHistories.gather` yields for steps of a data set; the
            action of each history's last step counts. Discrete actions: negative log-likelihood in nats, summed over the
            components; `Box`: squared error in the action's units, mean over its entries. `None` for families whose
            actions are not predicted but planned.
        policy_evaluation: Where it estimates the values of a given policy.
        behavior_model: Where it learns the policy behind a data set.
        imagine: `imagine(model, processor, observations, seeds)`: episodes that begin with these raw observations `(n, ...)` in a
            model of the dynamics. Its `step(actions)` gives the next observations, rewards and terminations, as
            [`~hf_seqrl.models.trajectory_transformer.world_model.ImaginedEpisodes`] does.
        step_graph: `step_graph(model, processor) -> StepGraph`: one step as a module that can be exported and compiled, with the weights of a
            model in eval mode and in float32; what it computes is what `make_actor` does by default. `None` where a step is a
            search and no fixed computation.
        other_models: Configs and models that the family has beside its own, for transformers' Auto classes.
        methods: The ways to train it that a comparison tries.
    """

    name: str
    model_type: str
    config_class: "type[PreTrainedConfig]"
    model_class: "type[PreTrainedModel]"
    processor_class: "type[TrajectoryProcessor]"
    options_class: type
    prepare: "Callable[[Dataset | None, Any], Prepared]"
    make_actor: "Callable[..., Actor] | None"
    make_batches: "Callable[[Dataset, Any, np.ndarray | None], tuple[Any, Callable]] | None" = None
    make_values: "Callable[[Any, Any], Values] | None" = None
    training_defaults: dict[str, Any] = field(default_factory=dict)
    online: bool = False
    legacy_processor: "Callable[[LegacyCheckpoint, Dataset | None], TrajectoryProcessor] | None" = None
    action_losses: "Callable[[PreTrainedModel, TrajectoryProcessor, Mapping[str, np.ndarray]], np.ndarray] | None" = (
        None
    )
    policy_evaluation: PolicyEvaluation | None = None
    behavior_model: BehaviorModel | None = None
    imagine: "Callable[[PreTrainedModel, TrajectoryProcessor, np.ndarray, np.ndarray], Any] | None" = None
    step_graph: "Callable[[PreTrainedModel, TrajectoryProcessor], StepGraph] | None" = None
    other_models: "tuple[tuple[type[PreTrainedConfig], type[PreTrainedModel]], ...]" = ()
    methods: tuple[TrainingMethod, ...] = ()


def family_names() -> tuple[str, ...]:
    """What may be typed after `hf-seqrl train`. No family is imported for it."""
    announced = (name.replace("_", "-") for name in _announced().names)
    return tuple(dict.fromkeys((*_PACKAGES, *_REGISTERED, *announced)))


def family_named(name: str) -> ModelFamily:
    """The family that is trained by `hf-seqrl train <name>`.

    Raises:
        ValueError: no family has this name.
    """
    if name in _PACKAGES:
        return _imported(_PACKAGES[name][1])
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name.replace("-", "_") in _announced().names:
        return _announced()[name.replace("-", "_")].load()
    raise ValueError(f"no model family {name!r}: expected one of {', '.join(family_names())}.")


def families() -> dict[str, ModelFamily]:
    """The families of this package and those that were registered, by the `model_type` of their checkpoints."""
    model_types = dict.fromkeys(
        [model_type for model_type, _ in _PACKAGES.values()] + [family.model_type for family in _REGISTERED.values()]
    )
    return {model_type: family_of(model_type) for model_type in model_types}


def family_of(model_type: str) -> ModelFamily:
    """The family whose checkpoints carry this `model_type`; where several ways to train a model share it, the first.

    It is one of this package, one that `hf_seqrl.register_family` added, or one that an installed package announces: an
    entry point of the group `hf_seqrl.families`, named as the `model_type`, that leads to a `ModelFamily`.

    Raises:
        ValueError: no family has it.
    """
    for known, place in _PACKAGES.values():
        if known == model_type:
            return _imported(place)
    for family in _REGISTERED.values():
        if family.model_type == model_type:
            return family
    if model_type in _announced().names:
        return _announced()[model_type].load()
    known_types = dict.fromkeys(known for known, _ in _PACKAGES.values())
    raise ValueError(
        f"model_type {model_type!r} is none of hf_seqrl's: expected one of {', '.join(known_types)}, or a family of your "
        "own, whose package must be imported first, or announce it (see docs/adding-a-family.md)."
    )


def policy_evaluation() -> PolicyEvaluation:
    """The way to estimate the values of a given policy, of the first family that offers one."""
    return next(family.policy_evaluation for family in families().values() if family.policy_evaluation)


def behavior_model() -> BehaviorModel:
    """The way to learn the policy behind a data set, of the first family that offers one."""
    return next(family.behavior_model for family in families().values() if family.behavior_model)


def register_family(family: ModelFamily) -> None:
    """Make a model family of your own known: to `Agent`, to the training, to `hf-seqrl`, to transformers' Auto classes.

    The package of the family calls it when it is imported. One with the same name takes the former's place, so that a cell
    of a notebook can be run again. The page "Adding a model family" builds one from nothing.

    Args:
        family ([`~hf_seqrl.models.registry.ModelFamily`]): What it offers.

    Raises:
        ValueError: Its `model_type` is one of this package's, or its name is not the `model_type` with dashes.
    """
    if family.model_type in {model_type for model_type, _ in _PACKAGES.values()}:
        raise ValueError(f"model_type {family.model_type!r} is a family of hf_seqrl: choose another one.")
    expected = family.model_type.replace("_", "-")
    if family.name != expected:
        raise ValueError(
            f"the family of model_type {family.model_type!r} is named {family.name!r}: expected {expected!r}, by which "
            "`hf-seqrl train` finds it."
        )
    _REGISTERED[family.name] = family
    _register_with_auto_classes(family)


def register_with_ecosystem() -> None:
    """Register the families' configs, models and processors, and the environments; runs on `import hf_seqrl`. Calling it
    again does no harm."""
    from hf_seqrl.envs import register_environments

    register_environments()
    for family in families().values():
        _register_with_auto_classes(family)


def _register_with_auto_classes(family: ModelFamily) -> None:
    from transformers import AutoConfig, AutoModel, AutoProcessor

    for config_class, model_class in ((family.config_class, family.model_class), *family.other_models):
        if not config_class.__module__.startswith("transformers."):  # transformers would go on loading its own model
            AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
            AutoModel.register(config_class, model_class, exist_ok=True)
    AutoProcessor.register(family.config_class, family.processor_class, exist_ok=True)


def _imported(place: str) -> ModelFamily:
    module, attribute = place.split(":")
    return getattr(import_module(module), attribute)


def _announced() -> EntryPoints:
    return entry_points(group="hf_seqrl.families")
