"""The model families: one folder each, and one line here."""

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_seqrl.models.family import ModelFamily

# model_type -> the package whose `FAMILY` describes it
_PACKAGES = {
    "decision_transformer": "hf_seqrl.models.decision_transformer",
    "trajectory_transformer": "hf_seqrl.models.trajectory_transformer",
    "trajectory_seq2seq": "hf_seqrl.models.trajectory_seq2seq",
    "policy_gradient": "hf_seqrl.models.policy_gradient",
}

# what is typed after `hf-seqrl train`, known without an import of the families
FAMILY_NAMES = tuple(model_type.replace("_", "-") for model_type in _PACKAGES)


@cache
def families() -> "dict[str, ModelFamily]":
    """All families by the `model_type` of their checkpoints."""
    return {model_type: import_module(package).FAMILY for model_type, package in _PACKAGES.items()}


def family_of(model_type: str) -> "ModelFamily":
    """The family whose checkpoints carry this `model_type`.

    Raises:
        ValueError: no family has it.
    """
    if model_type not in _PACKAGES:
        raise ValueError(f"model_type {model_type!r} is none of hf_seqrl's: expected one of {', '.join(_PACKAGES)}.")
    return import_module(_PACKAGES[model_type]).FAMILY
