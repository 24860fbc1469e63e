import json

import numpy as np
import pytest

from hf_seqrl.training.comparison import Comparison, MethodResult, interquartile_mean, resampled


def method(title, returns, seconds=60.0, **fields):
    return MethodResult(
        title, 100, [seconds] * max(1, len(returns)), [list(map(float, run)) for run in returns], **fields
    )


def runs(mean, spread=1.0, seed=0):
    return mean + spread * np.random.default_rng(seed).normal(size=(3, 20))


def comparison(*methods, data=(10.0, 9.0, 11.0), env_id="CartPole-v1", num_seeds=3):
    return Comparison(tuple(methods), data, env_id, 20, num_seeds)


@pytest.mark.parametrize(("size", "kept"), [(1, 1), (2, 2), (3, 3), (4, 2), (7, 5), (20, 10), (60, 30)])
def test_the_interquartile_mean_is_that_of_what_is_left_without_the_extremes(size, kept):
    values = np.random.default_rng(size).normal(size=(5, size))
    for row, result in zip(values.tolist(), interquartile_mean(values)):
        while len(row) > kept:  # a quarter at each end, rounded down
            row.remove(min(row))
            row.remove(max(row))
        assert result == pytest.approx(sum(row) / len(row))


def test_seeds_are_resampled_and_not_only_their_episodes():
    """With equal episodes within each seed, the variance of the mean is that of the seeds: var / n."""
    returns = np.repeat(np.array([0.0, 3.0, 9.0])[:, None], 20, axis=1)
    means = resampled(returns, 40_000).mean(axis=1)
    assert means.var() == pytest.approx(np.var([0.0, 3.0, 9.0]) / 3, rel=0.03)
    episodes = resampled(np.random.default_rng(0).normal(size=(1, 400)), 20_000).mean(axis=1)
    assert episodes.var() == pytest.approx(1 / 400, rel=0.15)


def test_the_cheapest_of_equals_is_chosen():
    result = comparison(
        method("big", runs(100.0), 600), method("small", runs(99.8, seed=1), 6), method("bad", runs(50.0))
    )
    assert [one.title for one in result.ranking] == ["big", "small", "bad"]
    assert result.chosen.title == "small"
    text = result.recommendation()
    assert text.startswith("Use small: it is as good here as big")
    assert "0.10 minutes instead of 10.00" in text


def test_a_shown_difference_is_worth_its_cost():
    result = comparison(method("big", runs(100.0), 600), method("small", runs(80.0, seed=1), 6))
    assert result.chosen.title == "big"
    low, high = result.chosen.lead_over(result.methods[1])
    assert 18 < low < 20 < high < 22
    assert "small is 20" in result.recommendation()
    assert "not a difference" not in result.recommendation()


def test_it_says_where_learning_does_not_help():
    result = comparison(method("big", runs(9.9)), data=(10.0, 9.0, 11.0))
    assert "not shown to be better than the policy behind the data (10.0)" in result.recommendation()


def test_few_seeds_are_said():
    result = comparison(method("one", runs(5.0)[:1]), num_seeds=1)
    assert "With 1 seed of training" in result.recommendation()


def test_without_an_environment_the_lower_bound_decides():
    sure = method("sure", [], values=[20.0] * 3, lower_bounds=[15.0] * 3, advantage_lower_bounds=[4.0] * 3)
    bold = method("bold", [], values=[40.0] * 3, lower_bounds=[5.0] * 3, advantage_lower_bounds=[-5.0] * 3)
    unknown = method(
        "unknown",
        [],
        values=[None, 50.0, 60.0],
        lower_bounds=[None, 40.0, 50.0],
        advantage_lower_bounds=[None, 1.0, 2.0],
    )
    result = comparison(unknown, bold, sure, env_id=None)
    assert [one.title for one in result.ranking] == ["sure", "bold", "unknown"]
    assert "better than the policy behind the data with 95 % confidence" in result.recommendation()
    assert "refused" in result.table()
    assert "keep what you have" in comparison(bold, env_id=None).recommendation()
    assert "No method can be recommended" in comparison(unknown, env_id=None).recommendation()


def test_it_is_saved_whole_and_plotted(tmp_path):
    result = comparison(method("big", runs(100.0)), method("small", runs(80.0, seed=1)))
    again = Comparison.load(result.save(tmp_path / "comparison.json"))
    assert again.report() == result.report()
    assert json.loads((tmp_path / "comparison.json").read_text())["chosen"] == "big"
    assert result.plot(tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
