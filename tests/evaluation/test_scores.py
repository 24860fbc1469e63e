"""Scores against algebra: distributions of resampled means that can be written down."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_seqrl.evaluation.scores import bootstrap_interval, normalized_score, return_statistics

RETURNS = st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=30).map(np.array)


def test_normalized_score_is_0_for_random_and_100_for_the_expert():
    hopper = (-20.272305, 3234.3)
    assert normalized_score(np.array(hopper), hopper).tolist() == pytest.approx([0.0, 100.0])
    assert normalized_score(2393.0, hopper) == pytest.approx(74.15, abs=0.01)  # D4RL's formula by hand


@pytest.mark.parametrize("references", [(5.0, 5.0), (10.0, 1.0)])
def test_references_in_the_wrong_order(references):
    with pytest.raises(ValueError, match="random < expert"):
        normalized_score(1.0, references)


def test_two_values():
    # the mean of two draws is a, (a + b) / 2, b with chances 1/4, 1/2, 1/4: the 2.5 % quantiles are a and b
    assert bootstrap_interval(np.array([10.0, 30.0])) == (10.0, 30.0)
    # and at 40 % confidence the quantiles 0.3 and 0.7 fall on the middle
    assert bootstrap_interval(np.array([10.0, 30.0]), confidence=0.4) == (20.0, 20.0)


def test_one_success_in_n():
    # n draws contain the one value k times, Binomial(n, 1/n): P(k >= 4) = 0.0184, P(k >= 3) = 0.079 for n = 50
    values = np.zeros(50)
    values[7] = 50.0
    assert bootstrap_interval(values) == (0.0, 3.0)


def test_many_values_approach_the_normal_interval():
    values = np.random.default_rng(1).normal(100.0, 20.0, 2000)
    half = 1.959964 * values.std() / np.sqrt(len(values))
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(values.mean() - half, abs=0.05)
    assert high == pytest.approx(values.mean() + half, abs=0.05)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(2)
    intervals = [bootstrap_interval(generator.exponential(1.0, 50), resamples=400, seed=k) for k in range(400)]
    covered = np.mean([low <= 1.0 <= high for low, high in intervals])
    assert 0.88 <= covered <= 0.97  # percentile intervals of skewed samples of 50 fall a little short


@settings(max_examples=30, deadline=None)
@given(RETURNS, st.floats(0.5, 3.0), st.floats(-100.0, 100.0))
def test_the_interval_moves_with_the_values(values, scale, shift):
    low, high = bootstrap_interval(values, resamples=200)
    assert values.min() - 1e-6 <= low <= high <= values.max() + 1e-6
    moved = bootstrap_interval(values * scale + shift, resamples=200)
    np.testing.assert_allclose(moved, (low * scale + shift, high * scale + shift), rtol=1e-9, atol=1e-6)


def test_it_is_reproducible_and_bounded_in_memory():
    values = np.random.default_rng(0).normal(size=300_000)
    assert bootstrap_interval(values, resamples=20) == bootstrap_interval(values, resamples=20)
    assert bootstrap_interval(values, resamples=20) != bootstrap_interval(values, resamples=20, seed=1)


def test_one_value_has_no_interval():
    assert bootstrap_interval(np.array([3.0])) is None


def test_confidence_out_of_range():
    with pytest.raises(ValueError, match="confidence is 95"):
        bootstrap_interval(np.array([1.0, 2.0]), confidence=95)


def test_statistics_by_hand():
    statistics = return_statistics(np.array([1.0, 2.0, 6.0]), np.array([10, 20, 30]), (0.0, 10.0))
    assert statistics["mean_return"] == 3.0
    assert statistics["std_return"] == pytest.approx(np.sqrt(7.0))  # (4 + 1 + 9) / 2
    assert (statistics["median_return"], statistics["min_return"], statistics["max_return"]) == (2.0, 1.0, 6.0)
    assert (statistics["mean_length"], statistics["num_episodes"]) == (20.0, 3)
    assert statistics["normalized_score"] == pytest.approx(30.0)
    assert statistics["normalized_interval"] == pytest.approx(
        [10 * bound for bound in statistics["confidence_interval"]]
    )
    assert json.loads(json.dumps(statistics)) == statistics
