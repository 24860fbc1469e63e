import json

import pytest
from datasets import Dataset, concatenate_datasets
from gymnasium.spaces import Discrete

from hf_seqrl import load_trajectories
from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.description import content_fingerprint, describe


def test_the_figures_are_those_of_the_recorded_rollouts(shared_data):
    recorded = json.loads((shared_data("hopper-medium") / "episodes.json").read_text())["info"]
    facts = describe(load_trajectories(shared_data("hopper-medium")))
    json.dumps(facts, allow_nan=False)
    assert facts["env_id"] == "Hopper-v5" and facts["provenance"]["seed"] == recorded["seed"]
    assert (facts["episodes"], facts["steps"]) == (recorded["episodes"], recorded["transitions"])
    assert facts["terminated"] == recorded["terminated"]
    assert facts["truncated"] == recorded["episodes"] - recorded["terminated"]
    for name, key in {
        "mean": "ret_mean",
        "std": "ret_std",
        "min": "ret_min",
        "p5": "p5",
        "p50": "p50",
        "max": "ret_max",
    }.items():
        assert facts["returns"][name] == pytest.approx(recorded[key], rel=1e-5)
    assert facts["lengths"]["mean"] == pytest.approx(recorded["len_mean"])
    assert facts["step_weighted_return"] == pytest.approx(recorded["timestep_weighted_return"], rel=1e-6)
    assert facts["normalized_score"]["mean"] == pytest.approx(recorded["norm_mean"], rel=1e-4)
    assert facts["observations"] == {"shape": [11], "dtype": "float32"}


def test_facts_that_are_unknown_are_left_open():
    episode = {"observations": [[0.0]], "actions": [1], "rewards": [2.0], "terminations": [True]}
    facts = describe(load_trajectories([episode], action_space=Discrete(2)))
    assert facts["env_id"] is None and "normalized_score" not in facts
    assert facts["action_space"] == {"type": "Discrete", "n": 2, "start": 0}
    assert facts["actions"] == {"shape": [], "dtype": "int64"}


def _fingerprint(dataset):
    return content_fingerprint(TrajectoryColumns(dataset))


def test_fingerprint_is_of_the_values_and_not_of_where_they_lie(cartpole_dataset, tmp_path):
    cartpole_dataset.save_to_disk(tmp_path / "saved")
    in_two_chunks = concatenate_datasets([cartpole_dataset.select(range(7)), cartpole_dataset.select(range(7, 30))])
    expected = _fingerprint(cartpole_dataset)
    assert _fingerprint(Dataset.load_from_disk(str(tmp_path / "saved"))) == expected
    assert _fingerprint(in_two_chunks) == expected
    assert _fingerprint(Dataset.from_dict(cartpole_dataset.to_dict(), features=cartpole_dataset.features)) == expected


def test_fingerprint_tells_apart(cartpole_dataset):
    changed = cartpole_dataset.to_dict()
    changed["rewards"][-1][-1] += 1e-3
    different = Dataset.from_dict(changed, features=cartpole_dataset.features)
    prints = {_fingerprint(one) for one in (cartpole_dataset, different, cartpole_dataset.select(range(29)))}
    reordered = cartpole_dataset.select(list(reversed(range(30))))
    assert len(prints | {_fingerprint(reordered)}) == 4
