"""Weights of episodes by their return, and drawing in proportion to them."""

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_seqrl.data.sampling import (
    Opening,
    WeightedDraw,
    effective_episodes,
    held_out_split,
    return_temperature,
    return_weights,
)


def test_weights_fall_exponentially_with_the_distance_from_the_best_return():
    weights = return_weights(np.array([0.0, 50.0, 100.0]), np.array([10, 10, 10]), temperature=0.25)
    np.testing.assert_allclose(weights[1:] / weights[:-1], np.exp(2))


@pytest.mark.parametrize("uniform_share", [0.0, 0.25, 1.0])
def test_weights_have_mean_one_over_the_steps_and_a_floor(uniform_share):
    lengths = np.array([5, 100, 20])
    weights = return_weights(np.array([3.0, -1.0, 2.0]), lengths, 0.1, uniform_share)
    assert (weights * lengths).sum() / lengths.sum() == pytest.approx(1)
    assert weights.min() >= uniform_share


def test_units_of_the_returns_do_not_matter():
    returns, lengths = np.array([3.0, -1.0, 2.0]), np.array([4, 5, 6])
    expected = return_weights(returns, lengths, 0.2)
    np.testing.assert_allclose(return_weights(1e6 * returns - 7e8, lengths, 0.2), expected, rtol=1e-6)


def test_equal_returns_give_equal_weights():
    assert return_weights(np.full(3, -7.0), np.array([1, 2, 3]), 0.1).tolist() == [1.0, 1.0, 1.0]


def test_effective_episodes_are_all_of_them_where_each_is_as_frequent_and_one_where_one_is_drawn():
    assert effective_episodes(np.array([4.0, 2.0, 1.0]), np.array([1, 2, 4])) == pytest.approx(3)
    assert effective_episodes(np.array([0.0, 1.0]), np.array([100, 1])) == 1


def test_a_single_good_episode_among_many_is_not_all_that_is_learned_from():
    returns, lengths = np.concatenate([np.zeros(99), [100.0]]), np.full(100, 50)
    assert (
        effective_episodes(return_weights(returns, lengths, return_temperature(returns, lengths)), lengths)
        >= 20 * 0.999
    )


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    seed=st.integers(0, 1000),
    zeros=st.booleans(),
)
def test_every_step_belongs_to_its_weight_of_items_rounded_up_or_down(lengths, seed, zeros):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    generator = np.random.default_rng(seed)
    weights = generator.exponential(size=len(lengths)) * (generator.random(len(lengths)) < 0.7 if zeros else 1)
    if not weights.any():
        weights[0] = 1.0
    draws = WeightedDraw(weights, offsets).steps(np.arange(offsets[-1]))
    counts = np.bincount(draws, minlength=offsets[-1])
    expected = np.repeat(weights, lengths) * offsets[-1] / (weights * lengths).sum()
    # an item may fall anywhere in its stretch of the quantiles, and so into either of two steps that share it
    assert (counts >= np.floor(expected) - 1).all() and (counts <= np.ceil(expected) + 1).all()
    assert (counts[np.repeat(weights, lengths) == 0] == 0).all()


def test_frequencies_over_many_steps_are_those_of_the_weights():
    offsets = np.array([0, 30_000, 50_000])
    draws = WeightedDraw(np.array([0.5, 3.0]), offsets).steps(np.arange(50_000))
    assert (draws < 30_000).mean() == pytest.approx(15 / 75, abs=1e-3)
    within = draws[draws < 30_000] / 30_000
    assert np.quantile(within, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=5e-3)


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=8),
    num_steps=st.integers(1, 100),
    weight=st.floats(1.0, 20.0),
    zeros=st.booleans(),
)
def test_each_step_of_an_opening_is_drawn_by_its_weight(lengths, num_steps, weight, zeros):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    weights = np.random.default_rng(len(lengths)).exponential(size=len(lengths))
    if zeros and len(weights) > 1:
        weights[-1] = 0.0
    draws = WeightedDraw(weights, offsets, opening=Opening(num_steps, weight)).steps(np.arange(offsets[-1]))
    counts = np.bincount(draws, minlength=offsets[-1])
    timesteps = np.concatenate([np.arange(length) for length in lengths])
    of_steps = np.repeat(weights, lengths) * np.where(timesteps < num_steps, weight, 1.0)
    expected = of_steps * offsets[-1] / of_steps.sum()
    assert (counts >= np.floor(expected) - 1).all() and (counts <= np.ceil(expected) + 1).all()
    assert (counts[of_steps == 0] == 0).all()


