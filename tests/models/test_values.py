"""Acting with a critic beside: which return to ask for, and which of several actions to take."""

import json

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from transformers import Trainer, TrainingArguments, set_seed

from hf_seqrl import Agent, load_trajectories, rollout
from hf_seqrl.models.critic import CriticOptions, CriticProcessor
from hf_seqrl.models.critic import prepare as prepare_critic
from hf_seqrl.models.critic.processing_critic import CriticDataCollator, Transitions
from hf_seqrl.models.critic.training import TRAINING_DEFAULTS
from hf_seqrl.models.decision_transformer.training import DecisionTransformerOptions, prepare
from hf_seqrl.models.values import BestOfCandidates

EPISODES, STEPS = 60, 6


class Known:
    """A critic whose values are known: an action is as good as its first entry, a state promises ten times its first entry."""

    return_discount = 1.0

    def action_values(self, observations, actions):
        return np.asarray(actions).reshape(len(actions), -1)[:, 0]

    def supported_returns(self, observations, timesteps):
        return 10 * observations[:, 0] + timesteps


@pytest.fixture(scope="module")
def dataset():
    """Episodes whose first observation says how well they can go: 0 to `1 + state` a step, by chance."""
    generator = np.random.default_rng(0)
    columns = {name: [] for name in ("observations", "actions", "rewards", "terminations")}
    for episode in range(EPISODES):
        kind = episode % 2
        columns["observations"].append(np.full((STEPS, 2), kind) + 0.01 * generator.normal(size=(STEPS, 2)))
        columns["actions"].append(generator.uniform(-1, 1, (STEPS, 1)))
        columns["rewards"].append(np.full(STEPS, generator.uniform(0, 1 + 4 * kind)))
        columns["terminations"].append([False] * (STEPS - 1) + [True])
    return load_trajectories(columns, action_space=Box(-1, 1, (1,)), max_episode_steps=STEPS)


@pytest.fixture(scope="module")
def prepared(dataset):
    torch.manual_seed(0)
    prepared = prepare(
        dataset, DecisionTransformerOptions(recipe="paper", context_length=3, hidden_size=16, n_layer=1)
    )
    with torch.no_grad():
        for parameter in prepared.model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return prepared


@pytest.fixture(scope="module")
def critic(dataset, tmp_path_factory):
    set_seed(0)
    made = prepare_critic(dataset, CriticOptions(hidden_size=32, return_expectile=0.9))
    settings = {"max_steps": 300, "learning_rate": 3e-3, "save_strategy": "no", "report_to": "none"}
    arguments = TrainingArguments(
        str(tmp_path_factory.mktemp("critic")), use_cpu=True, disable_tqdm=True, **{**TRAINING_DEFAULTS, **settings}
    )
    trainer = Trainer(made.model, arguments, made.data_collator, made.train_dataset, **made.trainer_arguments)
    trainer.train()
    return Agent(made.model, made.processor)


def test_a_critic_learns_the_expectile_of_the_returns_from_each_state_and_time(critic):
    observations = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    times = np.array([0, 0, STEPS - 2, STEPS - 2])
    # the expectile e of a uniform distribution on [0, 1]: (1 - e)^2 * 0.9 = e^2 * 0.1
    expectile = 0.9**0.5 / (0.9**0.5 + 0.1**0.5)
    expected = expectile * np.array([1, 5, 1, 5]) * np.array([STEPS, STEPS, 2, 2])
    np.testing.assert_allclose(critic.values.supported_returns(observations, times), expected, rtol=0.25, atol=0.7)


def test_the_batch_of_a_critic_holds_undiscounted_returns_and_times(dataset):
    processor = CriticProcessor.from_dataset(dataset)
    batch = CriticDataCollator(processor)([Transitions(dataset, return_discount=1.0)[STEPS + 2]])
    assert batch["times"].item() == pytest.approx(2 / STEPS)
    assert batch["returns_to_go"].item() == pytest.approx(sum(dataset[1]["rewards"][2:]), rel=1e-5)


def test_auto_asks_for_what_the_critic_supports_at_the_first_observation(prepared):
    agent = Agent(prepared.model, prepared.processor)
    agent.actor.return_estimator = Known().supported_returns
    agent.reset(2, target_return="auto")
    observations = np.array([[0.3, 0.0], [0.7, 0.0]], np.float32)
    by_auto = agent.act(observations)
    np.testing.assert_allclose(agent.returns_to_go, [3.0, 7.0], rtol=1e-6)
    agent.observe(np.array([1.0, 2.0]), np.array([False, True]))
    agent.act(observations[::-1])
    np.testing.assert_allclose(
        agent.returns_to_go, [2.0, 3.0], rtol=1e-6
    )  # the second episode of the second environment
    agent.reset(2, target_return=[3.0, 7.0])
    np.testing.assert_array_equal(agent.act(observations), by_auto)


def test_auto_without_a_critic_asks_for_a_high_return_of_the_data_and_says_so_once(dataset, prepared):
    agent = Agent(prepared.model, prepared.processor)
    returns = [sum(episode["rewards"]) for episode in dataset]
    with pytest.warns(UserWarning, match="there is no critic that knows the state") as told:
        for _ in range(2):
            agent.reset(1, target_return="auto")
            agent.act(np.zeros((1, 2), np.float32))
    assert len(told) == 1
    assert agent.returns_to_go[0] == pytest.approx(np.quantile(returns, 0.95), rel=1e-5)


