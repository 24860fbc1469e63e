import os
import subprocess
import sys

import pytest
from datasets import load_from_disk

from hf_seqrl import load_trajectories
from hf_seqrl.data.saving import save_trajectories


def dataset_of(reward):
    episode = {"observations": [[0.0]], "actions": [0], "rewards": [reward], "terminations": [True]}
    return load_trajectories([episode], env_id="CartPole-v1")


def test_nothing_is_overwritten_unless_asked(tmp_path):
    path = tmp_path / "deep" / "data"
    save_trajectories(dataset_of(1.0), path)
    with pytest.raises(FileExistsError, match=r"exists already: .* overwrite=True"):
        save_trajectories(dataset_of(2.0), path)
    assert load_from_disk(path)["rewards"][:] == [[1.0]]
    save_trajectories(dataset_of(2.0), path, overwrite=True)
    assert load_from_disk(path)["rewards"][:] == [[2.0]]
    assert os.listdir(path.parent) == ["data"]


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "data"
    save_trajectories(dataset_of(1.0), path)
    broken = dataset_of(2.0)
    monkeypatch.setattr(type(broken), "save_to_disk", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_trajectories(broken, path, overwrite=True)
    assert load_from_disk(path)["rewards"][:] == [[1.0]]
    assert os.listdir(tmp_path) == ["data"]


def test_a_killed_process_leaves_nothing_that_looks_whole(tmp_path):
    script = """
import os, signal, sys
from datasets import Dataset
from hf_seqrl.data.saving import save_trajectories

write = Dataset.save_to_disk
def killed_after_writing(self, path):
    write(self, path)
    os.kill(os.getpid(), signal.SIGKILL)
Dataset.save_to_disk = killed_after_writing
save_trajectories(Dataset.from_dict({"rewards": [[1.0]]}), sys.argv[1])
"""
    process = subprocess.run([sys.executable, "-c", script, str(tmp_path / "data")], capture_output=True)
    assert process.returncode == -9
    assert not (tmp_path / "data").exists()
    with pytest.raises(ValueError, match="holds no trajectories"):
        load_trajectories(tmp_path)
