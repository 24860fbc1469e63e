"""The cards under `model_cards/` say what was recorded, and their commands are ones that run."""

import json
import runpy
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest

from hf_seqrl import RolloutResult
from hf_seqrl.cli.options import parse
from hf_seqrl.hub.run_record import RunRecord
from hf_seqrl.models.decision_transformer.recipes import PAPER
from hf_seqrl.models.registry import family_named, family_names

MODEL_CARDS = Path(__file__).parents[1] / "model_cards"
RECORDS = sorted(path.parent for path in MODEL_CARDS.glob("*/config.json"))
render = runpy.run_path(str(MODEL_CARDS / "render.py"))["render"]


@pytest.fixture(params=RECORDS, ids=lambda folder: folder.name)
def records(request):
    return request.param


def test_every_family_that_acts_has_a_card():
    carded = {RunRecord.load(folder / "training_run.json").family for folder in RECORDS}
    assert carded == {name for name in family_names() if family_named(name).make_actor is not None}


def test_card_is_what_the_generator_writes(records):
    assert (records / "README.md").read_text(encoding="utf-8") == render(records)


def test_card_reports_the_recorded_episodes(records):
    evaluation = RolloutResult.load(records / "evaluation.json")
    reported = json.loads((records / "results.json").read_text())["mean_reward"]
    assert reported in [part.mean_return for part in evaluation.by_target().values()]
    assert len(evaluation.seeds) == evaluation.num_episodes


def test_pictures_that_a_card_shows_are_there(records):
    assert (records / "target_returns.png").stat().st_size > 0


def test_command_gives_the_recorded_settings(records, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = RunRecord.load(records / "training_run.json")
    program, verb, family_name, *arguments = shlex.split(record.command)
    assert (program, verb, family_name) == ("hf-seqrl", "train", record.family)
    run, options, training_arguments = parse(family_named(record.family), arguments)
    chosen = asdict(options)
    if record.family == "decision-transformer":  # what is left open follows from the recipe
        recorded = {name: value for name, value in PAPER.items() if record.options.get(name) is not None}
        chosen |= {name: value for name, value in recorded.items() if chosen[name] is None}
    assert chosen | record.options == chosen
    assert run.dataset == record.data.get("name")
    assert training_arguments.seed == record.seed
    for name in ("max_steps", "learning_rate", "per_device_train_batch_size", "weight_decay", "bf16"):
        assert getattr(training_arguments, name) == record.hyperparameters[name], name
    assert Path(training_arguments.output_dir).name == records.name
