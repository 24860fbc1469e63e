"""Makes the package known to transformers' Auto classes and to gymnasium; runs on `import hf_seqrl`."""

from hf_seqrl.envs import register_environments


def register_with_ecosystem() -> None:
    """Register the families' configs, models and processors, and the environments. Calling it again does no harm."""
    register_environments()
