import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import EvalPrediction, Trainer, TrainingArguments, set_seed

from hf_seqrl import Agent, TrajectorySeq2SeqDataCollator, TrajectorySeq2SeqModel, rollout
from hf_seqrl.models.registry import family_of
from hf_seqrl.models.trajectory_seq2seq.histories import EpisodeHistories, random_histories
from hf_seqrl.models.trajectory_seq2seq.metrics import (
    compute_metrics,
    exact_match,
    format_examples,
    token_accuracy,
)
from hf_seqrl.models.trajectory_seq2seq.processing_trajectory_seq2seq import TrajectorySeq2SeqProcessor
from hf_seqrl.models.trajectory_seq2seq.teacher_forcing import draw_forced_steps
from hf_seqrl.models.trajectory_seq2seq.teacher_forcing_schedule import (
    TeacherForcingCallback,
    TeacherForcingSchedule,
    inverse_sigmoid_decay,
)
from hf_seqrl.models.trajectory_seq2seq.training import (
    TrajectorySeq2SeqOptions,
    prepare,
    vaswani_optimizer,
)
from hf_seqrl.training.run import Judgement, train_agent


def test_forced_steps_are_drawn_by_step_or_by_sequence_and_seeded():
    torch.manual_seed(0)
    steps = draw_forced_steps(0.3, "step", (400, 50))
    torch.manual_seed(0)
    assert torch.equal(steps, draw_forced_steps(0.3, "step", (400, 50)))
    assert abs(steps.float().mean() - 0.3) < 0.02
    assert (steps.any(1) & ~steps.all(1)).all()
    sequences = draw_forced_steps(0.3, "sequence", (4000, 5))
    assert (sequences.all(1) | ~sequences.any(1)).all()
    assert abs(sequences.float().mean() - 0.3) < 0.04
    assert draw_forced_steps(1.0, "step", (2, 2)).all() and not draw_forced_steps(0.0, "step", (2, 2)).any()


@given(
    st.sampled_from(["linear", "exponential", "inverse_sigmoid"]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(1, 100_000),
)
@settings(max_examples=100, deadline=None)
def test_schedules_fall_between_their_ends(kind, one, other, num_updates):
    schedule = TeacherForcingSchedule(kind, start=max(one, other), end=min(one, other))
    ratios = [schedule.ratio(update, num_updates) for update in np.linspace(0, num_updates, 20).astype(int)]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(ratios))
    assert all(schedule.end - 1e-12 <= ratio <= schedule.start + 1e-12 for ratio in ratios)


def test_schedules_take_the_values_of_their_formulas():
    assert TeacherForcingSchedule("constant", start=0.7).ratio(5, 10) == 0.7
    assert TeacherForcingSchedule("linear").ratio(3, 10) == pytest.approx(0.7)
    assert TeacherForcingSchedule("exponential", k=0.9).ratio(5, 10) == pytest.approx(0.9**5)
    k = 7.0
    expected = k / (k + math.exp(5 / k))
    assert TeacherForcingSchedule("inverse_sigmoid", k=k).ratio(5, 10) == pytest.approx(expected)
    assert TeacherForcingSchedule("inverse_sigmoid").ratio(500, 1000) == pytest.approx(0.5)
    assert TeacherForcingSchedule("exponential").ratio(1000, 1000) == pytest.approx(0.01)
    decay = inverse_sigmoid_decay(123.0)
    assert decay * math.log(decay) == pytest.approx(123.0)


def test_a_bad_schedule_is_named():
    with pytest.raises(ValueError, match="'cosine'"):
        TeacherForcingSchedule("cosine")
    with pytest.raises(ValueError, match=r"end=0\.9"):
        TeacherForcingSchedule("linear", start=0.5, end=0.9)


def test_always_forced_takes_one_call_of_the_decoder_and_seldom_forced_one_a_step(model, histories):
    calls = []
    model.target_decoder.register_forward_hook(lambda module, inputs, output: calls.append(output.shape[1]))
    model.train()(**histories)
    assert calls == [6]
    calls.clear()
    model(**histories, teacher_forcing_ratio=0.5)
    assert calls == [1] * 6


