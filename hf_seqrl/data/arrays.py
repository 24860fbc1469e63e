"""Dictionaries of arrays: a list of episodes a column, or one entry a step with flags where episodes end."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from hf_seqrl.data.building import dataset_from_episodes, dataset_from_steps

_NAMES = {"terminals": "terminations", "timeouts": "truncations"}  # D4RL's names


def dataset_from_arrays(columns: Mapping[str, Any]) -> Dataset:
    """One row an episode from a dictionary of arrays.

    Args:
        columns: Either in each column a list of episodes; or in each column one entry a step, and an episode ends with
            every step whose `terminations` (`terminals`, `dones`) or `truncations` (`timeouts`) is true, and with the
            last step. Entries that are not one a step (D4RL's `metadata`, `infos`) are left out.

    Raises:
        ValueError: a column is missing, or columns have different lengths.

    Example:
        >>> dataset = dataset_from_arrays({"observations": np.zeros((3, 2)), "actions": np.zeros((3, 1)),
        ...     "rewards": np.ones(3), "terminals": np.array([False, True, False])})
        >>> dataset["rewards"][:], dataset["truncations"][:]
        ([[1.0, 1.0], [1.0]], [[False, False], [True]])
    """
    columns = {_NAMES.get(name, name): values for name, values in columns.items()}
    if "rewards" not in columns or not len(columns["rewards"]):
        raise ValueError(f"there is no column 'rewards' with values: found {', '.join(columns)}.")
    if np.ndim(columns["rewards"][0]):
        return dataset_from_episodes(_rows(columns))
    return _split_at_ends(columns)


def _rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    counts = {name: len(values) for name, values in columns.items()}
    for name, count in counts.items():
        if count != counts["rewards"]:
            raise ValueError(
                f"column {name!r} has {count} episodes, column 'rewards' has {counts['rewards']}: expected as many."
            )
    return [{name: values[row] for name, values in columns.items()} for row in range(counts["rewards"])]


def _split_at_ends(columns: Mapping[str, Any]) -> Dataset:
    steps = {name: np.asarray(columns[name]) for name in ("observations", "actions", "rewards") if name in columns}
    ending = "dones" if "dones" in columns else "terminations"
    if ending not in columns:
        raise ValueError(
            f"there is no column 'terminations' (or 'terminals', 'dones') to tell the episodes apart: found {', '.join(columns)}."
        )
    terminations = np.asarray(columns[ending]).astype(bool)
    ends = terminations | np.asarray(columns.get("truncations", np.zeros(len(terminations)))).astype(bool)
    ends[-1] = True
    steps |= {"terminations": terminations, "truncations": ends & ~terminations}
    return dataset_from_steps(steps, np.concatenate([[0], np.flatnonzero(ends) + 1]))
