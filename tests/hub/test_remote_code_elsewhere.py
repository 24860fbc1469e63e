"""The code in a repository runs in a virtual environment that has transformers and nothing of this package."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest
from models_elsewhere import LOAD_ELSEWHERE, LOADED_ELSEWHERE, folders_with_code

_ABSENT = """
import importlib.util
assert importlib.util.find_spec("hf_seqrl") is None
assert importlib.util.find_spec("gymnasium") is None
"""


@pytest.fixture
def folders(cartpole_dataset, tiny_agent, tmp_path):
    return folders_with_code(cartpole_dataset, tiny_agent, tmp_path)


@pytest.mark.slow
def test_every_model_of_ours_loads_where_only_transformers_is_installed(folders, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    packages = [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "transformers")]
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-compile", *packages], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run(
        [str(python), "-c", _ABSENT + LOAD_ELSEWHERE, *folders],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == LOADED_ELSEWHERE
