"""The actor against the model applied, step by step, to the history of each episode."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from transformers import DecisionTransformerModel

from hf_seqrl import DecisionTransformerProcessor
from hf_seqrl.data.spaces import encode_actions, space_to_dict
from hf_seqrl.models.decision_transformer import acting
from hf_seqrl.models.decision_transformer import acting_weights as precision
from hf_seqrl.models.decision_transformer.acting import DecisionTransformerActor

STEPS = 17


def processor_for(discrete, **changes):
    arguments = {
        "observation_space": space_to_dict(Box(-9, 9, (5,))),
        "action_space": space_to_dict(Discrete(3, start=4) if discrete else Box(-1, 1, (3,))),
        "state_mean": np.linspace(-1, 1, 5),
        "state_std": np.linspace(0.5, 2, 5),
        "return_scale": 100.0,
        "context_length": 5,
        "target_returns": [300.0, 100.0],
        "discount": 0.98,
    }
    return DecisionTransformerProcessor(**(arguments | changes))


@pytest.fixture
def play():
    """Random observations and rewards `(4, STEPS, ...)` that do not depend on the actions."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, STEPS, 5)), rng.normal(size=(4, STEPS)) * 30


def acted(actor, observations, rewards):
    """The actions `(episodes, steps, ...)` of episodes side by side."""
    actions = []
    for step in range(observations.shape[1]):
        actions.append(actor.act(observations[:, step]))
        actor.observe(rewards[:, step], np.zeros(len(rewards), bool))
    return np.stack(actions, axis=1)


@torch.no_grad()
def by_whole_forwards(model, processor, observations, rewards, target, actions):
    """What `model` predicts when it is given at every step all that came before, in one forward pass: the last
    `context_length` steps, or under sliding attention the whole episode."""
    predictions, togo, history = [], target, []
    encoded = encode_actions(processor.action_space, actions)
    for step in range(len(observations)):
        history.append(togo)
        first = 0 if model.config.sliding_attention else max(0, step + 1 - processor.context_length)
        now = slice(first, step + 1)
        done = np.concatenate([encoded[first:step], np.zeros((1, encoded.shape[1]), np.float32)])
        output = model(
            states=torch.from_numpy(processor.normalize_states(observations[now])[None]),
            actions=torch.from_numpy(done[None]),
            returns_to_go=torch.tensor(history[now], dtype=torch.float32)[None, :, None] / processor.return_scale,
            timesteps=torch.arange(first, step + 1)[None].clamp(max=model.config.max_ep_len - 1),
        )
        predictions.append(output.action_preds[0, -1].numpy())
        togo = (togo - rewards[step]) / processor.discount
    return np.stack(predictions)


@pytest.mark.parametrize("sliding", [None, 5])
@pytest.mark.parametrize(("n_layer", "n_head"), [(3, 1), (2, 2), (3, 4), (1, 1)])
def test_actions_are_those_of_forwards_over_the_history(config, lively, play, sliding, n_layer, n_head):
    model = lively(config(n_layer=n_layer, n_head=n_head, sliding_attention=sliding))
    processor = processor_for(discrete=False)
    actor = DecisionTransformerActor(model, processor)
    actor.reset(4, target_return=np.array([300.0, 200.0, 100.0, 0.0]))
    actions = acted(actor, *play)
    assert actions.shape == (4, STEPS, 3) and actions.std() > 0.05
    for episode, target in enumerate((300.0, 200.0, 100.0, 0.0)):
        expected = by_whole_forwards(model, processor, play[0][episode], play[1][episode], target, actions[episode])
        np.testing.assert_allclose(actions[episode], expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    "sliding", [None, STEPS]
)  # which hides nothing of an episode, so that the stock model can tell
def test_behind_the_longest_episode_actions_are_those_of_the_stock_model(config, lively, play, sliding):
    model = lively(config(max_ep_len=6, sliding_attention=sliding))
    stock = DecisionTransformerModel(model.config).eval()
    stock.load_state_dict(model.state_dict())
    processor = processor_for(discrete=False)
    actor = DecisionTransformerActor(model, processor)
    actor.reset(4)
    actions = acted(actor, *play)
    for episode in range(4):
        expected = by_whole_forwards(stock, processor, play[0][episode], play[1][episode], 300.0, actions[episode])
        np.testing.assert_allclose(actions[episode], expected, rtol=0, atol=5e-6)


