"""Constraints hold for what is executed, are counted, and the agent knows what was executed."""

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.spaces import Box, Discrete

from hf_seqrl import Bounds, Constrained, Controller, Forbidden, RateLimit, rollout
from hf_seqrl.data.task import Task
from hf_seqrl.deploy.constraints import constrained_by
from hf_seqrl.models.actor import Actor

OBSERVATIONS = np.random.default_rng(0).normal(size=(20, 2, 4)).astype(np.float32)


class Scripted(Actor):
    """Wants what is written for each step, and writes down what was executed."""

    def __init__(self, wanted, task=None):
        super().__init__(task)
        self.wanted = np.asarray(wanted)

    def _allocate(self, num_envs):
        self.executed = [[] for _ in range(num_envs)]

    def _begin(self, env_indices):
        for index in env_indices:
            self.executed[index] = []

    def _choose(self, observations):
        return self.wanted[self.timesteps]

    def _remember(self, actions, rewards):
        for done, action in zip(self.executed, actions):
            done.append(np.asarray(action).tolist())

    def _keep(self, env_indices):
        self.executed = [self.executed[index] for index in env_indices]


def play(actor, steps, num_envs=1):
    actor.reset(num_envs)
    taken = []
    for _ in range(steps):
        taken.append(actor.act(np.zeros((num_envs, 1), np.float32)))
        actor.observe(np.zeros(num_envs), np.zeros(num_envs, bool))
    return np.stack(taken)[:, 0].tolist()


def test_streams_that_are_computed_together_keep_and_count_their_own_rules():
    agent = Constrained(Scripted([[0.5], [3.0], [3.0]]), RateLimit(1.0), Bounds(0.2, 2.0))
    early, late = agent.twin(), agent.twin()
    early.reset(1)
    late.reset(1)
    nothing = np.zeros(1, np.float32)
    early.act(nothing[None])
    early.observe([0.0], [False])
    for expected in ([[1.5], [0.5]], [[2.0], [1.5]]):
        assert np.stack(Actor.act_together([early, late], [nothing, nothing])).tolist() == expected
        early.observe([0.0], [False])
        late.observe([0.0], [False])
    assert early.interventions == {"RateLimit": 2, "Bounds": 1} and late.interventions == {"RateLimit": 1, "Bounds": 0}
    assert early.actor.executed == [[[0.5], [1.5], [2.0]]] and late.actor.executed == [[[0.5], [1.5]]]


def test_rules_are_applied_in_order_and_counted_one_by_one():
    wanted = np.array([[0.5], [3.0], [3.0], [0.1], [0.1]])
    agent = Constrained(Scripted(wanted), RateLimit(1.0), Bounds(0.2, 2.0))
    assert play(agent, 5) == [[0.5], [1.5], [2.0], [1.0], [0.2]]
    assert agent.interventions == {"RateLimit": 3, "Bounds": 2}
    assert agent.actor.executed == [[[0.5], [1.5], [2.0], [1.0], [0.2]]]


def test_the_rate_counts_from_what_was_executed_by_whomever():
    agent = Constrained(Scripted(np.full((3, 1), 5.0)), RateLimit(1.0))
    agent.reset(1)
    agent.act(np.zeros((1, 1)))
    agent.observe(np.zeros(1), np.zeros(1, bool), np.array([[2.0]]))
    assert agent.act(np.zeros((1, 1))) == [[3.0]]


def test_a_new_episode_begins_without_a_last_action_and_selected_ones_keep_theirs():
    agent = Constrained(Scripted(np.array([[1.0], [5.0], [9.0]])), RateLimit(0.5))
    agent.reset(3)
    for dones in ([False] * 3, [False, True, False]):
        agent.act(np.zeros((3, 1)))
        agent.observe(np.zeros(3), np.array(dones))
    agent.select(np.array([2, 1]))
    assert agent.act(np.zeros((2, 1))).tolist() == [[2.0], [1.0]]
    assert agent.interventions == {"RateLimit": 4}


def test_limits_by_the_names_of_columns():
    task = Task(action_space=Box(-9, 9, (2,)), action_names=("valve", "pump"))
    agent = Constrained(Scripted(np.full((2, 2), 5.0), task), Bounds(high={"pump": 1.0}), Bounds(low={"valve": 6}))
    assert play(agent, 2) == [[6.0, 1.0]] * 2
    assert agent.interventions == {"Bounds": 2, "Bounds_2": 2}


def test_forbidden_words_are_replaced_where_they_are_forbidden():
    task = Task(action_space=Discrete(3), action_names=("order",), categories={"order": ["buy", "hold", "sell"]})
    late = lambda observations: observations[:, 0] > 2  # noqa: E731
    agent = Controller(
        Constrained(Scripted([0, 1, 2, 0, 2], task), Forbidden(["sell"], "hold"), Forbidden(["buy"], "hold", late))
    )
    agent.begin()
    assert [agent.step([float(step)]) for step in range(5)] == ["buy", "hold", "hold", "hold", "hold"]
    assert agent.interventions == {"Forbidden": 2, "Forbidden_2": 1}


