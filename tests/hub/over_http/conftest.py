"""A Hub on the loopback interface for the tests of this folder.

huggingface_hub reads its address when it is imported, so these tests run in a process of their own, which
`tests/hub/test_over_http.py` starts (by hand: `pytest tests/hub/over_http`).
"""

import os
import sys
from tempfile import TemporaryDirectory

import pytest

if "huggingface_hub" in sys.modules:
    pytest.exit("tests/hub/over_http needs a process of its own: run `pytest tests/hub/over_http`.", returncode=4)

from loopback_hub import Hub

_HUB = Hub().__enter__()
_HOME = TemporaryDirectory(prefix="hf-home-")
os.environ |= {
    "HF_ENDPOINT": _HUB.url,
    "HF_HOME": _HOME.name,
    "HF_TOKEN": _HUB.token,
    "HF_HUB_OFFLINE": "0",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


@pytest.fixture
def hub():
    """The Hub, empty."""
    _HUB.reset()
    return _HUB


@pytest.fixture
def impatient(monkeypatch):
    """The client retries at once what it would retry after seconds."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture
def anonymous(monkeypatch):
    """Nobody is logged in."""
    monkeypatch.delenv("HF_TOKEN")


def pytest_unconfigure():
    _HUB.__exit__()
    _HOME.cleanup()
