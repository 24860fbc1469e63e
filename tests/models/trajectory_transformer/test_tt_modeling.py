"""What transformers' own tests expect of a model: saving, outputs, caches, kernels, checkpointing, resizing."""

import copy
from itertools import pairwise

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from hf_seqrl import TrajectoryTransformerConfig, TrajectoryTransformerModel
from hf_seqrl.private_api import attention_implementation

CONFIG = {"vocab_size": 11, "observation_dim": 2, "action_dim": 1, "transition_dim": 5, "block_size": 29}
CONFIG |= {"n_layer": 2, "n_head": 2, "n_embd": 16}


def build(seed=0, **overrides):
    """A small model whose biases, norms and positions are not at their uninformative initial values."""
    torch.manual_seed(seed)
    model = TrajectoryTransformerModel(TrajectoryTransformerConfig(**CONFIG, **overrides))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, 12, (3, 30), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@settings(max_examples=40, deadline=None)
@given(cuts=st.sets(st.integers(1, 28), max_size=6), length=st.integers(1, 29), batch=st.integers(1, 3))
def test_any_split_into_prefix_and_chunks_gives_the_uncached_logits(model, tokens, cuts, length, batch):
    whole = model(tokens[:batch, :length], use_cache=False).logits
    bounds = [0, *sorted(cut for cut in cuts if cut < length), length]
    cache, parts = DynamicCache(config=model.config), []
    for begin, end in pairwise(bounds):
        output = model(tokens[:batch, begin:end], cache=cache)
        cache = output.cache
        parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_no_position_depends_on_values_before_it(model, tokens):
    changed = tokens[:, :29].clone()
    changed[:, 4] = (changed[:, 4] + 1) % 12  # the first value
    before, after = model(tokens[:, :29]).logits, model(changed).logits
    same = [position for position in range(29) if position != 4]
    torch.testing.assert_close(after[:, same], before[:, same])
    assert (after[:, 4] - before[:, 4]).abs().max() > 1e-3  # through the residual stream of its own position


def test_a_sequence_longer_than_the_block_is_refused(model, tokens):
    with pytest.raises(ValueError, match="30 tokens long"):
        model(tokens)
    cache = model(tokens[:, :20]).cache
    with pytest.raises(ValueError, match=r"30 tokens long \(20 of them in the cache\)"):
        model(tokens[:, 20:], cache=cache)


@torch.no_grad()
def test_saved_and_loaded_weights_give_equal_logits(model, tokens, tmp_path):
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded = TrajectoryTransformerModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(tokens[:, :29]).logits, model(tokens[:, :29]).logits)
    assert loaded.config.to_dict() == TrajectoryTransformerModel.from_pretrained(tmp_path).config.to_dict()


def test_initialization_follows_the_seed_and_the_paper(tmp_path):
    def fresh(seed):
        torch.manual_seed(seed)
        return TrajectoryTransformerModel(TrajectoryTransformerConfig(**CONFIG))

    first, again, other = fresh(1), fresh(1), fresh(2)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    assert not torch.equal(first.tok_emb.weight, other.tok_emb.weight)
    assert first.tok_emb.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert first.head.weight.abs().max().item() == pytest.approx(16**-0.5, rel=0.05)  # uniform in +-1/sqrt(n_embd)
    assert first.head.weight.std().item() == pytest.approx(16**-0.5 / 3**0.5, rel=0.05)
    assert not first.pos_emb.any() and not first.blocks[0].attn.key.bias.any()


def test_weights_missing_from_a_checkpoint_are_initialized(model, tmp_path):
    trimmed = copy.deepcopy(model)
    state = {k: v for k, v in trimmed.state_dict().items() if k not in ("pos_emb", "head.weight", "ln_f.weight")}
    trimmed.save_pretrained(tmp_path, state_dict=state)
    loaded = TrajectoryTransformerModel.from_pretrained(tmp_path)
    assert not loaded.pos_emb.any() and bool((loaded.ln_f.weight == 1).all())
    assert 0 < loaded.head.weight.abs().max() <= 0.25


@torch.no_grad()
def test_tuple_output_holds_the_same_in_the_same_order(model, tokens):
    arguments = {"labels": tokens[:, 1:30], "use_cache": False, "output_hidden_states": True}
    named = model(tokens[:, :29], **arguments)
    plain = model(tokens[:, :29], **arguments, return_dict=False)
    assert len(plain) == 3
    assert torch.equal(plain[0], named.loss) and torch.equal(plain[1], named.logits)
    assert [h.shape for h in plain[2]] == [(3, 29, 16)] * 3


@torch.no_grad()
def test_hidden_states_are_chosen_by_index(model, tokens):
    every = model(tokens[:, :9], output_hidden_states=True).hidden_states
    chosen = model(tokens[:, :9], output_hidden_states=[0, -1]).hidden_states
    assert chosen[1] is None and torch.equal(chosen[0], every[0]) and torch.equal(chosen[2], every[2])


@torch.no_grad()
def test_attention_probabilities_sum_to_one_and_spare_the_future_and_the_values(model, tokens):
    for probabilities in model(tokens[:, :29], output_attentions=True).attentions:
        assert probabilities.shape == (3, 2, 29, 29)
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(3, 2, 29))
        assert not probabilities.triu(1).any() and not probabilities[..., 4::5].any()