def test_a_function_of_ones_own_sees_observations_and_the_last_action():
    seen = []

    def no_reversal(actions, observations, previous):
        seen.append((observations.tolist(), previous.tolist()))
        return np.where(np.isnan(previous), actions, np.maximum(actions, previous))

    agent = Constrained(Scripted(np.array([[2.0], [1.0]])), no_reversal)
    assert play(agent, 2) == [[2.0], [2.0]] and agent.interventions == {"no_reversal": 1}
    assert seen[1] == ([[0.0]], [[2.0]]) and np.isnan(seen[0][1][0][0])


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((), "there is no rule"),
        ((Bounds(2, 1),), "expected low <= high"),
        ((RateLimit(0),), "expected numbers > 0"),
        ((Bounds(low={"vlave": 1}),), "the limits name 'vlave': expected one of order"),
        ((Forbidden(["sell"], "sell"),), "forbidden itself"),
        ((Forbidden(["give"], "sell"),), "order is 'give': expected one of 'buy'"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(rules, message):
    task = Task(action_space=Discrete(3), action_names=("order",), categories={"order": ["buy", "hold", "sell"]})
    with pytest.raises(ValueError, match=message):
        Constrained(Scripted([0], task), *rules)
    with pytest.raises(ValueError, match="limit them by Bounds"):
        Constrained(Scripted([[0.0]], Task(action_space=Box(-1, 1, (1,)))), Forbidden([0], 1))


def test_rules_can_be_written_in_a_file():
    written = "- rate_limit: 1.0\n- bounds: {low: 0.2, high: 2.0}\n"
    agent = constrained_by(Scripted(np.array([[0.5], [3.0], [3.0]])), yaml.safe_load(written))
    assert play(agent, 3) == [[0.5], [1.5], [2.0]]
    task = Task(action_space=Discrete(3), action_names=("order",), categories={"order": ["buy", "hold", "sell"]})
    agent = constrained_by(Scripted([0], task), [{"forbidden": {"actions": ["buy"], "instead": "hold"}}])
    assert play(agent, 1) == [1]
    assert constrained_by(agent, []) is agent


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"bounds": {}}, "expected a list"),
        ([{"limits": 3}], "expected one of bounds, rate_limit, forbidden"),
        ([{"bounds": {"most": 3}}], "the rule bounds is .* unexpected keyword argument 'most'"),
    ],
)
def test_a_file_with_other_rules_is_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        constrained_by(Scripted([0]), rules)


def test_a_rule_that_makes_something_else_is_named():
    agent = Constrained(Scripted([[1.0]]), lambda actions, observations, previous: actions[0])
    agent.reset(1)
    with pytest.raises(ValueError, match=r"the rule <lambda> made actions of shape \(1,\): expected \(1, 1\)"):
        agent.act(np.zeros((1, 1)))


def test_the_history_of_the_agent_is_that_of_what_was_executed(tiny_agent):
    """In a rollout, a constrained agent acts as one whose executed actions are told by hand."""

    def other_when_it_leans(actions, observations, previous):
        return np.where(observations[:, 2] > 0.02, 1 - actions, actions)

    agent = Constrained(tiny_agent, other_when_it_leans)
    result = rollout(agent, "CartPole-v1", num_episodes=3, num_envs=2, seed=0, target_return=50)
    steps, interventions = 0, 0
    for episode in range(3):
        environment = gym.make("CartPole-v1")
        observation, _ = environment.reset(seed=episode)
        actor = tiny_agent.actor.twin()
        actor.reset(1, 50.0, episode)
        ended = False
        while not ended:
            chosen = int(actor.act(observation[None])[0])
            executed = 1 - chosen if observation[2] > 0.02 else chosen
            interventions += executed != chosen
            observation, reward, terminated, truncated, _ = environment.step(executed)
            ended, steps = terminated or truncated, steps + 1
            actor.observe(np.array([reward]), np.array([ended]), np.array([executed]))
    assert result.lengths.sum() == steps
    assert agent.interventions == {"other_when_it_leans": interventions} and interventions > 0


def test_a_rule_that_changes_nothing_leaves_a_sampling_agent_as_it_is(tiny_agent):
    from hf_seqrl import Agent

    sampling = Agent(tiny_agent.model, tiny_agent.processor, temperature=1.0)
    free = lambda actions, observations, previous: actions  # noqa: E731
    results = [
        rollout(agent, "CartPole-v1", num_episodes=6, num_envs=2, seed=0, target_return=50)
        for agent in (sampling, Constrained(sampling, free))
    ]
    assert results[0].lengths.tolist() == results[1].lengths.tolist()


def test_counts_and_the_last_action_survive_a_restart(tiny_agent, tmp_path):
    agent = Constrained(
        tiny_agent, Forbidden([1], 0), lambda actions, observations, previous: np.where(np.isnan(previous), 0, actions)
    )
    controller = Controller(agent)
    controller.begin(50.0, seed=0)
    for step in range(7):
        controller.step(OBSERVATIONS[step, 0])
        controller.observe(reward=1.0)
    counted = controller.interventions
    other = Controller(agent)
    other.load(controller.save(tmp_path / "state"))
    assert other.interventions == counted == controller.interventions
    for step in range(7, 20):
        assert controller.step(OBSERVATIONS[step, 0]) == other.step(OBSERVATIONS[step, 0])
        for one in (controller, other):
            one.observe(reward=1.0)
            one.observe(reward=0.5, step=step - 2)  # a correction plays the last steps again, and counts nothing twice
    assert other.interventions == controller.interventions
    assert controller.interventions["Forbidden"] > counted["Forbidden"] > 0
    with pytest.raises(ValueError, match="give it the same ones"):
        Controller(Constrained(tiny_agent, Forbidden([1], 0))).load(tmp_path / "state")
