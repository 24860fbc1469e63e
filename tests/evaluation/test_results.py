"""What a result tells, keeps and draws."""

import json
import os
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_seqrl.evaluation import results
from hf_seqrl.evaluation.results import RolloutResult, bootstrap_interval, normalized_score, return_statistics


def grid_result(**changes):
    values = {
        "returns": [100.0, 120.0, 50.0, 70.0],
        "lengths": [10, 20, 30, 40],
        "seeds": [0, 1, 0, 1],
        "terminated": [True, False, True, True],
        "target_returns": [110.0, 110.0, 55.0, 55.0],
        "env_id": "Hopper-v5",
        "seconds": 2.0,
        "reference_returns": (0.0, 200.0),
    }
    return RolloutResult(**(values | changes))


def assert_equal(one, other):
    for name in ("returns", "lengths", "seeds", "terminated", "target_returns"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=getattr(one, name) is not None)
    for name in ("env_id", "seconds", "reference_returns"):
        assert getattr(one, name) == getattr(other, name)


def test_figures():
    result = grid_result()
    assert result.mean_return == 85.0
    assert result.normalized_score == 42.5
    assert result.steps_per_second == 50.0
    assert result.truncated.tolist() == [False, True, False, False]
    assert grid_result(reference_returns=None).normalized_score is None


def test_summary_speaks_of_all_and_of_each_target():
    summary = grid_result().summary()
    assert (summary["num_episodes"], summary["mean_return"], summary["seeds"]) == (4, 85.0, [0, 1])
    assert (summary["terminated_share"], summary["steps_per_second"]) == (0.75, 50.0)
    assert [row["target_return"] for row in summary["by_target"]] == [110.0, 55.0]
    assert [row["mean_return"] for row in summary["by_target"]] == [110.0, 60.0]
    assert [row["confidence_interval"] for row in summary["by_target"]] == [[100.0, 120.0], [50.0, 70.0]]
    assert [row["normalized_score"] for row in summary["by_target"]] == [55.0, 30.0]


def test_without_targets_there_is_one_part():
    result = grid_result(target_returns=None)
    assert result.by_target() == {None: result}
    assert [row["target_return"] for row in result.summary()["by_target"]] == [None]


def test_parts_have_their_share_of_the_time():
    assert [part.steps_per_second for part in grid_result().by_target().values()] == [50.0, 50.0]


def test_table_has_a_line_for_each_target():
    header, rule, first, second = grid_result().table().splitlines()
    assert header.split()[:2] == ["target", "mean"] and set(rule) == {"-", " "}
    assert first.split() == [
        "110",
        "110.0",
        "100.0",
        "..",
        "120.0",
        "55.0",
        "10.0",
        "110.0",
        "100.0",
        "120.0",
        "15.0",
        "2",
        "0-1",
    ]
    assert second.split()[0] == "55"
    assert "score" not in grid_result(reference_returns=None).table()


def test_is_told_in_one_line():
    assert repr(grid_result()) == "<RolloutResult: Hopper-v5, 4 episodes, mean return 85.0>"


def test_a_notebook_shows_the_same_table():
    header, first, second = ElementTree.fromstring(grid_result()._repr_html_()).iter("tr")
    assert [cell.text for cell in header][:2] == ["target", "mean return"]
    assert [[cell.text for cell in row][:2] for row in (first, second)] == [["110", "110.0"], ["55", "60.0"]]


@settings(max_examples=25, deadline=None)
@given(
    returns=st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=5),
    targeted=st.booleans(),
    env_id=st.none() | st.text(max_size=8),
    references=st.none() | st.just((-1.5, 2.0)),
)
def test_json_round_trip(tmp_path_factory, returns, targeted, env_id, references):
    path = tmp_path_factory.mktemp("results") / "result.json"
    count = range(len(returns))
    result = RolloutResult(
        returns=returns,
        lengths=[k + 1 for k in count],
        seeds=list(count),
        terminated=[k % 2 == 0 for k in count],
        target_returns=returns if targeted else None,
        env_id=env_id,
        seconds=0.1,
        reference_returns=references,
    )
    result.save(path)
    assert_equal(RolloutResult.load(path), result)


