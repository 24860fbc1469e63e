import itertools

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel

from hf_seqrl import TrajectorySeq2SeqModel

VARIANTS = [
    *itertools.product(["gru"], [{"context_feeding": "start"}, {"num_decoder_layers": 1, "decoder_hidden_size": 12}]),
    *itertools.product(
        ["transformer"],
        [
            {"norm_position": "post", "position_embedding": "learned"},
            {"attention_scoring": "gaussian"},
            {"attention_scoring": "epanechnikov"},
            {"attention_scoring": "boxcar"},
            {"attn_implementation": "eager", "scale_embedding": False},
        ],
    ),
    *((backbone, {}) for backbone in ("gru", "transformer")),
]


def _sources(batch, rows=slice(None)):
    return {name: batch[name][rows] for name in ("states", "actions", "attention_mask")}


@pytest.mark.parametrize(("backbone", "options"), VARIANTS)
def test_padding_changes_nothing(backbone, options, histories, make_model):
    model = make_model(backbone, **options)
    together = model(**histories)
    for row, length in enumerate([5, 3, 1, 4]):
        num_states, num_actions = (length + 1) // 2, length // 2
        alone = model(
            states=histories["states"][row : row + 1, :num_states],
            actions=histories["actions"][row : row + 1, :num_actions],
            labels=histories["labels"][row : row + 1, : length + 1],
        )
        assert_close(together.context[row], alone.context[0], atol=1e-9, rtol=0)
        assert_close(together.logits[row, : length + 1], alone.logits[0], atol=1e-9, rtol=0)
        for losses in ("free_running_losses", "teacher_forced_losses"):
            assert_close(together[losses][row, : length + 1], alone[losses][0], atol=1e-9, rtol=0)
            assert (together[losses][row, length + 1 :] == 0).all()


def test_what_stands_at_pad_positions_has_no_influence(model, histories):
    expected = model(**histories)
    states, actions = histories["states"].clone(), histories["actions"].clone()
    states[1, 2], states[2, 1:], actions[1, 1], actions[2] = 999, -7, 123, 55  # no index at all: never looked up
    labels = histories["labels"].masked_fill(histories["labels"] == -100, model.config.pad_token_id)
    changed = model(states=states, actions=actions, attention_mask=histories["attention_mask"], labels=labels)
    assert_close(changed.loss, expected.loss)
    assert_close(changed.context, expected.context)


def test_nan_at_pad_positions_of_soft_inputs_has_no_influence(model, histories):
    one_hot = torch.nn.functional.one_hot(histories["states"], 3).double()
    soft_actions = torch.nn.functional.one_hot(histories["actions"], 2).double()
    one_hot[2, 1:], soft_actions[2] = torch.nan, torch.nan
    encoded = model.encode(one_hot, soft_actions, histories["attention_mask"])
    assert_close(encoded.context, model.encode(**_sources(histories)).context)


def test_one_hot_inputs_equal_indices(model, histories):
    one_hot = {
        "states": torch.nn.functional.one_hot(histories["states"], 3).double(),
        "actions": torch.nn.functional.one_hot(histories["actions"], 2).double(),
    }
    assert_close(model(**(histories | one_hot)).loss, model(**histories).loss)


@pytest.mark.parametrize(
    ("backbone", "options"),
    [("gru", {}), ("gru", {"context_feeding": "start"}), ("transformer", {}),
     ("transformer", {"attention_scoring": "gaussian"})],
)  # fmt: skip
def test_gradients_reach_soft_states_and_actions(backbone, options, histories, make_model):
    model = make_model(backbone, hidden_size=4, num_encoder_layers=1, num_decoder_layers=1, **options).train()
    generator = torch.Generator().manual_seed(0)
    states = torch.rand(2, 3, 3, generator=generator, dtype=torch.float64).requires_grad_()
    actions = torch.rand(2, 2, 2, generator=generator, dtype=torch.float64).requires_grad_()
    mask, labels = histories["attention_mask"][:2], histories["labels"][:2]
    assert torch.autograd.gradcheck(lambda s, a: model.encode(s, a, mask).context, (states, actions))
    assert torch.autograd.gradcheck(lambda s, a: model(s, a, mask, labels=labels).loss, (states, actions))
    model(states, actions, mask, labels=labels).loss.backward()
    assert states.grad[0].abs().min() > 0 and actions.grad[0].abs().min() > 0
    assert (states.grad[1, 2] == 0).all() and (actions.grad[1, 1] == 0).all()  # padding


