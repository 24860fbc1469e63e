"""Environments as lanes: what can be rolled out, time limits, and the caller's own vector environments in every mode."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Text, Tuple
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from scripted_episodes import RememberingActor, ScriptedEpisodes, length_of, return_of

from hf_seqrl import Agent, DecisionTransformerProcessor, TrainableDT, metadata_of
from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.composite_spaces import nested_action
from hf_seqrl.data.task import Task
from hf_seqrl.evaluation.collect import collect
from hf_seqrl.evaluation.environments import check_spaces
from hf_seqrl.evaluation.rollout import rollout

VECTOR = Box(-1, 1, (3,))
MODES = list(AutoresetMode)


class ByObservation(RememberingActor):
    """As `RememberingActor`, where episodes are seeded by the environments themselves: it learns the seed by looking."""

    def _choose(self, observations):
        for history, (script, time) in zip(self.histories, observations):
            if not history.over and history.time == 0:
                assert time == 0
                history.seed = int(script)
        return super()._choose(observations)


def vector_env(num_envs, mode, **kwargs):
    return SyncVectorEnv([lambda: ScriptedEpisodes(**kwargs)] * num_envs, autoreset_mode=mode)


def test_without_autoreset_every_episode_has_its_own_seed():
    actor = RememberingActor()
    result = rollout(actor, vector_env(4, AutoresetMode.DISABLED), num_episodes=11, seed=5)
    assert result.seeds.tolist() == list(range(5, 16))
    np.testing.assert_allclose(result.returns, [return_of(s) for s in range(5, 16)])
    assert sum(actor.batch_sizes) == result.lengths.sum()


@pytest.mark.parametrize("mode", MODES)
def test_steps_that_only_reset_do_not_count(mode):
    actor = ByObservation()
    result = rollout(actor, vector_env(3, mode), num_episodes=13)
    assert len(actor.played) == 13
    assert sorted(result.lengths) == sorted(length_of(script) for script, _, _ in actor.played)
    np.testing.assert_allclose(sorted(result.returns), sorted(return_of(script) for script, _, _ in actor.played))


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_seeds_that_the_environment_chose_are_not_made_up(mode):
    result = rollout(ByObservation(), vector_env(3, mode), num_episodes=5, seed=20)
    assert result.seeds.tolist() == [20, 21, 22, -1, -1]
    assert result.summary()["seeds"] is None
    np.testing.assert_allclose(result.returns[:3], [return_of(s) for s in (20, 21, 22)])


@pytest.mark.parametrize("mode", MODES)
def test_fewer_episodes_than_environments(mode):
    actor = RememberingActor()
    result = rollout(actor, vector_env(8, mode), num_episodes=3, seed=1)
    assert actor.batch_sizes == [3, 3, 2, 1]
    np.testing.assert_allclose(result.returns, [return_of(s) for s in (1, 2, 3)])


def test_a_grid_of_targets_without_autoreset():
    result = rollout(
        RememberingActor(targets=[9.0]), vector_env(5, AutoresetMode.DISABLED), num_episodes=4, target_return=[9, 8]
    )
    assert result.seeds.tolist() == [0, 1, 2, 3] * 2
    np.testing.assert_allclose(result.returns, [return_of(s) for s in range(4)] * 2)


def test_environments_in_other_processes():
    envs = AsyncVectorEnv([ScriptedEpisodes] * 2, autoreset_mode=AutoresetMode.DISABLED)
    try:
        result = rollout(RememberingActor(), envs, num_episodes=5)
    finally:
        envs.close()
    np.testing.assert_allclose(result.returns, [return_of(s) for s in range(5)])


def test_a_vectorized_implementation_that_takes_a_single_seed():
    envs = gym.make_vec("CartPole-v1", num_envs=4, vectorization_mode="vector_entry_point")
    result = rollout(lambda observations: np.ones(len(observations), np.int64), envs, num_episodes=10)
    assert result.env_id == "CartPole-v1"
    assert ((result.lengths >= 8) & (result.lengths <= 11)).all()  # always to the right: the pole falls at once
    assert result.terminated.all()


def test_a_specification_of_another_library_is_no_id():
    """EnvPool's vector environments have specifications without a time limit or an id."""
    envs = vector_env(3, AutoresetMode.NEXT_STEP)
    envs.spec = SimpleNamespace(config={"max_episode_steps": 200})
    result = rollout(RememberingActor(), envs, num_episodes=3)
    assert result.env_id is None
    np.testing.assert_allclose(result.returns, [return_of(seed) for seed in range(3)])


