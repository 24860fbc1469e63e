"""What a result tells, keeps and draws."""

import json
import os
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_seqrl.evaluation.result import RolloutResult


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
        "14.1",
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
    header, first, second = ElementTree.fromstring(grid_result()._repr_html_())
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
