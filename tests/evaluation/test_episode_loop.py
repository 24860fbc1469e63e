"""What passes between actor and environments: what does not fit is refused, and what was executed is reported."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from scripted_episodes import RememberingActor, ScriptedEpisodes

from hf_seqrl.data.task import Task
from hf_seqrl.evaluation.collect import collect
from hf_seqrl.evaluation.episode_loop import ActionGate, check_fit
from hf_seqrl.evaluation.policies import noisy
from hf_seqrl.evaluation.rollout import rollout

VECTOR = Box(-1, 1, (3,))


def task(observation_space, action_space):
    return Task(observation_space=observation_space, action_space=action_space)


@pytest.mark.parametrize(
    ("of_agent", "of_environment"),
    [
        ((VECTOR, Discrete(2)), (Box(-1, 1, (4,)), Discrete(2))),
        ((VECTOR, Discrete(2)), (VECTOR, Discrete(3))),
        ((VECTOR, Discrete(2)), (VECTOR, Discrete(2, start=1))),
        ((VECTOR, Discrete(2)), (VECTOR, Box(-1, 1, (2,)))),
        ((VECTOR, Box(-1, 1, (2,))), (VECTOR, Box(-1, 1, (3,)))),
        ((VECTOR, MultiDiscrete([2, 3])), (VECTOR, MultiDiscrete([3, 2]))),
        ((VECTOR, MultiDiscrete([2])), (VECTOR, Discrete(2))),
    ],
)
def test_an_agent_made_for_other_spaces_is_refused(of_agent, of_environment):
    with pytest.raises(ValueError, match="the agent was made for"):
        check_fit(task(*of_agent), *of_environment)
    check_fit(task(*of_agent), *of_agent)
    check_fit(Task(), *of_agent)


def test_bounds_may_differ():
    check_fit(task(Box(-np.inf, np.inf, (3,)), Box(-2, 2, (1,))), VECTOR, Box(-1, 1, (1,)))


@pytest.mark.parametrize(
    ("space", "actions", "message"),
    [
        (Discrete(3), np.zeros((2, 1), int), r"shape \(2, 1\), expected \(2,\)"),
        (Discrete(3), np.zeros(3, int), r"shape \(3,\), expected \(2,\)"),
        (Discrete(3), np.zeros(2), "argmax"),
        (Discrete(3), [0, 3], "the action 3 for observation 1"),
        (Discrete(3, start=1), [0, 1], "the action 0 for observation 0"),
        (MultiDiscrete([2, 3]), [[1, 2], [2, 0]], r"the action \[2 0\] for observation 1"),
        (Box(-1, 1, (3,)), np.zeros((2, 2)), r"expected \(2, 3\)"),
        (Box(-1, 1, (1,)), [[0.5], [np.nan]], "NaN in its weights"),
        (Box(-np.inf, np.inf, (1,)), [[np.inf], [0]], "expected finite"),
    ],
)
def test_actions_that_the_environment_cannot_take(space, actions, message):
    with pytest.raises(ValueError, match=message):
        ActionGate(space)(actions, 2)


@pytest.mark.parametrize(
    ("space", "actions"),
    [
        (Discrete(3, start=-1), [-1, 1]),
        (MultiDiscrete([2, 3]), [[1, 2], [0, 0]]),
        (Box(np.float32([-1, -2]), np.float32([1, np.inf])), [[-5.0, 9.0], [0.25, -3.0]]),
        (Box(0, 255, (2,), np.uint8), [[0, 300], [-4, 7]]),
    ],
)
def test_what_passes_is_in_the_space(space, actions):
    passed = ActionGate(space)(np.array(actions), 2)
    assert all(space.contains(space.dtype.type(action)) for action in passed)


def test_executed_actions_are_those_that_passed():
    env = ScriptedEpisodes(action_space=Box(-1, 1, (2,), np.float32))
    rollout(lambda observations: np.tile([3.0, -0.5], (len(observations), 1)), env, num_episodes=2)
    assert [action.tolist() for action in env.executed] == [[1.0, -0.5]] * 3
    assert env.executed[0].dtype == np.float32


def test_an_unfit_agent_is_refused_before_it_acts():
    actor = RememberingActor(task(Box(-1, 1, (17,)), Discrete(3)))
    with pytest.raises(ValueError, match=r"observation space is Box\(-inf, inf, \(2,\)"):
        rollout(actor, ScriptedEpisodes, num_episodes=1)
    assert not actor.batch_sizes


class Reckless(RememberingActor):
    """Chooses actions beyond the bounds."""

    def _choose(self, observations):
        return super()._choose(observations)[:, None] + np.float32([[3.0, -0.5]])


def test_the_actor_is_told_which_actions_were_executed():
    actor = Reckless()
    rollout(actor, lambda: ScriptedEpisodes(action_space=Box(-1, 1, (2,), np.float32)), num_episodes=2)
    assert np.concatenate(actor.executed).tolist() == [[1.0, -0.5]] * 3


def test_an_actor_with_noise_remembers_the_noisy_actions():
    class Listening(RememberingActor):
        def _begin(self, env_indices):
            """Noise restarts it with the seed of the next episode."""

        def _choose(self, observations):
            return np.zeros(len(observations), int)

        def _remember(self, actions, rewards):
            self.executed.append(actions)

    actor, space = Listening(), Discrete(50)
    dataset = collect(
        noisy(actor, epsilon=1.0), lambda: ScriptedEpisodes(action_space=space), num_episodes=7, num_envs=1
    )
    executed = np.concatenate(actor.executed).tolist()
    assert executed == np.concatenate(dataset["actions"]).tolist() and len(set(executed)) > 5


class Failing(gym.Wrapper):
    """A sensor or a reward fails at step 3."""

    def __init__(self, what):
        super().__init__(gym.make("CartPole-v1"))
        self.what = what

    def reset(self, **kwargs):
        self.time = 0
        return super().reset(**kwargs)

    def step(self, action):
        observation, reward, *rest = super().step(action)
        self.time += 1
        if self.time >= 3:
            observation, reward = (observation * np.nan, reward) if self.what == "sensor" else (observation, np.inf)
        return observation, reward, *rest


@pytest.mark.parametrize("policy", ["random", lambda observations: np.zeros(len(observations), int), noisy("random")])
@pytest.mark.parametrize(
    ("what", "message"), [("sensor", "nan at step 3.*expected a finite number"), ("reward", "is inf at step 2")]
)
def test_what_is_not_finite_stops_every_policy_and_names_the_step(policy, what, message):
    for play in (rollout, collect):
        with pytest.raises(ValueError, match=message):
            play(policy, lambda: Failing(what), num_episodes=2, num_envs=1)
