import json
import os

import pytest
from transformers import TrainingArguments

from hf_seqrl.training.checkpoints import (
    check_settings,
    checkpoints,
    is_at_its_end,
    last_complete_checkpoint,
    mark_complete,
    remove_incomplete,
)


def _checkpoint(folder, step, state=None):
    """As a plain Trainer writes it."""
    (folder / f"checkpoint-{step}").mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (folder / f"checkpoint-{step}" / name).write_bytes(b"...")
    if state is not None:
        (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(state)


def test_the_newest_is_found_by_number_not_by_name(tmp_path):
    for step in (900, 1000, 20):
        _checkpoint(tmp_path, step, json.dumps({"global_step": step}))
    (tmp_path / "checkpoint-best").mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-20", "checkpoint-900", "checkpoint-1000"]
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-1000"


def test_half_written_checkpoints_are_passed_over(tmp_path):
    _checkpoint(tmp_path, 10, json.dumps({"global_step": 10}))
    _checkpoint(tmp_path, 20)
    _checkpoint(tmp_path, 30, '{"global_st')
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-10"


def test_a_folder_without_checkpoints_has_none(tmp_path):
    assert last_complete_checkpoint(tmp_path) is None
    assert last_complete_checkpoint(tmp_path / "absent") is None


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
def test_a_checkpoint_without_one_of_its_files_is_passed_over(tmp_path, marked, name):
    # `Trainer` goes on from it without a word, to other weights
    for step in (10, 20):
        _checkpoint(tmp_path, step, json.dumps({"global_step": step}))
        if marked:
            mark_complete(tmp_path / f"checkpoint-{step}")
    os.unlink(tmp_path / "checkpoint-20" / name)
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-10"
    remove_incomplete(tmp_path)
    assert os.listdir(tmp_path) == ["checkpoint-10"]


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    for step in (10, 20):
        _checkpoint(tmp_path, step, json.dumps({"global_step": step}))
        mark_complete(tmp_path / f"checkpoint-{step}")
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-20"
    (tmp_path / "checkpoint-20" / "optimizer.pt").write_bytes(b".!.")
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-10"


def test_a_checkpoint_at_the_end_of_its_run_is_not_trained_on(tmp_path):
    _checkpoint(tmp_path, 10, json.dumps({"global_step": 10, "max_steps": 10}))
    at = tmp_path / "checkpoint-10"
    by_steps = [TrainingArguments(str(tmp_path), max_steps=steps, use_cpu=True) for steps in (9, 10, 11)]
    assert [is_at_its_end(at, arguments) for arguments in by_steps] == [True, True, False]
    assert is_at_its_end(at, TrainingArguments(str(tmp_path), num_train_epochs=3, use_cpu=True))


def test_other_settings_are_refused_by_name(tmp_path):
    check_settings(tmp_path, {"learning_rate": 0.1, "seed": 0}, False)
    check_settings(tmp_path, {"learning_rate": 0.1, "seed": 0}, False)
    with pytest.raises(ValueError, match=r"learning_rate 0.1 \(now 0.2\): .* --resume_with_changes"):
        check_settings(tmp_path, {"learning_rate": 0.2, "seed": 0}, False)
    check_settings(tmp_path, {"learning_rate": 0.2, "seed": 0}, True)
    check_settings(tmp_path, {"learning_rate": 0.2, "seed": 0}, False)


def test_what_a_kill_left_while_a_checkpoint_was_marked_is_cleared_away(tmp_path):
    _checkpoint(tmp_path, 10, json.dumps({"global_step": 10}))
    (tmp_path / "checkpoint-10" / ".complete.json.0123abcd.partial.json").write_text("{")
    (tmp_path / "checkpoint-10" / ".complete.json.lock").write_text("")
    remove_incomplete(tmp_path)
    assert not list(tmp_path.glob("checkpoint-10/.*")) and last_complete_checkpoint(tmp_path)


def test_settings_hold_no_secret_and_are_compared_without_it(tmp_path):
    secret = {"optim_args": "note=hf_" + "a" * 34, "seed": 0}
    check_settings(tmp_path, secret, False)
    assert "aaaa" not in (tmp_path / "run_settings.json").read_text()
    check_settings(tmp_path, secret, False)


@pytest.mark.parametrize("text", ["{", "[]", "null", "[" * 100_000])
def test_damaged_settings_are_named(tmp_path, text):
    (tmp_path / "run_settings.json").write_text(text)
    with pytest.raises(ValueError, match=r"run_settings\.json is damaged"):
        check_settings(tmp_path, {"seed": 1}, allow_changes=False)
