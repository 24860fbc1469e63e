"""Fixtures that every test may use, and the offline switch."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

torch.set_num_threads(1)

SHARED = Path(os.environ.get("HF_SEQRL_SHARED", Path(__file__).parents[2] / "shared"))


def shared_path(*parts: str) -> Path:
    """A file or folder of the material that is kept beside the repository; skips the test where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} of the shared material (set HF_SEQRL_SHARED to its folder)")
    return path


@pytest.fixture(scope="session")
def shared_data():
    """`shared_data("hopper-medium")` is the folder of a real data set."""
    return lambda name: shared_path("data", name)


@pytest.fixture(scope="session")
def shared_fixture():
    """`shared_fixture("trajectory_transformer", "hf_tiny.npz")` is an output of a peer's implementation."""
    return lambda *parts: shared_path("fixtures", *parts)