def test_the_cache_equals_one_forward_over_the_whole_episode(config, lively, play):
    model = lively(config(sliding_attention=3))
    processor = processor_for(discrete=False, discount=1.0)
    actor = DecisionTransformerActor(model, processor)
    actor.reset(4)
    actions = acted(actor, *play)
    togo = 300.0 - np.concatenate([np.zeros((4, 1)), play[1].cumsum(axis=1)[:, :-1]], axis=1)
    with torch.no_grad():
        output = model(
            states=torch.from_numpy(processor.normalize_states(play[0])),
            actions=torch.from_numpy(actions),
            returns_to_go=torch.from_numpy(processor.scale_returns(togo[..., None])),
            timesteps=torch.arange(STEPS).expand(4, -1),
        )
    np.testing.assert_allclose(actions, output.action_preds.numpy(), rtol=0, atol=5e-6)


@pytest.mark.parametrize("sliding", [None, 5])
@pytest.mark.parametrize(("discrete", "n_head"), [(False, 1), (False, 4), (True, 1)])
def test_an_episode_is_the_same_to_the_last_bit_whoever_runs_beside_it(
    config, lively, play, sliding, discrete, n_head
):
    keys = {"action_groups": [3], "action_tanh": False} if discrete else {}
    model = lively(config(sliding_attention=sliding, n_head=n_head, **keys))
    actor = DecisionTransformerActor(model, processor_for(discrete))
    actor.reset(4)
    together = acted(actor, *play)
    for episode in range(4):
        actor.reset(1)
        alone = acted(actor, *(part[episode : episode + 1] for part in play))
        np.testing.assert_array_equal(alone[0], together[episode])


@pytest.mark.parametrize("sliding", [None, 5])
def test_an_episode_forgets_the_one_before_it(config, lively, play, sliding):
    actor = DecisionTransformerActor(lively(config(sliding_attention=sliding)), processor_for(discrete=False))
    actor.reset(4)
    fresh = acted(actor, *play)
    actor.reset(4, target_return=50.0)
    for step in range(9):
        actor.act(play[0][:, -step])
        actor.observe(play[1][:, -step], np.array([step == 8, step == 2, False, False]))
    actor.restart(np.array([0, 1, 2, 3]), target_return=300.0)
    np.testing.assert_array_equal(acted(actor, *play), fresh)


@pytest.mark.parametrize("sliding", [None, 5])
def test_selected_episodes_go_on_in_the_new_order(config, lively, play, sliding):
    actor = DecisionTransformerActor(lively(config(sliding_attention=sliding)), processor_for(discrete=False))
    actor.reset(4)
    all_of_them = acted(actor, *play)
    actor.reset(4)
    acted(actor, *(part[:, :7] for part in play))
    actor.select(np.array([3, 1]))
    rest = acted(actor, *(part[[3, 1], 7:] for part in play))
    np.testing.assert_array_equal(rest, all_of_them[[3, 1], 7:])


def test_the_default_target_is_the_first_of_the_processor(config, lively, play):
    model = lively(config())
    actor = DecisionTransformerActor(model, processor_for(discrete=False))
    actor.reset(4)
    default = acted(actor, *play)
    actor.reset(4, target_return=300.0)
    np.testing.assert_array_equal(acted(actor, *play), default)
    with pytest.raises(ValueError, match="has no target_returns"):
        DecisionTransformerActor(model, processor_for(discrete=False, target_returns=[])).reset(1)


def test_weights_are_read_anew_at_every_reset_and_the_model_is_left_in_its_mode(config, lively, play):
    model = lively(config()).train()
    actor = DecisionTransformerActor(model, processor_for(discrete=False))
    actor.reset(4)
    before = acted(actor, *play)
    assert model.training
    with torch.no_grad():
        model.predict_action[0].bias += 0.5
    actor.reset(4)
    assert np.abs(acted(actor, *play) - before).max() > 1e-2


def test_discrete_actions_are_the_likeliest_in_the_environment_s_numbers(config, lively, play):
    model = lively(config(action_groups=[3], action_tanh=False))
    processor = processor_for(discrete=True)
    actor = DecisionTransformerActor(model, processor)
    actor.reset(4)
    actions = acted(actor, *play)
    assert set(np.unique(actions)) <= {4, 5, 6} and len(np.unique(actions)) > 1
    logits = by_whole_forwards(model, processor, play[0][2], play[1][2], 300.0, actions[2])
    np.testing.assert_array_equal(actions[2], logits.argmax(-1) + 4)


def test_sampling_belongs_to_the_seed_of_the_episode(config, lively, play):
    model = lively(config(action_groups=[3], action_tanh=False))
    actor = DecisionTransformerActor(model, processor_for(discrete=True), temperature=2.0)
    actor.reset(4, seed=np.array([7, 8, 9, 10]))
    together = acted(actor, *play)
    actor.reset(1, seed=np.array([9]))
    np.testing.assert_array_equal(acted(actor, play[0][2:3], play[1][2:3])[0], together[2])
    actor.reset(4, seed=np.array([1, 2, 3, 4]))
    assert (acted(actor, *play) != together).any()


