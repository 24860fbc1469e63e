"""No secret that is typed into any option, or that stands in the environment, is in a file or a message afterwards."""

import json

import pytest

from hf_seqrl import load_trajectories, save_trajectories
from hf_seqrl.cli.main import main

TOKEN = "hf_" + "MARK" * 6
SMALL = ["--hidden_size", "8", "--n_layer", "1", "--context_length", "2", "--max_steps", "2", "--save_steps", "1"]
QUIET = ["--use_cpu", "--eval_episodes", "0", "--report_to", "none", "--disable_tqdm", "true"]


def holders(folder):
    """The files in which a secret is."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.relative_to(folder).as_posix() for path in files if b"MARK" in path.read_bytes()]


@pytest.fixture
def place(cartpole_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKER_API_KEY", "MARK-of-the-environment")
    cartpole_dataset.save_to_disk("data")
    return tmp_path


@pytest.mark.parametrize(
    "typed",
    [
        ["--hub_token", "MARK"],
        ["--hub_token=MARK"],
        ["--run_name", TOKEN],
        ["--project", "MARK-of-the-environment"],
        ["--hub_model_id", TOKEN],
        ["--optim_args", f"note={TOKEN}"],
        ["--lr_scheduler_kwargs", json.dumps({"note": TOKEN}), "--lr_scheduler_type", "linear"],
        ["--resume_from_checkpoint", "https://me:MARK@host/checkpoint"],
        ["--trackio_space_id", "https://host/space?token=MARK"],
    ],
    ids=lambda typed: typed[0],
)
def test_training(place, capfd, typed):
    main(["train", "decision-transformer", "--dataset", "data", "--output_dir", "run", *SMALL, *QUIET, *typed])
    assert not holders(place)
    shown = capfd.readouterr()
    assert "MARK" not in shown.out + shown.err


@pytest.mark.parametrize("verb", ["info", "compare", "train"])
def test_an_address_that_cannot_be_read(place, capsys, verb):
    address = "https://me:MARK@host/data.csv?sig=MARK"
    arguments = {
        "info": [address],
        "compare": [address, "--output_dir", "run"],
        "train": ["decision-transformer", "--dataset", address, "--output_dir", "run", *SMALL, *QUIET],
    }
    assert main([verb, *arguments[verb]]) == 1
    assert not holders(place)
    shown = capsys.readouterr()
    assert "MARK" not in shown.out + shown.err and "***@host" in shown.err


def test_the_provenance_of_data(cartpole_dataset, tmp_path):
    columns = {name: cartpole_dataset[name][:3] for name in cartpole_dataset.column_names}
    stated = {"source": "https://me:MARK@host/data", "password": "MARK", "nested": [{"note": TOKEN}]}
    save_trajectories(load_trajectories(columns, env_id="CartPole-v1", provenance=stated), tmp_path / "data")
    assert not holders(tmp_path)
