"""Dictionaries of arrays, lists of episodes, and D4RL's HDF5 files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_seqrl.data.array_reading import (
    ArrayReading,
    check_entries,
    is_aside,
    layout_of,
    named_entries,
    named_entry,
    one_after_the_other,
    without_final,
    without_finals,
)
from hf_seqrl.data.column_values import as_array, as_flags, as_scalars, check_dones
from hf_seqrl.data.cutting import cut_every
from hf_seqrl.data.damaged_files import DAMAGED_HDF5, named_if_damaged, refuse_other_files
from hf_seqrl.data.nested_arrays import by_part, flat_parts, is_nested
from hf_seqrl.data.writing import dataset_from_episodes, dataset_from_steps, dataset_from_stream

D4RL_NAMES = {"terminals": "terminations", "timeouts": "truncations"}  # D4RL's names
_D4RL = {name: d4rl for d4rl, name in D4RL_NAMES.items()}
_COLUMNS = {"observations", "actions", "rewards", "terminations", "truncations", "dones"}
_READ_STEPS = 1 << 16  # steps that are read at once, at least; an episode is read whole
_NEEDED = ("observations", "actions", "rewards", "terminals")


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
    columns, reading = named_entries(columns, reading.names), replace(reading, names={})
    columns = {D4RL_NAMES.get(name, name): values for name, values in columns.items()}
    for name in ("observations", "actions", "rewards"):
        if name not in columns and (name != "rewards" or reading.has_rewards):
            remedy = "; for demonstrations without rewards give reward=None" if name == "rewards" else ""
            raise ValueError(f"there is no column {name!r} with values: found {', '.join(columns)}{remedy}.")
    for name in set(columns) & _COLUMNS:
        if not isinstance(columns[name], Mapping | list | tuple):
            columns[name] = as_array(columns[name], f"column {name!r}")
            if not np.ndim(columns[name]):
                raise ValueError(
                    f"column {name!r} is {columns[name]}: expected one value per step, or a list of episodes."
                )
    leading = "rewards" if reading.has_rewards else "actions"
    if not len(columns[leading]):
        raise ValueError(f"column {leading!r} has no values: expected at least one step.")
    layout = reading.layout or layout_of(columns, reading)
    if layout == "episodes":
        return read_episodes(_rows(columns, reading), reading)
    if layout in ("time_env", "env_time"):
        columns = one_after_the_other(columns, layout, reading)
        reading = replace(reading, final_observations="refuse")  # they are gone
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
    check_entries(episodes)
    episodes = [named_entries(episode, reading.names) for episode in episodes]
    episodes = [
        {D4RL_NAMES.get(name, name): values for name, values in episode.items() if not is_aside(name, values)}
        for episode in episodes
    ]
    for name in ("observations", "actions"):
        if all(name in episode for episode in episodes):
            episodes = _flattened(episodes, name, reading)
    if reading.final_observations == "drop":
        episodes = [
            {
                **episode,
                "observations": without_final(
                    episode["observations"], len(episode["actions"]), f"of episode {number}"
                ),
            }
            for number, episode in enumerate(episodes)
        ]
    dataset = dataset_from_episodes(episodes)
    return cut_rows(dataset, reading) if reading.cut else dataset


def read_d4rl(path: Path, reading: ArrayReading | None = None) -> Dataset:
    """The episodes of a D4RL file, read and written piece by piece.

    An episode ends where `terminals` or `timeouts` is true, and with the file. What is not one entry a step
    (`infos`, `metadata`) and `next_observations` are left out.

    Raises:
        ImportError: h5py is not installed.
        ValueError: the file is damaged, a column is missing, has another length, or stands in another file.
    """
    h5py, reading = _h5py(), reading or ArrayReading()
    with named_if_damaged(path, DAMAGED_HDF5), h5py.File(path) as opened:
        file = {_D4RL.get(name, name): values for name, values in named_entries(opened, reading.names).items()}
        missing = [name for name in _NEEDED if name not in file and (name != "rewards" or reading.has_rewards)]
        if missing:
            raise ValueError(
                f"{path} has no {missing[0]!r}: expected the columns of D4RL ({', '.join(_NEEDED)} and perhaps timeouts), "
                f"found {', '.join(file)}."
            )
        refuse_other_files(opened)
        for name, values in file.items():
            is_empty = isinstance(values, h5py.Dataset) and values.shape is None
            if values is None or is_empty or isinstance(values, h5py.Datatype):
                raise ValueError(f"{path}: {name!r} holds no values: expected one entry a step.")
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


def _rows(columns: Mapping[str, Any], reading: ArrayReading) -> list[dict[str, Any]]:
    columns = {name: values for name, values in columns.items() if not is_aside(name, values)}
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
        steps = _flattened([steps], name, reading)[0]
    steps = {name: as_array(values, f"column {name!r}") for name, values in steps.items()}
    if "rewards" in steps:
        steps["rewards"] = as_scalars(steps["rewards"], "rewards")
    terminations, truncations = _flags(columns, reading, len(steps["actions"]))
    _check_lengths({**steps, "terminations": terminations} | _left_open(steps, reading), "actions")
    changing = [np.asarray(named_entry(columns, name, "cut_at_change")) for name in reading.cut.change]
    times = np.asarray(named_entry(columns, reading.step, "step")) if reading.step else None
    begins = columns.get("_begins")
    offsets = _offsets(terminations, truncations, reading, times, changing, begins)
    if reading.final_observations == "drop":
        steps["observations"] = without_finals(steps["observations"], offsets)
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


def cut_rows(dataset: Dataset, reading: ArrayReading) -> Dataset:
    """Cut the episodes of a data set further."""
    for name in (*reading.cut.change, *([reading.step] if reading.step else [])):
        named_entry(dict.fromkeys(dataset.column_names), name, "step or cut_at_change")
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


def _left_open(steps: Mapping[str, np.ndarray], reading: ArrayReading) -> dict[str, np.ndarray]:
    """What stands in for observations whose number is only compared when the episodes are known."""
    return {"observations": steps["actions"]} if reading.final_observations == "drop" else {}


def without_final_observations(dataset: Dataset) -> Dataset:
    """The rows of a data set without the observation after the last action of each."""
    rows = dataset.with_format("numpy")
    return dataset_from_stream(
        {**row, "observations": without_final(row["observations"], len(row["actions"]), f"of episode {number}")}
        for number, row in enumerate(rows)
    )


def _last_steps(offsets: np.ndarray) -> np.ndarray:
    last = np.zeros(offsets[-1], bool)
    last[offsets[1:] - 1] = True
    return last


def _check_lengths(columns: Mapping[str, Any], expected: str) -> None:
    for name, values in columns.items():
        if len(values) != len(columns[expected]):
            extra = len(values) - len(columns[expected])
            hint = (
                "; drop the final observation of each episode, which no action followed: final_observations='drop'"
                if name == "observations" and extra > 0
                else ""
            )
            raise ValueError(
                f"column {name!r} has {len(values)} steps, column {expected!r} has {len(columns[expected])}: expected one entry a "
                f"step{hint}."
            )


def _flattened(episodes: list[dict[str, Any]], name: str, reading: ArrayReading) -> list[dict[str, Any]]:
    """The episodes with one array in the place of a tuple or dictionary of arrays."""
    space = reading.action_space if name == "actions" else reading.observation_space
    episodes = [episode | {name: by_part(episode[name], name)} for episode in episodes]
    if not is_nested(episodes[0][name], space):
        return episodes
    flat, reading.spaces[name], because = flat_parts([episode[name] for episode in episodes], space, name == "actions")
    if because:
        reading.guesses[f"{name[:-1]}_space"] = because
    return [episode | {name: values} for episode, values in zip(episodes, flat, strict=True)]


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 files need h5py: pip install h5py") from error
    return h5py
