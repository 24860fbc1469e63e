"""How arrays are read: what their axes are, what their entries are called, and where observations are one too many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.spaces import Space

from hf_seqrl.data.column_options import check_final_observations
from hf_seqrl.data.column_values import as_array
from hf_seqrl.data.cutting import CutRule

HDF5_SUFFIXES = (".hdf5", ".h5")
LAYOUTS = ("steps", "episodes", "time_env", "env_time")


@dataclass
class ArrayReading:
    """How arrays are read.

    Attributes:
        layout: What the first axes are: `"steps"`, `"episodes"` (then steps), `"time_env"` or `"env_time"` (the steps of
            environments side by side); found out by default.
        limit: The time limit, at which episodes are cut whose data hold no `truncations`.
        cut: Where else to cut.
        step: The entry with the times of the steps, for `cut.gap`.
        has_rewards: Whether there are rewards.
        observation_space, action_space: Those that are stated.
        final_observations: `"drop"` for data with an observation after the last action of each episode.
        names: The entry for each role; `None` where it has its own name already.
        guesses: What was guessed, by the name of the field; filled on the way.
        spaces: The spaces of tuples and dictionaries that were flattened; filled on the way.
    """

    layout: str | None = None
    limit: int | None = None
    cut: CutRule = field(default_factory=CutRule)
    step: str | None = None
    has_rewards: bool = True
    observation_space: Space | None = None
    action_space: Space | None = None
    final_observations: str = "refuse"
    names: Mapping[str, Any] = field(default_factory=dict)
    guesses: dict[str, str] = field(default_factory=dict)
    spaces: dict[str, Space] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.layout is not None and self.layout not in LAYOUTS:
            raise ValueError(f"layout is {self.layout!r}: expected one of {', '.join(LAYOUTS)}.")
        check_final_observations(self.final_observations)


def named_entries(source: Mapping[str, Any], names: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arrays with their entries under the names of the schema.

    Args:
        source: A dictionary of arrays.
        names: The entry for each role; `None` where it has its own name already.

    Raises:
        ValueError: there is no such entry.
    """
    given = {role: name for role, name in names.items() if name is not None and name != f"{role}s"}
    if not given:
        return source
    several = next((role for role, name in given.items() if not isinstance(name, str)), None)
    if several is not None:
        raise ValueError(
            f"{several}={given[several]!r} names several entries: expected one array of vectors; stack them."
        )
    for role, name in given.items():
        named_entry(source, name, role)
    aside = {f"{role}s" for role in given} | ({"dones", "terminals"} if "termination" in given else set())
    kept = {name: values for name, values in source.items() if name not in aside and name not in given.values()}
    return kept | {f"{role}s": source[name] for role, name in given.items()}


def check_entries(episodes: Sequence[Any]) -> None:
    """What is often given in the place of a list of episodes: a list with one entry per step."""
    for number, episode in enumerate(episodes):
        if not isinstance(episode, Mapping):
            raise ValueError(
                f"entry {number} of the list is a {type(episode).__name__}: expected one dictionary of arrays per episode; name "
                "the columns of a list of steps, pandas.DataFrame(steps, columns=[...]), and give episode=."
            )
    scalar = next(
        (name for name in ("rewards", "reward") if name in episodes[0] and not np.ndim(episodes[0][name])), None
    )
    if scalar is not None:
        raise ValueError(
            f"{scalar!r} of the first entry is one number: expected one dictionary of arrays per episode; for a list with one "
            "dictionary per step give pandas.DataFrame(steps) with episode= or cut_every=."
        )


