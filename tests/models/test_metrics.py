"""`ActionMetrics` against sums by hand, all at once and batch by batch."""

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from hf_seqrl.models.metrics import ActionMetrics

LOGITS = np.array([[[2.0, 1.0, 0.0, 5.0, 4.0], [0.0, 1.0, 2.0, 0.0, 1.0]], [[0.0, 3.0, 1.0, 1.0, 0.0]] * 2])


def test_a_step_counts_as_right_where_every_component_is():
    labels = np.array([[[0, 0], [2, 0]], [[1, 0], [-100, -100]]])
    assert ActionMetrics([3, 2])(EvalPrediction(LOGITS, labels)) == {"action_accuracy": pytest.approx(2 / 3)}


def test_errors_are_in_the_units_of_the_action():
    predicted, labels = np.zeros((1, 2, 2)), np.array([[[1.0, -2.0], [-100.0, -100.0]]])
    metrics = ActionMetrics([], scale=[10.0, 1.0], position=1)
    assert metrics(EvalPrediction((None, predicted), labels)) == {"action_error": pytest.approx(6.0)}


def test_both_parts_of_a_hybrid_action_are_measured():
    predicted = np.array([[[2.0, 1.0, 0.5], [0.0, 1.0, 0.5], [9.0, 9.0, 9.0]]])
    labels = np.array([[[1.0, 0.0, 1.0], [1.0, 0.0, -1.0], [-100.0] * 3]])
    metrics = ActionMetrics([2], scale=[2.0])(EvalPrediction(predicted, labels))
    assert metrics == {"action_accuracy": 0.5, "action_error": pytest.approx(2.0)}


def test_batch_by_batch_equals_all_at_once():
    labels = torch.tensor([[0, 2], [1, 0]])
    logits = torch.as_tensor(LOGITS[..., :3])
    metrics = ActionMetrics([3])
    whole = metrics(EvalPrediction(logits, labels))
    assert metrics(EvalPrediction(logits[:1], labels[:1]), compute_result=False) == {}
    assert metrics(EvalPrediction(logits[1:], labels[1:]), compute_result=True) == whole == {"action_accuracy": 0.75}
