"""The pictures show the rider, the path, the bumps and the goal."""

import gymnasium
import numpy as np
import pytest

import hf_seqrl  # noqa: F401
from hf_seqrl.envs.bicycle_rendering import paint

ENV_ID = "hf_seqrl/BicycleGrid-v0"


def test_text_shows_rider_path_bumps_goal_step_and_speed():
    env = gymnasium.make(ENV_ID, grid_size=3, render_mode="ansi")
    env.reset(seed=0)
    env.step(np.array([1, 2]))
    assert env.render() == "~ ~ G\n. B .\n* ~ ~\nstep 1, speed 2\n"


def ground_of(picture, grid_size, x, y):
    """The most frequent color of a cell."""
    cell = picture.shape[1] // grid_size
    top = (grid_size - 1 - y) * cell
    pixels = picture[top : top + cell, x * cell : (x + 1) * cell].reshape(-1, 3)
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    return tuple(colors[counts.argmax()].tolist())


def test_bumpy_cells_have_another_color_than_smooth_ones():
    bumps = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]], dtype=bool)
    picture = paint(bumps, [(2, 0)], 1)
    colors = {(x, y): ground_of(picture, 3, x, y) for x in range(3) for y in range(3)}
    assert len({color for (x, y), color in colors.items() if bumps[y, x]}) == 1
    assert len({color for (x, y), color in colors.items() if not bumps[y, x]}) == 1
    assert colors[0, 0] != colors[1, 0]


def test_the_picture_changes_where_the_rider_moves_and_nowhere_else_on_the_grid():
    bumps = np.zeros((4, 4), dtype=bool)
    before, after = paint(bumps, [(0, 0)], 1), paint(bumps, [(0, 0), (1, 0)], 1)
    changed = (before != after).any(axis=-1)[:480]
    rows, columns = np.nonzero(changed)
    assert rows.min() >= 360  # the bottom row of cells
    assert columns.min() < 120 < columns.max() < 240


@pytest.mark.parametrize("grid_size", [2, 7, 9, 50])
def test_both_sides_are_even_as_video_encoders_need(grid_size):
    env = gymnasium.make(ENV_ID, grid_size=grid_size, render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture.dtype == np.uint8 and picture.shape[0] % 2 == picture.shape[1] % 2 == 0
