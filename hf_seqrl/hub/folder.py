"""The folder of an agent: what lies in it, and how it comes to be whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from hf_seqrl.hub.run_record import RUN_RECORD_NAME

CONFIG_NAME = "config.json"  # the file that makes a folder a model: removed first and put back last
PROCESSOR_NAME = "processor_config.json"
EVALUATION_NAME = "evaluation.json"
RESULTS_NAME = "results.json"
CARD_NAME = "README.md"
GENERATED_CARD_NAME = "generated_card.md"  # the card, where README.md is somebody's own text
PLOT_NAME = "target_returns.png"

# Describes particular weights, and so must not outlive them in their folder.
BELONGS_TO_WEIGHTS = (
    "model*.safetensors",
    "model.safetensors.index.json",
    "pytorch_model*.bin",
    EVALUATION_NAME,
    RESULTS_NAME,
    RUN_RECORD_NAME,
    PLOT_NAME,
    GENERATED_CARD_NAME,
    "replay.*",
)


@contextmanager
def replacing(directory: str | Path) -> Iterator[Path]:
    """Yields an empty folder; when the block has filled it, its contents take their place in `directory`.

    A new directory appears by one rename. In one that exists, the former agent is taken away, other files (the
    checkpoints of a run, a git folder) stay, and `config.json`, without which nothing loads, comes last: a process
    that dies on the way leaves a folder that does not look like an agent. An error in the block changes nothing.
    """
    target = Path(directory).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.parent / f".{target.name}-{uuid4().hex[:8]}"
    aside.mkdir()
    try:
        yield aside
        if target.exists():
            _move_into(aside, target)
        else:
            os.replace(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _move_into(source: Path, target: Path) -> None:
    (target / CONFIG_NAME).unlink(missing_ok=True)
    for pattern in BELONGS_TO_WEIGHTS:
        for stale in target.glob(pattern):
            stale.unlink()
    for path in sorted(source.iterdir(), key=lambda path: path.name == CONFIG_NAME):
        destination = target / path.name
        if destination.is_dir():
            shutil.rmtree(destination)
        os.replace(path, destination)
