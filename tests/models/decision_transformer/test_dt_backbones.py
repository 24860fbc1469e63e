"""Other causal models in the place of the stock encoder."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, LlamaConfig, LlamaForCausalLM, LlamaModel

from hf_seqrl import Agent, DecisionTransformerProcessor, TrainableDT
from hf_seqrl.models.decision_transformer.backbones import backbone_shape
from hf_seqrl.models.decision_transformer.processing_decision_transformer import DecisionTransformerGymDataCollator
from hf_seqrl.models.decision_transformer.training import DecisionTransformerOptions, prepare

TYPES = ["llama", "mamba"]


@pytest.fixture(params=TYPES)
def model(request, config):
    """A small model in eval mode around an attention or a state-space backbone."""
    torch.manual_seed(0)
    shape = backbone_shape(request.param, hidden_size=32, n_layer=2, n_head=2)
    return TrainableDT(config(backbone_config=shape, n_layer=3)).eval()


@pytest.fixture
def llama_folder(tmp_path):
    """A folder with a small language model."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=50, num_key_value_heads=2, **sizes)).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def test_the_backbone_encodes_and_the_stock_encoder_is_gone(model, batch):
    kind = type(model.encoder).__name__
    assert kind in ("LlamaModel", "MambaModel") and not hasattr(model.encoder, "h")
    inputs = batch(model.config)
    tokens = model._tokens(inputs["states"], inputs["actions"], inputs["returns_to_go"], inputs["timesteps"])
    expected = model.encoder(inputs_embeds=tokens[:1]).last_hidden_state[:, 1::3]
    torch.testing.assert_close(model(**inputs).action_preds[:1], model.predict_action(expected))


def test_padding_has_no_effect(model, batch):
    inputs = batch(model.config, padding=(0, 3))
    alone = {name: values[1:, 3:] for name, values in inputs.items()}
    torch.testing.assert_close(model(**inputs).action_preds[1:, 3:], model(**alone).action_preds, rtol=0, atol=1e-5)
    real = inputs["attention_mask"].bool()
    expected = (model(**inputs).action_preds - inputs["actions"])[real].square().mean()
    torch.testing.assert_close(model(**inputs).loss, expected)


def test_an_action_depends_on_no_later_token(model, batch):
    inputs = batch(model.config, padding=(0, 0))
    changed = {name: values.clone() for name, values in inputs.items()}
    changed["actions"][:, 4:] += 1
    changed["states"][:, 5:] += 1
    before, after = model(**inputs).action_preds, model(**changed).action_preds
    assert torch.equal(before[:, :5], after[:, :5]) and not torch.allclose(before[:, 5:], after[:, 5:])


def test_actions_only_computes_the_same(model, batch):
    inputs = batch(model.config)
    full, only = model(**inputs, actions_only=False), model(**inputs, actions_only=True)
    assert only.state_preds is None and torch.equal(full.action_preds, only.action_preds)
    states = model(**inputs, output_hidden_states=True).hidden_states
    assert len(states) == 3 and states[0].shape == (2, 24, 32)


def test_acting_equals_the_model_on_windows(model, episodes):
    processor = DecisionTransformerProcessor.from_dataset(episodes(), context_length=4, target_returns=[100.0])
    model.config.max_ep_len = 60
    agent = Agent(model, processor)
    rng = np.random.default_rng(0)
    observations, rewards = rng.normal(size=(3, 9, 5)).astype(np.float32), rng.normal(size=(3, 9))
    agent.reset(3)
    taken = []
    for step in range(9):
        taken.append(agent.act(observations[:, step]))
        agent.observe(rewards[:, step], np.array([False, False, step == 5]))
    returns = 100.0 - np.cumsum(rewards, axis=1) + rewards
    window = slice(3, 7)  # whose last step is step 6
    inputs = {
        "observations": observations[:2, window],
        "actions": np.stack(taken, axis=1)[:2, window],
        "rewards": rewards[:2, window],
        "returns_to_go": returns[:2, window],
        "timesteps": np.tile(np.arange(3, 7), (2, 1)),
        "attention_mask": np.ones((2, 4), np.int64),
    }
    batch = DecisionTransformerGymDataCollator(None, processor)(inputs)
    expected = model(**batch).action_preds[:, -1].detach().numpy()
    np.testing.assert_allclose(taken[6][:2], processor.decode_actions(expected), atol=1e-5)
    agent.reset(1)  # the third environment began anew at step 6
    for step in (6, 7, 8):
        alone = agent.act(observations[2:, step])
        agent.observe(rewards[2:, step], np.array([False]))
        np.testing.assert_allclose(taken[step][2:], alone, atol=1e-5)


