import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import TrainerControl, TrainerState

from hf_seqrl import Agent, RolloutCallback, RolloutResult, rollout
from hf_seqrl.training import callbacks as callbacks_module
from hf_seqrl.training.callbacks import rollout_metrics
from hf_seqrl.training.trainer import TrajectoryTrainer

FEW = {"num_episodes": 3, "num_envs": 3}


def _result(returns, targets=None, references=None, seeds=None):
    return RolloutResult(
        returns=np.array(returns, float),
        lengths=np.arange(1, len(returns) + 1),
        seeds=np.arange(len(returns)) if seeds is None else np.array(seeds),
        terminated=np.zeros(len(returns), bool),
        target_returns=None if targets is None else np.array(targets, float),
        reference_returns=references,
    )


def test_metrics_are_those_of_the_first_target_and_the_mean_of_each():
    metrics = rollout_metrics(_result([10, 20, 1, 2], targets=[100, 100, 7, 7], references=(0, 30)))
    assert metrics == {
        "eval_return": 15.0,
        "eval_return_std": 5.0,
        "eval_episode_length": 1.5,
        "eval_normalized_score": 50.0,
        "eval_return_100": 15.0,
        "eval_return_7": 1.5,
    }


def test_no_score_without_reference_returns():
    assert "eval_normalized_score" not in rollout_metrics(_result([10, 20]))


def test_what_the_callback_measures_is_what_a_rollout_of_the_agent_gives(make_trainer, arguments):
    callback = RolloutCallback(target_return=[120.0, 50.0], seed=5, **FEW)
    trainer = make_trainer(arguments(eval_strategy="steps", eval_steps=3), TrajectoryTrainer, callbacks=[callback])
    trainer.train()
    expected = rollout(
        Agent(trainer.model, trainer.processing_class), "CartPole-v1", target_return=[120.0, 50.0], seed=5, **FEW
    )
    np.testing.assert_array_equal(callback.result.returns, expected.returns)
    logged = [entry for entry in trainer.state.log_history if "eval_return" in entry]
    assert [entry["step"] for entry in logged] == [3, 6]
    assert logged[-1]["eval_return"] == expected.by_target()[120.0].mean_return
    assert logged[-1]["eval_return_50"] == expected.by_target()[50.0].mean_return


def test_training_ends_in_the_same_weights_with_rollouts_as_without(make_trainer, arguments, same_weights, tmp_path):
    judged = make_trainer(
        arguments(eval_strategy="steps", eval_steps=1), TrajectoryTrainer, callbacks=[RolloutCallback(**FEW)]
    )
    judged.train()
    alone = make_trainer(arguments(tmp_path / "alone"))
    alone.train()
    assert same_weights(judged.model, alone.model)


def test_the_best_model_by_return_is_loaded_at_the_end(make_trainer, arguments, same_weights, monkeypatch):
    returns = iter([30.0, 90.0, 10.0])
    monkeypatch.setattr(callbacks_module, "rollout", lambda *_, **__: _result([next(returns)]))
    trainer = make_trainer(
        arguments(
            eval_strategy="steps",
            eval_steps=2,
            load_best_model_at_end=True,
            metric_for_best_model="eval_return",
            greater_is_better=True,
        ),
        TrajectoryTrainer,
        callbacks=[RolloutCallback(**FEW)],
    )
    trainer.train()
    assert Path(trainer.state.best_model_checkpoint).name == "checkpoint-4"
    assert same_weights(trainer.model, Agent.from_pretrained(trainer.state.best_model_checkpoint).model)


def test_plain_trainer_takes_the_callback_beside_its_own_evaluation(make_trainer, arguments):
    trainer = make_trainer(arguments(max_steps=1), callbacks=[RolloutCallback(**FEW)])
    metrics = trainer.evaluate(trainer.train_dataset)
    assert {"eval_loss", "eval_return"} <= set(metrics)
    assert trainer.model.training is False


def test_without_processor_it_says_where_to_put_one(tiny_agent):
    with pytest.raises(ValueError, match=r"processing_class=\.\.\."):
        RolloutCallback().on_evaluate(
            SimpleNamespace(), TrainerState(), TrainerControl(), metrics={}, model=tiny_agent.model
        )


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_the_shares_of_the_processes_make_up_the_episodes_of_one(tiny_agent, monkeypatch, processes):
    callback = RolloutCallback(target_return=[120.0, 50.0], num_episodes=4, seed=1)
    alone = callback._rollout(tiny_agent.model, tiny_agent.processor, SimpleNamespace(process_index=0, world_size=1))
    parts = []
    monkeypatch.setattr(callbacks_module, "gather_object", lambda part: parts.extend(part) or [alone])
    for rank in range(processes):
        share = SimpleNamespace(process_index=rank, world_size=processes)
        callback._rollout(tiny_agent.model, tiny_agent.processor, share)
    together = RolloutResult.merged([part for part in parts if part is not None])
    np.testing.assert_array_equal(together.seeds, alone.seeds)
    np.testing.assert_array_equal(together.returns, alone.returns)
    np.testing.assert_array_equal(together.target_returns, alone.target_returns)


@pytest.mark.slow
def test_two_processes_agree_on_what_was_achieved(tmp_path):
    script = Path(__file__).with_name("train_with_rollouts.py")
    program = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)]
    subprocess.run([*program, str(tmp_path)], check=True, timeout=300)
    first, second = ((tmp_path / f"{rank}.json").read_text() for rank in (0, 1))
    assert "eval_return" in first
    assert first == second
