import torch
from torch import nn
from torch.testing import assert_close

from hf_seqrl.models.trajectory_seq2seq.recurrence import GRULayer


def _layer_and_inputs():
    torch.manual_seed(0)
    layer = GRULayer(5, 8, dtype=torch.float64)
    inputs = torch.randn(3, 7, 5, dtype=torch.float64, requires_grad=True)
    initial = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    return layer, inputs, initial


def _torchs(layer):
    """torch's own GRU with the same parameters."""
    torchs = nn.GRU(5, 8, batch_first=True, dtype=layer.bias_ih_l0.dtype)
    torchs.load_state_dict(layer.state_dict())
    return torchs


def test_outputs_are_those_of_torch():
    layer, inputs, initial = _layer_and_inputs()
    torchs = _torchs(layer)
    assert_close(layer(inputs, initial), torchs(inputs, initial.unsqueeze(0))[0])
    assert_close(layer(inputs), torchs(inputs)[0])


def test_gradients_are_those_of_torch():
    layer, inputs, initial = _layer_and_inputs()
    weights = torch.randn(3, 7, 8, dtype=torch.float64)
    other = _torchs(layer)
    ours = torch.autograd.grad((layer(inputs, initial) * weights).sum(), [inputs, initial, *layer.parameters()])
    torchs = (other(inputs, initial.unsqueeze(0))[0] * weights).sum()
    torchs = torch.autograd.grad(torchs, [inputs, initial, *other.parameters()])
    assert_close(ours, torchs)


def test_gradients_are_those_of_finite_differences():
    layer, inputs, initial = _layer_and_inputs()
    assert torch.autograd.gradcheck(layer, (inputs, initial))


def test_states_keep_their_precision_under_autocast():
    torch.manual_seed(0)
    layer, inputs = GRULayer(5, 8), torch.randn(3, 7, 5, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = layer(inputs)
        outputs.sum().backward()
    assert_close(outputs, _torchs(layer)(inputs)[0])
    assert inputs.grad.isfinite().all()
