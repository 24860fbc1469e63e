import torch
from torch import nn
from torch.testing import assert_close

from hf_seqrl.models.trajectory_seq2seq.recurrence import run_gru


def _layer_and_inputs():
    torch.manual_seed(0)
    layer = nn.GRU(5, 8, batch_first=True, dtype=torch.float64)
    inputs = torch.randn(3, 7, 5, dtype=torch.float64, requires_grad=True)
    initial = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    return layer, inputs, initial


def test_outputs_are_those_of_torch():
    layer, inputs, initial = _layer_and_inputs()
    assert_close(run_gru(layer, inputs, initial), layer(inputs, initial.unsqueeze(0))[0])
    assert_close(run_gru(layer, inputs), layer(inputs)[0])


def test_gradients_are_those_of_torch():
    layer, inputs, initial = _layer_and_inputs()
    weights = torch.randn(3, 7, 8, dtype=torch.float64)
    everything = [inputs, initial, *layer.parameters()]
    ours = torch.autograd.grad((run_gru(layer, inputs, initial) * weights).sum(), everything)
    torchs = torch.autograd.grad((layer(inputs, initial.unsqueeze(0))[0] * weights).sum(), everything)
    assert_close(ours, torchs)


def test_gradients_are_those_of_finite_differences():
    layer, inputs, initial = _layer_and_inputs()
    assert torch.autograd.gradcheck(lambda x, h: run_gru(layer, x, h), (inputs, initial))


def test_states_keep_their_precision_under_autocast():
    torch.manual_seed(0)
    layer, inputs = nn.GRU(5, 8, batch_first=True), torch.randn(3, 7, 5, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = run_gru(layer, inputs)
        outputs.sum().backward()
    assert_close(outputs, layer(inputs)[0])
    assert inputs.grad.isfinite().all()
