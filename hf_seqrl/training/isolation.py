"""Looking at a model in the middle of its training without leaving a trace."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode and computes no gradients; after, everything is as it was before.

    Restored are the mode of every submodule (some may be frozen in eval mode) and the states of Python's, NumPy's and
    torch's random number generators, those of the model's accelerators too, so that a run with evaluations ends in the
    same weights as one without.
    """
    accelerators = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    modes = [(module, module.training) for module in model.modules()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=list(accelerators)), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        random.setstate(python_state)
        np.random.set_state(numpy_state)
