"""Every family on a GPU: losses, gradients, updates, actions and plans are those of the CPU, within the tolerances stated here.

Matrix products on the GPU are in full single precision (no TF32), as by torch's default.
"""

import copy

import numpy as np
import pytest
import torch
from test_acting_contract import FAMILIES, _acted, _prepared, play, rows  # noqa: F401
from test_compiled_actor import _lives, compilable
from transformers import TrainingArguments

from hf_seqrl.models.compiled_actor import CompiledActor
from hf_seqrl.models.registry import family_named
from hf_seqrl.training.resident import ResidentWindows
from hf_seqrl.training.trainer import TrajectoryTrainer

DEVICE = "cuda"
TOLERANCE = {"rtol": 1e-3, "atol": 1e-5}  # of losses and gradients
AFTER_UPDATES = {"rtol": 0, "atol": 2e-4}  # of weights, after three updates at a rate of 1e-3
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
]

fixed_shapes = lambda row: row.family != "trajectory-seq2seq"  # noqa: E731  # its batches are as long as their longest history


def _batch(prepared):
    items = prepared.train_dataset
    return prepared.data_collator(items.__getitems__(list(range(min(16, len(items))))))


@rows(spaces=("box", "discrete"))
def test_loss_and_gradients(row, space):
    prepared = _prepared(row, space)
    gradients, losses = [], []
    for device in ("cpu", DEVICE):
        model = copy.deepcopy(prepared.model).eval().to(device)  # no dropout
        loss = model(**{name: values.to(device) for name, values in _batch(prepared).items()}).loss
        loss.backward()
        losses.append(loss.detach().cpu())
        gradients.append({name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(losses[1], losses[0], **TOLERANCE)
    assert gradients[0].keys() == gradients[1].keys()
    largest = max(gradient.abs().max() for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name] / largest, gradient / largest, **TOLERANCE, msg=name)


@rows(spaces=("discrete",))
def test_three_updates(row, space, tmp_path):
    models = []
    for device in ("cpu", DEVICE):
        family = family_named(row.family)
        torch.manual_seed(0)
        prepared = copy.copy(_prepared(row, space))
        model = copy.deepcopy(prepared.model)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # the generators of both devices differ
        settings = {
            **family.training_defaults,
            "max_steps": 3,
            "learning_rate": 1e-3,
            "bf16": False,
            "save_strategy": "no",
        }
        arguments = TrainingArguments(
            str(tmp_path / device), **settings, use_cpu=device == "cpu", report_to="none", disable_tqdm=True
        )
        kept = {"resident": True} if device == DEVICE and fixed_shapes(row) else {}
        trainer = TrajectoryTrainer(model, arguments, prepared.data_collator, prepared.train_dataset, **kept)
        trainer.train()
        models.append(model.cpu())
    for (name, expected), found in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(found, expected, **AFTER_UPDATES, msg=name)


@rows()
def test_actions_and_plans(row, space, play):  # noqa: F811
    """Trajectory Transformers plan by beam search; the others act from their caches."""
    acted = []
    prepared = _prepared(row, space)
    options = row.deterministic
    for device in ("cpu", DEVICE):
        model = copy.deepcopy(prepared.model).to(device)
        actor = family_named(row.family).make_actor(model, prepared.processor, **options)
        actor.reset(4, target_return=[300.0, 200.0, 100.0, 0.0] if actor.is_conditioned else None, seed=0)
        acted.append(_acted(actor, *play))
    if space == "discrete" or row.family == "trajectory-transformer":
        assert np.mean(acted[0] == acted[1]) > 0.95  # a tie may fall to the other side
    else:
        np.testing.assert_allclose(acted[1], acted[0], rtol=0, atol=1e-4)


@rows(compilable)
def test_a_compiled_agent_acts_as_on_the_cpu(row, space, play):  # noqa: F811
    """By a CUDA graph that is recorded once, while episodes end and are dropped."""
    torch.compiler.reset()
    prepared, family = _prepared(row, space), family_named(row.family)
    model = copy.deepcopy(prepared.model).to(DEVICE)
    stands_for = family.make_actor(model, prepared.processor, **row.deterministic)
    actor = CompiledActor(stands_for, model, prepared.processor, family.step_graph)
    expected = _lives(family.make_actor(prepared.model, prepared.processor, **row.deterministic), *play)
    graphs = []
    for _ in range(2):
        found = _lives(actor, *play)
        graphs.append(actor._batch._recorded[0])
        _lives(actor.twin(), *play)  # an actor of the same model leaves the weights where the graph reads them
        if space == "discrete":
            assert np.mean(found == expected) > 0.95  # a tie may fall to the other side
        else:
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert graphs[0] is graphs[1]


@rows(fixed_shapes, spaces=("box",))
def test_batches_gathered_on_the_device(row, space):
    prepared = _prepared(row, space)
    kept = ResidentWindows(prepared.train_dataset, prepared.data_collator, DEVICE)
    found = kept.gather(range(min(16, len(kept))))
    for name, values in _batch(prepared).items():
        assert found[name].device.type == torch.device(DEVICE).type and torch.equal(found[name].cpu(), values), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])  # the second by CUDA graphs
def test_a_compiled_training_step_learns(tmp_path, precision, mode):
    prepared = _prepared(FAMILIES[0], "discrete")
    arguments = TrainingArguments(
        str(tmp_path), max_steps=30, learning_rate=1e-3, per_device_train_batch_size=16, torch_compile=True, torch_compile_mode=mode, bf16=precision == "bf16",
        use_cpu=DEVICE == "cpu", dataloader_drop_last=True, save_strategy="no", logging_steps=10, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = TrajectoryTrainer(
        copy.deepcopy(prepared.model), arguments, prepared.data_collator, prepared.train_dataset, resident=True
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
