"""The scripted controllers are good enough to make data with."""

import gymnasium as gym
import numpy as np
import pytest

from hf_seqrl.evaluation.controllers import balance_cartpole, climb_mountain, swing_up_pendulum
from hf_seqrl.evaluation.rolling import rollout

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