def test_auto_is_for_agents_that_take_a_target(prepared, dataset):
    cloning = prepare(
        dataset, DecisionTransformerOptions(recipe="paper", context_length=3, hidden_size=16, conditioning="none")
    )
    with pytest.raises(ValueError, match="not conditioned on a return"):
        Agent(cloning.model, cloning.processor).reset(1, target_return="auto")
    with pytest.raises(ValueError, match="or 'auto'"):
        Agent(prepared.model, prepared.processor).reset(1, target_return="best")


def test_the_candidate_with_the_highest_value_is_taken(prepared):
    targets = [0.0, 10.0, 25.0]
    actors = [Agent(prepared.model, prepared.processor).actor for _ in range(4)]
    best = BestOfCandidates(actors.pop(), Known(), targets)
    for actor, target in zip(actors, targets):
        actor.reset(3, target_return=target)
    best.reset(3)
    generator = np.random.default_rng(0)
    chosen = []
    for step in range(5):
        observations, rewards = generator.normal(size=(3, 2)).astype(np.float32), generator.normal(size=3)
        proposals = np.stack([actor.act(observations) for actor in actors])
        taken = best.act(observations)
        np.testing.assert_array_equal(taken[:, 0], proposals[:, :, 0].max(axis=0))
        chosen.append(proposals[:, :, 0].argmax(axis=0))
        for actor in (*actors, best):
            actor.observe(rewards, np.array([False, step == 2, False]), taken)
    assert len(np.unique(chosen)) > 1


def test_the_best_of_several_draws_is_taken():
    generator = np.random.default_rng(0)
    columns = {"observations": generator.normal(size=(4, 6, 2)), "actions": generator.integers(0, 5, (4, 6))}
    columns |= {"rewards": generator.normal(size=(4, 6)), "terminations": np.zeros((4, 6), bool)}
    data = load_trajectories({name: list(values) for name, values in columns.items()}, action_space=Discrete(5))
    made = prepare(data, DecisionTransformerOptions(recipe="paper", context_length=3, hidden_size=16, n_layer=1))
    actor = lambda: Agent(made.model, made.processor, temperature=1.0).actor  # noqa: E731
    observations = generator.normal(size=(200, 2)).astype(np.float32)
    means = []
    for acting in (actor(), BestOfCandidates(actor(), Known(), draws=4)):
        acting.reset(200, target_return=1.0, seed=0)
        means.append(acting.act(observations).mean())
    assert means[1] > means[0] + 1  # the greatest of four draws among five actions of nearly equal chance
    with pytest.raises(ValueError, match="let it sample"):
        BestOfCandidates(Agent(made.model, made.processor).actor, Known(), draws=4)


@pytest.mark.parametrize("candidates", [{}, {"candidate_targets": [0.0, 25.0]}])
def test_an_agent_is_loaded_with_its_critic_and_acts_the_same(tmp_path, prepared, critic, candidates):
    agent = Agent(prepared.model, prepared.processor, critic=critic, **candidates)
    agent.save_pretrained(tmp_path / "agent")
    listed = json.loads((tmp_path / "agent" / "manifest.json").read_text())["files"]
    assert {"critic/config.json", "critic/model.safetensors", "critic/candidates_config.json"} <= set(listed)
    loaded = Agent.from_pretrained(tmp_path / "agent")
    observations = np.random.default_rng(0).uniform(size=(4, 2)).astype(np.float32)
    actions = []
    for one in (agent, loaded):
        one.reset(4, target_return=None if candidates else "auto")
        actions.append(one.act(observations))
    np.testing.assert_array_equal(*actions)
    Agent(prepared.model, prepared.processor).save_pretrained(tmp_path / "agent")
    assert Agent.from_pretrained(tmp_path / "agent").critic is None  # that of the former agent is not taken over


def test_rollout_takes_auto_and_reports_one_group(prepared, critic):
    import gymnasium as gym

    class Still(gym.Env):
        observation_space, action_space = Box(-np.inf, np.inf, (2,)), Box(-1, 1, (1,))

        def reset(self, *, seed=None, options=None):
            self.left = STEPS
            return np.zeros(2, np.float32), {}

        def step(self, action):
            self.left -= 1
            return np.zeros(2, np.float32), 1.0, self.left == 0, False, {}

    agent = Agent(prepared.model, prepared.processor, critic=critic)
    result = rollout(agent, Still, num_episodes=3, num_envs=2, target_return="auto")
    assert result.target_returns is None and result.returns.tolist() == [STEPS] * 3
    with pytest.raises(ValueError, match="'auto'"):
        rollout(agent, Still, num_episodes=1, target_return="best")


def test_only_a_critic_is_a_critic(prepared, critic):
    with pytest.raises(ValueError, match="is no critic"):
        Agent(prepared.model, prepared.processor, critic=Agent(prepared.model, prepared.processor))
    with pytest.raises(ValueError, match="need a critic"):
        Agent(prepared.model, prepared.processor, candidate_targets=[1.0, 2.0])
