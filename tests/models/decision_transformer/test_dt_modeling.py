"""`TrainableDT` against the stock model and against losses written out by hand."""

import pytest
import torch
from transformers import DecisionTransformerModel

from hf_seqrl import TrainableDT

PREDICTIONS = ("state_preds", "action_preds", "return_preds")


def stock_of(model):
    """The stock model with the same weights."""
    stock = DecisionTransformerModel(model.config)
    stock.load_state_dict(model.state_dict())
    return stock.eval()


def real_steps(batch):
    return batch["attention_mask"] > 0


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"n_head": 1},
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False},
        {"activation_function": "gelu"},
        {"action_tanh": False, "n_layer": 1},
        {"attn_implementation": "eager"},
        {"attn_implementation": "eager", "reorder_and_upcast_attn": True},
    ],
)
def test_outputs_are_those_of_the_stock_model(config, lively, batch, keys):
    model = lively(config(**keys))
    inputs = batch(model.config)
    ours, stock = model(**inputs), stock_of(model)(**inputs)
    for name in PREDICTIONS:
        torch.testing.assert_close(ours[name][real_steps(inputs)], stock[name][real_steps(inputs)], rtol=0, atol=1e-5)


def test_outputs_at_the_size_of_the_paper_are_within_one_millionth_of_the_stock_model(config, batch):
    torch.manual_seed(0)
    model = TrainableDT(config(hidden_size=128, n_head=1, state_dim=11)).eval()
    inputs = batch(model.config, padding=(0, 7, 19), time=20)
    ours, stock = model(**inputs), stock_of(model)(**inputs)
    for name in PREDICTIONS:
        difference = (ours[name] - stock[name])[real_steps(inputs)].abs().max()
        assert difference < 1e-6, name


def test_actions_alone_are_the_same_actions_with_the_same_gradients(config, lively, batch):
    model = lively(config())
    inputs = batch(model.config)
    gradients = []
    for actions_only in (False, True):
        output = model(**inputs, actions_only=actions_only)
        model.zero_grad()
        output.loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        assert (output.state_preds is None) == actions_only
    assert set(gradients[0]) == set(gradients[1])
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradient, gradients[0][name], rtol=1e-4, atol=1e-6)


