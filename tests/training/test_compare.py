import argparse
import json
import signal
import threading

import numpy as np
import pytest

from hf_seqrl import Agent, collect, compare, load_trajectories, noisy
from hf_seqrl.cli.compare import seconds
from hf_seqrl.cli.main import main
from hf_seqrl.data.durable import sole_writer
from hf_seqrl.evaluation.policies import balance_cartpole
from hf_seqrl.models.registry import family_named
from hf_seqrl.training.checkpoints import Stopwatch
from hf_seqrl.training.compare import methods_for

CHEAP = ["cloning", "cloning, best 10 %"]


@pytest.fixture(scope="module")
def episodes():
    return collect(noisy(balance_cartpole, epsilon=(0.2, 1.0)), "CartPole-v1", num_episodes=40, seed=0)


def test_the_methods_fit_the_data(episodes):
    titles = list(methods_for(episodes))
    assert {"cloning", "cloning, best 10 %", "Decision Transformer", "Trajectory Transformer, planning"} <= set(titles)
    without_rewards = load_trajectories(
        {
            "observations": [np.zeros((3, 2))] * 2,
            "actions": [np.array([0, 1, 0])] * 2,
            "terminations": [np.array([False, False, True])] * 2,
        },
        reward=None,
    )
    assert list(methods_for(without_rewards)) == ["cloning"]


@pytest.mark.parametrize("name", ["cloning", "decision-transformer", "trajectory-transformer"])
def test_the_options_of_every_method_exist(name):
    family = family_named(name)
    assert family.methods
    for method in family.methods:
        family.options_class(**method.options, **dict.fromkeys(method.trained_first, "folder"))


def test_methods_are_trained_judged_and_one_is_recommended(episodes, tmp_path):
    said = []
    arguments = {
        "methods": [*CHEAP, "cloning, weighted by a critic"],
        "num_seeds": 2,
        "max_steps": 3,
        "num_episodes": 3,
    }
    result = compare(episodes, tmp_path / "out", **arguments, say=said.append)
    assert [len(one.returns) for one in result.methods] == [2, 2, 2]
    assert all(len(run) == 3 for one in result.methods for run in one.returns)
    weights = [(tmp_path / "out" / "cloning" / f"seed-{seed}" / "model.safetensors").read_bytes() for seed in range(2)]
    assert weights[0] != weights[1]
    assert result.random_returns and result.data_returns[0] > 0
    assert (tmp_path / "out" / "cloning-weighted-by-a-critic" / "seed-0-critic" / "config.json").exists()
    chosen = Agent.from_pretrained(str(tmp_path / "out" / "agent"))
    assert chosen.run.comparison == result.report()
    card = (tmp_path / "out" / "agent" / "README.md").read_text()
    assert "## Comparison" in card and result.recommendation() in card

    # it goes on where it was stopped: what is done is not done again, what is missing is
    first, second = (tmp_path / "out" / "cloning" / f"seed-{seed}" / "cell.json" for seed in range(2))
    cell = json.loads(first.read_text())
    first.write_text(json.dumps({**cell, "returns": [7.0, 7.0, 7.0]}))
    second.unlink()
    again = compare(episodes, tmp_path / "out", **arguments, say=said.append)
    assert again.methods[0].returns == [[7.0, 7.0, 7.0], result.methods[0].returns[1]]
    with pytest.raises(ValueError, match=r"holds a comparison with other settings \(num_seeds\)"):
        compare(episodes, tmp_path / "out", **{**arguments, "num_seeds": 3}, say=said.append)


def test_it_goes_on_in_the_middle_of_a_run_that_was_interrupted(episodes, tmp_path, monkeypatch):
    def compared(folder):
        return compare(
            episodes,
            tmp_path / folder,
            methods=["cloning"],
            num_seeds=1,
            max_steps=6,
            num_episodes=1,
            say=lambda line: None,
        )

    compared("whole")

    def interrupt(self, args, state, control, **kwargs):
        if state.global_step == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Stopwatch, "on_step_end", interrupt)
        with pytest.raises(KeyboardInterrupt, match="repeat the command to go on"):
            compared("stopped")
    assert not (tmp_path / "stopped" / "cloning" / "seed-0" / "cell.json").exists()
    compared("stopped")
    whole, stopped = (
        tmp_path / folder / "cloning" / "seed-0" / "model.safetensors" for folder in ("whole", "stopped")
    )
    assert whole.read_bytes() == stopped.read_bytes()