def test_the_decoder_sees_no_later_token(model, histories):
    encoded = model.encode(**_sources(histories))
    inputs = torch.tensor([[5, 0, 1, 2]]).expand(4, -1)
    changed = inputs.clone()
    changed[:, 2:] = 0
    before = model(encoder_outputs=encoded, decoder_input_ids=inputs).logits
    after = model(encoder_outputs=encoded, decoder_input_ids=changed).logits
    assert_close(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2:], after[:, 2:])


@pytest.mark.parametrize(("backbone", "options"), VARIANTS)
def test_cached_steps_equal_one_call(backbone, options, histories, make_model):
    model = make_model(backbone, **options)
    encoded = model.encode(**_sources(histories))
    inputs = torch.tensor([[5, 0, 1, 2, 0]]).expand(4, -1)
    at_once = model(encoder_outputs=encoded, decoder_input_ids=inputs).logits
    state, pieces = None, []
    for piece in (inputs[:, :1], inputs[:, 1:4], inputs[:, 4:]):  # several tokens after a cached prefix as well
        step = model(encoder_outputs=encoded, decoder_input_ids=piece, cache=state, use_cache=True)
        state = step.cache
        pieces.append(step.logits)
    assert_close(torch.cat(pieces, dim=1), at_once)
    assert state.get_seq_length() == 5


def test_sdpa_equals_eager_and_only_eager_shows_attention(histories, make_model):
    eager, sdpa = make_model("transformer"), make_model("transformer")
    eager.set_attn_implementation("eager")
    assert_close(eager(**histories).logits, sdpa(**histories).logits)
    output = eager(
        **_sources(histories),
        decoder_input_ids=torch.tensor([[5, 0, 1]]).expand(4, -1),
        output_attentions=True,
        output_encoder_attentions=True,
        output_decoder_attentions=True,
    )
    assert [weights.shape for weights in output.cross_attentions] == [(4, 2, 3, 6)] * 2
    assert [weights.shape for weights in output.encoder_attentions] == [(4, 2, 6, 6)] * 2
    assert (output.cross_attentions[0][2, :, :, 2:] == 0).all()  # the third history has one token and EOS
    assert (output.decoder_attentions[0].triu(1) == 0).all()


def test_the_gru_encoder_equals_torch_on_packed_sequences(histories, make_model):
    model = make_model("gru", num_encoder_layers=2)
    mask = histories["attention_mask"]
    embeddings = model.source_embedding(histories["states"], histories["actions"], None, mask)
    reference = torch.nn.GRU(16, 16, num_layers=2, batch_first=True, dtype=torch.float64)
    for index, layer in enumerate(model.history_encoder.gru.layers):
        for name, parameter in layer.named_parameters():
            getattr(reference, name.replace("_l0", f"_l{index}")).data.copy_(parameter)
    packed = torch.nn.utils.rnn.pack_padded_sequence(embeddings, mask.sum(1), True, enforce_sorted=False)
    _, final = reference(packed)
    assert_close(model.encode(**_sources(histories)).final_states, final.transpose(0, 1))


