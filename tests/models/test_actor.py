"""What the base class of all actors does for every family, shown by one that remembers everything it is told."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from hf_seqrl.data.task import Task
from hf_seqrl.models.actor import Actor, uniform_noise

BOX = Task(observation_space=Box(-np.inf, np.inf, (2,)), action_space=Box(-1, 1, (1,)))


class Diary(Actor):
    """Acts by a number drawn for the step plus the length of its history, and keeps that history."""

    def __init__(self, task=BOX, **options):
        super().__init__(task, **options)

    def _allocate(self, num_envs):
        self.steps = [[] for _ in range(num_envs)]

    def _begin(self, env_indices):
        for index in env_indices:
            self.steps[index] = []

    def _choose(self, observations):
        self.noise = self.uniform(1)
        self.seen = observations
        return self.noise / 2

    def _remember(self, actions, rewards):
        for step, observation, action, reward in zip(self.steps, self.seen, actions, rewards):
            step.append((observation.tolist(), float(action[0]), float(reward)))

    def _keep(self, env_indices):
        self.steps = [self.steps[index] for index in env_indices]


def play(actor, num_steps, dones=None, width=2):
    taken = []
    for step in range(num_steps):
        taken.append(actor.act(np.full((actor.num_envs, width), float(step))))
        actor.observe(np.ones(actor.num_envs), np.zeros(actor.num_envs, bool) if dones is None else dones[step])
    return np.stack(taken)


def test_an_int_seed_gives_each_episode_its_own_stream_and_equals_the_list_of_seeds():
    together, listed = Diary(deterministic=False), Diary(deterministic=False)
    together.reset(8, seed=5)
    listed.reset(8, seed=np.arange(5, 13))
    actions = play(together, 3)
    assert (actions == play(listed, 3)).all()
    assert len(np.unique(actions)) == 24


def test_an_episode_draws_the_same_whoever_runs_beside_it():
    many, one = Diary(), Diary()
    many.reset(4, seed=0)
    one.reset(1, seed=2)
    assert (play(many, 5)[:, 2] == play(one, 5)[:, 0]).all()


def test_the_next_episode_of_an_environment_draws_other_numbers():
    actor = Diary()
    actor.reset(1, seed=0)
    first = actor.act(np.zeros((1, 2)))
    actor.observe(np.zeros(1), np.ones(1, bool))
    assert actor.act(np.zeros((1, 2))) != first
    actor.restart(np.array([0]), seed=0)
    assert actor.act(np.zeros((1, 2))) == first


def test_no_seed_is_another_seed_each_time():
    actor = Diary()
    actor.reset(1)
    first = actor.act(np.zeros((1, 2)))
    actor.reset(1)
    assert actor.act(np.zeros((1, 2))) != first


def test_returns_to_go_run_down_and_start_again_with_the_next_episode():
    actor = Diary(conditioned=True, target_returns=[100.0])
    actor.reset(2)
    actor.act(np.zeros((2, 2)))
    actor.observe(np.array([30.0, 30.0]), np.array([False, True]))
    assert actor.returns_to_go.tolist() == [70.0, 100.0]


def test_discounted_returns_to_go_are_divided_by_the_discount():
    actor = Diary(conditioned=True, discount=0.5)
    actor.reset(1, target_return=10.0)
    actor.act(np.zeros((1, 2)))
    actor.observe(np.array([4.0]), np.array([False]))
    assert actor.returns_to_go.tolist() == [12.0]


@pytest.mark.parametrize(
    ("options", "target", "message"),
    [
        ({}, 123, "not conditioned on a return"),
        ({"conditioned": True}, None, "no target_returns: give the return to reach"),
        ({"conditioned": True}, np.nan, "expected a finite number"),
        ({"conditioned": True}, [1.0, 2.0, 3.0], "one for each of 2"),
    ],
)
def test_targets_that_cannot_be_pursued_are_refused(options, target, message):
    with pytest.raises(ValueError, match=message):
        Diary(**options).reset(2, target_return=target)


def test_an_unconditioned_actor_has_no_returns_to_go():
    actor = Diary()
    actor.reset(1)
    with pytest.raises(ValueError, match="not conditioned"):
        actor.returns_to_go  # noqa: B018


def test_executed_actions_are_what_is_remembered():
    actor = Diary()
    actor.reset(1, seed=0)
    actor.act(np.zeros((1, 2)))
    actor.observe(np.array([1.0]), np.array([False]), actions=np.array([[0.75]]))
    assert actor.steps[0] == [([0.0, 0.0], 0.75, 1.0)]


def test_a_history_that_somebody_else_began_equals_having_lived_it():
    lived, handed = Diary(conditioned=True), Diary(conditioned=True)
    lived.reset(3, target_return=[10.0, 20.0, 30.0], seed=0)
    history = [{"observations": [], "actions": [], "rewards": []} for _ in range(3)]
    lengths = [4, 0, 2]
    for env, length in enumerate(lengths):
        for step in range(length):
            history[env]["observations"].append([step, env])
            history[env]["actions"].append([step / 8])
            history[env]["rewards"].append(float(env + 1))
    handed.reset(3, target_return=[10.0, 20.0, 30.0], seed=0, history=history)
    assert [len(steps) for steps in handed.steps] == lengths
    assert handed.timesteps.tolist() == lengths
    assert handed.returns_to_go.tolist() == [6.0, 20.0, 24.0]
    assert handed.steps[2] == [([0.0, 2.0], 0.0, 3.0), ([1.0, 2.0], 0.125, 3.0)]


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ([{}], "lacks 'observations'"),
        ([], "has 0 episodes: expected one for each of 1"),
        ([{"observations": np.zeros((2, 2)), "actions": np.zeros((1, 1)), "rewards": [1.0, 1.0]}], "unequal lengths"),
    ],
)
def test_histories_that_do_not_fit_are_refused(history, message):
    with pytest.raises(ValueError, match=message):
        Diary().reset(1, history=history)


def test_selected_environments_go_on_in_the_given_order():
    actor = Diary(conditioned=True)
    actor.reset(3, target_return=[1.0, 2.0, 3.0], seed=0)
    play(actor, 1)
    actor.select(np.array([2, 0]))
    assert actor.num_envs == 2
    assert actor.returns_to_go.tolist() == [2.0, 0.0]
    assert (
        actor.act(np.zeros((2, 2)))[:, 0]
        == uniform_noise(np.array([2, 0], np.uint64), np.zeros(2), np.ones(2), 1)[:, 0] / 2
    ).all()


@pytest.mark.parametrize(
    ("observations", "message"),
    [
        (np.zeros(2), r"add the axis of environments: observation\[None\]"),
        (np.zeros((1, 3)), r"shape \(1, 3\): expected \(1, 2\)"),
        (np.array([[0.0, np.nan]]), r"environment 0 is nan at step 0, entry \[1\]"),
        (np.array([["a", "b"]]), "expected numbers"),
    ],
)
def test_observations_that_do_not_fit_are_refused(observations, message):
    actor = Diary()
    actor.reset(1)
    with pytest.raises(ValueError, match=message):
        actor.act(observations)


def test_missing_values_can_be_bridged_by_the_last_that_was_seen():
    actor = Diary(missing_values="last")
    actor.reset(1)
    for observation, seen in (
        ([np.nan, 1.0], [0.0, 1.0]),
        ([5.0, np.nan], [5.0, 1.0]),
        ([np.nan, np.nan], [5.0, 1.0]),
    ):
        actor.act(np.array([observation]))
        assert actor.seen.tolist() == [seen]
        actor.observe(np.zeros(1), np.zeros(1, bool))


def test_missing_values_have_two_rules():
    with pytest.raises(ValueError, match="expected 'error' or 'last'"):
        Diary(missing_values="guess")


@pytest.mark.parametrize(
    ("rewards", "dones", "actions", "message"),
    [
        (np.array([np.nan]), [False], None, "reward of environment 0 is nan at step 0"),
        (np.zeros(2), [False], None, r"rewards have shape \(2,\)"),
        (np.zeros(1), [False, True], None, r"dones have shape \(2,\)"),
        (np.zeros(1), [False], np.array([[np.nan]]), "executed actions are"),
        (np.zeros(1), [False], np.zeros((1, 2)), r"actions of shape \(1, 2\)"),
    ],
)
def test_what_cannot_have_happened_is_refused(rewards, dones, actions, message):
    actor = Diary()
    actor.reset(1)
    actor.act(np.zeros((1, 2)))
    with pytest.raises(ValueError, match=message):
        actor.observe(rewards, dones, actions)


def test_calls_out_of_order_say_so():
    actor = Diary()
    with pytest.raises(RuntimeError, match="act was called before reset"):
        actor.act(np.zeros((1, 2)))
    actor.reset(1)
    with pytest.raises(RuntimeError, match="observe was called before act"):
        actor.observe(np.zeros(1), np.zeros(1, bool))


@pytest.mark.parametrize("space", [Box(-1, 1, (1,)), Discrete(2)])
def test_actions_that_are_no_actions_are_refused(space):
    class Broken(Diary):
        def _choose(self, observations):
            return np.full((1, *space.shape), np.nan if isinstance(space, Box) else 7)

    actor = Broken(Task(action_space=space))
    actor.reset(1)
    with pytest.raises(ValueError, match="the model chose"):
        actor.act(np.zeros((1, 2)))
