"""What was typed becomes options."""

import pytest

from hf_seqrl.cli.options import parse
from hf_seqrl.models.registry import family_of

FAMILY = family_of("decision_transformer")


@pytest.mark.parametrize(
    ("accelerator", "typed", "expected"), [(False, [], True), (True, [], False), (True, ["--use_cpu"], True)]
)
def test_where_there_is_no_accelerator_the_cpu_goes_without_saying(
    accelerator, typed, expected, monkeypatch, tmp_path
):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: accelerator)
    *_, training = parse(FAMILY, ["--output_dir", str(tmp_path), *typed])
    assert training.use_cpu is expected


def test_half_precision_needs_no_other_option_on_a_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    *_, training = parse(FAMILY, ["--output_dir", str(tmp_path), "--bf16", "True"])
    assert training.bf16 and training.use_cpu


@pytest.mark.parametrize(
    ("typed", "updates"),
    [([], 5_000), (["--num_train_epochs", "3"], -1), (["--num-train-epochs=3", "--max_steps", "7"], 7)],
)
def test_epochs_that_are_asked_for_count_more_than_the_updates_of_the_family(typed, updates, tmp_path):
    run, _, training = parse(FAMILY, ["--output_dir", str(tmp_path), *typed])
    assert training.max_steps == updates
    assert ("max_steps" in run.left_to_data) == (typed == [])


def test_what_is_typed_or_stands_in_the_file_is_not_left_to_the_data(tmp_path):
    (tmp_path / "run.yaml").write_text("max_steps: 5000\n")
    run, _, training = parse(FAMILY, ["--output_dir", str(tmp_path), "--learning_rate=3e-4"], tmp_path / "run.yaml")
    assert training.max_steps == 5000
    assert not {"max_steps", "learning_rate", "output_dir"} & run.left_to_data
    assert {"weight_decay", "warmup_steps"} <= run.left_to_data
