"""Which checkpoint of an interrupted run can be resumed."""

import json
import re
from pathlib import Path

_CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")
_STATE_NAME = "trainer_state.json"  # Trainer writes it last


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest checkpoint in the folder of a run that was written to its end, or `None`.

    `transformers.trainer_utils.get_last_checkpoint` takes the newest by name, also one that a kill left half written.
    """
    complete = [path for path in checkpoints(output_dir) if _is_complete(path)]
    return complete[-1] if complete else None


def checkpoints(output_dir: str | Path) -> list[Path]:
    """All checkpoint folders of a run, oldest first, half-written ones too."""
    folder = Path(output_dir)
    found = [path for path in folder.iterdir() if _CHECKPOINT_NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=_step_of)


def _step_of(checkpoint: Path) -> int:
    return int(_CHECKPOINT_NAME.fullmatch(checkpoint.name)[1])


def _is_complete(checkpoint: Path) -> bool:
    try:
        state = json.loads((checkpoint / _STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    return state["global_step"] == _step_of(checkpoint)
