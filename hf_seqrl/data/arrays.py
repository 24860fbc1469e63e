"""Dictionaries of arrays, lists of episodes, and D4RL's HDF5 files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple

from hf_seqrl.data.column_values import as_array, as_flags, as_scalars, check_dones
from hf_seqrl.data.composite_spaces import flat_actions, flat_space, flat_values
from hf_seqrl.data.cutting import CutRule, cut_every
from hf_seqrl.data.writing import dataset_from_episodes, dataset_from_steps, dataset_from_stream

HDF5_SUFFIXES = (".hdf5", ".h5")
LAYOUTS = ("steps", "episodes", "time_env", "env_time")
_NAMES = {"terminals": "terminations", "timeouts": "truncations"}  # D4RL's names
_READ_STEPS = 1 << 16  # steps that are read at once, at least; an episode is read whole
_NEEDED = ("observations", "actions", "rewards", "terminals")


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
    guesses: dict[str, str] = field(default_factory=dict)
    spaces: dict[str, Space] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.layout is not None and self.layout not in LAYOUTS:
            raise ValueError(f"layout is {self.layout!r}: expected one of {', '.join(LAYOUTS)}.")


def dataset_from_arrays(columns: Mapping[str, Any], reading: ArrayReading | None = None) -> Dataset:
    """One row an episode from a dictionary of arrays.

    Args:
        columns: Either in each column a list of episodes; or in each column one entry a step, and an episode ends with
            every step whose `terminations` (`terminals`, `dones`) or `truncations` (`timeouts`) is true, and with the
            last step. Entries that are not one a step (D4RL's `metadata`, `infos`) are left out.
        reading: How to read them.

    Raises:
        ValueError: a column is missing, or columns have different lengths.

    Example:
        >>> dataset = dataset_from_arrays({"observations": np.zeros((3, 2)), "actions": np.zeros((3, 1)),
        ...     "rewards": np.ones(3), "terminals": np.array([False, True, False])})
        >>> dataset["rewards"][:], dataset["truncations"][:]
        ([[1.0, 1.0], [1.0]], [[False, False], [True]])
    """
    reading = reading or ArrayReading()
    columns = {_NAMES.get(name, name): values for name, values in columns.items()}
    for name in ("observations", "actions", "rewards"):
        if name not in columns and (name != "rewards" or reading.has_rewards):
            remedy = "; for demonstrations without rewards give reward=None" if name == "rewards" else ""
            raise ValueError(f"there is no column {name!r} with values: found {', '.join(columns)}{remedy}.")
    leading = columns["rewards"] if reading.has_rewards else columns["actions"]
    if not len(leading):
        raise ValueError("column 'rewards' has no values: expected at least one step.")
    layout = reading.layout or _layout(columns, reading)
    if layout == "episodes":
        return read_episodes(_rows(columns, reading), reading)
    if layout in ("time_env", "env_time"):
        columns = _one_after_the_other(columns, layout)
    return _split_at_ends(columns, reading)


def read_episodes(episodes: Sequence[Mapping[str, Any]], reading: ArrayReading | None = None) -> Dataset:
    """One row an episode from a list of episodes, each a dictionary of arrays with one entry a step.

    Tuples and dictionaries of arrays in the place of observations or actions are flattened. Other dictionaries (`infos`) are left
    out, and so are entries that are no arrays.

    Raises:
        ValueError: an episode lacks a column or has no steps, or its arrays have other shapes than the first's.
    """
    reading = reading or ArrayReading()
    if not len(episodes):
        raise ValueError("the list of episodes is empty: expected at least one.")
    episodes = [
        {_NAMES.get(name, name): values for name, values in episode.items() if not _is_aside(name, values)}
        for episode in episodes
    ]
    for name in ("observations", "actions"):
        if all(name in episode for episode in episodes) and _is_nested(episodes[0][name], name, reading):
            episodes = _flattened(episodes, name, reading)
    for number, episode in enumerate(episodes):
        for name, values in episode.items():
            if isinstance(values, np.ndarray) and values.dtype == object:
                episode[name] = as_array(values, f"{name}' of episode '{number}")
    dataset = dataset_from_episodes(episodes)
    return _cut_rows(dataset, reading) if reading.cut else dataset


def read_d4rl(path: Path, reading: ArrayReading | None = None) -> Dataset:
    """The episodes of a D4RL file, read and written piece by piece.

    An episode ends where `terminals` or `timeouts` is true, and with the file. What is not one entry a step
    (`infos`, `metadata`) and `next_observations` are left out.

    Raises:
        ImportError: h5py is not installed.
        ValueError: a column is missing, or has another length.
    """
    h5py, reading = _h5py(), reading or ArrayReading()
    with h5py.File(path) as file:
        missing = [name for name in _NEEDED if name not in file and (name != "rewards" or reading.has_rewards)]
        if missing:
            raise ValueError(
                f"{path} has no {missing[0]!r}: expected the columns of D4RL ({', '.join(_NEEDED)} and perhaps timeouts), "
                f"found {', '.join(file)}."
            )
        return dataset_from_stream(_episodes_of_file(file, reading))


def _episodes_of_file(file: Any, reading: ArrayReading) -> Iterator[dict[str, np.ndarray]]:
    names = [name for name in ("observations", "actions", "rewards") if name in file]
    _check_lengths({name: file[name] for name in (*names, "terminals", "timeouts") if name in file}, "actions")
    if "rewards" in names and int(np.prod(file["rewards"].shape[1:])) != 1:
        raise ValueError(f"column 'rewards' has shape {file['rewards'].shape}: expected (steps,), one value a step.")
    terminations = as_flags(file["terminals"][:], "terminals")
    truncations = as_flags(file["timeouts"][:], "timeouts") if "timeouts" in file else None
    changing = [np.asarray(file[name][:]) for name in reading.cut.change]
    times = np.asarray(file[reading.step][:]) if reading.step else None
    offsets = _offsets(terminations, truncations, reading, times, changing)
    ends = _last_steps(offsets)
    first = 0
    while first < len(offsets) - 1:
        # whole episodes: as many as fit into one reading, at least one
        last = max(np.searchsorted(offsets, offsets[first] + _READ_STEPS, side="right") - 1, first + 1)
        start, end = offsets[first], offsets[last]
        steps = {name: file[name][start:end] for name in names}
        if "rewards" in steps:
            steps["rewards"] = steps["rewards"].reshape(-1)
        steps |= {"terminations": terminations[start:end], "truncations": (ends & ~terminations)[start:end]}
        for low, high in zip(offsets[first:last] - start, offsets[first + 1 : last + 1] - start):
            yield {name: values[low:high] for name, values in steps.items()}
        first = last


# What the axes are


def _layout(columns: Mapping[str, Any], reading: ArrayReading) -> str:
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


def _one_after_the_other(columns: Mapping[str, Any], layout: str) -> dict[str, np.ndarray]:
    """The steps of one environment after those of the other; the last step of each is the end of an episode."""
    arrays = {
        name: as_array(values, name) for name, values in columns.items() if not isinstance(values, Mapping | str)
    }
    shape = next(arrays[name] for name in ("rewards", "terminations", "dones", "actions") if name in arrays).shape[:2]
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


def _rows(columns: Mapping[str, Any], reading: ArrayReading) -> list[dict[str, Any]]:
    columns = {name: values for name, values in columns.items() if not _is_aside(name, values)}
    expected = "rewards" if reading.has_rewards else "actions"
    counts = {name: len(values) for name, values in columns.items()}
    for name, count in counts.items():
        if count != counts[expected]:
            raise ValueError(
                f"column {name!r} has {count} episodes, column {expected!r} has {counts[expected]}: expected as many."
            )
    return [{name: values[row] for name, values in columns.items()} for row in range(counts[expected])]


# Where episodes end


def _split_at_ends(columns: Mapping[str, Any], reading: ArrayReading) -> Dataset:
    steps = {name: columns[name] for name in ("observations", "actions", "rewards") if name in columns}
    for name in ("observations", "actions"):
        if _is_nested(steps[name], name, reading):
            steps[name] = _flattened([{name: steps[name]}], name, reading)[0][name]
    steps = {name: as_array(values, name) for name, values in steps.items()}
    if "rewards" in steps:
        steps["rewards"] = as_scalars(steps["rewards"], "rewards")
    terminations, truncations = _flags(columns, reading, len(steps["actions"]))
    _check_lengths(steps | {"terminations": terminations}, "actions")
    changing = [np.asarray(columns[name]) for name in reading.cut.change]
    times = np.asarray(columns[reading.step]) if reading.step else None
    begins = columns.get("_begins")
    offsets = _offsets(terminations, truncations, reading, times, changing, begins)
    steps |= {"terminations": terminations, "truncations": _last_steps(offsets) & ~terminations}
    return dataset_from_steps(steps, offsets)


def _flags(columns: Mapping[str, Any], reading: ArrayReading, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    given = {
        name: as_flags(columns[name], name) for name in ("terminations", "truncations", "dones") if name in columns
    }
    for name, flags in given.items():
        if len(flags) != count:
            raise ValueError(
                f"column {name!r} has {len(flags)} steps, column 'actions' has {count}: expected as many."
            )
    terminations, truncations, dones = (given.get(name) for name in ("terminations", "truncations", "dones"))
    if terminations is not None and dones is not None:
        check_dones(dones, terminations, truncations)
        truncations = dones & ~terminations if truncations is None else truncations
    terminations = dones if terminations is None else terminations
    if terminations is None:
        if not reading.cut and truncations is None:
            raise ValueError(
                "there is no column 'terminations' (or 'terminals', 'dones') to tell the episodes apart: found "
                f"{', '.join(columns)}; or say where to cut: cut_every=1000."
            )
        terminations = np.zeros(count, bool)
    return terminations, truncations


def _offsets(
    terminations: np.ndarray,
    truncations: np.ndarray | None,
    reading: ArrayReading,
    times: np.ndarray | None = None,
    changing: Sequence[np.ndarray] = (),
    begins: np.ndarray | None = None,
) -> np.ndarray:
    ends = terminations.copy() if truncations is None else terminations | truncations
    if begins is not None:
        ends[:-1] |= begins[1:]
    ends[-1:] = True
    offsets = np.concatenate([[0], np.flatnonzero(ends) + 1])
    if reading.cut:
        offsets = reading.cut.offsets(offsets, times, changing)
    elif truncations is None and reading.limit is not None and np.diff(offsets).max() > reading.limit:
        offsets = cut_every(offsets, reading.limit)
        reading.guesses["truncations"] = (
            f"cut after {reading.limit} steps, the time limit: the data do not say where episodes were truncated"
        )
    return offsets


def _cut_rows(dataset: Dataset, reading: ArrayReading) -> Dataset:
    """Cut the episodes of a data set further."""
    columns = {name: dataset.with_format("numpy")[name][:] for name in dataset.column_names}
    steps = {name: np.concatenate([np.asarray(part) for part in parts]) for name, parts in columns.items()}
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in columns["actions"]])])
    times = steps[reading.step] if reading.step else None
    offsets = reading.cut.offsets(offsets, times, [steps[name] for name in reading.cut.change])
    ending = "dones" if "dones" in steps and "terminations" not in steps else "terminations"
    terminations = as_flags(steps[ending], ending) if ending in steps else np.zeros(offsets[-1], bool)
    steps |= {"terminations": terminations, "truncations": _last_steps(offsets) & ~terminations}
    steps.pop("dones", None)
    return dataset_from_steps(steps, offsets)


def _last_steps(offsets: np.ndarray) -> np.ndarray:
    last = np.zeros(offsets[-1], bool)
    last[offsets[1:] - 1] = True
    return last


def _check_lengths(columns: Mapping[str, Any], expected: str) -> None:
    for name, values in columns.items():
        if len(values) != len(columns[expected]):
            extra = len(values) - len(columns[expected])
            hint = (
                "; drop the final observation of each episode, which no action followed"
                if name == "observations" and extra > 0
                else ""
            )
            raise ValueError(
                f"column {name!r} has {len(values)} steps, column {expected!r} has {len(columns[expected])}: expected one entry a "
                f"step{hint}."
            )


# Tuples and dictionaries


def _is_aside(name: str, values: Any) -> bool:
    """What is no column of steps: dictionaries beside observations and actions, and text."""
    return isinstance(values, str) or (isinstance(values, Mapping) and name not in ("observations", "actions"))


def _is_nested(values: Any, name: str, reading: ArrayReading) -> bool:
    space = reading.action_space if name == "actions" else reading.observation_space
    if isinstance(values, Mapping) or (isinstance(values, tuple) and isinstance(space, Tuple)):
        return True
    return isinstance(values, tuple) and len({np.shape(part)[1:] for part in values if np.ndim(part)}) > 1


def _flattened(episodes: list[dict[str, Any]], name: str, reading: ArrayReading) -> list[dict[str, Any]]:
    """The episodes with one array in the place of a tuple or dictionary of arrays."""
    space = reading.action_space if name == "actions" else reading.observation_space
    if space is None or isinstance(space, Box):
        space = _nested_space([episode[name] for episode in episodes], name == "actions")
        reading.guesses[f"{name[:-1]}_space"] = f"{space}, from the kinds and the largest values of its parts"
    reading.spaces[name] = space
    flatten = flat_actions if name == "actions" else flat_values
    if name == "observations":
        flat_space(space)  # refuses what has no vector
    return [episode | {name: flatten(space, episode[name])} for episode in episodes]


def _nested_space(parts: list[Any], is_action: bool) -> Space:
    """A space for the values of all episodes: whole numbers in actions are choices, everything else is a Box."""
    first = parts[0]
    if isinstance(first, Mapping):
        return Dict([(name, _nested_space([part[name] for part in parts], is_action)) for name in first])
    if isinstance(first, tuple):
        return Tuple([_nested_space([part[number] for part in parts], is_action) for number in range(len(first))])
    arrays = [np.asarray(part) for part in parts]
    if any(array.dtype.kind not in "biuf" for array in arrays):
        raise ValueError(
            f"a part of the {'actions' if is_action else 'observations'} holds {arrays[0].dtype} values: expected numbers."
        )
    if is_action and all(array.dtype.kind in "biu" for array in arrays) and min(array.min() for array in arrays) >= 0:
        choices = np.max([array.max(axis=0) for array in arrays], axis=0).astype(np.int64) + 1
        return Discrete(int(choices)) if choices.ndim == 0 else MultiDiscrete(choices)
    return Box(-np.inf, np.inf, arrays[0].shape[1:], np.float32)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 files need h5py: pip install h5py") from error
    return h5py
