"""Runs the tests in `over_http`, file by file, each in a process whose Hugging Face Hub is a double on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "over_http"


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("test_*.py")))
def test_over_http(name):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_HUB", "PYTEST"))}
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", str(FOLDER / name)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
