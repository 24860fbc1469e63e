"""The former field `values` of three outputs: a method again, and still the tensor for those who read it as one."""

import pytest
import torch
from torch.utils import _pytree

from hf_seqrl import PolicyGradientConfig, PolicyGradientModel, TrajectorySeq2SeqConfig, TrajectorySeq2SeqModel


def _policy_output():
    return PolicyGradientModel(PolicyGradientConfig(use_baseline=True))(torch.zeros(2, 4)), "state_values"


def _seq2seq_output():
    config = TrajectorySeq2SeqConfig(
        backbone="gru", hidden_size=8, continuous_states=True, state_size=2, action_size=0, value_size=2
    )
    return TrajectorySeq2SeqModel(config).eval()(torch.zeros(2, 3, 2)), "value_preds"


@pytest.fixture(params=[_policy_output, _seq2seq_output], ids=["policy", "seq2seq"])
def output_and_name(request):
    return request.param()


def test_values_is_the_method_of_a_dictionary(output_and_name):
    output, _ = output_and_name
    assert len(list(output.values())) == len(output.keys())
    leaves = _pytree.tree_leaves(output)
    assert any(leaf is output.logits for leaf in leaves)
    assert type(_pytree.tree_map(lambda leaf: leaf, output)) is type(output)


def test_the_former_name_is_the_tensor_with_a_warning(output_and_name):
    output, name = output_and_name
    with pytest.warns(FutureWarning, match=f"read output.{name}"):
        assert output.values.shape == output[name].shape
    with pytest.warns(FutureWarning):
        assert torch.equal(output.values[0], output[name][0])
    with pytest.warns(FutureWarning):
        assert torch.equal(torch.abs(output.values), output[name].abs())
