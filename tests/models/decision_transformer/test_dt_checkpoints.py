"""What is saved is what is loaded, here, in plain transformers, and from checkpoints of old."""

import json

import pytest
import torch
from transformers import AutoModel, DecisionTransformerModel

from hf_seqrl import TrainableDT


@pytest.fixture
def old_checkpoint(tmp_path, config, lively):
    """A folder as GPT-2 of old wrote it: a pickle with the buffers of its masks, `max_length` in the config."""
    model = lively(config())
    weights = dict(model.state_dict())
    for index in range(model.config.n_layer):
        weights[f"encoder.h.{index}.attn.bias"] = torch.ones(1, 1, 1024, 1024, dtype=torch.uint8).tril()
        weights[f"encoder.h.{index}.attn.masked_bias"] = torch.tensor(-1e4)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    values = model.config.to_dict() | {"max_length": 20, "architectures": ["DecisionTransformerModel"]}
    for name in ("action_groups", "sliding_attention", "image_shape", "state_loss_weight", "return_loss_weight"):
        del values[name]
    (tmp_path / "config.json").write_text(json.dumps(values))
    return tmp_path, model


@pytest.mark.parametrize("keys", [{}, {"action_groups": [3], "action_tanh": False, "sliding_attention": 8}])
def test_plain_transformers_loads_the_same_model(tmp_path, config, lively, batch, keys):
    model = lively(config(**keys))
    model.save_pretrained(tmp_path)
    plain = AutoModel.from_pretrained(tmp_path)
    assert type(plain) is DecisionTransformerModel and plain.config.model_type == "decision_transformer"
    inputs = batch(model.config, padding=(0, 0))
    torch.testing.assert_close(
        plain(**inputs).action_preds, model(**inputs).action_preds, rtol=0, atol=1e-5, check_stride=False
    )


@pytest.mark.parametrize("keys", [{"sliding_attention": 3}, {"image_shape": [1, 8, 8], "state_dim": 32 * 2 * 2}])
def test_loaded_equals_saved(tmp_path, config, lively, keys):
    model = lively(config(**keys))
    model.save_pretrained(tmp_path)
    loaded = TrainableDT.from_pretrained(tmp_path)
    assert {name: getattr(loaded.config, name) for name in keys} == keys
    for (name, saved), (other, read) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == other and torch.equal(saved, read)


def test_old_checkpoints_load(old_checkpoint, batch):
    folder, model = old_checkpoint
    loaded, report = TrainableDT.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    inputs = batch(model.config)
    assert torch.equal(loaded.eval()(**inputs).action_preds, model(**inputs).action_preds)


def test_initial_weights_are_the_stock_model_s(config):
    torch.manual_seed(3)
    ours = TrainableDT(config()).state_dict()
    torch.manual_seed(3)
    stock = DecisionTransformerModel(config()).state_dict()
    assert all(torch.equal(ours[name], stock[name]) for name in stock) and len(ours) == len(stock)