def test_the_file_has_the_summary_for_readers_and_no_frames(tmp_path):
    path = grid_result(frames=(np.zeros((2, 4, 4, 3), np.uint8),)).save(tmp_path / "deep" / "result.json")
    content = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert content["summary"] == grid_result().summary()
    assert "frames" not in content
    assert os.listdir(path.parent) == ["result.json"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = grid_result().save(tmp_path / "result.json")
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        grid_result(env_id="Other-v0").save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["result.json"]


def test_bootstraps_are_run_once(tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(results, "bootstrap_interval", lambda *_: runs.append(1) or (0.0, 1.0))
    result = grid_result()
    for tell in (result.summary, result.table, result._repr_html_):
        tell()
    result.plot(tmp_path / "plot.png")
    result.save(tmp_path / "result.json")
    assert len(runs) == 3  # all episodes, and those of each target


@pytest.mark.parametrize("content", ["[]", '{"mean_reward": 3}'])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match="not a rollout result"):
        RolloutResult.load(tmp_path / "results.json")


def test_columns_must_have_one_entry_an_episode():
    with pytest.raises(ValueError, match=r"seeds has shape \(3,\), expected \(4,\)"):
        grid_result(seeds=[1, 2, 3])
    with pytest.raises(ValueError, match="at least one"):
        grid_result(returns=[])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"target_returns": None},
        {"target_returns": [9.0] * 4},
        {"returns": [5.0] * 4},
        {"target_returns": [4.0, 3, 2, 1]},
    ],
)
def test_plot_is_a_picture_of_the_result(tmp_path, changes):
    path = grid_result(**changes).plot(tmp_path / "deep" / "plot.png", data_returns=[10.0, 90.0])
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.shape[1] > 800
    assert (pixels[..., 2].astype(int) - pixels[..., 0] > 60).sum() > 100  # episodes and means are blue
    other = grid_result(**changes | {"returns": [10.0, 20.0, 90.0, 30.0]}).plot(tmp_path / "other.png", [10.0, 90.0])
    assert other.read_bytes() != path.read_bytes()


def test_plotting_leaves_matplotlibs_state_alone(tmp_path):
    import matplotlib.pyplot as plt

    plt.close("all")
    grid_result().plot(tmp_path / "plot.svg")
    assert plt.get_fignums() == []


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


def test_whole_groups_are_resampled():
    # two episodes, of 1 and of 3 steps: the means of resamples are 4, (4 + 3 * 8) / 4 and 8
    values, groups = np.array([4.0, 8.0, 8.0, 8.0]), np.array([7, 2, 2, 2])
    assert bootstrap_interval(values, groups=groups) == (4.0, 8.0)
    assert bootstrap_interval(values, confidence=0.4, groups=groups) == (7.0, 7.0)
    assert bootstrap_interval(values, groups=np.zeros(4)) is None


def test_one_value_has_no_interval():
    assert bootstrap_interval(np.array([3.0])) is None


def test_confidence_out_of_range():
    with pytest.raises(ValueError, match="confidence is 95"):
        bootstrap_interval(np.array([1.0, 2.0]), confidence=95)


def test_statistics_by_hand():
    statistics = return_statistics(np.array([1.0, 2.0, 6.0]), np.array([10, 20, 30]), (0.0, 10.0))
    assert statistics["mean_return"] == 3.0
    assert statistics["std_return"] == pytest.approx(np.sqrt(14 / 3))  # (4 + 1 + 9) / 3
    assert (statistics["median_return"], statistics["min_return"], statistics["max_return"]) == (2.0, 1.0, 6.0)
    assert (statistics["mean_length"], statistics["num_episodes"]) == (20.0, 3)
    assert statistics["normalized_score"] == pytest.approx(30.0)
    assert statistics["normalized_interval"] == pytest.approx(
        [10 * bound for bound in statistics["confidence_interval"]]
    )
    assert json.loads(json.dumps(statistics)) == statistics


@pytest.mark.parametrize(("low", "has_effect"), [(50.0, True), (99.0, False), (120.0, False)])
def test_it_says_where_the_target_has_little_effect(low, has_effect):
    returns = np.array([100.0, 100.0, low, low])
    targets = np.array([90.0, 90.0, 40.0, 40.0])
    result = RolloutResult(returns, np.full(4, 7), np.arange(4), np.ones(4, bool), target_returns=targets)
    sentence = result.target_effect()
    assert (sentence is None) == has_effect
    assert has_effect or f"asked for 90 and 40, the agent achieves 100.0 and {low:.1f}" in sentence
    assert result.by_target()[90.0].target_effect() is None