@torch.no_grad()
def test_sdpa_equals_eager(tokens):
    for chunk in (slice(0, 29), slice(0, 12)):
        sdpa, eager = build(attn_implementation="sdpa"), build(attn_implementation="eager")
        assert [attention_implementation(model.config) for model in (sdpa, eager)] == ["sdpa", "eager"]
        torch.testing.assert_close(sdpa(tokens[:, chunk]).logits, eager(tokens[:, chunk]).logits, atol=1e-5, rtol=1e-5)


def gradients(model, tokens):
    model.zero_grad()
    model(tokens[:, :29], labels=tokens[:, 1:30]).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(tokens, use_reentrant, enable_checkpointing):
    model = build(embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0).train()
    expected = gradients(model, tokens)
    enable_checkpointing(model, use_reentrant=use_reentrant)
    assert all(block.gradient_checkpointing for block in model.blocks)
    for name, gradient in gradients(model, tokens).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def test_gradient_checkpointing_draws_the_same_dropout_again(tokens, enable_checkpointing):
    model = build().train()
    torch.manual_seed(3)
    expected = gradients(model, tokens)
    enable_checkpointing(model)
    torch.manual_seed(3)
    for name, gradient in gradients(model, tokens).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


@pytest.mark.parametrize("mean_resizing", [True, False])
def test_resizing_keeps_the_bins_of_every_dimension_and_the_stop_token(tokens, tmp_path, mean_resizing):
    model = build()
    old = copy.deepcopy(model)
    assert model.resize_token_embeddings(14, mean_resizing=mean_resizing) is model.get_input_embeddings()
    assert model.config.vocab_size == 14 and model.tok_emb.num_embeddings == 14 * 5 + 1
    renumbered = torch.where(tokens == 11, 14, tokens)[:, :29]
    with torch.no_grad():
        before, after = old(tokens[:, :29]).logits, model(renumbered).logits
    torch.testing.assert_close(after[..., [*range(11), 14]], before)
    model.resize_token_embeddings(11)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens[:, :29]).logits, before)
    model.save_pretrained(tmp_path)
    assert TrajectoryTransformerModel.from_pretrained(tmp_path).config.vocab_size == 11
    with pytest.raises(ValueError, match="pad_to_multiple_of"):
        model.resize_token_embeddings(12, pad_to_multiple_of=8)


@torch.no_grad()
def test_bfloat16_stays_close_to_float32(model, tokens):
    whole = model(tokens[:, :29]).logits
    half = copy.deepcopy(model).to(torch.bfloat16)(tokens[:, :29]).logits
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), whole, atol=0.1, rtol=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(tokens[:, :29]).logits.float(), whole, atol=0.1, rtol=0.1)


def test_training_under_autocast_gives_finite_gradients(tokens):
    model = build().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(tokens[:, :29], labels=tokens[:, 1:30]).loss
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_training_returns_no_cache_and_evaluation_does(tokens):
    model = build()
    assert isinstance(model(tokens[:, :5]).cache, DynamicCache)
    assert model(tokens[:, :5], use_cache=False).cache is None
    assert model.train()(tokens[:, :5]).cache is None


def test_labels_that_do_not_count_are_left_out_and_targets_are_another_name(model, tokens):
    mask = torch.rand(3, 29, generator=torch.Generator().manual_seed(1)) < 0.5
    weighted = model(tokens[:, :29], targets=tokens[:, 1:30], attention_mask=mask.float()).loss
    marked = model(tokens[:, :29], labels=tokens[:, 1:30].masked_fill(~mask, -100)).loss
    torch.testing.assert_close(marked, weighted)
    with pytest.raises(ValueError, match="pass labels alone"):
        model(tokens[:, :29], labels=tokens[:, 1:30], targets=tokens[:, 1:30])


def test_return_loss_false_leaves_the_loss_out(model, tokens):
    assert model(tokens[:, :29], labels=tokens[:, 1:30], return_loss=False).loss is None
    assert model(tokens[:, :29], labels=tokens[:, 1:30]).loss is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"transition_dim": 6}, "set transition_dim=5"), ({"n_head": 3}, "multiple of n_head")],
)
def test_a_config_that_contradicts_itself_is_refused(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        TrajectoryTransformerConfig(**{**CONFIG, **fields})


def test_the_defaults_are_those_of_transformers_4():
    config = TrajectoryTransformerConfig()
    expected = {"vocab_size": 100, "action_weight": 5, "reward_weight": 1, "value_weight": 1, "block_size": 249}
    expected |= {
        "action_dim": 6,
        "observation_dim": 17,
        "transition_dim": 25,
        "n_layer": 4,
        "n_head": 4,
        "n_embd": 128,
    }
    expected |= {"embd_pdrop": 0.1, "attn_pdrop": 0.1, "resid_pdrop": 0.1, "learning_rate": 6e-4, "use_cache": True}
    expected |= {"max_position_embeddings": 512, "initializer_range": 0.02, "layer_norm_eps": 1e-12}
    expected |= {"kaiming_initializer_range": 1, "pad_token_id": 1, "bos_token_id": 50256, "eos_token_id": 50256}
    assert {name: getattr(config, name) for name in expected} == expected
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (128, 4, 4)
    assert TrajectoryTransformerModel(config).num_parameters() == 1_468_544
