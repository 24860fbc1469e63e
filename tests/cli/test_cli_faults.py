"""Full disks, limits of the system and signals outside of the training loop: one line, a status, and the state as it was."""

import os
import resource
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import gymnasium
import pytest
from gymnasium.envs.classic_control import CartPoleEnv

from hf_seqrl import Agent
from hf_seqrl.cli.main import main
from hf_seqrl.data import durable
from hf_seqrl.hub import checkpoint

SMALL = ["--hidden_size", "8", "--n_layer", "1", "--context_length", "2", "--max_steps", "2", "--report_to", "none"]
TRAIN = ["train", "decision-transformer", "--dataset", "data", "--output_dir", "out", *SMALL, "--logging_steps", "1"]


class SignalingPole(CartPoleEnv):
    """CartPole in whose 20th step the process gets SIGTERM."""

    steps = 0

    def step(self, action):
        type(self).steps += 1
        if type(self).steps == 20:
            signal.raise_signal(signal.SIGTERM)
        return super().step(action)


@pytest.fixture
def place(tiny_agent, cartpole_dataset, tmp_path, monkeypatch):
    """A working folder with an agent, data, and the results of an earlier evaluation."""
    monkeypatch.chdir(tmp_path)
    tiny_agent.save_pretrained("agent")
    cartpole_dataset.save_to_disk("data")
    assert main(["evaluate", "agent", "--num_episodes", "1", "--output", "results.json"]) == 0
    assert main(["collect", "CartPole-v1", "--num_episodes", "1", "--output", "collected"]) == 0
    return tmp_path


@pytest.fixture
def signaling():
    SignalingPole.steps = 0
    gymnasium.register("SignalingPole-v0", entry_point=SignalingPole, max_episode_steps=500)
    yield "SignalingPole-v0"
    del gymnasium.registry["SignalingPole-v0"]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines_of(text):
    return [line for line in text.splitlines() if line.startswith("hf-seqrl") and "loading" not in line]


def limited(command, limit, number):
    """The status and the complaints of a command in a process with a limit."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        shown, sys.dont_write_bytecode = StringIO(), True  # Python would cut its own caches off
        resource.setrlimit(limit, (number, resource.getrlimit(limit)[1]))
        with redirect_stderr(shown), redirect_stdout(StringIO()):
            status = main(command)
        os.write(writer, f"{status}\n{shown.getvalue()}".encode()[-60_000:])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        status, _, shown = pipe.read().partition("\n")
    os.waitpid(child, 0)
    return int(status), shown


@pytest.mark.parametrize(
    "command",
    [
        ["collect", "CartPole-v1", "--num_episodes", "40", "--output", "out"],
        ["collect", "CartPole-v1", "--num_episodes", "40", "--output", "collected", "--overwrite"],
        ["convert", "agent", "out"],
        ["evaluate", "agent", "--num_episodes", "9", "--output", "results.json", "--overwrite"],
        ["evaluate", "agent", "--num_episodes", "1", "--plot", "plot.png"],
        [*TRAIN, "--eval_episodes", "0"],
    ],
    ids=lambda command: " ".join(command[:2] + command[-1:]).replace("/", "_"),
)
def test_a_file_that_becomes_too_large_leaves_what_was_there(place, command):
    before = contents(place)
    status, shown = limited(command, resource.RLIMIT_FSIZE, 500)
    assert status == 1 and len(lines_of(shown)) == 1 and "Traceback" not in shown, shown
    assert contents(place) == before


def test_too_many_open_files_are_one_line(place):
    before = contents(place)
    status, shown = limited(["evaluate", "agent", "--output", "out.json"], resource.RLIMIT_NOFILE, 3)
    assert status == 1 and len(lines_of(shown)) == 1 and "Traceback" not in shown, shown
    assert contents(place) == before


@pytest.mark.parametrize(
    "command",
    [
        ["collect", "SignalingPole-v0", "--num_episodes", "9", "--output", "out"],
        ["collect", "SignalingPole-v0", "--num_episodes", "9", "--output", "collected", "--overwrite"],
        ["evaluate", "agent", "--env", "SignalingPole-v0", "--output", "results.json", "--overwrite"],
        ["finetune", "agent", "--env", "SignalingPole-v0", "--output_dir", "out", "--use_cpu"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_sigterm_while_episodes_are_played_leaves_what_was_there(place, signaling, command, capsys):
    before = contents(place)
    assert main(command) == 130
    (line,) = lines_of(capsys.readouterr().err)
    assert "stopped by SIGTERM" in line
    assert contents(place) == before


@pytest.mark.parametrize("command", [["convert", "agent", "out"], ["convert", "agent", "agent"]], ids=" ".join)
def test_sigterm_while_an_agent_is_saved_leaves_what_was_there(place, monkeypatch, command, capsys):
    before = contents(place)
    for module in (durable, checkpoint):
        monkeypatch.setattr(module, "sync_tree", lambda folder: signal.raise_signal(signal.SIGTERM))
    assert main(command) == 130
    assert "stopped by SIGTERM" in lines_of(capsys.readouterr().err)[0]
    assert contents(place) == before


def test_sigterm_while_a_trained_agent_is_judged_keeps_its_weights(place, signaling, capsys):
    assert main([*TRAIN, "--env_id", signaling, "--eval_episodes", "2", "--no_replay"]) == 130
    assert "stopped by SIGTERM" in lines_of(capsys.readouterr().err)[0]
    agent = Agent.from_pretrained("out")
    assert agent.evaluation is None and agent.run.updates == 2
    assert not list(Path("out").rglob(".*"))