def layout_of(columns: Mapping[str, Any], reading: ArrayReading) -> str:
    """Whether the entries are steps or episodes."""
    name = "rewards" if reading.has_rewards else "actions"
    values, observations = columns[name], columns["observations"]
    ends = [columns[name] for name in ("terminations", "truncations", "dones") if name in columns]
    if not reading.has_rewards:
        return "episodes" if ends and np.ndim(ends[0][0]) else "steps"
    if not np.ndim(values[0]) or (ends and not np.ndim(ends[0][0])):
        return "steps"
    shape = np.shape(values) if isinstance(values, np.ndarray) and values.dtype != object else None
    if shape is not None and shape[1:] == (1,) and not (np.ndim(observations) > 2 and np.shape(observations)[1] == 1):
        return "steps"
    if shape is not None and len(shape) == 2 and min(shape) > 1:
        _check_rows_are_episodes(ends, shape)
        reading.guesses["layout"] = (
            f"'episodes': the {shape[0]} rows of the arrays {shape} are episodes; where the first axis is time, give "
            "layout='time_env'"
        )
    return "episodes"


def _check_rows_are_episodes(ends: list[Any], shape: tuple[int, ...]) -> None:
    for flags in ends:
        flags = np.asarray(flags)
        if flags.shape == shape and flags[:, :-1].astype(bool).any():
            raise ValueError(
                f"the arrays have shape {shape} and episodes end within their rows: expected whole episodes in the rows. Say what "
                "the axes are: layout='time_env' for (steps, environments), layout='env_time' for (environments, steps)."
            )


def one_after_the_other(columns: Mapping[str, Any], layout: str, reading: ArrayReading) -> dict[str, np.ndarray]:
    """The steps of one environment after those of the other; the last step of each is the end of an episode."""
    arrays = {
        name: as_array(values, f"column {name!r}")
        for name, values in columns.items()
        if not isinstance(values, Mapping | str)
    }
    shape = next(arrays[name] for name in ("rewards", "terminations", "dones", "actions") if name in arrays).shape[:2]
    if reading.final_observations == "drop" and "observations" in arrays:
        steps_first = np.moveaxis(arrays["observations"], 0 if layout == "time_env" else 1, 0)
        kept = without_final(steps_first, shape[0 if layout == "time_env" else 1])
        arrays["observations"] = np.moveaxis(kept, 0, 0 if layout == "time_env" else 1)
    for name, values in arrays.items():
        if values.shape[:2] != shape:
            raise ValueError(
                f"column {name!r} has shape {values.shape}: expected {shape} first, for layout={layout!r}."
            )
    if layout == "time_env":
        arrays, shape = {name: values.swapaxes(0, 1) for name, values in arrays.items()}, shape[::-1]
    flat = {name: values.reshape(-1, *values.shape[2:]) for name, values in arrays.items()}
    count = shape[0] * shape[1]
    flat["_begins"] = np.arange(count) % shape[1] == 0
    return flat


def without_final(observations: Any, steps: int, where: str = "") -> np.ndarray:
    """The observations of an episode without the one after the last action.

    Raises:
        ValueError: there is not exactly one observation more than actions.
    """
    observations = as_array(observations, "column 'observations'")
    if len(observations) != steps + 1:
        raise ValueError(
            f"column 'observations' {where} has {len(observations)} entries, and there are {steps} actions: expected "
            f"{steps + 1} of them for final_observations='drop'."
        )
    return observations[:-1]


def without_finals(observations: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The observations of all episodes `(steps + episodes, ...)`, or of one log `(steps + 1, ...)`, without those that no
    action followed."""
    steps, episodes = int(offsets[-1]), len(offsets) - 1
    if len(observations) == steps + episodes:
        return np.delete(observations, offsets[1:] + np.arange(episodes), axis=0)
    if len(observations) == steps + 1:
        return observations[:-1]
    raise ValueError(
        f"column 'observations' has {len(observations)} entries for {steps} actions in {episodes} episodes: expected "
        f"{steps + episodes} (one more in each episode) or {steps + 1} (one at the very end) for final_observations='drop'."
    )


def named_entry(columns: Mapping[str, Any], name: str, role: str) -> Any:
    if name not in columns:
        raise ValueError(f"there is no column {name!r}, which was named as {role}: found {', '.join(columns)}.")
    return columns[name]


def is_aside(name: str, values: Any) -> bool:
    """What is no column of steps: dictionaries beside observations and actions, and text."""
    return isinstance(values, str) or (isinstance(values, Mapping) and name not in ("observations", "actions"))
