"""A table is opened by the same options everywhere, and one of which nothing is known is described first."""

import shlex

import numpy as np
import pandas as pd
import pytest
import yaml
from gymnasium.spaces import Discrete

from hf_seqrl.cli.info import main as info
from hf_seqrl.cli.options import parse
from hf_seqrl.cli.train import load_data
from hf_seqrl.data.metadata import metadata_of
from hf_seqrl.models.registry import family_of


@pytest.fixture
def log(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "batch_id": np.repeat([3, 4, 5], 20),
            "minute": np.tile(np.arange(20) * 10, 3),
            "level": rng.normal(size=60),
            "mode": np.tile(["auto", "hand"], 30),
            "plant": "A",
            "order": np.tile(["buy", "hold", "sell"], 20),
            "reward": rng.normal(size=60),
        }
    )
    frame.to_csv(tmp_path / "log.csv", index=False, sep=";", decimal=",")
    return tmp_path / "log.csv"


def test_a_table_of_which_nothing_is_named_is_described_and_the_proposed_command_works(log, capsys, tmp_path):
    assert info([str(log)]) == 0
    said = yaml.safe_load(capsys.readouterr().out)
    assert said["rows"] == 60 and said["format"]["separator"].startswith("';'")
    assert said["columns"]["plant"].endswith("constant") and said["columns"]["mode"].startswith("words")
    _, _, family, *typed = shlex.split(said["command"])
    assert "plant" not in typed
    run, _, _ = parse(family_of(family.replace("-", "_")), typed)
    dataset = load_data(family_of("decision_transformer"), run, None)
    task = metadata_of(dataset)
    assert len(dataset) == 3 and task.actions == Discrete(3)
    assert task.observation_names == ("level", "mode=auto", "mode=hand")


def test_info_takes_the_columns_and_prints_what_was_guessed(log, capsys):
    named = [
        "--episode",
        "batch_id",
        "--step",
        "minute",
        "--observation",
        "level",
        "mode",
        "--action",
        "order",
        "--reward",
        "none",
    ]
    assert info([str(log), *named]) == 0
    said = yaml.safe_load(capsys.readouterr().out)
    assert said["episodes"] == 3 and said["return"]["max"] == 0.0
    assert said["guessed"]["action_space"].startswith("Discrete(3): the words and numbers of order")


def test_a_log_without_episodes_is_proposed_to_be_cut(tmp_path, capsys):
    frame = pd.DataFrame(
        {
            "timestamp": pd.date_range("2024-01-01", periods=50, freq="min"),
            "x": np.arange(50.0),
            "u": np.tile([0.5, 1.5], 25),
        }
    )
    frame.to_parquet(tmp_path / "log.parquet")
    info([str(tmp_path / "log.parquet")])
    said = yaml.safe_load(capsys.readouterr().out)
    assert (
        "--cut_every 50" in said["command"]
        and "--reward none" in said["command"]
        and "--step timestamp" in said["command"]
    )
    info(
        [
            str(tmp_path / "log.parquet"),
            *["--cut_every", "20", "--observation", "x", "--action", "u", "--reward", "none"],
        ]
    )
    assert yaml.safe_load(capsys.readouterr().out)["episodes"] == 3


def test_where_a_family_has_an_option_of_the_same_name_the_column_is_named_with_a_suffix(log, tmp_path):
    family = family_of("trajectory_transformer")
    typed = ["--dataset", str(log), "--step_column", "minute", "--step", "2", "--output_dir", str(tmp_path)]
    run, options, _ = parse(family, typed)
    assert run.columns.step == "minute" and options.step == 2
