"""The training record, a file in the agent's folder that the card quotes."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hf_seqrl.data.durable import write_whole

RUN_RECORD_NAME = "training_run.json"


@dataclass(frozen=True)
class RunRecord:
    """What is needed to repeat a training run.

    Attributes:
        family: The name of the model family, for instance `decision-transformer`.
        command: The command line, or `None` if the training ran inside another program.
        seed: The seed of weights, data order and dropout.
        updates: Number of optimizer steps.
        planned_updates: Optimizer steps of the whole run; more than `updates` if the weights were saved during training.
        seconds: Wall-clock seconds of training, evaluations and checkpoints included; those of all parts of a run
            that was resumed.
        cpu_seconds: CPU time of the process over the same span, that of all threads together.
        final_loss: The last training loss that was logged.
        data: The data set: `name`, `hub_id` where it came from the Hub, `fingerprint` of its contents, `episodes`,
            `steps`, its returns, `provenance`.
        options: The family's own options.
        chosen: What the family chose for these data where the options leave it open, one sentence each.
        hyperparameters: The `TrainingArguments` that shape the weights.
        versions: Python and the libraries, by name.
        machine: The processor or accelerator, in words.
        settings: All that a resumed run must share with it, the options, hyperparameters and data above included.
        finished_at: When training ended, ISO 8601, UTC.
        comparison: The table and the recommendation of the comparison that chose this agent, as text.
    """

    family: str
    command: str | None = None
    seed: int | None = None
    updates: int | None = None
    planned_updates: int | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    final_loss: float | None = None
    data: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    chosen: list[str] = field(default_factory=list)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    machine: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    finished_at: str | None = None
    comparison: str | None = None

    def __post_init__(self) -> None:
        for name in ("data", "options", "hyperparameters", "versions", "settings"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"{name} of a training record is {getattr(self, name)!r}: expected a dictionary.")
        if not isinstance(self.chosen, list):
            raise ValueError(f"chosen of a training record is {self.chosen!r}: expected a list of sentences.")
        for name in ("updates", "planned_updates", "seconds", "cpu_seconds", "final_loss"):
            if not isinstance(getattr(self, name), int | float | None):
                raise ValueError(f"{name} of a training record is {getattr(self, name)!r}: expected a number.")

    @property
    def is_finished(self) -> bool:
        """Whether the run is finished."""
        return None in (self.updates, self.planned_updates) or self.updates >= self.planned_updates

    def save(self, directory: str | Path) -> None:
        """Write it into the folder of an agent."""
        write_whole(Path(directory, RUN_RECORD_NAME), json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "RunRecord":
        """Read a file that `save` wrote; unknown entries of later versions are ignored.

        Raises:
            ValueError: the file is not a training record.
        """
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(values, dict) or not isinstance(values.get("family"), str):
            raise ValueError(f"{path} is no record of a training: expected a file that RunRecord.save wrote.")
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})
