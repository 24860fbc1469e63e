"""Fixtures that every test may use, and the offline switch."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
hypothesis.settings.register_profile("any speed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("any speed")

SHARED = Path(os.environ.get("HF_SEQRL_SHARED", Path(__file__).parents[2] / "shared"))


def shared_path(*parts: str) -> Path:
    """A file or folder of the material that is kept beside the repository; skips the test where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        if SHARED.exists() and os.environ.get("CI"):
            pytest.fail(f"{'/'.join(parts)} is missing in the shared material, which is there")
        pytest.skip(f"needs {'/'.join(parts)} of the shared material (set HF_SEQRL_SHARED to its folder)")
    return path


def pytest_terminal_summary(terminalreporter):
    """In continuous integration a skipped test is a sentence, not a letter among dots."""
    skipped = terminalreporter.stats.get("skipped", [])
    if os.environ.get("CI"):
        terminalreporter.write_line(f"{len(skipped)} tests were skipped in continuous integration")
        for report in skipped:
            terminalreporter.write_line(f"  {report.nodeid}: {report.longrepr[2]}")


@pytest.fixture(scope="session")
def shared_data():
    """`shared_data("hopper-medium")` is the folder of a real data set."""
    return lambda name: shared_path("data", name)


@pytest.fixture(scope="session")
def shared_fixture():
    """`shared_fixture("trajectory_transformer", "hf_tiny.npz")` is an output of a peer's implementation."""
    return lambda *parts: shared_path("fixtures", *parts)


@pytest.fixture(scope="session")
def enable_checkpointing():
    """`enable_checkpointing(model, use_reentrant=True)`: activation checkpointing, whose name changed in transformers 5.23."""

    def enable(model, **kwargs):
        method = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        method(kwargs or None)

    return enable


@pytest.fixture(scope="session")
def checkpointing_argument():
    """The keyword of `TrainingArguments` that turns activation checkpointing on."""
    from transformers import TrainingArguments

    names = ("activation_checkpointing", "gradient_checkpointing")  # from transformers 5.23 on, and before
    return next(name for name in names if name in TrainingArguments.__dataclass_fields__)


@pytest.fixture(scope="session")
def cartpole_dataset():
    """Thirty short CartPole episodes of a random policy."""
    from hf_seqrl import collect

    return collect("random", "CartPole-v1", num_episodes=30, num_envs=4, seed=0)


@pytest.fixture
def tiny_agent(cartpole_dataset):
    """An untrained Decision Transformer for CartPole, small enough to act in milliseconds."""
    from hf_seqrl import Agent, DecisionTransformerProcessor, TrainableDT

    torch.manual_seed(0)
    processor = DecisionTransformerProcessor.from_dataset(
        cartpole_dataset, context_length=4, target_returns=[120.0, 50.0]
    )
    return Agent(TrainableDT(processor.model_config(hidden_size=16, n_layer=1, n_head=1)), processor)
