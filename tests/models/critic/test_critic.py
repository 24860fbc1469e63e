"""Values learned from transitions, against dynamic programming and against algebra."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch.nn import functional
from transformers import AutoModel, Trainer, TrainingArguments, set_seed

from hf_seqrl import Agent, load_trajectories, train_agent
from hf_seqrl.models.critic import FAMILY, CriticConfig, CriticModel, CriticOptions, CriticProcessor, prepare
from hf_seqrl.models.critic.advantages import action_values, advantage_weights, step_advantages
from hf_seqrl.models.critic.modeling_critic import EnsembleLayerNorm, EnsembleLinear
from hf_seqrl.models.critic.processing_critic import CriticDataCollator, Transitions
from hf_seqrl.models.critic.training import TRAINING_DEFAULTS, prepare_fitted_q_evaluation

# A chain of four states: action 1 goes right and action 0 left; leaving the last state to the right ends the episode.
STATES, DISCOUNT, RIGHT = 4, 0.9, 0.6


def step(state, action):
    """Next state, reward, whether the episode terminates."""
    if state == STATES - 1 and action:
        return state, 10.0, True
    return max(state - 1, 0) if not action else state + 1, -1.0, False


def true_values(policy=None):
    """Q `(states, actions)` and V `(states,)` of taking the right action with probability `policy(state)`; the optimal ones
    without one."""
    values = np.zeros(STATES)
    for _ in range(500):
        q = np.zeros((STATES, 2))
        for state in range(STATES):
            for action in (0, 1):
                following, reward, terminated = step(state, action)
                q[state, action] = reward + DISCOUNT * (0 if terminated else values[following])
        share = None if policy is None else np.array([policy(state) for state in range(STATES)])
        values = q.max(1) if share is None else (1 - share) * q[:, 0] + share * q[:, 1]
    return q, values


@pytest.fixture(scope="module")
def chain():
    """Episodes of a policy that goes right with probability `RIGHT`, cut after 12 steps."""
    generator = np.random.default_rng(0)
    names = ("observations", "actions", "rewards", "terminations")
    columns = {name: [] for name in names}
    for _ in range(250):
        state, episode = int(generator.integers(STATES)), []
        for _ in range(12):
            action = int(generator.random() < RIGHT)
            following, reward, terminated = step(state, action)
            episode.append((np.eye(STATES)[state], action, reward, terminated))
            state = following
            if terminated:
                break
        for name, values in zip(names, zip(*episode)):
            columns[name].append(list(values))
    return load_trajectories(columns, action_space=Discrete(2))


def train(prepared, folder, **arguments):
    settings = {"max_steps": 400, "learning_rate": 5e-3, "per_device_train_batch_size": 256, "save_strategy": "no"}
    settings |= {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "logging_strategy": "no"}
    training_arguments = TrainingArguments(str(folder), **{**TRAINING_DEFAULTS, **settings, **arguments})
    trainer = Trainer(
        prepared.model,
        training_arguments,
        prepared.data_collator,
        prepared.train_dataset,
        processing_class=prepared.processor,
        **prepared.trainer_arguments,
    )
    trainer.train()
    return prepared.model.eval(), prepared.processor


def options(**fields):
    return CriticOptions(**{"discount": DISCOUNT, "hidden_size": 32, "target_update": 0.2, **fields})


@torch.no_grad()
def learned(model, processor):
    states = np.eye(STATES, dtype=np.float32)
    q = np.stack([action_values(model, processor, states, np.full(STATES, action)) for action in (0, 1)], axis=1)
    observed = torch.from_numpy(processor.encode_observations(states))
    return q, None if model.v is None else model.state_values(observed).numpy()


def test_the_expectile_one_half_gives_the_values_of_the_policy_behind_the_data(chain, tmp_path):
    set_seed(0)
    q, values = learned(*train(prepare(chain, options(expectile=0.5)), tmp_path))
    expected_q, expected = true_values(lambda state: RIGHT)
    np.testing.assert_allclose(values, expected, atol=0.5)
    np.testing.assert_allclose(q, expected_q, atol=0.5)


def test_a_high_expectile_gives_nearly_the_values_of_the_best_policy(chain, tmp_path):
    set_seed(0)
    _, values = learned(*train(prepare(chain, options(expectile=0.98)), tmp_path))
    np.testing.assert_allclose(values, true_values()[1], atol=0.5)
    assert (values - true_values(lambda state: RIGHT)[1] > 1).all()


@pytest.mark.parametrize("action", [0, 1])
def test_fitted_q_evaluation_gives_the_values_of_another_policy(chain, tmp_path, action):
    """Always right, whose episodes terminate, and always left, whose episodes never do."""
    set_seed(0)
    steps = sum(map(len, chain["rewards"]))
    config = {"hidden_size": 32, "target_update": 0.2}
    prepared = prepare_fitted_q_evaluation(chain, np.full(steps, action), discount=DISCOUNT, **config)
    q, _ = learned(*train(prepared, tmp_path))
    np.testing.assert_allclose(q, true_values(lambda state: action)[0], atol=0.6)


def two_episodes():
    """One that terminates and one that is truncated, of two steps each."""
    return load_trajectories(
        {
            "observations": [[[1.0], [2.0]], [[3.0], [4.0]]],
            "actions": [[[0.1], [0.2]], [[0.3], [0.4]]],
            "rewards": [[1.0, 2.0], [3.0, 4.0]],
            "terminations": [[False, True], [False, False]],
        }
    )


def test_the_end_of_a_truncated_episode_teaches_nothing_and_that_of_a_terminated_one_does():
    batch = Transitions(two_episodes()).gather([0, 1, 2, 3])
    assert batch["weights"].tolist() == [1.0, 1.0, 1.0, 0.0]
    assert batch["terminations"].tolist() == [False, True, False, False]
    assert batch["next_observations"][[0, 2], 0].tolist() == [2.0, 4.0]


def test_targets_end_with_termination_and_not_with_truncation():
    model = CriticModel(CriticConfig(discount=0.5))
    rewards, values = torch.tensor([1.0, 1.0]), torch.tensor([10.0, 10.0])
    assert model.bellman_targets(rewards, values, torch.tensor([True, False])).tolist() == [1.0, 6.0]


@pytest.mark.parametrize("method", ["iql", "fqe"])
def test_weights_of_zero_take_no_part_in_the_loss(method):
    dataset = two_episodes()
    processor = CriticProcessor.from_dataset(dataset)
    torch.manual_seed(0)
    model = CriticModel(processor.model_config(method=method))
    transitions = Transitions(dataset, np.full((4, 1), 0.5) if method == "fqe" else None)
    collate = CriticDataCollator(processor)
    losses = [model(**collate([transitions[step] for step in steps])).loss for steps in ([0, 1, 2, 3], [0, 1, 2])]
    torch.testing.assert_close(*losses)


def one_by_one(ensemble, inputs):
    """The outputs `(batch,)` of each network, by the layers of torch."""
    for index in range(len(ensemble[0].weight)):
        states = inputs
        for layer in ensemble:
            if isinstance(layer, EnsembleLinear):
                states = functional.linear(states, layer.weight[index].T, layer.bias[index, 0])
            elif isinstance(layer, EnsembleLayerNorm):
                states = functional.layer_norm(states, states.shape[-1:], layer.weight[index, 0], layer.bias[index, 0])
            else:
                states = states.relu()
        yield states[:, 0]


def test_the_networks_of_an_ensemble_differ_and_each_is_what_it_would_be_alone():
    torch.manual_seed(0)
    model = CriticModel(CriticConfig(num_critics=3, hidden_size=16))
    first = model.q[0].weight.detach().clone()
    torch.testing.assert_close(first @ first.mT, 2 * torch.eye(6).expand(3, 6, 6))  # orthogonal, gain sqrt(2)
    with torch.no_grad():
        for parameter in model.q.parameters():
            parameter += torch.randn_like(parameter)
    observations, actions = torch.randn(5, 4), torch.randn(5, 2)
    expected = torch.stack(list(one_by_one(model.q, torch.cat([observations, actions], -1))), -1)
    torch.testing.assert_close(model.q_values(observations, actions), expected)
    assert expected.std(-1).min() > 1e-2


def test_each_network_of_fitted_q_evaluation_learns_from_its_own_episodes_and_its_own_target():
    dataset = two_episodes()
    processor = CriticProcessor.from_dataset(dataset, discount=0.8)
    torch.manual_seed(0)
    model = CriticModel(processor.model_config(method="fqe", num_critics=2))
    actions = np.array([[[0.5], [0.7]]] * 4)  # two draws a step
    batch = CriticDataCollator(processor)(
        Transitions(dataset, actions, np.array([[2.0, 0.0], [0.0, 3.0]])).gather([0, 1, 2, 3])
    )
    assert batch["weights"].tolist() == [[2, 0], [2, 0], [0, 3], [0, 0]]
    seen, taken, following, drawn = (
        batch[name] for name in ("observations", "actions", "next_observations", "next_actions")
    )
    shift, scale = model.config.value_shift, model.config.value_scale
    q = [shift + scale * one for one in one_by_one(model.q, torch.cat([seen, taken], -1))]
    targets = [
        batch["rewards"]
        + 0.8
        * ~batch["terminations"]
        * torch.stack([model.q_values(following, drawn[:, k])[:, index] for k in range(2)]).mean(0)
        for index in range(2)
    ]
    errors = [((one - target) / model.config.value_scale) ** 2 for one, target in zip(q, targets)]
    expected = errors[0][:2].mean() + errors[1][2]
    torch.testing.assert_close(model(**batch).loss, expected)


def test_the_loss_is_that_of_implicit_q_learning():
    torch.manual_seed(0)
    model = CriticModel(CriticConfig(expectile=0.9, discount=0.8, num_critics=2, value_shift=3.0, value_scale=2.0))
    observations, following = torch.randn(5, 4), torch.randn(5, 4)
    actions, rewards, ends = torch.randn(5, 2), torch.randn(5), torch.tensor([0, 1, 0, 0, 1]).bool()
    loss = model(observations, actions, rewards, following, terminations=ends).loss
    inputs = torch.cat([observations, actions], -1)
    q = [3 + 2 * one for one in one_by_one(model.q, inputs)]
    value, next_value = (3 + 2 * model.v(one)[:, 0] for one in (observations, following))
    target = rewards + 0.8 * next_value * ~ends
    shortfall = torch.minimum(*q) - value  # the target networks are still copies
    expected = sum(((one - target) / 2) ** 2 for one in q)
    expected = expected + torch.where(shortfall > 0, 0.9, 0.1) * (shortfall / 2) ** 2
    torch.testing.assert_close(loss, expected.mean())


def test_target_networks_follow_by_their_share_and_take_no_gradient():
    model = CriticModel(CriticConfig(target_update=0.25))
    with torch.no_grad():
        for parameter in model.q.parameters():
            parameter += 1.0
    before = [parameter.clone() for parameter in model.target_q.parameters()]
    model.update_targets()
    for target, old in zip(model.target_q.parameters(), before):
        torch.testing.assert_close(target, old + 0.25)
        assert not target.requires_grad


@pytest.mark.parametrize(
    "space", [Discrete(3), MultiDiscrete([2, 3]), Box(-1, 1, (2,))], ids=lambda space: type(space).__name__
)
def test_it_takes_every_kind_of_action_and_is_what_was_saved(space, tmp_path):
    space.seed(0)
    generator = np.random.default_rng(0)
    columns = {
        "observations": [generator.normal(size=(6, 3)) for _ in range(4)],
        "actions": [np.stack([space.sample() for _ in range(6)]) for _ in range(4)],
        "rewards": [generator.normal(size=6) for _ in range(4)],
        "terminations": [[False] * 6] * 4,
    }
    dataset = load_trajectories(columns, action_space=space)
    model, processor = train(prepare(dataset, CriticOptions(hidden_size=16)), tmp_path / "run", max_steps=3)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, its_processor = AutoModel.from_pretrained(tmp_path).eval(), CriticProcessor.from_pretrained(tmp_path)
    advantages = step_advantages(model, processor, dataset)
    assert advantages.shape == (24,) and advantages.std() > 0
    np.testing.assert_array_equal(step_advantages(loaded, its_processor, dataset), advantages)


def test_a_resumed_run_equals_an_uninterrupted_one(chain, tmp_path):
    arguments = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4}
    set_seed(0)
    whole, _ = train(prepare(chain, options()), tmp_path / "whole", **arguments)
    prepared = prepare(chain, options())
    training_arguments = TrainingArguments(
        str(tmp_path / "parts"),
        **{**TRAINING_DEFAULTS, **arguments, "learning_rate": 5e-3, "per_device_train_batch_size": 256},
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(
        prepared.model,
        training_arguments,
        prepared.data_collator,
        prepared.train_dataset,
        **prepared.trainer_arguments,
    )
    trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, prepared.model.state_dict()[name]), name


def test_advantage_weights_grow_with_the_advantage_have_mean_one_and_an_upper_bound():
    advantages = np.random.default_rng(0).normal(size=10_000) * 50
    weights = advantage_weights(advantages, beta=1.0)
    assert weights.mean() == pytest.approx(1, abs=1e-5)
    order = np.argsort(advantages)
    assert (np.diff(weights[order]) >= 0).all()
    assert advantage_weights(np.array([0.0] * 999 + [1.0]), beta=9.0, largest=20.0).max() == pytest.approx(
        20, rel=0.05
    )
    np.testing.assert_array_equal(advantage_weights(advantages, beta=0.0), np.ones(10_000, np.float32))


@pytest.mark.parametrize(
    "fields",
    [{"method": "td"}, {"expectile": 1.0}, {"discount": 1.5}, {"num_critics": 0}],
    ids=lambda fields: next(iter(fields)),
)
def test_senseless_configurations_are_refused(fields):
    with pytest.raises(StrictDataclassClassValidationError, match=next(iter(fields))):
        CriticConfig(**fields)


def test_a_critic_for_fitted_q_evaluation_has_no_state_values():
    with pytest.raises(ValueError, match="ask for q_values"):
        CriticModel(CriticConfig(method="fqe")).state_values(torch.zeros(1, 4))


def test_a_trained_critic_has_a_card_loads_again_and_chooses_no_actions(tmp_path):
    arguments = TrainingArguments(
        str(tmp_path / "critic"), max_steps=2, save_strategy="no", use_cpu=True, disable_tqdm=True, report_to="none"
    )
    agent = train_agent(FAMILY, two_episodes(), CriticOptions(hidden_size=8), arguments)
    card = (tmp_path / "critic" / "README.md").read_text()
    assert "This **Critic** model" in card and "acts in" not in card and "rollout" not in card
    loaded = Agent.from_pretrained(tmp_path / "critic")
    torch.testing.assert_close(loaded.model.state_dict(), agent.model.state_dict())
    with pytest.raises(ValueError, match="a critic chooses no actions"):
        loaded.reset(1)
