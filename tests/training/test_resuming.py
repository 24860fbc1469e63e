import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import TrainerCallback

from hf_seqrl import Agent
from hf_seqrl.data.durable import InUseError, sole_writer
from hf_seqrl.hub.markdown import number
from hf_seqrl.training.checkpoints import Stopwatch, checkpoints, last_complete_checkpoint, mark_complete
from hf_seqrl.training.run import Judgement, TrainingInterrupted, train_agent

NO_EPISODES = Judgement(num_episodes=0)


class Kill(TrainerCallback):
    """Ends the process as the kernel would, or raises, at the end of a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


def _fail():
    raise RuntimeError("the machine went away")


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_run_that_died_resumes_to_the_weights_of_one_that_did_not(
    make_trainer, arguments, same_weights, tmp_path, step
):
    whole = make_trainer(arguments(tmp_path / "whole"))
    whole.train()
    died = make_trainer(arguments(), callbacks=[Kill(step, _fail)])
    with pytest.raises(RuntimeError):
        died.train()
    checkpoint = last_complete_checkpoint(died.args.output_dir)
    resumed = make_trainer(arguments())
    resumed.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    assert same_weights(resumed.model, whole.model)
    losses = [[entry["loss"] for entry in one.state.log_history if "loss" in entry] for one in (resumed, whole)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_a_checkpoint_from_which_the_same_weights_come(
    family, cartpole_dataset, options, arguments, make_trainer, same_weights, tmp_path, monkeypatch, number
):
    monkeypatch.setattr("hf_seqrl.training.run.Stopwatch", lambda: Kill(3, lambda: os.kill(os.getpid(), number)))
    handler = signal.getsignal(number)
    with pytest.raises(TrainingInterrupted, match=r"update [34].*--resume"):
        train_agent(family, cartpole_dataset, options, arguments(), judgement=NO_EPISODES)
    assert signal.getsignal(number) is handler
    assert not Path(arguments().output_dir, "config.json").exists()
    monkeypatch.undo()
    agent = train_agent(family, cartpole_dataset, options, arguments(), judgement=NO_EPISODES, resume=True)
    whole = train_agent(family, cartpole_dataset, options, arguments(tmp_path / "whole"), judgement=NO_EPISODES)
    assert same_weights(agent.model, whole.model)


def test_a_finished_run_is_not_overwritten(family, cartpole_dataset, options, arguments):
    train_agent(family, cartpole_dataset, options, arguments(max_steps=1), judgement=NO_EPISODES)
    with pytest.raises(FileExistsError, match="holds a finished agent"):
        train_agent(family, cartpole_dataset, options, arguments(max_steps=1), judgement=NO_EPISODES)


def test_a_finished_run_is_resumed_without_a_change(
    family, cartpole_dataset, options, arguments, same_weights, capsys
):
    trained = train_agent(family, cartpole_dataset, options, arguments(max_steps=1), judgement=NO_EPISODES)
    folder = Path(arguments().output_dir)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = train_agent(family, cartpole_dataset, options, arguments(max_steps=1), judgement=NO_EPISODES, resume=True)
    assert f"the run in {folder} is finished" in capsys.readouterr().out
    assert same_weights(again.model, trained.model) and again.run == trained.run
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"learning_rate": 0.5}, r"learning_rate .*now 0\.5"), ({"max_steps": 2}, r"max_steps 1 \(now 2\)")],
)
@pytest.mark.parametrize("allow_changes", [False, True])
def test_a_finished_run_is_not_resumed_with_other_settings(
    family, cartpole_dataset, options, arguments, changes, named, allow_changes
):
    train_agent(family, cartpole_dataset, options, arguments(max_steps=1), judgement=NO_EPISODES)
    other = arguments(**{"max_steps": 1, **changes})
    with pytest.raises(ValueError, match=f"is finished, and was started with {named}"):
        train_agent(
            family,
            cartpole_dataset,
            options,
            other,
            judgement=NO_EPISODES,
            resume=True,
            allow_changes=allow_changes,
        )


def test_an_agent_without_a_record_is_not_taken_for_a_finished_run(family, cartpole_dataset, options, arguments):
    trained = train_agent(family, cartpole_dataset, options, arguments(max_steps=1), judgement=NO_EPISODES)
    trained.run = replace(trained.run, settings={})
    trained.save_pretrained(arguments().output_dir)
    with pytest.raises(FileExistsError, match="no record of the settings"):
        train_agent(family, cartpole_dataset, options, arguments(max_steps=1), judgement=NO_EPISODES, resume=True)


def test_a_kill_in_the_final_save_adds_no_update(family, cartpole_dataset, options, arguments, same_weights):
    trained = train_agent(family, cartpole_dataset, options, arguments(), judgement=NO_EPISODES)
    Path(arguments().output_dir, "config.json").unlink()
    resumed = train_agent(family, cartpole_dataset, options, arguments(), judgement=NO_EPISODES, resume=True)
    assert resumed.run.updates == trained.run.updates == 6
    assert same_weights(resumed.model, trained.model)
    assert resumed.run.final_loss == trained.run.final_loss


def test_a_run_is_not_resumed_with_other_settings(
    family, cartpole_dataset, options, arguments, make_trainer, monkeypatch
):
    monkeypatch.setattr("hf_seqrl.training.run.Stopwatch", lambda: Kill(3, _fail))
    with pytest.raises(RuntimeError):
        train_agent(family, cartpole_dataset, options, arguments(), judgement=NO_EPISODES)
    monkeypatch.undo()
    changed = arguments(learning_rate=0.5)
    with pytest.raises(ValueError, match=r"learning_rate .*now 0\.5"):
        train_agent(family, cartpole_dataset, options, changed, judgement=NO_EPISODES, resume=True)
    agent = train_agent(
        family, cartpole_dataset, options, changed, judgement=NO_EPISODES, resume=True, allow_changes=True
    )
    assert agent.run.hyperparameters["learning_rate"] == 0.5
    assert not Path(changed.output_dir, "run_settings.json").exists()


def test_a_second_run_in_the_same_folder_is_refused(family, cartpole_dataset, options, arguments):
    refused = []

    def second():
        with pytest.raises(InUseError, match="is being written by another process"):
            train_agent(family, cartpole_dataset, options, arguments(), judgement=NO_EPISODES)
        refused.append(True)

    Path(arguments().output_dir).mkdir()
    with sole_writer(arguments().output_dir):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert refused


def test_a_clock_that_was_set_back_does_not_cost_the_newest_checkpoint(
    family, cartpole_dataset, options, arguments, monkeypatch
):
    clock = iter(range(2_000_000_000, 0, -1_000_000))

    def set_back(args, state, control, **kwargs):
        for path in checkpoints(args.output_dir):
            if path.name == f"checkpoint-{state.global_step}":
                os.utime(path, (stamp := next(clock), stamp))

    monkeypatch.setattr(Stopwatch, "on_save", staticmethod(set_back), raising=False)
    run = arguments(save_total_limit=1)
    train_agent(family, cartpole_dataset, options, run, judgement=NO_EPISODES)
    assert [path.name for path in checkpoints(run.output_dir)] == ["checkpoint-6"]


def test_an_unfinished_run_is_only_resumed_when_asked(family, cartpole_dataset, options, arguments):
    Path(arguments().output_dir, "checkpoint-2").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="--resume"):
        train_agent(family, cartpole_dataset, options, arguments(), judgement=NO_EPISODES)


def test_the_seconds_of_all_parts_of_a_run_are_counted(family, cartpole_dataset, options, arguments):
    folder = Path(arguments().output_dir)
    trained = train_agent(family, cartpole_dataset, options, arguments(), judgement=NO_EPISODES)
    state = folder / "checkpoint-6" / "trainer_state.json"
    content = json.loads(state.read_text())
    for name in ("_before", "_cpu_before"):
        content["stateful_callbacks"]["Stopwatch"]["attributes"][name] += 1000
    state.write_text(json.dumps(content))
    mark_complete(folder / "checkpoint-6")
    (folder / "config.json").unlink()
    resumed = train_agent(family, cartpole_dataset, options, arguments(), judgement=NO_EPISODES, resume=True)
    assert trained.run.seconds < 1000 < resumed.run.seconds
    assert 0 < trained.run.cpu_seconds < 1000 < resumed.run.cpu_seconds
    assert f"({number(resumed.run.cpu_seconds)} CPU seconds)" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_a_run_killed_at_a_random_step_resumes_to_the_same_weights(cartpole_dataset, same_weights, tmp_path):
    cartpole_dataset.save_to_disk(tmp_path / "data")
    command = [sys.executable, "-m", "hf_seqrl.cli.main", "train", "decision-transformer"]
    command += ["--dataset", str(tmp_path / "data"), "--hidden_size", "16", "--n_layer", "1", "--context_length", "4"]
    command += [
        "--max_steps",
        "200",
        "--save_steps",
        "7",
        "--save_total_limit",
        "3",
        "--use_cpu",
        "--eval_episodes",
        "0",
    ]
    subprocess.run([*command, "--output_dir", str(tmp_path / "whole")], check=True, timeout=300)

    killed = subprocess.Popen([*command, "--output_dir", str(tmp_path / "killed")])
    waits = np.random.default_rng().integers(1, 8)
    while len(checkpoints(tmp_path / "killed")) < 1 and killed.poll() is None:
        time.sleep(0.05)
    time.sleep(0.1 * waits)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, "it had finished before the kill"
    assert not (tmp_path / "killed" / "config.json").exists()

    subprocess.run([*command, "--output_dir", str(tmp_path / "killed"), "--resume"], check=True, timeout=300)
    ours, theirs = (Agent.from_pretrained(tmp_path / name).model for name in ("killed", "whole"))
    assert same_weights(ours, theirs)


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, RuntimeError("the simulator went away")])
def test_weights_survive_a_judgement_that_does_not(family, cartpole_dataset, options, arguments, monkeypatch, trouble):
    def fail(*_, **__):
        raise trouble

    monkeypatch.setattr("hf_seqrl.training.run.rollout_and_replay", fail)
    run = arguments(max_steps=1)
    with pytest.raises(type(trouble) if isinstance(trouble, Exception) else trouble):
        train_agent(family, cartpole_dataset, options, run, judgement=Judgement(num_episodes=1))
    agent = Agent.from_pretrained(run.output_dir)
    assert agent.evaluation is None
    assert agent.run.updates == 1