def test_step_by_step_with_the_truth_equals_one_call(model, histories):
    encoded = model.encode(histories["states"], histories["actions"], histories["attention_mask"])
    symbols = histories["labels"].masked_fill(histories["labels"] == -100, model.config.pad_token_id)
    at_once = model._write_at_once(encoded, symbols, None)
    by_step = model._write_step_by_step(encoded, symbols, None, torch.ones_like(symbols, dtype=torch.bool))
    torch.testing.assert_close(by_step.logits, at_once.logits)


def test_evaluation_runs_freely_and_reports_both_losses(model, histories):
    output = model(**histories)
    counts = histories["labels"] != -100
    free = output.free_running_losses[counts].mean()
    torch.testing.assert_close(output.loss, free)
    forced = output.teacher_forced_losses[counts].mean()
    assert abs(free - forced) > 1e-4
    torch.testing.assert_close(model.train()(**histories).loss, forced)  # no dropout: training sees the forced one
    torch.testing.assert_close(model.eval()(**histories, teacher_forcing_ratio=1.0).loss, forced)


def test_label_smoothing_is_for_training_alone(backbone, make_model, histories):
    smooth, plain = make_model(backbone, label_smoothing=0.1), make_model(backbone)
    torch.testing.assert_close(smooth(**histories).loss, plain(**histories).loss)
    logits = smooth.train()(**histories).logits
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), histories["labels"].flatten(), label_smoothing=0.1
    )
    torch.testing.assert_close(smooth(**histories).loss, expected)


def test_metrics_count_free_running_symbols():
    labels = np.array([[0, 1, 3], [2, 3, -100], [1, 0, 3]])
    predictions = np.array([[0, 1, 3], [2, 3, 0], [1, 1, 3]])
    assert exact_match(predictions, labels).tolist() == [True, True, False]
    assert token_accuracy(predictions, labels) == pytest.approx(7 / 8)
    losses = np.where(labels == -100, 0.0, 2.0), np.where(labels == -100, 0.0, 0.5)
    metrics = compute_metrics(EvalPrediction((predictions, *losses), labels))
    assert metrics["exact_match"] == pytest.approx(2 / 3) and metrics["exposure_bias"] == pytest.approx(1.5)
    lines = format_examples(predictions, labels, eos_token_id=3)
    assert lines[0].endswith("fed 0 1 | predicted 0 1 \N{CHECK MARK}")
    assert lines[2].endswith("fed 1 0 | predicted 1 1 \N{BALLOT X}")


def _trainer(tmp_path, backbone="gru", data=None, callbacks=None, optimizers=(None, None), **arguments):
    set_seed(0)
    data = random_histories(64, seed=1) if data is None else data
    processor = TrajectorySeq2SeqProcessor.from_dataset(data, target="history")
    model = TrajectorySeq2SeqModel(
        processor.model_config(backbone=backbone, hidden_size=16, num_encoder_layers=1, num_decoder_layers=1)
    )
    defaults = {"per_device_train_batch_size": 8, "learning_rate": 1e-3, "save_strategy": "no", "disable_tqdm": True}
    histories = EpisodeHistories(data, processor)
    return Trainer(
        model,
        TrainingArguments(str(tmp_path), use_cpu=True, **(defaults | arguments)),
        train_dataset=histories,
        eval_dataset=histories,
        data_collator=TrajectorySeq2SeqDataCollator(processor=processor),
        compute_metrics=compute_metrics,
        callbacks=callbacks,
        optimizers=optimizers,
    )


def test_trainer_evaluates_freely_with_both_losses(tmp_path, backbone):
    trainer = _trainer(tmp_path, backbone, per_device_eval_batch_size=7)  # batches of different widths
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] > 0
    names = {"exact_match", "token_accuracy", "free_running_loss", "teacher_forced_loss", "exposure_bias"}
    assert {f"eval_{name}" for name in names} <= metrics.keys()