def test_a_limit_cannot_be_put_on_it():
    with pytest.raises(ValueError, match="where that is made"):
        rollout(RememberingActor(), vector_env(2, AutoresetMode.NEXT_STEP), max_episode_steps=3)


def test_frames_of_a_vector_environment():
    result = rollout(
        RememberingActor(),
        vector_env(2, AutoresetMode.DISABLED, render_mode="rgb_array"),
        num_episodes=4,
        seed=1,
        record_frames=3,
    )
    assert [frames[0, 0, 0, 0] for frames in result.frames] == [1, 2, 3]
    assert [frames[:, 0, 0, 1].tolist() for frames in result.frames] == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize("space", [Dict({"a": VECTOR}), Tuple([VECTOR, VECTOR]), Text(5)])
def test_observations_that_are_not_one_array_name_the_wrapper(space):
    with pytest.raises(ValueError, match="FlattenObservation"):
        check_spaces(space, Discrete(2))


@pytest.mark.parametrize("space", [Text(5), Dict({"a": Text(5)})])
def test_other_actions_are_refused(space):
    with pytest.raises(
        ValueError, match="expected Box, Discrete, MultiDiscrete, MultiBinary, or a Tuple or Dict of them"
    ):
        check_spaces(VECTOR, space)


COMPOSITE = {
    "a dictionary": Dict({"gas": Box(0, 1, (2,), np.float32), "gear": Discrete(3, start=1)}),
    "a tuple": Tuple([Discrete(2), Dict({"wipers": MultiBinary(2), "aim": Box(-1, 1, (1,), np.float32)})]),
    "switches": MultiBinary(3),
}


class Composite(gym.Env):
    """Checks every action, and rewards it with the sum of its entries; episodes have five steps."""

    observation_space = VECTOR

    def __init__(self, name):
        self.action_space = COMPOSITE[name]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(VECTOR.shape, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        total = float(gym.spaces.flatten(self.action_space, action).sum())
        return np.full(VECTOR.shape, self.steps, np.float32), total, self.steps == 5, False, {}


@pytest.mark.parametrize("name", COMPOSITE)
def test_actions_of_several_parts_are_collected_trained_on_and_rolled_out(name):
    space = COMPOSITE[name]
    dataset = collect("random", lambda: Composite(name), num_episodes=6, num_envs=2, seed=0)
    assert metadata_of(dataset).actions == space
    columns = TrajectoryColumns(dataset)
    stored = columns.actions.take(np.arange(columns.num_steps))
    rewards = [gym.spaces.flatten(space, nested_action(space, action)).sum() for action in stored]
    np.testing.assert_allclose(columns.rewards.take(np.arange(columns.num_steps)), rewards, rtol=1e-5)
    processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=3)
    agent = Agent(TrainableDT(processor.model_config(hidden_size=16, n_layer=1, n_head=1)), processor)
    result = rollout(agent, lambda: Composite(name), num_episodes=3, num_envs=2, target_return=5.0)
    assert result.lengths.tolist() == [5, 5, 5]
    vector = gym.vector.SyncVectorEnv([lambda: Composite(name)] * 2)
    assert rollout(agent, vector, num_episodes=2, target_return=5.0).lengths.tolist() == [5, 5]


