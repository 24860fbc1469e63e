"""The policy network's distributions are those of torch, and its loss is REINFORCE's."""

import json

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import save_file
from torch.distributions import Categorical, Normal
from torch.utils import _pytree
from transformers import AutoModel

from hf_seqrl import PolicyGradientConfig, PolicyGradientModel

HEADS = {
    "Discrete": {"action_size": 3},
    "MultiDiscrete": {"action_size": 5, "num_choices": [2, 3]},
    "Box": {"action_size": 2, "num_choices": []},
}


def make_model(head, **fields):
    torch.manual_seed(0)
    model = PolicyGradientModel(PolicyGradientConfig(observation_size=4, hidden_size=16, **HEADS[head], **fields))
    torch.nn.init.normal_(model.policy[-1].weight)  # far from uniform
    return model.eval()


def draw(model, batch):
    """Observations and actions for them."""
    generator = torch.Generator().manual_seed(1)
    observations = torch.randn(batch, 4, generator=generator)
    noise = torch.rand(batch, model.noise_size, generator=generator)
    return observations, model.sample(model(observations).logits, noise).detach()


def reference(model, logits, actions):
    """Log-probability and entropy by torch's own distributions."""
    if not model.config.num_choices:
        normal = Normal(logits, model.log_std.exp())
        return normal.log_prob(actions).sum(-1), normal.entropy().sum(-1)
    sizes = model.config.num_choices
    parts = [Categorical(logits=part) for part in logits.split(sizes, dim=-1)]
    chosen = [one_hot.argmax(-1) for one_hot in actions.split(sizes, dim=-1)]
    log_probs = sum(part.log_prob(choice) for part, choice in zip(parts, chosen))
    return log_probs, sum(part.entropy() for part in parts)


@pytest.mark.parametrize("head", HEADS)
def test_log_probabilities_and_entropy_are_those_of_torch(head):
    model = make_model(head)
    observations, actions = draw(model, 50)
    output = model(observations, actions)
    log_probs, entropy = reference(model, output.logits, actions)
    torch.testing.assert_close(output.log_probs, log_probs)
    torch.testing.assert_close(output.entropy, entropy.expand(50))


@pytest.mark.parametrize("head", ["Discrete", "MultiDiscrete"])
def test_choices_are_drawn_as_often_as_the_policy_says(head):
    model = make_model(head)
    logits = model(torch.ones(1, 4)).logits.detach()
    noise = torch.rand(40_000, len(model.config.num_choices), generator=torch.Generator().manual_seed(0))
    actions = model.sample(logits.expand(len(noise), -1), noise)
    for k, part in enumerate(logits.split(model.config.num_choices, dim=-1)):
        frequencies = actions.split(model.config.num_choices, dim=-1)[k].mean(0)
        torch.testing.assert_close(frequencies, part.softmax(-1)[0], atol=0.01, rtol=0)