def test_gradient_accumulation_changes_neither_loss_nor_weights(tmp_path):
    trainers = [
        _trainer(tmp_path, per_device_train_batch_size=32, max_steps=3, logging_steps=1),
        _trainer(tmp_path, per_device_train_batch_size=8, gradient_accumulation_steps=4, max_steps=3, logging_steps=1),
    ]
    for trainer in trainers:
        trainer.train()
    at_once, accumulated = (
        [log["loss"] for log in trainer.state.log_history if "loss" in log] for trainer in trainers
    )
    np.testing.assert_allclose(at_once, accumulated, rtol=1e-3)
    for one, other in zip(trainers[0].model.parameters(), trainers[1].model.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_callback_drives_and_logs_the_ratio(tmp_path, capsys):
    seen = []
    trainer = _trainer(
        tmp_path,
        max_steps=4,
        logging_steps=1,
        callbacks=[TeacherForcingCallback(TeacherForcingSchedule("linear", end=0.2))],
    )
    original = trainer.model.forward
    trainer.model.forward = lambda *a, **k: (seen.append(trainer.model.teacher_forcing_ratio), original(*a, **k))[1]
    trainer.train()
    assert seen == pytest.approx([1.0, 0.8, 0.6, 0.4])
    assert "'teacher_forcing_ratio': '0.4'" in capsys.readouterr().out


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path):
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    ratio = TeacherForcingSchedule("constant", start=0.5)  # draws at every step
    whole = _trainer(tmp_path / "whole", callbacks=[TeacherForcingCallback(ratio)], **options)
    whole.train()
    resumed = _trainer(tmp_path / "resumed", callbacks=[TeacherForcingCallback(ratio)], **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for one, other in zip(whole.model.parameters(), resumed.model.parameters()):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_learning_rates_are_those_of_vaswani(tmp_path, make_model):
    arguments = TrainingArguments(str(tmp_path), lr_scheduler_type="inverse_sqrt", warmup_steps=40, use_cpu=True)
    optimizer = vaswani_optimizer(make_model("transformer"), arguments)
    scheduler = Trainer(make_model("transformer"), arguments).create_scheduler(200, optimizer)
    for step in range(1, 200):
        optimizer.step()
        scheduler.step()
        expected = 16**-0.5 * min(step**-0.5, step * 40**-1.5)  # equation 3, width 16
        assert scheduler.get_last_lr()[0] == pytest.approx(expected)


def test_vaswani_needs_his_schedule(tmp_path, make_model):
    with pytest.raises(ValueError, match="'inverse_sqrt'"):
        vaswani_optimizer(make_model("transformer"), TrainingArguments(str(tmp_path), use_cpu=True))


@pytest.mark.parametrize("task", ["history", "actions", "next_action"])
def test_prepare_gives_what_trainer_needs(tmp_path, task, capsys):
    options = TrajectorySeq2SeqOptions(task=task, hidden_size=16, num_layers=1, eval_fraction=0.25,
                                       teacher_forcing="linear")  # fmt: skip
    prepared = prepare(random_histories(40, seed=0), options)
    trainer = Trainer(
        prepared.model,
        TrainingArguments(str(tmp_path), max_steps=2, use_cpu=True, save_strategy="no", disable_tqdm=True),
        train_dataset=prepared.train_dataset,
        eval_dataset=prepared.eval_dataset,
        data_collator=prepared.data_collator,
        **prepared.trainer_arguments,
    )
    trainer.train()
    assert prepared.train_dataset.columns.num_episodes == 30 and prepared.eval_dataset.columns.num_episodes == 10
    assert "eval_exact_match" in trainer.evaluate()
    assert ("| predicted" in capsys.readouterr().out) == (task != "next_action")


def test_a_few_histories_are_learnt_by_heart(tmp_path, backbone):
    data = random_histories(8, seed=2)
    trainer = _trainer(tmp_path, backbone, data, max_steps=100, learning_rate=1e-2)
    trainer.train()
    assert trainer.evaluate()["eval_exact_match"] == 1.0


@pytest.mark.parametrize("task", ["history", "actions"])
def test_what_does_not_act_is_trained_on_data_of_an_environment_and_not_judged_there(task, tmp_path, cartpole_dataset):
    options = TrajectorySeq2SeqOptions(task, hidden_size=16, context_length=3, eval_fraction=0.2)
    arguments = TrainingArguments(str(tmp_path), max_steps=2, eval_strategy="steps", eval_steps=2, use_cpu=True)
    judgement = Judgement("CartPole-v1", num_episodes=2)
    agent = train_agent(family_of("trajectory_seq2seq"), cartpole_dataset, options, arguments, judgement=judgement)
    assert agent.evaluation is None
    saved = Agent.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="target='next_action'"):
        rollout(saved, "CartPole-v1", num_episodes=1)