def test_a_run_that_another_process_works_on_is_left_to_it(episodes, tmp_path):
    other = tmp_path / "cloning" / "seed-0"
    theirs = {"seconds": 7.0, "returns": [7.0]}
    claimed, ours_is_done = threading.Event(), threading.Event()

    def work_elsewhere():
        other.mkdir(parents=True)
        with sole_writer(other):
            claimed.set()
            ours_is_done.wait()
            (other / "cell.json").write_text(json.dumps(theirs))

    said = []

    def say(line):
        said.append(line)
        if line.startswith("waiting"):
            ours_is_done.set()

    thread = threading.Thread(target=work_elsewhere)
    thread.start()
    claimed.wait()
    try:
        result = compare(episodes, tmp_path, methods=CHEAP, num_seeds=1, max_steps=1, num_episodes=1, say=say)
    finally:
        ours_is_done.set()
        thread.join()
    assert "waiting for 1 run of other processes" in said
    assert result.methods[0].returns == [theirs["returns"]] and result.methods[1].returns != [theirs["returns"]]
    assert not (other / "model.safetensors").exists()


def test_processes_that_torchrun_joined_do_not_compare(episodes, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="Start the command several times by itself"):
        compare(episodes, tmp_path)


def test_a_budget_is_shared_out(episodes, tmp_path):
    result = compare(episodes, tmp_path, methods=CHEAP, num_seeds=1, budget=0.5, num_episodes=1, say=lambda line: None)
    assert all(20 <= one.updates < 1250 for one in result.methods)


def test_a_table_without_an_environment_is_judged_by_held_out_episodes(tmp_path, capsys):
    generator = np.random.default_rng(0)
    lines = ["run,minute,level,valve,saved"]
    for run in range(60):
        level = generator.integers(3)
        for minute in range(6):
            valve = generator.integers(2)
            lines.append(f"{run},{minute},{level},{valve},{float(valve == level % 2)}")
            level = generator.integers(3)
    table = tmp_path / "log.csv"
    table.write_text("\n".join(lines))
    columns = [
        "--episode",
        "run",
        "--step",
        "minute",
        "--observation",
        "level",
        "--action",
        "valve",
        "--reward",
        "saved",
    ]
    output = ["--output_dir", str(tmp_path / "out"), "--seeds", "1", "--max_steps", "150", "--methods", *CHEAP]
    assert main(["compare", str(table), *output, *columns]) == 0
    printed = capsys.readouterr().out
    assert "agents are judged by held-out episodes alone" in printed
    assert "policy behind the data" in printed
    assert "train_runtime" not in printed
    saved = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert saved["env_id"] is None and saved["methods"][0]["values"]
    assert (tmp_path / "out" / "agent" / "model.safetensors").exists()


def test_a_method_that_does_not_fit_is_refused(episodes, tmp_path):
    with pytest.raises(ValueError, match="no method 'PPO' fits these data: expected one of 'Decision Transformer'"):
        compare(episodes, tmp_path / "out", methods=["PPO"])


def test_data_without_rewards_cannot_be_judged_without_an_environment(tmp_path):
    steps = {"observations": [np.zeros((3, 2))] * 9, "actions": [np.array([0, 1, 0])] * 9}
    demonstrations = load_trajectories({**steps, "terminations": [np.array([False, False, True])] * 9}, reward=None)
    with pytest.raises(ValueError, match="all held-out episodes have the same return"):
        compare(demonstrations, tmp_path / "out")


@pytest.mark.parametrize("text", ["", "0m", "-3s", "ten", "5 d"])
def test_a_time_that_is_none_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is no time: expected"):
        seconds(text)