def test_box_actions_have_the_learned_deviation_around_the_mean():
    model = make_model("Box", initial_log_std=-1.0)
    logits = model(torch.ones(1, 4)).logits.detach().expand(40_000, -1)
    actions = model.sample(logits, torch.rand(40_000, 2, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(actions.mean(0), logits[0], atol=0.01, rtol=0)
    torch.testing.assert_close(actions.std(0), torch.full((2,), np.exp(-1.0)).float(), atol=0.01, rtol=0)


@pytest.mark.parametrize("noise", [0.0, 1.0 - 2.0**-24])
def test_extreme_noise_still_picks_one_choice_of_each_component(noise):
    model = make_model("MultiDiscrete")
    actions = model.sample(torch.full((1, 5), 30.0), torch.full((1, 2), noise))
    assert [part.sum().item() for part in actions.split([2, 3], dim=-1)] == [1.0, 1.0]


def test_choices_may_be_given_as_integers():
    model = make_model("MultiDiscrete")
    observations, actions = draw(model, 6)
    integers = torch.stack([part.argmax(-1) for part in actions.split([2, 3], dim=-1)], dim=-1)
    torch.testing.assert_close(model(observations, integers).log_probs, model(observations, actions).log_probs)


@pytest.mark.parametrize("head", HEADS)
def test_the_gradient_is_that_of_reinforce(head):
    model = make_model(head, entropy_coef=0.0, use_baseline=False)
    observations, actions = draw(model, 8)
    advantages = torch.linspace(-1, 1, 8)
    model(observations, actions, advantages).loss.backward()
    ours = model.policy[0].weight.grad.clone()
    expected = torch.zeros_like(ours)
    for observation, action, advantage in zip(observations, actions, advantages, strict=True):
        model.zero_grad()
        log_prob, _ = reference(model, model(observation[None]).logits, action[None])
        log_prob.backward()
        expected -= advantage * model.policy[0].weight.grad / 8
    torch.testing.assert_close(ours, expected)


def test_the_entropy_bonus_and_the_baseline_enter_with_their_weights():
    losses = {}
    for entropy_coef, baseline_coef in [(0.0, 0.0), (0.5, 0.0), (0.0, 2.0)]:
        model = make_model("Discrete", entropy_coef=entropy_coef, baseline_coef=baseline_coef)
        observations, actions = draw(model, 8)
        output = model(observations, actions, torch.ones(8), returns=torch.zeros(8))
        losses[entropy_coef, baseline_coef] = output.loss
    plain = losses[0.0, 0.0]
    torch.testing.assert_close(losses[0.5, 0.0], plain - 0.5 * output.entropy.mean())
    torch.testing.assert_close(losses[0.0, 2.0], plain + 2 * (output.state_values**2).mean())


def test_the_parts_of_an_update_add_up_to_the_whole():
    model = make_model("MultiDiscrete")
    observations, actions = draw(model, 10)
    whole = model(observations, actions, torch.ones(10), torch.ones(10)).loss
    parts = [
        model(
            observations[rows], actions[rows], torch.ones(10)[rows], torch.ones(10)[rows], num_items_in_batch=10
        ).loss
        for rows in (slice(0, 3), slice(3, 10))
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_without_advantages_the_loss_is_the_cross_entropy_of_behavior_cloning():
    model = make_model("Discrete", entropy_coef=0.0)
    observations, actions = draw(model, 10)
    expected = torch.nn.functional.cross_entropy(model(observations).logits, actions.argmax(-1))
    torch.testing.assert_close(model(observations, actions).loss, expected)


@pytest.mark.parametrize("head", HEADS)
def test_a_fresh_policy_prefers_no_action(head):
    torch.manual_seed(0)
    model = PolicyGradientModel(PolicyGradientConfig(observation_size=4, **HEADS[head]))
    assert model(torch.randn(100, 4)).logits.abs().max() < 0.1


@pytest.mark.parametrize("head", HEADS)
def test_loaded_equals_saved(head, tmp_path):
    model = make_model(head)
    observations, actions = draw(model, 5)
    model.save_pretrained(tmp_path)
    loaded = PolicyGradientModel.from_pretrained(tmp_path)
    for name, value in model(observations, actions, torch.ones(5)).items():
        torch.testing.assert_close(loaded(observations, actions, torch.ones(5))[name], value)


def test_old_weights_under_the_same_names_act_as_they_did(tmp_path):
    """The keys and the arithmetic of checkpoints from before the network could have layer norms."""
    config = {"model_type": "policy_gradient", "observation_size": 4, "num_choices": [2], "action_size": 2}
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 8, "num_hidden_layers": 1}))
    generator = torch.Generator().manual_seed(3)
    shapes = {"0.weight": (8, 4), "0.bias": (8,), "2.weight": (2, 8), "2.bias": (2,)}
    weights = {f"policy.{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    shapes |= {"2.weight": (1, 8), "2.bias": (1,)}
    weights |= {f"baseline.{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(weights, tmp_path / "model.safetensors")
    observations = torch.randn(5, 4, generator=generator)
    output = PolicyGradientModel.from_pretrained(tmp_path)(observations)
    hidden = torch.tanh(observations @ weights["policy.0.weight"].T + weights["policy.0.bias"])
    torch.testing.assert_close(output.logits, hidden @ weights["policy.2.weight"].T + weights["policy.2.bias"])
    hidden = torch.tanh(observations @ weights["baseline.0.weight"].T + weights["baseline.0.bias"])
    expected = hidden @ weights["baseline.2.weight"].T + weights["baseline.2.bias"]
    torch.testing.assert_close(output.state_values, expected[:, 0])


def test_an_output_is_a_dictionary_for_pytree_and_export():
    model = make_model("Discrete")
    output = model(torch.zeros(2, 4))
    assert list(output.values()) == [output["logits"], output["state_values"]]
    assert len(_pytree.tree_flatten(output)[0]) == 2
    exported = torch.export.export(model, (torch.zeros(2, 4),)).module()(torch.zeros(2, 4))
    torch.testing.assert_close(exported["state_values"], output.state_values)


def test_the_old_name_of_the_state_values_warns():
    output = make_model("Discrete")(torch.ones(3, 4))
    with pytest.warns(FutureWarning, match=r"read output\.state_values"):
        assert output.values.shape == (3,)
    with pytest.warns(FutureWarning):
        torch.testing.assert_close(output.values * 2, 2 * output.state_values)
    with pytest.warns(FutureWarning):
        torch.testing.assert_close(torch.exp(output.values), output.state_values.exp())
    with pytest.warns(FutureWarning):
        assert output["values"] is output.state_values


@pytest.mark.parametrize("head", HEADS)
def test_half_precision_takes_float32_observations_and_gives_a_float32_loss(head, tmp_path):
    model = make_model(head)
    model.save_pretrained(tmp_path)
    half = PolicyGradientModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    observations, actions = draw(model, 8)
    output = half(observations, actions, torch.ones(8), torch.ones(8))
    assert half.policy[0].weight.dtype == torch.bfloat16 and output.loss.dtype == torch.float32
    torch.testing.assert_close(
        output.loss, model(observations, actions, torch.ones(8), torch.ones(8)).loss, rtol=0.05, atol=0.05
    )


def test_the_base_model_saves_the_whole_network(tmp_path):
    model = make_model("Box")
    model.base_model.save_pretrained(tmp_path)
    loaded = PolicyGradientModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(torch.ones(1, 4)).logits, model(torch.ones(1, 4)).logits)


def test_the_auto_classes_find_it(tmp_path):
    model = make_model("MultiDiscrete")
    model.save_pretrained(tmp_path)
    assert isinstance(AutoModel.from_pretrained(tmp_path), PolicyGradientModel)


def test_sizes_that_contradict_each_other_are_refused():
    with pytest.raises(StrictDataclassClassValidationError, match="add up to 4, action_size is 5"):
        PolicyGradientConfig(action_size=5, num_choices=[2, 2])