def test_an_agent_for_other_parts_is_refused():
    dataset = collect("random", lambda: Composite("a dictionary"), num_episodes=2, seed=0)
    processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=3)
    agent = Agent(TrainableDT(processor.model_config(hidden_size=16, n_layer=1, n_head=1)), processor)
    with pytest.raises(ValueError, match="the agent was made for Dict"):
        rollout(agent, lambda: Composite("a tuple"), num_episodes=1, target_return=5.0)


class Nested(gym.ObservationWrapper):
    observation_space = Dict({"all": Box(-np.inf, np.inf, (4,), np.float32)})

    def observation(self, observation):
        return {"all": observation}


def test_observations_in_a_dictionary_are_flattened():
    result = rollout("random", lambda: Nested(gym.make("CartPole-v1")), num_episodes=3)
    assert result.returns.tolist() == rollout("random", "CartPole-v1", num_episodes=3).returns.tolist()
    dataset = collect("random", lambda: Nested(gym.make("CartPole-v1")), num_episodes=2)
    assert dataset["observations"][:] == collect("random", "CartPole-v1", num_episodes=2)["observations"][:]
    assert metadata_of(dataset).observation_names == ("all[0]", "all[1]", "all[2]", "all[3]")


def test_numbers_of_states_are_one_hot_in_data_and_when_an_agent_acts():
    dataset = collect("random", "FrozenLake-v1", num_episodes=5, seed=0)
    assert all(sum(row) == 1 and len(row) == 16 for row in dataset["observations"][0])
    processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=4)
    assert processor.state_dim == 16 and processor.task.source_observation_space["n"] == 16
    agent = Agent(TrainableDT(processor.model_config(hidden_size=8, n_layer=1, n_head=1)), processor)
    assert len(rollout(agent, "FrozenLake-v1", num_episodes=2, num_envs=2).returns) == 2
    agent.reset(2, 0.0)
    of_numbers = agent.act(np.array([3, 5]))
    agent.reset(2, 0.0)
    np.testing.assert_array_equal(agent.act(np.eye(16)[[3, 5]]), of_numbers)


def test_an_observation_of_another_shape_than_promised():
    env = ScriptedEpisodes()
    env.observation_space = Box(-np.inf, np.inf, (5,))
    with pytest.raises(ValueError, match=r"shape \(2,\), its observation space says \(5,\)"):
        rollout("random", env, num_episodes=1)


class Endless(gym.Env):
    """Never ends by itself."""

    observation_space, action_space = Box(-1, 1, (3,)), Discrete(2)

    def reset(self, **kwargs):
        super().reset(**kwargs)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), 1.0, False, False, {}


class Still(RememberingActor):
    def _choose(self, observations):
        return np.zeros(len(observations), np.int64)

    def _remember(self, actions, rewards):
        """Nothing to check."""


def test_without_a_limit_of_its_own_an_environment_gets_the_agents(caplog):
    result = rollout(Still(Task(max_episode_steps=5)), Endless, num_episodes=2)
    assert result.lengths.tolist() == [5, 5] and result.truncated.all()
    assert "truncated after 5 steps" in caplog.text
    assert rollout(Still(Task(max_episode_steps=5)), Endless, 2, max_episode_steps=7).lengths.tolist() == [7, 7]
    limited = gym.wrappers.TimeLimit(Endless(), 9)
    assert rollout(Still(Task(max_episode_steps=5)), limited, 2).lengths.tolist() == [9, 9]
    dataset = collect(Still(Task(max_episode_steps=5)), Endless, num_episodes=2)
    assert [len(row) for row in dataset["rewards"]] == [5, 5]


@pytest.mark.parametrize("make", [Endless, lambda: SyncVectorEnv([Endless] * 2)])
def test_an_episode_that_does_not_end_asks_for_a_limit(monkeypatch, make):
    monkeypatch.setattr("hf_seqrl.evaluation.episode_loop.MOST_STEPS", 50)
    env = make()
    with pytest.raises(ValueError, match=r"gone on for 50 steps.*max_episode_steps"):
        rollout("random", env, num_episodes=2)