def test_openings_get_their_share_of_the_draws():
    lengths, weights = np.array([1000, 400, 30]), np.array([2.0, 1.0, 0.5])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    opening = Opening.fit(lengths, weights, opening_share=0.3)
    assert opening.num_steps == 50
    draws = WeightedDraw(weights, offsets, num_items=100_000, opening=opening).steps(np.arange(100_000))
    timesteps = draws - offsets[np.searchsorted(offsets, draws, side="right") - 1]
    assert (timesteps < 50).mean() == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize("lengths", [[1000] + 200 * [10], [1], [7, 7]])
def test_openings_that_are_drawn_enough_are_left_alone(lengths):
    assert Opening.fit(np.array(lengths), opening_share=0.1) is None


@pytest.mark.parametrize("share", [-0.1, 1.0, np.nan])
def test_a_senseless_share_of_openings_is_refused(share):
    with pytest.raises(ValueError, match=r"opening_share is .*: expected a share"):
        Opening.fit(np.array([10, 10]), opening_share=share)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"shape \(1,\): expected \(2,\)"),
        ([1.0, np.nan], "finite"),
        ([-1.0, 2.0], "not negative"),
        ([0, 0], "all 0"),
    ],
)
def test_weights_that_cannot_be_drawn_by_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        WeightedDraw(np.array(weights), np.array([0, 3, 5]))


@pytest.mark.parametrize(("temperature", "share"), [(0.0, 0.0), (-1.0, 0.0), (0.1, 1.5)])
def test_senseless_temperatures_and_shares_are_refused(temperature, share):
    with pytest.raises(ValueError, match="expected"):
        return_weights(np.array([0.0, 1.0]), np.array([1, 1]), temperature, share)


def test_the_temperature_rises_until_enough_episodes_count():
    lengths = np.full(1000, 10)
    many = np.linspace(0, 100, 1000)
    assert return_temperature(many, lengths) == 0.1
    few = np.concatenate([np.zeros(990), np.linspace(99, 100, 10)])
    found = return_temperature(few, lengths)
    assert found > 0.1
    assert effective_episodes(return_weights(few, lengths, found), lengths) >= 20 * 0.999
    shares = return_weights(few, lengths, found) * lengths / 10_000
    assert 1 / (shares**2 / lengths).sum() >= 500 * 0.999
    lower = return_weights(few, lengths, found * 0.99)
    assert min(effective_episodes(lower, lengths) / 20, 1 / ((lower / 1000) ** 2 / 10).sum() / 500) < 1


def test_of_few_episodes_a_third_counts():
    returns, lengths = np.concatenate([np.zeros(11), [1.0]]), np.full(12, 10)
    weights = return_weights(returns, lengths, return_temperature(returns, lengths))
    assert effective_episodes(weights, lengths) == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize(
    ("returns", "lengths"),
    [(np.ones(100), np.full(100, 10)), (np.arange(30.0), np.array([10_000] + 29 * [1]))],
    ids=["equal returns", "nearly all steps in one episode"],
)
def test_where_nothing_is_to_be_favored_there_is_no_temperature(returns, lengths):
    assert return_temperature(returns, lengths) is None


@pytest.mark.parametrize("fraction", [0.1, 0.34, 0.5, 0.9])
def test_the_held_out_episodes_are_those_that_datasets_draws(fraction):
    episodes = Dataset.from_dict({"rewards": [[float(i)] for i in range(30)]})
    trained, held_out = held_out_split(episodes, fraction, split_seed=3)
    parts = episodes.train_test_split(fraction, seed=3)
    assert (
        trained["rewards"][:] == parts["train"]["rewards"][:] and held_out["rewards"][:] == parts["test"]["rewards"][:]
    )


def test_an_episode_remains_to_train_on():
    single = Dataset.from_dict({"rewards": [[1.0]]})
    episodes = Dataset.from_dict({"rewards": [[1.0]] * 30})
    assert held_out_split(episodes, 0.99)[0].num_rows == 1
    assert held_out_split(single, 0.5) == (single, None)
    assert held_out_split(single, 0.0) == (single, None)
    for fraction in (1.0, -0.1):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            held_out_split(single, fraction)
