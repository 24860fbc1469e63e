"""What travels with a data set: its task, how the episodes were made, and what had to be guessed."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hf_seqrl.data.statistics import DataStatistics
from hf_seqrl.data.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

_KEY = "hf_seqrl"
STATISTICS = "statistics"  # beside the fields of the metadata in files: those of the whole data set, for streams


@dataclass(frozen=True)
class TrajectoryMetadata(Task):
    """The task of a data set and how its episodes were made.

    Attributes:
        provenance: How the episodes were made: policies, seeds, versions; anything that JSON can hold.
        guesses: What `load_trajectories` had to guess, by the name of the field or column: one sentence each that says
            what was taken and why. What the user states is never guessed.
        doubles: Columns that are kept in float64, because float32 would make different values equal.
        sample_of: Where the data are a sample, the statistics of the whole data set, as `DataStatistics.to_dict` gives them.
    """

    provenance: dict[str, Any] = field(default_factory=dict)
    guesses: dict[str, str] = field(default_factory=dict)
    doubles: tuple[str, ...] | None = None
    sample_of: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("provenance", "guesses"):
            if not isinstance(getattr(self, name), Mapping) or not all(
                isinstance(key, str) for key in getattr(self, name)
            ):
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected a dictionary whose keys are text.")
        if self.doubles is not None:
            object.__setattr__(self, "doubles", tuple(self.doubles))

    @cached_property
    def whole(self) -> DataStatistics | None:
        """The statistics of the whole data set, where the data are a sample of it and these are known."""
        return None if self.sample_of is None else DataStatistics.from_dict(self.sample_of)


def metadata_of(dataset: "Dataset") -> TrajectoryMetadata:
    """The metadata that was attached to a data set; all fields empty where there is none.

    Raises:
        ValueError: they are damaged.
    """
    description = dataset.info.description or ""
    if not isinstance(description, str):
        raise ValueError(f"the description of the data set is {description!r}: expected text.")
    for line in description.splitlines():
        if line.startswith(f'{{"{_KEY}"'):
            return metadata_from_json(line, _KEY)
    return TrajectoryMetadata()


def metadata_from_json(text: str, key: str | None = None) -> TrajectoryMetadata:
    """Metadata out of a file.

    Args:
        text: An object in JSON.
        key: Under which they stand in it, if not at its top.

    Raises:
        ValueError: they are damaged.
    """
    try:
        values = json.loads(text)
        return TrajectoryMetadata.from_dict(values if key is None else values[key])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"the metadata of the data set are damaged ({type(error).__name__}: {error}): load and save the original again."
        ) from error


def with_metadata(
    dataset: "Dataset", metadata: TrajectoryMetadata, statistics: dict[str, Any] | None = None
) -> "Dataset":
    """The same data (not copied) with this metadata in the place of any other.

    Args:
        dataset: The data.
        metadata: What to attach.
        statistics: Of all of the data, for `statistics_beside`.

    It is kept as one line of JSON in `dataset.info.description`, behind whatever text stands there, and so survives
    `select`, `map`, `train_test_split`, `save_to_disk` and `load_from_disk`.
    """
    text = [line for line in (dataset.info.description or "").splitlines() if not line.startswith(f'{{"{_KEY}"')]
    dataset = copy.deepcopy(dataset)  # datasets shares the Arrow tables between copies
    values = metadata.to_dict() | ({} if statistics is None else {STATISTICS: statistics})
    dataset.info.description = "\n".join([*text, json.dumps({_KEY: values})])
    return dataset


def statistics_beside(dataset: "Dataset") -> Any:
    """The statistics that were attached to a data set, as they stand there; `None` where there are none. They are of what the
    data set was then, and not of episodes that were selected since."""
    for line in (dataset.info.description or "").splitlines():
        if line.startswith(f'{{"{_KEY}"'):
            return json.loads(line)[_KEY].get(STATISTICS)
    return None


def without_whole(dataset: "Dataset") -> "Dataset":
    """The same data, which are a sample of no other data set."""
    metadata = metadata_of(dataset)
    return dataset if metadata.sample_of is None else with_metadata(dataset, replace(metadata, sample_of=None))
