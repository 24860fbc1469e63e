"""The optimum is what an exhaustive search through the environment itself finds."""

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hf_seqrl  # noqa: F401
from hf_seqrl.envs.bicycle import BicycleGridEnv
from hf_seqrl.envs.bicycle_optimum import optimal_return, shortest_actions
from hf_seqrl.envs.bicycle_rules import BicycleConfig

ACTIONS = [np.array([pedal, steer]) for pedal in (0, 1) for steer in (0, 1, 2)]


def best_return_by_trying_everything(env, start, steps):
    """The highest return within `steps` steps: the best way to each state, step by step, ridden in the environment."""
    env.reset(seed=0)
    best, arrived = {(*start, 1): 0.0}, []
    for _ in range(steps):
        reached = {}
        for (x, y, speed), total in best.items():
            for action in ACTIONS:
                env._x, env._y, env._speed = x, y, speed
                observation, reward, terminated, _, _ = env.step(action)
                state = tuple(observation[:3].astype(int).tolist())
                if terminated:
                    arrived.append(total + reward)
                else:
                    reached[state] = max(reached.get(state, -np.inf), total + reward)
        best = reached
    return max(arrived + list(best.values()))


@settings(max_examples=25, deadline=None)
@given(
    grid_size=st.integers(2, 5),
    terrain=st.sampled_from(["rows", "flat", "random"]),
    terrain_seed=st.integers(0, 5),
    max_speed=st.sampled_from([None, 1, 2]),
    dense_reward=st.booleans(),
    corner=st.integers(0, 24),
)
def test_nothing_rides_better_and_something_rides_as_well(corner, grid_size, **options):
    config = BicycleConfig(grid_size, **options)
    y, x = divmod(corner % (grid_size**2 - 1), grid_size)
    env = BicycleGridEnv(grid_size=grid_size, **options)
    assert optimal_return(config, (x, y)) == best_return_by_trying_everything(env, (x, y), 2 * grid_size)


@pytest.mark.parametrize(("grid_size", "expected"), [(5, 97.0), (10, 92.0), (20, 82.0)])
def test_the_diagonal_of_the_plain_world_is_optimal(grid_size, expected):
    assert optimal_return(BicycleConfig(grid_size)) == expected


@pytest.mark.parametrize("options", [{}, {"terrain": "random", "dense_reward": True}, {"max_speed": 1}])
def test_the_shortest_actions_earn_the_optimal_return(options):
    env = gymnasium.make("hf_seqrl/BicycleGrid-v0", grid_size=12, random_starts=True, **options)
    config = env.unwrapped.config
    for seed in range(20):
        x, y = env.reset(seed=seed)[0][:2].astype(int).tolist()
        earned = [env.step(action) for action in shortest_actions(config, (x, y))]
        assert earned[-1][2]
        assert sum(step[1] for step in earned) == optimal_return(config, (x, y))


def test_with_random_starts_it_is_the_mean_over_all_cells():
    config = BicycleConfig(3, random_starts=True)
    cells = [(x, y) for x in range(3) for y in range(3) if (x, y) != (2, 2)]
    assert optimal_return(config) == pytest.approx(np.mean([optimal_return(config, cell) for cell in cells]))


def test_bumps_matter_for_a_rider_who_starts_at_the_side():
    ways = [optimal_return(BicycleConfig(9, terrain=terrain), (0, 8)) for terrain in ("flat", [True] * 9)]
    assert ways == [97.0, 93.0]  # 1 + 2 + 3 + 4 cells in four steps; eight steps at speed 1
