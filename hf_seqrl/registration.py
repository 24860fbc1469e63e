"""Makes the package known to transformers' Auto classes and to gymnasium; runs on `import hf_seqrl`."""

from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedConfig, PreTrainedModel

from hf_seqrl.envs import register_environments
from hf_seqrl.models import families


def register_with_ecosystem() -> None:
    """Register the families' configs, models and processors, and the environments. Calling it again does no harm."""
    register_environments()
    for family in families().values():
        for config_class, model_class in ((family.config_class, family.model_class), *family.other_models):
            _register_model(config_class, model_class)
        AutoProcessor.register(family.config_class, family.processor_class, exist_ok=True)


def _register_model(config_class: type[PreTrainedConfig], model_class: type[PreTrainedModel]) -> None:
    if config_class.__module__.startswith("transformers."):
        return  # transformers knows it, and would go on loading its own model for it
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, model_class, exist_ok=True)
