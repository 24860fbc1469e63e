import random

import numpy as np
import pytest
import torch
from torch import nn

from hf_seqrl.training.callbacks import undisturbed


@pytest.fixture
def model():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.BatchNorm1d(2))
    model.train()
    model[2].eval()  # frozen on purpose
    return model


def test_inside_the_model_evaluates_without_gradients(model):
    with undisturbed(model):
        assert not any(module.training for module in model.modules())
        assert not model(torch.ones(3, 2)).requires_grad


def test_each_module_gets_its_own_mode_back(model):
    with undisturbed(model):
        pass
    assert [module.training for module in model.modules()] == [True, True, True, False]


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(1).item()])
def test_random_numbers_go_on_as_if_nothing_had_happened(model, draw):
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    with undisturbed(model):
        random.random(), np.random.rand(), torch.rand(1)
    assert draw() == expected


def test_an_error_inside_leaves_no_trace_either(model):
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError), undisturbed(model):
        torch.rand(1)
        raise RuntimeError
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_survive(model):
    model(torch.ones(3, 2)).sum().backward()
    before = model[0].weight.grad.clone()
    with undisturbed(model):
        model(torch.ones(3, 2))
    assert torch.equal(model[0].weight.grad, before)
