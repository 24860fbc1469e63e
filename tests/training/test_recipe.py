import json
import sys

import numpy as np

from hf_seqrl.hub.run_record import RunRecord
from hf_seqrl.training.recipe import describe_data, record_run


def test_description_counts_what_is_there(cartpole_dataset, tmp_path):
    described = describe_data(cartpole_dataset, "me/cartpole")
    assert described["hub_id"] == "me/cartpole"
    assert describe_data(cartpole_dataset, str(tmp_path))["hub_id"] is None
    returns = [sum(rewards) for rewards in cartpole_dataset["rewards"]]
    assert described["episodes"] == 30
    assert described["steps"] == sum(len(rewards) for rewards in cartpole_dataset["rewards"])
    assert (described["return_min"], described["return_max"]) == (min(returns), max(returns))
    np.testing.assert_allclose(
        [described["return_mean"], described["return_std"]], [np.mean(returns), np.std(returns)]
    )
    json.dumps(described)


def test_record_of_a_run_survives_its_file(make_trainer, arguments, cartpole_dataset, options, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/else/my_training.py", "--fast", "a b"])
    trainer = make_trainer(arguments(max_steps=2, learning_rate=5e-4))
    trainer.train()
    record = record_run(trainer, "decision-transformer", cartpole_dataset, options=options)
    assert record.command == "python my_training.py --fast 'a b'"
    assert (record.updates, record.seed, record.hyperparameters["learning_rate"]) == (2, 3, 5e-4)
    assert record.options["hidden_size"] == 16
    assert record.final_loss == [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-1]
    assert {"python", "torch", "transformers", "hf-seqrl"} <= set(record.versions)
    record.save(tmp_path)
    assert RunRecord.load(tmp_path / "training_run.json") == record


def test_a_notebook_has_no_command(make_trainer, arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/ipykernel_launcher.py", "-f", "/somewhere/kernel.json"])
    assert record_run(make_trainer(arguments()), "decision-transformer", None).command is None


def test_a_record_of_a_later_version_can_be_read(tmp_path):
    (tmp_path / "training_run.json").write_text('{"family": "decision-transformer", "added_later": 1}')
    assert RunRecord.load(tmp_path / "training_run.json") == RunRecord("decision-transformer")