def test_the_transformer_equals_torch_when_post_normalized(histories, make_model):
    model = make_model("transformer", norm_position="post", num_encoder_layers=1)
    layer = model.history_encoder.layers[0]
    reference = torch.nn.TransformerEncoderLayer(16, 2, 64, dropout=0.0, batch_first=True, dtype=torch.float64)
    ours = [layer.attention.query, layer.attention.key, layer.attention.value]
    reference.self_attn.in_proj_weight.data = torch.cat([projection.weight.data for projection in ours])
    reference.self_attn.in_proj_bias.data = torch.cat([projection.bias.data for projection in ours])
    pairs = [(reference.self_attn.out_proj, layer.attention.output), (reference.linear1, layer.feed_forward[0]),
             (reference.linear2, layer.feed_forward[2]), (reference.norm1, layer.attention_residual.norm),
             (reference.norm2, layer.feed_forward_residual.norm)]  # fmt: skip
    for theirs, own in pairs:
        theirs.load_state_dict(own.state_dict())
    mask = histories["attention_mask"]
    embeddings = model.source_embedding(histories["states"], histories["actions"], None, mask)
    expected = reference(model.history_encoder.positions(embeddings), src_key_padding_mask=~mask)
    actual = model.encode(**_sources(histories)).last_hidden_state
    assert_close(actual[mask], expected[mask])


def test_context_is_the_state_at_the_closing_eos(model, histories):
    encoded = model.encode(**_sources(histories))
    for row, last in enumerate([5, 3, 1, 4]):
        assert_close(encoded.context[row], encoded.last_hidden_state[row, last])


def test_sources_of_states_alone_and_targets_of_another_length_and_vocabulary(backbone, make_model):
    model = make_model(backbone, target_size=7)
    assert (model.config.eos_token_id, model.config.vocab_size) == (7, 10)
    output = model(states=torch.tensor([[0, 2]]), labels=torch.tensor([[6, 5, 4, 6, 7]]))
    assert output.logits.shape == (1, 5, 10)


def test_return_conditioning_reaches_the_context(backbone, make_model):
    model = make_model(backbone, return_conditioning=True)
    states = torch.tensor([[0, 2], [0, 2]])
    context = model.encode(states, torch.tensor([[1], [1]]), returns_to_go=torch.tensor([0.1, 2.0])).context
    assert not torch.allclose(context[0], context[1])
    with pytest.raises(ValueError, match="returns_to_go"):
        model.encode(states)


def test_saved_equals_loaded_also_by_the_auto_classes(model, histories, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert isinstance(loaded, TrajectorySeq2SeqModel)
    assert AutoConfig.from_pretrained(tmp_path).to_diff_dict() == model.config.to_diff_dict()
    assert_close(loaded(**histories).logits, model(**histories).logits, atol=0, rtol=0)


def test_learned_positions_end_where_they_were_made_to(histories, make_model):
    model = make_model("transformer", position_embedding="learned", max_positions=4)
    with pytest.raises(ValueError, match="max_positions=4"):
        model(**histories)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"attention_mask": torch.tensor([[0, 1, 1, 1, 1, 1]])}, "right-padded"),
        ({"attention_mask": torch.zeros(1, 6)}, "right-padded"),
        ({"attention_mask": torch.ones(1, 5)}, r"expected \(1, 6\)"),
        ({"actions": torch.tensor([[0]])}, "3 states with 1 actions"),
        ({"states": torch.rand(1, 3, 5)}, r"expected \(batch, length, 3\)"),
    ],
)
def test_bad_inputs_are_named(backbone, inputs, message, make_model):
    good = {"states": torch.tensor([[0, 1, 2]]), "actions": torch.tensor([[1, 0]])}
    with pytest.raises(ValueError, match=message):
        make_model(backbone).encode(**(good | inputs))


def test_indices_are_refused_where_states_are_continuous(backbone, make_model):
    with pytest.raises(ValueError, match="continuous"):
        make_model(backbone, continuous_states=True).encode(torch.tensor([[0, 1, 2]]))


def test_gradient_checkpointing_gives_the_same_gradients(histories, make_model, enable_checkpointing):
    plain, checkpointed = make_model("transformer").train(), make_model("transformer").train()
    enable_checkpointing(checkpointed)
    for model in (plain, checkpointed):
        model(**histories).loss.backward()
    for expected, actual in zip(plain.parameters(), checkpointed.parameters()):
        assert_close(expected.grad, actual.grad)
    with pytest.raises(ValueError, match="teacher_forcing_ratio=1"):
        checkpointed(**histories, teacher_forcing_ratio=0.0)
