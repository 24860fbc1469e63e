"""The plain bicycle world rides by the rules, and its options do what they say."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import hf_seqrl  # noqa: F401
from hf_seqrl.envs.bicycle_rules import BicycleConfig, bump_map

ENV_ID = "hf_seqrl/BicycleGrid-v0"
OPTIONS = [
    {},
    {"continuous_actions": True},
    {"terrain": "random", "terrain_seed": 3, "random_starts": True, "dense_reward": True},
    {"grid_size": 20, "terrain": "flat", "max_speed": 1},
    {"grid_size": 3, "terrain": [[0, 1, 0], [1, 0, 1], [0, 1, 0]]},
]


def rides(env, actions):
    """Observations, rewards and terminations of an episode with these `(pedal, steer)`."""
    env.reset(seed=0)
    steps = [env.step(np.array([pedal, steer + 1])) for pedal, steer in actions]
    return [list(map(list, zip(*steps, strict=True)))[k] for k in range(3)]


@pytest.mark.parametrize("options", OPTIONS)
def test_the_environment_checker_has_nothing_to_say(options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(ENV_ID, **options).unwrapped)


def test_it_rides_by_the_rules_as_they_are_told():
    env = gymnasium.make(ENV_ID, grid_size=7, max_episode_steps=10_000)
    env.reset(seed=0)
    generator = np.random.default_rng(0)
    x, y, speed = 0, 0, 1
    for _ in range(2000):
        pedal, steer = int(generator.integers(2)), int(generator.integers(-1, 2))
        observation, reward, terminated, _, _ = env.step(np.array([pedal, steer + 1]))
        x = min(max(x + pedal * speed, 0), 6)
        y = min(max(y + steer, 0), 6)
        speed = max(1, speed - 1) if y % 2 == 0 else speed + 1
        assert observation.tolist() == [x, y, speed, int(y % 2 == 0)]
        assert terminated == (x == 6 and y == 6)
        assert reward == (100 if terminated else -1)
        if terminated:
            env.reset()
            x, y, speed = 0, 0, 1


def test_an_episode_starts_in_the_corner_with_speed_one_on_a_bump():
    observation, _ = gymnasium.make(ENV_ID).reset(seed=5)
    assert observation.tolist() == [0, 0, 1, 1]


def test_the_diagonal_is_the_way():
    _, rewards, terminations = rides(gymnasium.make(ENV_ID), [(1, 1)] * 4)
    assert rewards == [-1, -1, -1, 100]
    assert terminations == [False, False, False, True]


def test_maximum_speed_holds_on_smooth_ground():
    observations, _, _ = rides(gymnasium.make(ENV_ID, terrain="flat", max_speed=3), [(0, 0)] * 5)
    assert [observation[2] for observation in observations] == [2, 3, 3, 3, 3]


def test_speed_has_no_limit_by_default():
    observations, _, _ = rides(gymnasium.make(ENV_ID, terrain="flat"), [(0, 0)] * 50)
    assert observations[-1][2] == 51


@pytest.mark.parametrize(
    ("action", "moved"),
    [((0.5, 0.0), (0, 0)), ((0.51, 0.34), (1, 1)), ((0.0, 0.33), (0, 0)), ((1.0, 1.0), (1, 1)), ((0.2, -1.0), (0, 0))],
)
def test_continuous_actions_ride_like_the_nearest_discrete_ones(action, moved):
    env = gymnasium.make(ENV_ID, continuous_actions=True)
    env.reset(seed=0)
    observation = env.step(np.array(action, dtype=np.float32))[0]
    assert tuple(observation[:2]) == moved


def test_dense_rewards_add_up_to_the_sparse_return_and_the_distance_of_the_start():
    actions = [(1, 1), (0, -1), (1, 1), (1, 1), (0, 1), (1, 1), (1, 0), (1, 0)]
    _, sparse, arrived = rides(gymnasium.make(ENV_ID), actions)
    _, dense, _ = rides(gymnasium.make(ENV_ID, dense_reward=True), actions)
    assert arrived.index(True) == 5  # the ride ends in the far corner
    assert sum(dense[:6]) == sum(sparse[:6]) + 8
    assert dense[0] == -1 + 2  # two cells nearer


def test_random_starts_reach_every_cell_but_the_goal_and_repeat_with_the_seed():
    env = gymnasium.make(ENV_ID, grid_size=3, random_starts=True)
    starts = [tuple(env.reset(seed=seed)[0][:2].astype(int)) for seed in range(200)]
    assert set(starts) == {(x, y) for x in range(3) for y in range(3)} - {(2, 2)}
    assert starts == [tuple(env.reset(seed=seed)[0][:2].astype(int)) for seed in range(200)]


def test_random_terrain_depends_on_its_own_seed_only():
    maps = [bump_map(BicycleConfig(8, terrain="random", terrain_seed=seed)) for seed in (0, 0, 1)]
    assert np.array_equal(maps[0], maps[1]) and not np.array_equal(maps[0], maps[2])
    env = gymnasium.make(ENV_ID, grid_size=8, terrain="random")
    env.reset(seed=123)
    assert np.array_equal(env.unwrapped.bumps, maps[0])


def test_an_array_of_terrain_is_indexed_by_y_then_x():
    env = gymnasium.make(ENV_ID, grid_size=3, terrain=[[0, 0, 0], [0, 1, 0], [0, 0, 0]])
    observations, _, _ = rides(env, [(1, 1), (0, 1)])
    assert [observation[3] for observation in observations] == [1, 0]
    assert bump_map(BicycleConfig(3, terrain=[0, 1, 0])).tolist() == [[False] * 3, [True] * 3, [False] * 3]


def test_the_time_limit_truncates():
    env = gymnasium.make(ENV_ID, max_episode_steps=3)
    env.reset(seed=0)
    assert [env.step(np.array([0, 1]))[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid_size": 1}, "grid_size is 1"),
        ({"max_speed": 0}, "max_speed is 0"),
        ({"terrain": "hills"}, "terrain is 'hills'"),
        ({"terrain": [0, 1]}, r"shape \(2,\)"),
        ({"bump_density": 1.5}, "bump_density is 1.5"),
        ({"render_mode": "human"}, "render_mode is 'human'"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    from hf_seqrl.envs.bicycle import BicycleGridEnv

    with pytest.raises(ValueError, match=message):
        BicycleGridEnv(**options)


@pytest.mark.parametrize(
    ("options", "action"),
    [
        ({}, [2, 0]),
        ({}, [0, -1]),
        ({"continuous_actions": True}, [np.nan, 0.0]),
        ({"continuous_actions": True}, [0, 2]),
    ],
)
def test_actions_outside_the_space_are_refused(options, action):
    env = gymnasium.make(ENV_ID, **options).unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match="is not in"):
        env.step(np.array(action))


def test_larger_grids_have_names_of_their_own():
    assert gymnasium.make("hf_seqrl/BicycleGrid10x10-v0").unwrapped.config.grid_size == 10
    assert gymnasium.make("hf_seqrl/BicycleGrid20x20-v0").unwrapped.config.grid_size == 20
