"""Models load with the code in their repository where hf_seqrl cannot be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from models_elsewhere import LOAD_ELSEWHERE, LOADED_ELSEWHERE, folders_with_code

from hf_seqrl import Agent

_BLOCK = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_seqrl":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture
def folders(cartpole_dataset, tiny_agent, tmp_path):
    return folders_with_code(cartpole_dataset, tiny_agent, tmp_path)


def test_every_model_of_ours_loads_without_hf_seqrl(folders, tmp_path):
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", _BLOCK + LOAD_ELSEWHERE, *folders]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == LOADED_ELSEWHERE


def test_no_code_goes_along_unless_asked_for(folders, tmp_path):
    planner = Path(folders[1])
    assert "auto_map" in json.loads((planner / "config.json").read_text())
    assert list((planner / "discretizer").glob("*.py"))
    Agent.from_pretrained(planner).save_pretrained(tmp_path / "without")
    assert not list((tmp_path / "without").rglob("*.py"))
    for config in (tmp_path / "without").rglob("config.json"):
        assert "auto_map" not in json.loads(config.read_text())


def test_a_model_that_transformers_knows_needs_no_code(folders):
    assert not list(Path(folders[0]).glob("*.py"))
