from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import discounted_returns, episode_returns, returns_of_episodes, returns_to_go
from hf_seqrl.data.writing import dataset_from_steps


def plain_loop(episodes, discount):
    returns = []
    for rewards in episodes:
        running, backwards = 0.0, []
        for reward in reversed(rewards):
            running = reward + discount * running
            backwards.append(running)
        returns.extend(reversed(backwards))
    return np.array(returns)


def offsets_of(episodes):
    return np.concatenate([[0], np.cumsum([len(rewards) for rewards in episodes])])


@given(
    st.lists(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.5, 0.99, 1.0]),
)
@settings(max_examples=100, deadline=None)
def test_equals_a_plain_loop(episodes, discount):
    returns = discounted_returns(np.concatenate(episodes), offsets_of(episodes), discount)
    np.testing.assert_allclose(returns, plain_loop(episodes, discount), rtol=1e-5, atol=1e-4)


def test_a_huge_reward_disturbs_no_other_episode():
    rewards, offsets = np.array([1e30, 1.0, 2.0]), np.array([0, 1, 3])
    assert discounted_returns(rewards, offsets).tolist()[1:] == [3.0, 2.0]


def test_episode_returns_are_the_sums():
    assert episode_returns(np.array([1.0, 2.0, 3.0]), np.array([0, 1, 3])).tolist() == [1.0, 5.0]


@pytest.mark.parametrize("discount", [-0.1, 1.5])
def test_a_discount_that_is_none_is_refused(discount):
    with pytest.raises(ValueError, match=f"discount is {discount}"):
        discounted_returns(np.ones(2), np.array([0, 2]), discount)


@pytest.fixture
def columns():
    rewards = np.random.default_rng(0).normal(size=60)
    values = {name: np.zeros((60, 1)) for name in ("observations", "actions")}
    offsets = np.array([0, 7, 8, 30, 41, 60])
    return TrajectoryColumns(dataset_from_steps({**values, "rewards": rewards, "dones": np.zeros(60, bool)}, offsets))


@pytest.mark.parametrize("block_steps", [1, 10, 25, 1000])
def test_blocks_of_episodes_make_no_difference(columns, monkeypatch, block_steps):
    rewards = columns.rewards.take(np.arange(60))
    monkeypatch.setattr("hf_seqrl.data.returns._BLOCK_STEPS", block_steps)
    expected = discounted_returns(rewards, columns.episode_offsets, 0.9)
    np.testing.assert_array_equal(returns_to_go(columns, 0.9), expected)
    np.testing.assert_allclose(returns_of_episodes(columns), episode_returns(rewards, columns.episode_offsets))


def test_returns_of_large_data_stand_in_a_file_that_goes_with_them(columns, monkeypatch):
    in_memory = returns_to_go(columns)
    monkeypatch.setattr("hf_seqrl.data.returns._MOST_STEPS_IN_MEMORY", 59)
    returns = returns_to_go(columns)
    np.testing.assert_array_equal(returns, in_memory)
    file = Path(returns.filename)
    assert file.exists() and not isinstance(in_memory, np.memmap)
    del returns
    assert not file.exists()
