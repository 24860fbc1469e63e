"""The encoder-decoder under the tools of transformers, accelerate and torch."""

import pytest
import torch
from accelerate import disk_offload
from torch.testing import assert_close


def test_weights_on_disk_give_the_same_logits(backbone, histories, make_model, tmp_path):
    model = make_model(backbone)
    expected = model(**histories).logits
    disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    assert_close(model(**histories).logits, expected)


def test_forward_hooks_see_every_module_that_has_weights(backbone, histories, make_model):
    model, called = make_model(backbone), set()
    for name, module in model.named_modules():
        if list(module.parameters(recurse=False)):
            module.register_forward_hook(lambda *_, name=name: called.add(name))
    model(**histories)
    expected = {name for name, module in model.named_modules() if list(module.parameters(recurse=False))}
    assert called == expected


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_of_either_kind_gives_the_same_gradients(histories, make_model, use_reentrant):
    plain, checkpointed = make_model("transformer").train(), make_model("transformer").train()
    enable = getattr(checkpointed, "activation_checkpointing_enable", None)
    (enable or checkpointed.gradient_checkpointing_enable)({"use_reentrant": use_reentrant})
    for model in (plain, checkpointed):
        model(**histories).loss.backward()
    for expected, actual in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert_close(expected.grad, actual.grad)


def test_a_gru_says_that_it_does_not_checkpoint(make_model):
    model = make_model("gru")
    assert not model.supports_gradient_checkpointing
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    with pytest.raises(ValueError, match="does not support"):
        enable()


def test_hidden_states_of_encoder_and_decoder_are_recorded(backbone, histories, make_model):
    model = make_model(backbone)
    output = model(**histories, output_hidden_states=True, teacher_forcing_ratio=1.0)
    assert len(output.encoder_hidden_states) == 2
    assert output.encoder_hidden_states[0].shape == output.encoder_last_hidden_state.shape
    assert model(**histories).encoder_hidden_states is None
    sources = {name: histories[name] for name in ("states", "actions", "attention_mask")}
    generated = model.generate(
        **sources, return_dict_in_generate=True, output_hidden_states=True, max_new_tokens=3, eos_token_id=-1
    )
    assert len(generated.decoder_hidden_states) == 3
    assert len(generated.encoder_hidden_states) == 2


def test_hidden_states_are_chosen_by_index(backbone, histories, make_model):
    model = make_model(backbone).eval()
    every = model(**histories, output_hidden_states=True).encoder_hidden_states
    for asked in ([-1], -1, 1):
        chosen = model(**histories, output_hidden_states=asked).encoder_hidden_states
        assert chosen[0] is None and torch.equal(chosen[1], every[1])
    assert model(**histories, output_hidden_states=0).encoder_hidden_states[1] is None


def test_attention_weights_of_all_three_kinds_are_recorded(histories, make_model):
    model = make_model("transformer", attn_implementation="eager")
    sources = {name: histories[name] for name in ("states", "actions", "attention_mask")}
    output = model(**sources, output_attentions=True)
    for attentions in (output.encoder_attentions, output.decoder_attentions, output.cross_attentions):
        assert len(attentions) == 2
        assert_close(attentions[0].sum(-1), torch.ones_like(attentions[0][..., 0]))
    generated = model.generate(**sources, return_dict_in_generate=True, output_attentions=True, max_new_tokens=2)
    assert len(generated.encoder_attentions) == len(generated.cross_attentions[0]) == 2


@pytest.mark.parametrize(
    ("backbone", "message"),
    [("transformer", "load the model with attn_implementation='eager'"), ("gru", "no attention")],
)
def test_attention_weights_that_do_not_exist_are_refused(backbone, message, histories, make_model):
    with pytest.raises(ValueError, match=message):
        make_model(backbone)(histories["states"], output_attentions=True)


def test_assisted_decoding_writes_what_greedy_decoding_writes(histories, make_model):
    model = make_model("transformer")
    source = {name: histories[name][:1] for name in ("states", "actions", "attention_mask")}
    greedy = model.generate(**source, max_new_tokens=6, eos_token_id=-1)
    assisted = model.generate(**source, max_new_tokens=6, eos_token_id=-1, prompt_lookup_num_tokens=2)
    assert_close(assisted, greedy)


def test_batches_of_single_precision_meet_weights_of_16_bits(backbone, make_model):
    model = make_model(backbone, continuous_states=True, return_conditioning=True).to(torch.bfloat16)
    output = model(torch.zeros(2, 3, 3), torch.zeros(2, 2).long(), returns_to_go=torch.zeros(2))
    assert output.logits.dtype == torch.bfloat16
