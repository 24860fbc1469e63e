import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_seqrl.data.returns import discounted_returns, episode_returns


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
