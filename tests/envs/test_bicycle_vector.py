"""Many worlds at once ride exactly like many plain ones."""

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hf_seqrl  # noqa: F401

ENV_ID = "hf_seqrl/BicycleGrid-v0"


def make_pair(num_envs, **options):
    """The vectorized worlds and the same worlds one by one."""
    return tuple(
        gymnasium.make_vec(ENV_ID, num_envs, vectorization_mode=mode, **options)
        for mode in ("vector_entry_point", "sync")
    )


def assert_same(left, right):
    for ours, plain in zip(left, right, strict=True):
        if isinstance(plain, np.ndarray):
            assert ours.dtype == plain.dtype
            np.testing.assert_array_equal(ours, plain)
        else:
            assert ours == plain


@settings(max_examples=25, deadline=None)
@given(
    seed=st.one_of(st.integers(0, 1000), st.lists(st.integers(0, 1000), min_size=7, max_size=7)),
    grid_size=st.integers(2, 6),
    terrain=st.sampled_from(["rows", "flat", "random"]),
    max_speed=st.sampled_from([None, 1, 3]),
    max_episode_steps=st.integers(1, 30),
    continuous_actions=st.booleans(),
    dense_reward=st.booleans(),
    random_starts=st.booleans(),
)
def test_vectorized_equals_plain_step_for_step(seed, **options):
    ours, plain = make_pair(7, **options)
    assert ours.observation_space == plain.observation_space and ours.action_space == plain.action_space
    assert_same(ours.reset(seed=seed), plain.reset(seed=seed))
    plain.action_space.seed(0)
    for _ in range(60):
        actions = plain.action_space.sample()
        assert_same(ours.step(actions), plain.step(actions))
    assert_same(ours.reset(), plain.reset())


def test_a_reset_mask_restarts_only_the_worlds_it_names():
    ours, plain = make_pair(4, random_starts=True)
    plain.action_space.seed(1)
    for env in (ours, plain):
        env.reset(seed=3)
    for _ in range(4):
        actions = plain.action_space.sample()
        assert_same(ours.step(actions), plain.step(actions))
    mask = np.array([True, False, True, False])
    assert_same(
        ours.reset(seed=[9, 9, 8, 8], options={"reset_mask": mask}),
        plain.reset(seed=[9, 9, 8, 8], options={"reset_mask": mask.copy()}),
    )
    for _ in range(20):
        actions = plain.action_space.sample()
        assert_same(ours.step(actions), plain.step(actions))


def test_what_a_step_returned_is_not_overwritten_by_the_next():
    ours, _ = make_pair(3)
    observations, _ = ours.reset(seed=0)
    kept = observations.copy()
    ours.step(np.ones((3, 2), dtype=np.int64))
    np.testing.assert_array_equal(observations, kept)


def test_pictures_are_those_of_the_plain_worlds():
    ours, plain = make_pair(2, grid_size=3, render_mode="rgb_array", random_starts=True, max_episode_steps=4)
    plain.action_space.seed(0)
    for env in (ours, plain):
        env.reset(seed=0)
    for _ in range(7):
        actions = plain.action_space.sample()
        ours.step(actions), plain.step(actions)
        for picture, expected in zip(ours.render(), plain.render(), strict=True):
            np.testing.assert_array_equal(picture, expected)


def test_a_list_of_seeds_of_the_wrong_length_is_refused():
    ours, _ = make_pair(3, random_starts=True)
    with pytest.raises(ValueError, match="got 2 seeds"):
        ours.reset(seed=[1, 2])


def test_actions_outside_the_space_are_refused():
    ours, _ = make_pair(2)
    ours.reset(seed=0)
    with pytest.raises(ValueError, match=r"action \[0, 3\] is not in"):
        ours.step(np.array([[0, 0], [0, 3]]))
