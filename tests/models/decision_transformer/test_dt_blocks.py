"""The encoder's modules: called as others call theirs, whatever wraps them."""

import copy

import accelerate
import pytest
import torch
from torch import nn

from hf_seqrl import TrainableDT
from hf_seqrl.models.decision_transformer.blocks import Dropout


def called_modules(model, run):
    """The names of the modules whose forward hooks fired during `run()`."""
    called = set()
    handles = [
        module.register_forward_hook(lambda *_, name=name: called.add(name)) for name, module in model.named_modules()
    ]
    run()
    for handle in handles:
        handle.remove()
    return called


@pytest.mark.parametrize("training", [False, True])
def test_every_module_that_learns_is_called_and_gets_a_gradient(config, batch, training):
    model = TrainableDT(config()).train(training)
    inputs = batch(model.config)
    called = called_modules(model, lambda: model(**inputs, actions_only=True).loss.backward())
    learning = {name for name, module in model.named_modules() if any(p.requires_grad for p in module.parameters())}
    assert learning - called <= {"encoder.h"}  # a list is not called
    frozen = {"encoder.wte.weight"} | {f"predict_{x}.{y}" for x in ("state", "return") for y in ("weight", "bias")}
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == frozen
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_heads_that_have_a_loss_learn(config, batch):
    model = TrainableDT(config(state_loss_weight=0.1, return_loss_weight=0.1)).train()
    model(**batch(model.config)).loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == {"encoder.wte.weight"}


def test_weights_on_disk_give_the_same_outputs(config, lively, batch, tmp_path):
    model = lively(config())
    inputs = batch(model.config)
    expected = model(**inputs)
    offloaded = accelerate.disk_offload(copy.deepcopy(model), str(tmp_path))
    output = offloaded(**inputs)
    torch.testing.assert_close(output.action_preds, expected.action_preds)
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(offloaded(**inputs, actions_only=True).loss, expected.loss)


def test_noise_on_the_embeddings_reaches_the_loss(config, batch):
    model = TrainableDT(config(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)).train()
    inputs = batch(model.config)
    plain = model(**inputs).loss
    hook = model.get_input_embeddings().register_forward_hook(lambda module, args, output: output.roll(1, -1))
    assert model(**inputs).loss != plain
    hook.remove()
    assert torch.equal(model(**inputs).loss, plain)


@pytest.fixture
def process_group():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_sharded_weights_learn_the_same(process_group, config, batch):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    model = TrainableDT(config(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)).train()
    inputs = batch(model.config)
    sharded = copy.deepcopy(model)
    for block in sharded.encoder.h:
        fully_shard(block)
    fully_shard(sharded)
    assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
    for one in (model, sharded):
        one(**inputs).loss.backward()
    for (name, expected), actual in zip(model.named_parameters(), sharded.parameters(), strict=True):
        if expected.requires_grad:
            torch.testing.assert_close(actual.grad.full_tensor(), expected.grad, msg=name)


def test_a_copy_of_the_model_keeps_its_classes(config):
    model = copy.deepcopy(TrainableDT(config()))
    assert all(type(module) is not nn.Dropout for module in model.modules())


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_dropout_zeroes_its_share_and_keeps_the_mean(probability):
    torch.manual_seed(0)
    dropout, values = Dropout(probability), torch.full((200_001,), 3.0, requires_grad=True)
    dropped = dropout(values)
    assert (dropped == 0).float().mean().item() == pytest.approx(probability, abs=0.005)
    kept = dropped[dropped != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 3 / (1 - probability)), rtol=1e-3, atol=0)
    pairs = (dropped[:-1] == 0).float() * (dropped[1:] == 0)  # neighbors come from one random number
    assert pairs.mean().item() == pytest.approx(probability**2, abs=0.005)
    dropped.sum().backward()
    assert torch.equal(values.grad == 0, dropped == 0)
    assert torch.equal(dropout.eval()(values), values)