def test_loaded_equals_saved(tmp_path, model, episodes, batch):
    processor = DecisionTransformerProcessor.from_dataset(episodes(), context_length=4)
    Agent(model, processor).save_pretrained(tmp_path / "agent")
    loaded = Agent.from_pretrained(tmp_path / "agent").model
    assert loaded.config.backbone_config == model.config.backbone_config
    inputs = batch(model.config)
    torch.testing.assert_close(loaded(**inputs).action_preds, model(**inputs).action_preds, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model_type", TYPES)
def test_adapters_are_what_is_trained_of_a_backbone(tmp_path, config, batch, model_type):
    torch.manual_seed(0)
    shape = backbone_shape(model_type, hidden_size=32, n_layer=2, n_head=2)
    model = TrainableDT(config(backbone_config=shape, lora_rank=2))
    trained = {name for name, parameter in model.encoder.named_parameters() if parameter.requires_grad}
    assert trained and all("lora" in name for name in trained)
    assert model.embed_state.weight.requires_grad
    model(**batch(model.config)).loss.backward()
    adapters = [parameter for name, parameter in model.encoder.named_parameters() if "lora_B" in name]
    assert all(parameter.grad.abs().sum() > 0 for parameter in adapters)
    with torch.no_grad():
        for parameter in adapters:
            parameter.normal_()
    model.eval().save_pretrained(tmp_path)
    loaded, report = TrainableDT.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    inputs = batch(model.config)
    torch.testing.assert_close(loaded(**inputs).action_preds, model(**inputs).action_preds, rtol=0, atol=1e-6)


def test_a_frozen_backbone_has_no_gradient(config):
    shape = backbone_shape("llama", hidden_size=32, n_layer=1, n_head=2)
    model = TrainableDT(config(backbone_config=shape, freeze_backbone=True))
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    assert model.predict_action[0].weight.requires_grad


def test_training_takes_the_weights_of_a_pretrained_model(llama_folder, episodes):
    options = DecisionTransformerOptions(backbone=str(llama_folder), context_length=4)
    model = prepare(episodes(), options).model
    source = AutoModel.from_pretrained(llama_folder)
    assert isinstance(model.encoder, LlamaModel) and model.config.hidden_size == 32
    for name, parameter in source.named_parameters():
        if name != "embed_tokens.weight":
            assert torch.equal(parameter, model.encoder.get_parameter(name))
    assert model.encoder.embed_tokens.weight.shape == (1, 32)  # trajectories have no words
    assert model.config.backbone_config["vocab_size"] == 1


@pytest.mark.parametrize(("model_type", "fault"), [("bert", "come later"), ("rwkv", "padded tokens")])
def test_a_backbone_that_reads_what_it_must_not_is_refused(config, model_type, fault):
    with pytest.raises(ValueError, match=fault):
        TrainableDT(config(backbone_config=backbone_shape(model_type, hidden_size=32, n_layer=2, n_head=2)))


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"hidden_size": 48}, "expected 32, as wide as the backbone"),
        ({"sliding_attention": 4}, "sliding_attention is for the stock encoder"),
        ({"backbone_config": None, "lora_rank": 2}, "need a backbone_config"),
        ({"backbone_config": {"model_type": "no-such"}}, "expected one of transformers"),
    ],
)
def test_keys_that_disagree_are_refused(config, keys, fault):
    shape = backbone_shape("llama", hidden_size=32, n_layer=1, n_head=2)
    with pytest.raises(ValueError, match=fault):
        TrainableDT(config(**{"backbone_config": shape} | keys))