def test_training_leaves_out_what_only_other_predictions_need(config, lively, batch):
    model = lively(config(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
    inputs = batch(model.config)
    expected = model(**inputs).loss
    output = model.train()(**inputs)
    assert output.state_preds is None and output.last_hidden_state is None
    torch.testing.assert_close(output.loss, expected)


def test_records_of_the_stock_encoder_are_available(config, lively, batch):
    model = lively(config())
    inputs = batch(model.config)
    plain, recorded = model(**inputs), model(**inputs, output_hidden_states=True)
    assert len(recorded.hidden_states) == model.config.n_layer + 1
    torch.testing.assert_close(
        recorded.action_preds[real_steps(inputs)], plain.action_preds[real_steps(inputs)], rtol=0, atol=1e-5
    )
    model.set_attn_implementation("eager")
    attentions = model(**inputs, output_attentions=True).attentions
    assert len(attentions) == 3 and attentions[0].shape == (2, 2, 24, 24)
    seen = attentions[1][1, 0, 24 - 1]  # the last token of the row with three padded steps
    assert (seen[:9] == 0).all() and (seen[9:] > 0).all()


def test_hidden_states_are_those_of_the_stock_model_all_or_some_of_them(config, lively, batch):
    model = lively(config())
    inputs = batch(model.config, padding=(0, 0))
    every = model(**inputs, output_hidden_states=True).hidden_states
    stock = stock_of(model)(**inputs, output_hidden_states=True).hidden_states
    for ours, theirs in zip(every, stock, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    some = model(**inputs, output_hidden_states=[0, -1]).hidden_states
    assert [hidden is None for hidden in some] == [False, True, True, False]
    assert torch.equal(some[0], every[0]) and torch.equal(some[3], every[3])


def test_a_tuple_is_the_stock_tuple_behind_the_loss(config, lively, batch):
    model = lively(config())
    inputs = batch(model.config)
    loss, *predictions = model(**inputs, return_dict=False)
    assert loss.shape == ()
    triple = model.original_forward(**inputs, return_dict=False)
    for ours, again, stock in zip(predictions, triple, stock_of(model)(**inputs, return_dict=False), strict=True):
        torch.testing.assert_close(ours, again)
        torch.testing.assert_close(ours[real_steps(inputs)], stock[real_steps(inputs)], rtol=0, atol=1e-5)


def test_padded_steps_change_nothing(config, lively, batch):
    model = lively(config(state_loss_weight=0.5, return_loss_weight=0.5))
    inputs = batch(model.config)
    changed = dict(inputs)
    padded = ~real_steps(inputs)
    for name in ("states", "actions", "rewards", "returns_to_go"):
        changed[name] = torch.where(padded[..., None], -10.0, inputs[name])
    changed["timesteps"] = torch.where(padded, 50, inputs["timesteps"])
    one, other = model(**inputs), model(**changed)
    assert torch.equal(one.loss, other.loss)
    assert torch.equal(one.action_preds[~padded], other.action_preds[~padded])


def test_padding_is_as_if_it_were_not_there(config, lively, batch):
    model = lively(config())
    inputs = batch(model.config)
    short = {name: values[1:, 3:] for name, values in inputs.items()}
    torch.testing.assert_close(model(**inputs).action_preds[1:, 3:], model(**short).action_preds, rtol=0, atol=1e-5)


def test_box_loss_is_the_mean_squared_error_of_the_real_steps(config, lively, batch):
    model = lively(config())
    inputs = batch(model.config)
    output = model(**inputs)
    errors = [
        (output.action_preds[row, step] - inputs["actions"][row, step]).square()
        for row, step in real_steps(inputs).nonzero().tolist()
    ]
    torch.testing.assert_close(output.loss, torch.stack(errors).mean())


@pytest.mark.parametrize("groups", [[3], [2, 3]])
def test_discrete_loss_is_the_cross_entropy_of_every_component(config, lively, batch, groups):
    model = lively(config(action_groups=groups, act_dim=sum(groups), action_tanh=False))
    inputs = batch(model.config)
    output = model(**inputs)
    real, total = real_steps(inputs), 0.0
    for logits, one_hot in zip(output.action_preds.split(groups, -1), inputs["actions"].split(groups, -1)):
        total = total + torch.nn.functional.cross_entropy(logits[real], one_hot[real].argmax(-1))
    torch.testing.assert_close(output.loss, total)


@pytest.mark.parametrize("groups", [[3], [2, 3], None])
def test_labels_take_the_place_of_the_actions_that_are_read(config, lively, batch, groups):
    keys = {"action_groups": groups, "act_dim": sum(groups), "action_tanh": False} if groups else {}
    model = lively(config(**keys))
    inputs = batch(model.config)
    real = real_steps(inputs)
    labels = inputs["actions"]
    if groups:
        labels = torch.stack([part.argmax(-1) for part in labels.split(groups, -1)], dim=-1)
    labels = torch.where(real[..., None], labels, -100)
    labels = labels[..., 0] if groups == [3] else labels
    expected = model(**inputs)
    output = model(**inputs, labels=labels)
    torch.testing.assert_close(output.loss, expected.loss)
    assert set(output) == {"loss", "action_preds"}
    counted = (labels != -100).sum()
    torch.testing.assert_close(model(**inputs, labels=labels, num_items_in_batch=counted).loss, expected.loss)
    blank = inputs | {"actions": torch.zeros_like(inputs["actions"])}
    assert model(**blank, labels=labels).loss != model(**blank).loss


def test_half_precision_weights_take_batches_in_single_precision(config, lively, batch, tmp_path):
    model = lively(config(state_loss_weight=0.1))
    model.save_pretrained(tmp_path)
    inputs = batch(model.config)
    rounded = TrainableDT.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert rounded.dtype == torch.bfloat16
    output = rounded(**inputs)
    assert output.action_preds.dtype == torch.bfloat16
    torch.testing.assert_close(output.loss.float(), model(**inputs).loss, rtol=0.05, atol=0)


def test_state_and_return_losses_look_one_step_ahead(config, lively, batch):
    model = lively(config())
    inputs = batch(model.config, padding=(0, 5), time=6)
    output = model(**inputs)
    model.config.state_loss_weight, model.config.return_loss_weight = 0.5, 0.25
    state = (output.state_preds[0, :-1] - inputs["states"][0, 1:]).square().mean(-1).sum()
    returns = (output.return_preds[0, :-1] - inputs["returns_to_go"][0, 1:]).square().sum()
    # row 1 has a single real step, which nothing follows
    torch.testing.assert_close(model(**inputs).loss, output.loss + (0.5 * state + 0.25 * returns) / 7)


def test_micro_batches_add_up_to_the_loss_of_the_whole(config, lively, batch):
    model = lively(config())
    inputs = batch(model.config, padding=(0, 3, 6, 1))
    steps = int(inputs["attention_mask"].sum())
    parts = [{name: values[rows] for name, values in inputs.items()} for rows in (slice(0, 2), slice(2, 4))]
    losses = [model(**part, num_items_in_batch=steps).loss for part in parts]
    torch.testing.assert_close(sum(losses), model(**inputs).loss)


def test_gradient_checkpointing_changes_no_gradient(config, lively, batch, enable_checkpointing):
    model = lively(config()).train()
    inputs = batch(model.config)
    gradients = []
    for enable in (False, True):
        if enable:
            enable_checkpointing(model)
            assert model.encoder.h[0].gradient_checkpointing
        model.zero_grad()
        torch.manual_seed(0)  # the dropout is drawn again in the second pass
        model(**inputs).loss.backward()
        gradients.append(model.encoder.h[0].attn.c_attn.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_compiles_without_a_graph_break(config, lively, batch):
    model = lively(config(sliding_attention=3))
    inputs = batch(model.config)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**inputs).loss, model(**inputs).loss)
    model.train()  # with dropout
    compiled(**inputs).loss.backward()
    assert torch.isfinite(model.embed_state.weight.grad).all()


def test_dropout_follows_the_seed_and_every_layer_has_it(config, lively, batch):
    inputs = batch(config())
    for place in ("embd_pdrop", "attn_pdrop", "resid_pdrop"):
        model = lively(config(**({"embd_pdrop": 0, "attn_pdrop": 0, "resid_pdrop": 0} | {place: 0.5}))).train()
        losses = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            losses.append(model(**inputs).loss.item())
        assert losses[0] == losses[1] != losses[2]


def test_bfloat16_autocast_stays_close(config, lively, batch):
    model = lively(config())
    inputs = batch(model.config)
    exact = model(**inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(**inputs)
    assert rounded.loss.dtype == torch.float32
    torch.testing.assert_close(rounded.loss, exact.loss, rtol=0.05, atol=0)


def test_lora_adapts_the_projections_of_every_layer_the_last_included(config, lively, batch):
    from peft import LoraConfig, get_peft_model

    model = lively(config())
    inputs = batch(model.config)
    before = model(**inputs).action_preds
    adapted = get_peft_model(model, LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, r=2, lora_alpha=8))
    torch.testing.assert_close(adapted(**inputs).action_preds, before)
    last = model.encoder.h[-1].attn.c_attn
    torch.nn.init.normal_(last.lora_B["default"].weight)
    full = adapted(**inputs, actions_only=False).action_preds
    assert not torch.allclose(full, before, atol=1e-3)
    torch.testing.assert_close(
        adapted(**inputs, actions_only=True).action_preds[real_steps(inputs)], full[real_steps(inputs)]
    )
    adapted(**inputs).loss.backward()
    assert last.lora_A["default"].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("actions_only", [False, True])
def test_sliding_attention_sees_as_many_steps_at_every_layer(config, lively, batch, actions_only):
    model = lively(config(sliding_attention=2))  # three layers of two steps: an action sees three steps back
    inputs = batch(model.config, padding=(0,))
    before = model(**inputs, actions_only=actions_only).action_preds
    changed = inputs | {"states": inputs["states"].clone()}
    changed["states"][0, 2] += 1
    moved = (model(**changed, actions_only=actions_only).action_preds - before).abs().amax(-1)[0]
    assert (moved[:2] == 0).all() and (moved[2:6] > 0).all() and (moved[6:] == 0).all()


def test_sliding_attention_does_not_matter_within_its_reach(config, lively, batch):
    model = lively(config(sliding_attention=8))
    inputs = batch(model.config)
    torch.testing.assert_close(
        model(**inputs).action_preds[real_steps(inputs)],
        stock_of(model)(**inputs).action_preds[real_steps(inputs)],
        rtol=0,
        atol=1e-5,
    )


def test_images_become_states_of_the_stock_model(config, lively):
    model = lively(config(image_shape=[3, 12, 10], state_dim=32 * 4 * 3))
    torch.manual_seed(0)
    images = torch.randint(0, 256, (2, 4, 3, 12, 10), dtype=torch.uint8)
    rest = {"actions": torch.zeros(2, 4, 3), "returns_to_go": torch.ones(2, 4, 1)}
    rest["timesteps"] = torch.arange(4).expand(2, 4)
    output = model(images, **rest)
    output.loss.backward()
    assert model.image_encoder[0].weight.grad.abs().sum() > 0
    stock = DecisionTransformerModel(model.config)
    unknown = stock.load_state_dict(model.state_dict(), strict=False)
    assert all(name.startswith("image_encoder") for name in unknown.unexpected_keys) and not unknown.missing_keys
    expected = stock.eval()(model.image_encoder(images), **rest).action_preds
    torch.testing.assert_close(output.action_preds, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(output.action_preds, model(images.flip(0), **rest).action_preds, atol=1e-3)


def test_large_images_pass_through_the_network_of_the_atari_experiments(config):
    model = TrainableDT(config(image_shape=[4, 84, 84], state_dim=3136))
    kernels = [tuple(layer.weight.shape) for layer in model.image_encoder if hasattr(layer, "weight")]
    assert kernels == [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3)]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"action_groups": [2, 2]}, "sum to 4, act_dim is 3"),
        ({"action_groups": [3]}, "action_tanh=False"),
        ({"sliding_attention": 0}, "number of steps >= 1"),
        ({"image_shape": [3, 12, 10]}, "give 384 features"),
        ({"image_shape": [3, 4, 10]}, "below 5 pixels"),
        ({"image_shape": [3, 12, 10], "state_dim": 384, "state_loss_weight": 1.0}, "vector observations"),
    ],
)
def test_a_contradictory_config_is_refused(config, keys, message):
    with pytest.raises(ValueError, match=message):
        TrainableDT(config(**keys))
