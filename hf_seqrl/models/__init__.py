"""The model families: one folder each, and one line here."""

from importlib import import_module
from importlib.metadata import EntryPoints, entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_seqrl.models.family import ModelFamily

# model_type -> the package whose `FAMILY` describes it
_PACKAGES = {
    "decision_transformer": "hf_seqrl.models.decision_transformer",
    "trajectory_transformer": "hf_seqrl.models.trajectory_transformer",
    "trajectory_seq2seq": "hf_seqrl.models.trajectory_seq2seq",
    "policy_gradient": "hf_seqrl.models.policy",
}
_REGISTERED: dict[str, "ModelFamily"] = {}


def family_names() -> tuple[str, ...]:
    """What may be typed after `hf-seqrl train`. No family is imported for it."""
    model_types = dict.fromkeys((*_PACKAGES, *_REGISTERED, *_announced().names))
    return tuple(model_type.replace("_", "-") for model_type in model_types)


def families() -> "dict[str, ModelFamily]":
    """The families of this package and those that were registered, by the `model_type` of their checkpoints."""
    return {model_type: family_of(model_type) for model_type in (*_PACKAGES, *_REGISTERED)}


def family_of(model_type: str) -> "ModelFamily":
    """The family whose checkpoints carry this `model_type`.

    It is one of this package, or one that `hf_seqrl.register_family` was told of, or one that an installed package
    announces: an entry point of the group `hf_seqrl.families`, named as the `model_type`, which leads to a `ModelFamily`.

    Raises:
        ValueError: no family has it.
    """
    if model_type in _PACKAGES:
        return import_module(_PACKAGES[model_type]).FAMILY
    if model_type in _REGISTERED:
        return _REGISTERED[model_type]
    if model_type in _announced().names:
        return _announced()[model_type].load()
    raise ValueError(
        f"model_type {model_type!r} is none of hf_seqrl's: expected one of {', '.join(_PACKAGES)}, or a family of your "
        "own, whose package must be imported first, or announce it (see docs/adding-a-family.md)."
    )


def add_family(family: "ModelFamily") -> None:
    """Let `family_of` know a family from outside this package; `hf_seqrl.register_family` is what users call.

    Raises:
        ValueError: the name does not follow from the `model_type`, or the `model_type` is taken by this package.
    """
    if family.model_type in _PACKAGES:
        raise ValueError(f"model_type {family.model_type!r} is a family of hf_seqrl: choose another one.")
    expected = family.model_type.replace("_", "-")
    if family.name != expected:
        raise ValueError(
            f"the family of model_type {family.model_type!r} is named {family.name!r}: expected {expected!r}, by which "
            "`hf-seqrl train` finds it."
        )
    _REGISTERED[family.model_type] = family


def _announced() -> EntryPoints:
    return entry_points(group="hf_seqrl.families")
