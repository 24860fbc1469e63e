"""Data sets that name code: nothing is imported unless the user types it or trusts the author."""

import json
import sys

import numpy as np
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
    "line",
    [
        '{"hf_seqrl"',
        '{"hf_seqrl": 3}',
        '{"hf_seqrl": {"units": 3}}',
        '{"hf_seqrl": ' + "[" * 100_000,
        '{"hf_seqrl": {"guesses": 3}}',
        '{"hf_seqrl": {"guesses": [["a"]]}}',
        '{"hf_seqrl": {"provenance": true}}',
    ],
)
def test_damaged_metadata_are_named(cartpole_dataset, line):
    dataset = with_metadata(cartpole_dataset, metadata_of(cartpole_dataset))
    dataset.info.description = line
    with pytest.raises(ValueError, match="metadata"):
        load_trajectories(dataset)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("dataset_dict.json", {"splits": ["../elsewhere"]}),
        ("dataset_dict.json", {"splits": ["/etc"]}),
        ("dataset_dict.json", {"splits": [3]}),
        ("dataset_dict.json", {"splits": None}),
        ("train/state.json", {"_data_files": [{"filename": "../../elsewhere.arrow"}]}),
        ("train/state.json", {"_data_files": [{"filename": "/etc/passwd"}]}),
        ("train/state.json", {"_data_files": [3]}),
        ("train/state.json", {"_split": 3}),
        ("train/dataset_info.json", {"description": 3}),
        ("train/dataset_info.json", {"features": 3}),
    ],
)
def test_a_saved_folder_names_nothing_outside_of_it(cartpole_dataset, tmp_path, file, change):
    save_trajectories(cartpole_dataset, tmp_path / "data")
    path = tmp_path / "data" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"data cannot be read|the description of the data set"):
        load_trajectories(str(tmp_path / "data"))


def _external_link(file, folder):
    import h5py

    file["rewards"] = h5py.ExternalLink("other.hdf5", "/rewards")


def _external_bytes(file, folder):
    file.create_dataset("rewards", (10,), "f8", external=[(str(folder / "secret"), 0, 80)])


def _virtual(file, folder):
    import h5py

    layout = h5py.VirtualLayout((10,), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.hdf5"), "rewards", (10,))
    file.create_virtual_dataset("rewards", layout)


def _dangling(file, folder):
    import h5py

    file["rewards"] = h5py.SoftLink("/nothing")


def _type(file, folder):
    file["rewards"] = np.dtype("f8")


@pytest.mark.parametrize("add_rewards", [_external_link, _external_bytes, _virtual, _dangling, _type])
def test_an_hdf5_file_takes_no_values_from_other_files(tmp_path, add_rewards):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(b"precious" * 10)
    columns = {"observations": np.zeros((10, 2)), "actions": np.zeros((10, 1)), "terminals": np.zeros(10, bool)}
    for name in ("other", "data"):
        with h5py.File(tmp_path / f"{name}.hdf5", "w") as file:
            for column, values in columns.items():
                file[column] = values
            if name == "other":
                file["rewards"] = np.ones(10)
            else:
                add_rewards(file, tmp_path)
    with pytest.raises(ValueError, match=r"'rewards' (stands in another file|holds no values)"):
        load_trajectories(str(tmp_path / "data.hdf5"))
    assert len(load_trajectories(str(tmp_path / "other.hdf5"))) == 1


@pytest.mark.parametrize("linked", ["0.parquet", "episodes.json", "data"])
def test_nothing_that_a_link_leads_to_is_pushed(cartpole_dataset, tmp_path, monkeypatch, capsys, linked):
    (tmp_path / "home").mkdir()
    (tmp_path / "theirs").mkdir()
    cartpole_dataset.to_parquet(tmp_path / "home" / "0.parquet")
    (tmp_path / "home" / "episodes.json").write_text("{}")
    (tmp_path / "theirs" / linked).symlink_to(tmp_path / "home" / linked.removeprefix("data"))
    monkeypatch.chdir(tmp_path)
    assert main(["push", "theirs", "me/data"]) == 1
    assert f"theirs/{linked} is a link out of its folder" in capsys.readouterr().err
