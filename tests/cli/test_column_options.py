"""A table is opened by the same options everywhere, and one of which nothing is known is described first."""

import shlex

import numpy as np
import pandas as pd
import pytest
import yaml
from gymnasium.spaces import Discrete

from hf_seqrl import Agent, DecisionTransformerProcessor, TrainableDT, judge_offline, load_trajectories
from hf_seqrl.cli.evaluate import _parser as parse_evaluate
from hf_seqrl.cli.evaluate import main as evaluate
from hf_seqrl.cli.evaluate import recorded_episodes
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


NAMED = ["--episode", "batch_id", "--step", "minute", "--observation", "level", "mode", "--action", "order"]


@pytest.fixture
def agent(log, tmp_path):
    dataset = load_trajectories(
        log, episode="batch_id", step="minute", observation=["level", "mode"], action="order", reward="reward"
    )
    processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=4)
    agent = Agent(TrainableDT(processor.model_config(hidden_size=16, n_layer=1, n_head=1)), processor)
    agent.save_pretrained(tmp_path / "agent")
    return str(tmp_path / "agent")


def test_recorded_episodes_are_read_in_the_words_of_the_agent(log, agent, tmp_path):
    frame = pd.read_csv(log, sep=";", decimal=",")
    frame.assign(order=frame["order"].replace("hold", "sell")).to_csv(tmp_path / "held-out.csv", index=False)
    typed = [agent, "--offline", str(tmp_path / "held-out.csv"), *NAMED, "--reward", "reward"]
    loaded = Agent.from_pretrained(agent)
    held_out = recorded_episodes(parse_evaluate().parse_args(typed), loaded.processor.task)
    assert metadata_of(held_out).categories == loaded.processor.task.categories
    assert sorted({action for actions in held_out["actions"] for action in actions}) == [0, 2]  # no "hold"
    judgement = judge_offline(loaded, held_out)
    assert judgement.uninformed_loss == pytest.approx(0.6365, abs=1e-3)  # a third against two thirds


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--offline", "data", "--env", "CartPole-v1"], "--env is for episodes in an environment"),
        (["--episode", "run"], "--episode is for recorded episodes: name them with --offline"),
    ],
)
def test_options_that_mean_nothing_together_are_refused(typed, message):
    with pytest.raises(ValueError, match=message):
        evaluate(["nowhere", *typed])


def test_facts_about_an_agent_are_in_the_words_of_the_table(agent, capsys):
    assert info([agent]) == 0
    said = yaml.safe_load(capsys.readouterr().out)
    assert said["action space"] == "Discrete(3): order (buy, hold, sell)"
    assert said["observation space"].endswith(": level, mode=auto, mode=hand")


def test_data_with_other_words_are_refused(log, agent):
    frame = pd.read_csv(log, sep=";", decimal=",")
    held_out = load_trajectories(
        frame[frame["order"] != "hold"],
        **{
            "episode": "batch_id",
            "step": "minute",
            "observation": ["level", "mode"],
            "action": "order",
            "reward": "reward",
        },
        gaps="allow",
    )
    with pytest.raises(ValueError, match="load the data with the agent's words"):
        judge_offline(Agent.from_pretrained(agent), held_out)
