"""Data sets that name code: nothing is imported unless the user types it or trusts the author."""

import json
import sys

import pytest
from datasets import load_from_disk

from hf_seqrl import load_trajectories, save_trajectories
from hf_seqrl.cli.main import main
from hf_seqrl.data.metadata import metadata_of, with_metadata


@pytest.fixture
def payload(tmp_path, monkeypatch):
    (tmp_path / "payload.py").write_text("raise SystemExit('code of a stranger ran')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield "payload:Env-v0"
    assert "payload" not in sys.modules


@pytest.fixture
def hostile(cartpole_dataset, tmp_path, payload):
    """A folder whose metadata name an environment that is code."""
    metadata = metadata_of(cartpole_dataset).updated(env_id=payload)
    save_trajectories(with_metadata(cartpole_dataset, metadata), tmp_path / "data")
    return tmp_path / "data"


def _parquet(hostile):
    folder = hostile.parent / "parquet"
    folder.mkdir()
    load_from_disk(str(hostile))["train"].to_parquet(folder / "0.parquet")
    (folder / "episodes.json").write_text(json.dumps({"info": {"env": "payload:Env-v0"}, "episodes": []}))
    return folder


@pytest.mark.parametrize(
    "source",
    [
        str,
        lambda hostile: hostile,
        lambda hostile: load_from_disk(str(hostile)),
        lambda hostile: load_from_disk(str(hostile))["train"],
        lambda hostile: load_from_disk(str(hostile))["train"].select(range(2)),
        _parquet,
    ],
    ids=["name", "path", "splits", "data set", "part", "parquet"],
)
@pytest.mark.parametrize("validate", [True, False])
def test_an_environment_id_that_is_code_is_refused_on_every_road(hostile, source, validate):
    with pytest.raises(ValueError, match=r"'payload:Env-v0'.*import 'payload'.*trust_remote_code=True"):
        load_trajectories(source(hostile), validate=validate)


def test_what_is_typed_or_trusted_is_not_restricted(hostile):
    stated = load_trajectories(str(hostile), env_id="CartPole-v1")
    assert metadata_of(stated).env_id == "CartPole-v1"
    assert metadata_of(load_trajectories(str(hostile), env_id="payload:Env-v0")).env_id == "payload:Env-v0"
    with pytest.raises(SystemExit, match="code of a stranger ran"):
        load_trajectories(str(hostile), trust_remote_code=True)


@pytest.mark.parametrize(
    "command",
    [
        ["info", "data"],
        ["push", "data", "me/data"],
        ["convert", "nothing", "out", "--dataset", "data"],
        ["train", "decision-transformer", "--dataset", "data", "--output_dir", "out"],
        ["train", "cloning", "--dataset", "data", "--output_dir", "out", "--eval_episodes", "0"],
    ],
    ids=lambda command: command[0],
)
def test_no_verb_imports_it(hostile, tmp_path, command, capsys):
    assert main(command) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "payload" in line]
    assert "--trust_remote_code" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "env_id", ["payload:Env-v0", "payload.inner:Env-v0", "os:payload:Env-v0", ":Env-v0", 3, ["x"]]
)
def test_no_spelling_of_it_is_imported(cartpole_dataset, payload, env_id):
    dataset = with_metadata(cartpole_dataset, metadata_of(cartpole_dataset))
    text = json.loads(dataset.info.description.splitlines()[-1])
    text["hf_seqrl"]["env_id"] = env_id
    dataset.info.description = json.dumps(text)
    with pytest.raises(ValueError, match=r"env_id|names the environment"):
        load_trajectories(dataset)


@pytest.mark.parametrize(
    "line", ['{"hf_seqrl"', '{"hf_seqrl": 3}', '{"hf_seqrl": {"units": 3}}', '{"hf_seqrl": ' + "[" * 100_000]
)
def test_damaged_metadata_are_named(cartpole_dataset, line):
    dataset = with_metadata(cartpole_dataset, metadata_of(cartpole_dataset))
    dataset.info.description = line
    with pytest.raises(ValueError, match="metadata"):
        load_trajectories(dataset)
