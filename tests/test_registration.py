"""What `import hf_seqrl` makes known."""

import subprocess
import sys

import gymnasium
import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

import hf_seqrl
from hf_seqrl.models.registry import families, family_of, register_with_ecosystem


@pytest.mark.parametrize("model_type", sorted(families()))
def test_auto_config_knows_every_family(model_type):
    family = family_of(model_type)
    assert family.model_type == model_type == family.config_class.model_type
    assert type(AutoConfig.for_model(model_type)) is family.config_class
    assert issubclass(family.model_class, PreTrainedModel)


def test_auto_model_builds_what_transformers_does_not_know():
    pairs = [(f.config_class, f.model_class) for f in families().values()]
    pairs += [pair for f in families().values() for pair in f.other_models]
    for config_class, model_class in pairs:
        if not config_class.__module__.startswith("transformers."):
            with torch.device("meta"):  # builds no weights
                assert type(AutoModel.from_config(config_class())) is model_class


def test_registering_again_does_no_harm():
    register_with_ecosystem()
    assert "hf_seqrl/BicycleGrid-v0" in gymnasium.registry


def test_every_public_name_can_be_imported():
    for name in hf_seqrl.__all__:
        assert getattr(hf_seqrl, name).__module__.startswith("hf_seqrl.")
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'; it offers Agent"):
        hf_seqrl.Nothing  # noqa: B018


def test_unknown_families_are_refused_by_name():
    with pytest.raises(ValueError, match="'gpt2' is none of hf_seqrl's: expected one of decision_transformer"):
        family_of("gpt2")


def test_importing_after_transformers_or_before_makes_no_difference():
    check = "from transformers import AutoConfig; import hf_seqrl; AutoConfig.for_model('trajectory_transformer')"
    for order in (check, "import hf_seqrl; " + check):
        subprocess.run([sys.executable, "-c", order], check=True)
