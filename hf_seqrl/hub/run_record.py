"""How a set of weights came to be, as a file beside them that the card quotes."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

RUN_RECORD_NAME = "training_run.json"


@dataclass(frozen=True)
class RunRecord:
    """What somebody needs to train the same weights again.

    Attributes:
        family: The name of the model family, for instance `decision-transformer`.
        command: The line that was typed, or `None` where the training ran inside another program.
        seed: The seed of weights, data order and dropout.
        updates: Optimizer steps behind the weights.
        seconds: Wall-clock seconds of training, evaluations and checkpoints included; those of all parts of a run
            that was resumed.
        final_loss: The last training loss that was logged.
        data: The data set: `name`, `hub_id` where it came from the Hub, `fingerprint` of its contents, `episodes`,
            `steps`, its returns, `provenance`.
        options: The family's own options.
        hyperparameters: The `TrainingArguments` that shape the weights.
        versions: Python and the libraries, by name.
        machine: The processor or accelerator, in words.
        finished_at: When training ended, ISO 8601, UTC.
    """

    family: str
    command: str | None = None
    seed: int | None = None
    updates: int | None = None
    seconds: float | None = None
    final_loss: float | None = None
    data: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    machine: str | None = None
    finished_at: str | None = None

    def save(self, directory: str | Path) -> None:
        """Write it into the folder of an agent."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        Path(directory, RUN_RECORD_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "RunRecord":
        """Read a file that `save` wrote; entries that a later version added are left out."""
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})
