"""Policies of every kind as actors."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from transformers import DecisionTransformerConfig, DecisionTransformerModel

from hf_seqrl.evaluation.policies import (
    CallableActor,
    as_actor,
    balance_cartpole,
    climb_mountain,
    noisy,
    policy_name,
    swing_up_pendulum,
)
from hf_seqrl.evaluation.rollout import rollout

SPACES = [Box(-2, 2, (3,)), Box(-np.inf, np.inf, (1,)), Discrete(5, start=2), MultiDiscrete([2, 7])]


def zeros(observations):
    return np.zeros((len(observations), 3), np.float32)


def played(actor, seeds, steps):
    """The actions of each seed's episode, `(seeds, steps, ...)`."""
    actor.reset(len(seeds), seed=np.array(seeds))
    return np.stack([actor.act(np.zeros((len(seeds), 4))) for _ in range(steps)], 1)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_random_actions_depend_on_the_episodes_seed_alone(space):
    together = played(as_actor("random", space), [5, 6, 7], 9)
    alone = played(as_actor("random", space), [6], 9)
    assert (together[1] == alone[0]).all()
    assert (together[0] != together[1]).any()
    assert all(space.contains(space.dtype.type(action)) for action in together.reshape(-1, *space.shape))


def test_random_actions_do_not_repeat_the_environments_stream():
    # gymnasium seeds both generators in the same way, an episode's start would foretell its actions
    space = Discrete(1000)
    space.seed(3)
    assert played(as_actor("random", Discrete(1000)), [3], 5)[0].tolist() != [space.sample() for _ in range(5)]


def test_environments_can_be_restarted_and_selected():
    actor = as_actor(noisy("random", sigma=(0.1, 2.0)), Box(-1, 1, (2,)))
    actor.reset(3, seed=np.array([1, 2, 3]))
    actor.act(np.zeros((3, 4)))
    actor.restart(np.array([1]), seed=np.array([9]))
    actor.select(np.array([2, 1]))
    goes_on, begins = actor.act(np.zeros((2, 4)))
    assert (
        goes_on.tolist()
        == played(as_actor(noisy("random", sigma=(0.1, 2.0)), Box(-1, 1, (2,))), [3], 2)[0, 1].tolist()
    )
    assert (
        begins.tolist() == played(as_actor(noisy("random", sigma=(0.1, 2.0)), Box(-1, 1, (2,))), [9], 1)[0, 0].tolist()
    )


def test_sigma_is_the_standard_deviation_of_the_noise():
    actions = played(as_actor(noisy(zeros, sigma=0.5), Box(-9, 9, (3,))), range(20), 500)
    assert abs(actions.mean()) < 0.02
    assert actions.std() == pytest.approx(0.5, rel=0.02)


def test_epsilon_is_the_share_of_random_actions():
    actions = played(as_actor(noisy(zeros, epsilon=0.3), Box(-9, 9, (3,))), range(20), 500)
    assert (actions != 0).all(-1).mean() == pytest.approx(0.3, abs=0.02)


def test_a_range_is_drawn_once_an_episode():
    actions = played(as_actor(noisy(zeros, sigma=(0.5, 2.0)), Box(-99, 99, (3,))), range(40), 400)
    levels = actions.std(axis=(1, 2))
    assert levels.min() < 0.9 and levels.max() > 1.6
    assert levels.min() > 0.4 and levels.max() < 2.2


@pytest.mark.parametrize("noise", [{"epsilon": 1.5}, {"epsilon": (0.5, 0.1)}, {"sigma": -1.0}])
def test_noise_out_of_range(noise):
    with pytest.raises(ValueError, match="expected a number or"):
        noisy("random", **noise)


def test_noise_that_does_not_fit():
    with pytest.raises(ValueError, match="use epsilon"):
        as_actor(noisy("random", sigma=1.0), Discrete(2))
    with pytest.raises(ValueError, match="noisy already"):
        noisy(noisy("random"))


def test_what_cannot_act():
    model = DecisionTransformerModel(
        DecisionTransformerConfig(state_dim=2, act_dim=1, hidden_size=8, n_layer=1, n_head=1)
    )
    with pytest.raises(TypeError, match=r"hf_seqrl\.Agent\(model, processor\)"):
        as_actor(model, Discrete(2))
    with pytest.raises(ValueError, match="expected 'random'"):
        as_actor("expert", Discrete(2))
    with pytest.raises(TypeError, match="cannot act"):
        as_actor(3, Discrete(2))


def test_callables_and_actors_are_taken_as_they_are():
    actor = as_actor(zeros, SPACES[0])
    assert isinstance(actor, CallableActor)
    assert as_actor(actor, SPACES[0]) is actor


def test_descriptions():
    assert policy_name("random") == "random"
    assert policy_name(noisy(zeros, epsilon=(0, 0.9), sigma=0.5)) == "zeros, epsilon 0..0.9, sigma 0.5"


CASES = [
    (balance_cartpole, "CartPole-v1", 499),
    (climb_mountain, "MountainCar-v0", -130),
    (swing_up_pendulum, "Pendulum-v1", -250),
]


@pytest.mark.parametrize(("controller", "env_id", "threshold"), CASES)
def test_controllers_solve_their_tasks(controller, env_id, threshold):
    assert rollout(controller, env_id, num_episodes=10).mean_return > threshold


@pytest.mark.parametrize(("controller", "env_id", "threshold"), CASES)
def test_controllers_stay_within_the_action_space(controller, env_id, threshold):
    env = gym.make(env_id)
    observations = np.stack([env.reset(seed=seed)[0] for seed in range(50)])
    assert all(env.action_space.contains(action) for action in controller(observations))
