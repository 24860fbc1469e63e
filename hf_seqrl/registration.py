"""Makes the package known to transformers' Auto classes and to gymnasium; runs on `import hf_seqrl`."""

from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedConfig, PreTrainedModel

from hf_seqrl.envs import register_environments
from hf_seqrl.models import add_family, families
from hf_seqrl.models.family import ModelFamily


def register_with_ecosystem() -> None:
    """Register the families' configs, models and processors, and the environments. Calling it again does no harm."""
    register_environments()
    for family in families().values():
        _register_with_auto_classes(family)


def register_family(family: ModelFamily) -> None:
    """Make a model family of your own known: to `Agent`, to the training, to `hf-seqrl`, to transformers' Auto classes.

    The package of the family calls it when it is imported. One with the same `model_type` takes the former's place, so
    that a cell of a notebook can be run again. The page "Adding a model family" builds one from nothing.

    Args:
        family ([`~hf_seqrl.models.family.ModelFamily`]): What it offers.

    Raises:
        ValueError: Its `model_type` is one of this package's, or its name is not the `model_type` with dashes.
    """
    add_family(family)
    _register_with_auto_classes(family)


def _register_with_auto_classes(family: ModelFamily) -> None:
    for config_class, model_class in ((family.config_class, family.model_class), *family.other_models):
        _register_model(config_class, model_class)
    AutoProcessor.register(family.config_class, family.processor_class, exist_ok=True)


def _register_model(config_class: type[PreTrainedConfig], model_class: type[PreTrainedModel]) -> None:
    if config_class.__module__.startswith("transformers."):
        return  # transformers knows it, and would go on loading its own model for it
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, model_class, exist_ok=True)
