"""For every family, a run that was stopped and goes on ends in the weights of one that was not, also within an epoch."""

import os
import signal
import time
import warnings

import numpy as np
import pytest
import torch
from transformers.trainer_callback import CallbackHandler

from hf_seqrl import Agent
from hf_seqrl.models.registry import family_named
from hf_seqrl.training.checkpoints import checkpoints, last_complete_checkpoint
from hf_seqrl.training.run import Judgement, train_agent
from hf_seqrl.training.trainer import TrajectoryTrainer

NO_EPISODES = Judgement(num_episodes=0)
SMALL = {"context_length": 3, "hidden_size": 8}
FAMILIES = {
    "decision-transformer": {**SMALL, "n_layer": 1, "recipe": "paper"},
    "decision-transformer, averaged": {**SMALL, "n_layer": 1, "recipe": "auto", "average_decay": 0.5},
    "trajectory-transformer": {"sequence_transitions": 2, "n_embd": 8, "n_layer": 1, "n_head": 1, "num_bins": 8},
    "trajectory-seq2seq, gru": {**SMALL, "backbone": "gru"},
    "trajectory-seq2seq, transformer": {**SMALL, "backbone": "transformer"},
    "cloning": {"hidden_size": 8, "average_decay": 0.0},
    "cloning, averaged and weighted": {"hidden_size": 8, "average_decay": 0.5, "weighting": "return"},
    "critic": {"hidden_size": 8},
}


class Killed(BaseException):
    """In the place of a kill, for speed."""


@pytest.fixture
def run(cartpole_dataset, arguments, tmp_path):
    """`run(name, folder, resume=True)`: a run of seven updates on ten batches an epoch, with a checkpoint each two."""
    data = cartpole_dataset.select(range(4))

    def make(name, folder, **settings):
        family = family_named(name.split(",")[0])
        options = family.options_class(**FAMILIES[name])
        settings = {"max_steps": 7, **settings}
        resume = settings.pop("resume", False)
        training = arguments(tmp_path / folder, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return train_agent(family, data, options, training, judgement=NO_EPISODES, resume=resume)

    return make


def _dies_at(monkeypatch, place, number):
    """The `number`-th call of a method of `Trainer` or of a callback ends the run."""
    owner, name = place
    method, calls = getattr(owner, name), []

    def dying(*arguments, **options):
        calls.append(name)
        if len(calls) == number:
            raise Killed
        return method(*arguments, **options)

    monkeypatch.setattr(owner, name, dying)


PLACES = {
    "within an epoch": ((TrajectoryTrainer, "training_step"), 6),
    "before a checkpoint is marked": ((CallbackHandler, "on_save"), 2),
    "in the final save": ((Agent, "save_pretrained"), 1),
}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_stopped_run_ends_like_one_that_was_not(run, same_weights, tmp_path, monkeypatch, name, where):
    whole = run(name, "whole")
    with monkeypatch.context() as patch:
        _dies_at(patch, *PLACES[where])
        with pytest.raises(Killed):
            run(name, "run")
    assert checkpoints(tmp_path / "run") and not (tmp_path / "run" / "config.json").exists()
    resumed = run(name, "run", resume=True)
    assert resumed.run.updates == whole.run.updates == 7
    assert same_weights(resumed.model, whole.model)


def test_the_best_model_is_found_again_after_a_kill_in_the_final_save(run, same_weights, monkeypatch):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "eval_strategy": "steps", "eval_steps": 2}
    FAMILIES["cloning, best"] = {"hidden_size": 8, "eval_fraction": 0.5, "average_decay": 0.5}
    best |= {"learning_rate": 1.0, "max_steps": 6}
    whole = run("cloning, best", "whole", **best)
    with monkeypatch.context() as patch:
        _dies_at(patch, *PLACES["in the final save"])
        with pytest.raises(Killed):
            run("cloning, best", "run", **best)
    assert same_weights(run("cloning, best", "run", resume=True, **best).model, whole.model)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_kills_at_random_times_change_nothing(run, same_weights, tmp_path, name):
    began = time.monotonic()
    whole = run(name, "whole", max_steps=60, save_steps=3)
    seconds = time.monotonic() - began
    rng = np.random.default_rng(sum(map(ord, name)))
    for number in range(4):
        folder, kills = f"run{number}", 0
        while not (tmp_path / folder / "config.json").exists() and kills < 3:
            child = os.fork()
            if child == 0:
                torch.set_num_threads(1)
                run(name, folder, max_steps=60, save_steps=3, resume=True)
                os._exit(0)
            time.sleep(rng.uniform(0.2, 0.9) * seconds)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
        if not (tmp_path / folder / "config.json").exists():
            print(name, "goes on from", getattr(last_complete_checkpoint(tmp_path / folder), "name", "the start"))
            run(name, folder, max_steps=60, save_steps=3, resume=True)
        assert same_weights(Agent.from_pretrained(tmp_path / folder).model, whole.model)
