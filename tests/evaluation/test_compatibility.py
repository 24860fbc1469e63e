"""What does not fit is refused at once, with the value, what was expected and what to do."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from scripted_episodes import ScriptedEpisodes

from hf_seqrl.data.spaces import space_to_dict
from hf_seqrl.evaluation.compatibility import ActionGate, check_fit, check_spaces
from hf_seqrl.evaluation.rolling import rollout

VECTOR = Box(-1, 1, (3,))


class Processor:
    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = space_to_dict(observation_space), space_to_dict(action_space)


@pytest.mark.parametrize("space", [Dict({"a": VECTOR}), Tuple([VECTOR, VECTOR]), Text(5)])
def test_observations_that_are_not_one_array_name_the_wrapper(space):
    with pytest.raises(ValueError, match="FlattenObservation"):
        check_spaces(space, Discrete(2))


@pytest.mark.parametrize("space", [MultiBinary(3), Dict({"a": VECTOR})])
def test_other_actions_are_refused(space):
    with pytest.raises(ValueError, match="expected Box, Discrete or MultiDiscrete"):
        check_spaces(VECTOR, space)


def test_the_remedy_works():
    class Nested(gym.ObservationWrapper):
        observation_space = Dict({"all": Box(-np.inf, np.inf, (4,), np.float32)})

        def observation(self, observation):
            return {"all": observation}

    def make():
        return Nested(gym.make("CartPole-v1"))

    with pytest.raises(ValueError, match="FlattenObservation"):
        rollout("random", make, num_episodes=1)
    result = rollout("random", lambda: gym.wrappers.FlattenObservation(make()), num_episodes=3)
    assert result.returns.tolist() == rollout("random", "CartPole-v1", num_episodes=3).returns.tolist()


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
        check_fit(Processor(*of_agent), *of_environment)
    check_fit(Processor(*of_agent), *of_agent)


def test_bounds_may_differ():
    check_fit(Processor(Box(-np.inf, np.inf, (3,)), Box(-2, 2, (1,))), VECTOR, Box(-1, 1, (1,)))


def test_an_unfit_agent_is_refused_before_it_acts():
    class Agent:
        processor = Processor(Box(-1, 1, (17,)), Discrete(3))

        def act(self, observations):
            raise AssertionError("it was asked to act")

    with pytest.raises(ValueError, match=r"observation space is Box\(-inf, inf, \(2,\)"):
        rollout(Agent(), ScriptedEpisodes, num_episodes=1)


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


def test_an_observation_of_another_shape_than_promised():
    env = ScriptedEpisodes()
    env.observation_space = Box(-np.inf, np.inf, (5,))
    with pytest.raises(ValueError, match=r"shape \(2,\), its observation space says \(5,\)"):
        rollout("random", env, num_episodes=1)