def test_a_temperature_samples_the_softmax(config, lively):
    model = lively(config(action_groups=[3], action_tanh=False, n_layer=1))
    with torch.no_grad():
        model.predict_action[0].weight.zero_()
        model.predict_action[0].bias.copy_(2 * torch.log(torch.tensor([0.5, 0.3, 0.2])))
    actor = DecisionTransformerActor(model, processor_for(discrete=True), temperature=2.0)
    actor.reset(2000, seed=0)
    drawn = acted(actor, np.zeros((2000, 10, 5)), np.zeros((2000, 10))) - 4
    np.testing.assert_allclose(np.bincount(drawn.ravel()) / drawn.size, [0.5, 0.3, 0.2], atol=0.015)
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.07


def test_a_context_of_a_thousand_steps_acts(config, lively, play):
    model = lively(config(hidden_size=8, n_head=1, n_layer=2, max_ep_len=2000))
    actor = DecisionTransformerActor(model, processor_for(discrete=False, context_length=1000))
    history = [{"observations": np.zeros((1003, 5)), "actions": np.zeros((1003, 3)), "rewards": np.zeros(1003)}] * 2
    actor.reset(2, history=[history[0], {name: values[:5] for name, values in history[1].items()}])
    assert np.isfinite(actor.act(play[0][:2, 0])).all()


def test_masks_are_the_same_whether_they_are_kept_or_made_anew(monkeypatch, config, lively, play):
    actor = DecisionTransformerActor(lively(config()), processor_for(discrete=False))
    actor.reset(4)
    kept = acted(actor, *play)
    monkeypatch.setattr(acting, "_MOST_MASK_NUMBERS", 1)
    actor.reset(4)
    np.testing.assert_array_equal(acted(actor, *play), kept)


def test_temperature_is_for_discrete_actions(config, lively):
    with pytest.raises(ValueError, match="discrete actions"):
        DecisionTransformerActor(lively(config()), processor_for(discrete=False), temperature=1.0)


def test_other_precisions_and_types_stay_close(config, lively, play):
    model = lively(config())
    actor = DecisionTransformerActor(model, processor_for(discrete=False))
    actor.reset(4)
    expected = acted(actor, *play)
    actor = DecisionTransformerActor(model, processor_for(discrete=False), dtype="bfloat16")
    actor.reset(4)
    rounded = acted(actor, *play)
    assert 0 < np.abs(rounded[:, 0] - expected[:, 0]).max() < 0.1


def test_a_precision_that_rounds_is_refused(monkeypatch):
    errors = {"highest": 1e-7, "medium": 1e-3, "high": 2e-7}
    monkeypatch.setattr(precision, "_rounding_error", lambda name, device: errors[name])
    with pytest.raises(ValueError, match=r'"medium" rounds to 1\.0e-03 on this machine'):
        precision.require_exact("medium", torch.device("cpu"))
    precision.require_exact("high", torch.device("cpu"))
    with pytest.raises(ValueError, match="expected one of highest, high, medium"):
        precision.require_exact("fast", torch.device("cpu"))


def test_the_precision_of_the_process_is_left_as_it_was():
    before = torch.get_float32_matmul_precision()
    with precision.matmul_precision("medium"):
        assert torch.get_float32_matmul_precision() == "medium"
    assert torch.get_float32_matmul_precision() == before


def test_adapters_act_without_being_merged(config, lively, play):
    from peft import LoraConfig, get_peft_model

    model = lively(config())
    adapted = get_peft_model(model, LoraConfig(target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, r=2))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    processor = processor_for(discrete=False)
    actor = DecisionTransformerActor(adapted, processor)
    actor.reset(4)
    actions = acted(actor, *play)
    expected = by_whole_forwards(adapted.eval(), processor, play[0][0], play[1][0], 300.0, actions[0])
    np.testing.assert_allclose(actions[0], expected, rtol=0, atol=1e-5)


def test_image_observations(config, lively):
    shape = (8, 9, 3)
    processor = processor_for(
        discrete=True, observation_space=space_to_dict(Box(0, 255, shape, np.uint8)), state_mean=None, state_std=None
    )
    model = lively(processor.model_config(hidden_size=32, n_layer=2))
    actor = DecisionTransformerActor(model, processor)
    images = np.random.default_rng(0).integers(0, 256, (2, 6, *shape), dtype=np.uint8)
    actor.reset(2)
    actions = acted(actor, images, np.zeros((2, 6)))
    logits = by_whole_forwards(model, processor, images[1], np.zeros(6), 300.0, actions[1])
    np.testing.assert_array_equal(actions[1], logits.argmax(-1) + 4)
