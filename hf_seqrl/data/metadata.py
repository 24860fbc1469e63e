"""What travels with a data set: the environment, its spaces, reference returns, and how the episodes were made."""

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset


_KEY = "hf_seqrl"

# (return of a random policy, return of an expert) from `d4rl/infos.py` of Farama-Foundation/D4RL, by task name
_D4RL_REFERENCE_RETURNS = {
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
}


@dataclass(frozen=True)
class TrajectoryMetadata:
    """Facts about a data set that its columns do not tell.

    Attributes:
        env_id: The gymnasium id of the environment, for instance `Hopper-v5`.
        observation_space, action_space: In the form of `hf_seqrl.data.spaces.space_to_dict`.
        reference_returns: Raw returns (random, expert) that stand for the normalised scores 0 and 100.
        max_episode_steps: The time limit, in steps.
        provenance: How the episodes were made: policies, seeds, versions; anything that JSON can hold.
    """

    env_id: str | None = None
    observation_space: dict[str, Any] | None = None
    action_space: dict[str, Any] | None = None
    reference_returns: tuple[float, float] | None = None
    max_episode_steps: int | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.reference_returns is not None:
            object.__setattr__(self, "reference_returns", _checked_reference(self.reference_returns))

    def updated(self, **changes: Any) -> "TrajectoryMetadata":
        """A copy with these fields replaced; `None` leaves a field as it is.

        Example:
            >>> TrajectoryMetadata(env_id="Hopper-v4").updated(env_id="Hopper-v5", max_episode_steps=None).env_id
            'Hopper-v5'
        """
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


def metadata_of(dataset: "Dataset") -> TrajectoryMetadata:
    """The metadata that was attached to a data set; all fields empty where there is none."""
    for line in (dataset.info.description or "").splitlines():
        if line.startswith(f'{{"{_KEY}"'):
            return _from_dict(json.loads(line)[_KEY])
    return TrajectoryMetadata()


def with_metadata(dataset: "Dataset", metadata: TrajectoryMetadata) -> "Dataset":
    """The same data (not copied) with this metadata in the place of any other.

    It is kept as one line of JSON in `dataset.info.description`, behind whatever text stands there, and so survives
    `select`, `map`, `train_test_split`, `save_to_disk` and `load_from_disk`.
    """
    text = [line for line in (dataset.info.description or "").splitlines() if not line.startswith(f'{{"{_KEY}"')]
    dataset = copy.deepcopy(dataset)  # datasets shares the Arrow tables between copies
    dataset.info.description = "\n".join([*text, json.dumps({_KEY: asdict(metadata)})])
    return dataset


def d4rl_reference_returns(env_id: str | None) -> tuple[float, float] | None:
    """D4RL's (random, expert) returns of an environment, whatever its version; `None` for one that D4RL has not scored.

    Example:
        >>> d4rl_reference_returns("Hopper-v5"), d4rl_reference_returns("CartPole-v1")
        ((-20.272305, 3234.3), None)
    """
    task = (env_id or "").rpartition("/")[2].split("-")[0].lower()
    return _D4RL_REFERENCE_RETURNS.get(task)


def _from_dict(values: Mapping) -> TrajectoryMetadata:
    # a later version may have written fields that this one does not know
    known = {field.name for field in fields(TrajectoryMetadata)}
    return TrajectoryMetadata(**{name: value for name, value in values.items() if name in known})


def _checked_reference(returns: tuple[float, float]) -> tuple[float, float]:
    random_return, expert_return = (float(value) for value in returns)
    if not random_return < expert_return:
        raise ValueError(f"reference_returns {tuple(returns)}: expected (random, expert) with random < expert.")
    return random_return, expert_return
