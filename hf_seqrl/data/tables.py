"""Flat tables, one row a step, as people's logs are: made into one row an episode.

Only the columns of episodes and steps are looked at as a whole. The others are read and written some episodes at a time, so
that a table on disk may be larger than memory, whatever the order of its rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hf_seqrl.data.building import dataset_from_steps
from hf_seqrl.data.streaming import PIECE_BYTES, dataset_from_pieces
from hf_seqrl.data.table_rows import TableRows


@dataclass(frozen=True)
class StepTableColumns:
    """The names of the columns of a table with one row a step.

    Attributes:
        episode: Which episode the step belongs to: numbers or names.
        observation, action: One column of lists or numbers, or several columns of numbers.
        reward: Raw rewards.
        step: By which to sort the steps of an episode, numbers or times; without it the table's order counts.
        termination, truncation: Whether the episode ended with this step by itself, or was cut. Without a termination
            column no episode counts as terminated, without a truncation column every other one counts as truncated.
    """

    episode: str
    observation: str | Sequence[str]
    action: str | Sequence[str]
    reward: str
    step: str | None = None
    termination: str | None = None
    truncation: str | None = None

    def __post_init__(self) -> None:
        absent = [name for name in ("observation", "action", "reward") if getattr(self, name) is None]
        if absent:
            raise ValueError(
                f"no column is named for {absent[0]!r}: a table with one row a step needs the names of its episode, "
                "observation, action and reward columns, for instance observation='state' or observation=['x', 'y']."
            )

    @property
    def all(self) -> list[str]:
        """Every column that is named, once."""
        given = [getattr(self, field.name) for field in fields(self)]
        return list(
            dict.fromkeys(name for names in given for name in ([names] if isinstance(names, str) else names or []))
        )

    def check(self, available: Sequence[str]) -> None:
        """Raise a `ValueError` for the first name that is none of the `available` columns."""
        for field in fields(self):
            names = getattr(self, field.name)
            for name in [names] if isinstance(names, str) else names or []:
                if name not in available:
                    raise ValueError(
                        f"the table has no column {name!r}, which was named as {field.name}: expected one of "
                        f"{', '.join(available)}."
                    )


def episodes_from_table(table: pa.Table, names: StepTableColumns, piece_bytes: int = PIECE_BYTES) -> Dataset:
    """One row an episode, in the order in which the episodes first appear in the table.

    Args:
        table: One row a step; it may be memory-mapped.
        names: Its columns.
        piece_bytes: How much of the table is read at a time, but at least one episode. What takes several pieces is
            written to disk and memory-mapped.

    Raises:
        ValueError: a named column does not exist or has missing values, or an episode has a step twice.
    """
    names.check(table.column_names)
    table = table.select(names.all)
    order, episode_offsets = _episode_order(table, names)
    bounds = _piece_bounds(episode_offsets, max(1, int(piece_bytes * len(order) / max(1, table.nbytes))))
    pieces = _pieces(table, names, order, episode_offsets, bounds)
    return next(pieces) if len(bounds) == 2 else dataset_from_pieces(pieces)


def _pieces(
    table: pa.Table, names: StepTableColumns, order: np.ndarray, episode_offsets: np.ndarray, bounds: list[int]
) -> Iterator[Dataset]:
    for first, last in pairwise(bounds):
        offsets = episode_offsets[first : last + 1]
        rows = TableRows(table, order[offsets[0] : offsets[-1]])
        columns = {
            "observations": rows.stacked(names.observation, vector=True),
            "actions": rows.stacked(names.action, vector=False),
            "rewards": rows.numbers(names.reward).astype(np.float32, copy=False),
            **_endings(rows, names, offsets - offsets[0]),
        }
        yield dataset_from_steps(columns, offsets - offsets[0])


def _piece_bounds(episode_offsets: np.ndarray, most_rows: int) -> list[int]:
    """The first episode of each piece, and the number of episodes; a piece has at most so many rows, or one episode."""
    bounds, end = [0], len(episode_offsets) - 1
    while bounds[-1] < end:
        fitting = int(np.searchsorted(episode_offsets, episode_offsets[bounds[-1]] + most_rows, side="right")) - 1
        bounds.append(max(fitting, bounds[-1] + 1))
    return bounds


def _episode_order(table: pa.Table, names: StepTableColumns) -> tuple[np.ndarray, np.ndarray]:
    """The rows sorted by episode and step, and where each episode begins among them."""
    episodes = table.column(names.episode)
    if not len(episodes):
        raise ValueError("the table has no rows: expected at least one step.")
    if episodes.null_count:
        row = int(np.argmax(episodes.is_null().to_numpy()))
        raise ValueError(f"column {names.episode!r} has no value at row {row}: expected the episode of every step.")
    encoded = pc.dictionary_encode(episodes).combine_chunks()  # numbered in the order of their first rows
    codes, labels = encoded.indices.to_numpy(), encoded.dictionary
    if names.step is None:
        order = np.argsort(codes, kind="stable")
    else:
        steps = table.column(names.step).to_numpy()
        order = np.lexsort((steps, codes))
        same = (codes[order][1:] == codes[order][:-1]) & (steps[order][1:] == steps[order][:-1])
        if same.any():
            row = order[1:][same][0]
            raise ValueError(
                f"episode {labels[codes[row]]} has step {steps[row]} more than once (row {row}): expected each step once; "
                "drop duplicates, or check the episode column."
            )
    return order, np.concatenate([[0], np.cumsum(np.bincount(codes))])


def _endings(rows: TableRows, names: StepTableColumns, episode_offsets: np.ndarray) -> dict[str, np.ndarray]:
    last = np.zeros(len(rows), bool)
    last[episode_offsets[1:] - 1] = True
    terminations = rows.flags(names.termination) if names.termination else np.zeros(len(rows), bool)
    truncations = rows.flags(names.truncation) if names.truncation else last & ~terminations
    return {"terminations": terminations, "truncations": truncations}
