"""Small encoder-decoders for the tests of their family."""

import pytest
import torch

from hf_seqrl import TrajectorySeq2SeqConfig, TrajectorySeq2SeqModel

BACKBONES = ("gru", "transformer")


def _tiny_model(backbone, seed=0, **overrides):
    """A model of width 16 in evaluation mode, in float64 so that tests can be sharp."""
    torch.manual_seed(seed)
    config = TrajectorySeq2SeqConfig(
        **({"backbone": backbone, "hidden_size": 16, "num_attention_heads": 2, "state_size": 3, "action_size": 2}
           | overrides)
    )  # fmt: skip
    return TrajectorySeq2SeqModel(config).double().eval()


@pytest.fixture(params=BACKBONES)
def backbone(request):
    return request.param


@pytest.fixture(scope="session")
def make_model():
    """`make_model(backbone, seed=0, **config)`: see `_tiny_model`."""
    return _tiny_model


@pytest.fixture
def model(backbone):
    return _tiny_model(backbone)


@pytest.fixture
def histories():
    """Four histories of 5, 3, 1 and 4 tokens, with their targets."""
    states = torch.tensor([[0, 1, 2], [2, 0, 0], [1, 0, 0], [2, 2, 0]])
    actions = torch.tensor([[1, 0], [0, 0], [0, 0], [1, 1]])
    mask = torch.arange(6) < torch.tensor([6, 4, 2, 5])[:, None]
    ignored = -100
    labels = torch.tensor(
        [
            [0, 1, 1, 0, 2, 3],
            [2, 0, 0, 3, ignored, ignored],
            [1, 3, ignored, ignored, ignored, ignored],
            [2, 1, 2, 1, 3, ignored],
        ]
    )
    return {"states": states, "actions": actions, "attention_mask": mask, "labels": labels}
