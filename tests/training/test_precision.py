"""bf16 on CPUs that emulate it: measured when a run starts, and warned of."""

import warnings

import pytest
from torch import nn

from hf_seqrl.training import precision
from hf_seqrl.training.trainer import TrajectoryTrainer


@pytest.mark.parametrize(("bf16", "slowdown", "warned"), [(True, 7.0, True), (True, 1.0, False), (False, 7.0, False)])
def test_slow_bf16_is_warned_of(monkeypatch, arguments, make_trainer, bf16, slowdown, warned):
    measured = []
    monkeypatch.setattr(precision, "bf16_slowdown", lambda *shape: measured.append(shape) or slowdown)
    trainer = make_trainer(arguments(max_steps=1, save_strategy="no", bf16=bf16), TrajectoryTrainer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    messages = [str(one.message) for one in caught if str(one.message).startswith("bf16 is")]
    assert len(messages) == warned and len(measured) == bf16
    assert all("7.0 x slower" in one and "--bf16 False" in one for one in messages)


def test_embeddings_are_not_multiplied():
    model = nn.Sequential(nn.Embedding(1000, 8), nn.Linear(8, 32), nn.Linear(32, 4))
    assert precision.largest_matrix(model) == (32, 8)
    assert precision.largest_matrix(nn.Embedding(1000, 8)) is None


def test_the_measurement_is_a_positive_ratio_made_once():
    precision.bf16_slowdown.cache_clear()
    assert precision.bf16_slowdown(32, 8) == precision.bf16_slowdown(32, 8) > 0
    assert precision.bf16_slowdown.cache_info().misses == 1
