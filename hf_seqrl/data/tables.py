"""Flat tables, one row a step, as people's logs are: made into one row an episode.

Only the columns of episodes and steps are looked at as a whole. The others are checked column by column, and read and written
some episodes at a time, so that a table on disk may be larger than memory, whatever the order of its rows.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space

from hf_seqrl.data.columns import episode_blocks
from hf_seqrl.data.metadata import TrajectoryMetadata, with_metadata
from hf_seqrl.data.table_columns import StepTableColumns
from hf_seqrl.data.table_episodes import Problems, TableEpisodes
from hf_seqrl.data.table_files import StepTable
from hf_seqrl.data.table_rows import TableRows, decoded, missing_values
from hf_seqrl.data.writing import PIECE_BYTES, dataset_from_pieces, dataset_from_steps

_MOST_WORDS = 1000
_DIGITS = re.compile(r"[+-]?\d[\d.,' ]*")  # numbers as people write them


def episodes_from_table(
    source: StepTable | pa.Table,
    names: StepTableColumns,
    piece_bytes: int = PIECE_BYTES,
    categories: Mapping[str, list[Any]] | None = None,
) -> Dataset:
    """One row an episode, in the order in which the episodes first appear in the table, with names and words as metadata.

    Args:
        source: One row a step; it may be memory-mapped.
        names: Its columns.
        piece_bytes: How much of the table is read at a time, but at least one episode. What takes several pieces is
            written to disk and memory-mapped.
        categories: The words of columns in the order of their codes; of others they are sorted.

    Raises:
        ValueError: a named column does not exist, or values are missing, are no numbers, or contradict each other; all that is
            wrong is named together.
    """
    source = source if isinstance(source, StepTable) else StepTable(source)
    names = names.resolved(source.table.column_names)
    table = source.table.select(names.all)
    if not len(table):
        raise ValueError("the table has no rows: expected at least one step.")
    source = StepTable(table, source.files, source.starts, source.is_text, dict(source.guesses))
    reading = _TableReading(source, names, categories or {})
    order, offsets = reading.order()
    reading.check_columns(order, offsets)
    blocks = list(episode_blocks(offsets, max(1, int(piece_bytes * len(order) / max(1, table.nbytes)))))
    pieces = reading.pieces(order, offsets, blocks)
    dataset = next(pieces) if len(blocks) == 1 else dataset_from_pieces(pieces)
    return with_metadata(dataset, reading.metadata())


class _TableReading:
    """One reading of a table: what is wrong with it, the words of its columns, and its episodes."""

    def __init__(self, source: StepTable, names: StepTableColumns, categories: Mapping[str, list[Any]]) -> None:
        self._stated = categories
        self._source, self._table, self._names = source, source.table, names
        self._guesses, self._words = dict(source.guesses), {}
        self._problems = Problems()
        self._lasts = np.zeros(0, np.int64)  # the last row of each episode
        self._finals = np.zeros(0, np.int64)  # of each episode the row that is dropped from its end, or -1

    def order(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows sorted by episode and step, and where each episode begins among them."""
        episodes = TableEpisodes(self._source, self._names, self._problems)
        order, offsets = episodes.order()
        self._guesses |= episodes.guesses
        self._finals = np.full(len(offsets) - 1, -1)
        return self._without_finals(order, offsets) if self._names.final_observations == "drop" else (order, offsets)

    def _without_finals(self, order: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same without the last row of each episode that has one without an action."""
        without = self._without_action()
        lasts = order[offsets[1:] - 1]
        is_final = without[lasts]
        if not is_final.any():
            raise ValueError(
                "no episode ends with a row without an action: expected such rows for final_observations='drop'; leave it out."
            )
        if (np.diff(offsets) == is_final).any():
            row = int(lasts[np.argmax(np.diff(offsets) == is_final)])
            raise ValueError(
                f"the episode at {self._source.place(row)} has no action: expected at least one step; drop it."
            )
        self._finals[is_final] = lasts[is_final]
        if self._names.reward is not None:
            rewards = self._table.column(self._names.reward)
            late = [
                row
                for row in lasts[is_final].tolist()
                if rewards[row].as_py() not in (None, 0) and not missing_values(rewards.slice(row, 1))[0]
            ]
            if late:
                raise ValueError(
                    f"column {self._names.reward!r} is {rewards[late[0]].as_py()} at {self._source.place(late[0])}, where no action "
                    "is: expected the reward in the row of its action; shift the column by one row, groupby(...).shift(-1)."
                )
        return np.delete(order, offsets[1:][is_final] - 1), np.concatenate(
            [[0], np.cumsum(np.diff(offsets) - is_final)]
        )

    def _without_action(self) -> np.ndarray:
        missing = [missing_values(self._table.column(name)) for name in self._names.roles["action"]]
        return np.logical_and.reduce(missing)

    def check_columns(self, order: np.ndarray, offsets: np.ndarray) -> None:
        """Hold every named column against its role; find the words of those that hold words.

        Raises:
            ValueError: names everything that is wrong.
        """
        roles, self._lasts = self._names.roles, order[offsets[1:] - 1]
        for role in ("observation", "action"):
            for name in roles[role]:
                self._check_values(name, role)
        for name in roles.get("reward", []):
            self._check_values(name, "reward")
        for role in ("termination", "truncation"):
            for name in roles.get(role, []):
                self._check_missing(name)
        self._problems.raise_all()

    def pieces(
        self, order: np.ndarray, episode_offsets: np.ndarray, blocks: list[tuple[int, int]]
    ) -> Iterator[Dataset]:
        names, form = self._names, self._action_form()
        for first, last in blocks:
            offsets = episode_offsets[first : last + 1]
            rows = TableRows(self._table, order[offsets[0] : offsets[-1]], self._words)
            columns = {
                "observations": rows.stacked(names.observation, vector=True, one_hot=True),
                "actions": rows.stacked(names.action, vector=False)
                if form != "hybrid"
                else rows.side_by_side(names.action),
            }
            if names.reward is not None:
                columns["rewards"] = rows.numbers(names.reward)
            else:
                columns["rewards"] = np.zeros(len(rows), np.float32)
            endings = _endings(rows, names, offsets - offsets[0])
            self._carry_flags(endings, offsets - offsets[0], self._finals[first:last])
            yield dataset_from_steps(columns | endings, offsets - offsets[0])

    def _carry_flags(self, endings: dict[str, np.ndarray], offsets: np.ndarray, finals: np.ndarray) -> None:
        """Let the flags of the rows that were dropped count for the step before."""
        if self._names.termination is None or not (finals >= 0).any():
            return
        present = ~missing_values(self._table.column(self._names.termination))
        kept = np.flatnonzero((finals >= 0) & present[finals])
        if len(kept):
            flags = TableRows(self._table, finals[kept]).flags(self._names.termination)
            lasts = offsets[1:][kept] - 1
            endings["terminations"][lasts] |= flags
            endings["truncations"][lasts] &= ~flags

    def metadata(self) -> TrajectoryMetadata:
        """Names, words and guesses."""
        roles, words = self._names.roles, self._words
        action_names = tuple(roles["action"]) if self._are_scalars(roles["action"]) else None
        observation_names = None
        if self._are_scalars(roles["observation"]):
            observation_names = tuple(
                part
                for name in roles["observation"]
                for part in ([f"{name}={word}" for word in words[name]] if name in words else [name])
            )
        return TrajectoryMetadata(
            observation_names=observation_names,
            action_names=action_names,
            categories=words or None,
            action_space=self._action_space(),
            has_rewards=False if self._names.reward is None else None,
            guesses=self._guesses,
        )

    def _check_values(self, name: str, role: str) -> None:
        column = self._table.column(name)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_nested(kind):
            return  # looked at when it is read
        if self._check_missing(name):
            return
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            self._check_words(name, role, column)
        elif pa.types.is_boolean(kind):
            if role == "action":
                self._words[name] = [False, True]
        elif pa.types.is_temporal(kind):
            self._problems.add(
                f"column {name!r} holds {kind} values: expected numbers; name it as step=, or convert it"
            )
        elif pa.types.is_floating(kind):
            wrong = self._kept(_rows_where(column, lambda chunk: pc.invert(pc.is_finite(chunk))))
            if len(wrong):
                self._problems.at(
                    f"column {name!r} is {column[int(wrong[0])].as_py()} at {self._source.places(wrong)}",
                    wrong,
                    "finite numbers",
                )

    def _check_words(self, name: str, role: str, column: pa.ChunkedArray) -> None:
        if pa.types.is_dictionary(column.type) and column.type.ordered:
            words = column.combine_chunks().dictionary.to_pylist()  # the user has put them in order
        else:
            words = sorted(str(word) for word in pc.unique(decoded(column)).to_pylist() if word is not None)
        if name in self._stated and role != "reward":
            self._words[name] = self._stated_words(name, words)
            return
        if all(word.strip().startswith("[") for word in words):
            return  # lists, which are parsed when they are read
        numbers = [word for word in words if _is_number(word) or _DIGITS.fullmatch(word.strip())]
        if role == "reward" or len(numbers) * 2 > len(words):
            texts = [word for word in words if not _is_number(word)] or words
            rows = np.flatnonzero(np.isin(np.asarray(decoded(column).to_pylist(), dtype=object), texts))
            shown = ", ".join(map(repr, texts[:3]))
            self._problems.at(f"column {name!r} holds text ({shown}) at {self._source.places(rows)}", rows, "numbers")
        elif len(words) > _MOST_WORDS:
            self._problems.add(
                f"column {name!r} has {len(words):,} different words: expected a category; is it an id?"
            )
        else:
            self._words[name] = words
            self._guesses.setdefault(name, f"a category, because it holds the words {', '.join(words[:5])}")

    def _stated_words(self, name: str, words: list[str]) -> list[Any]:
        stated = [str(word) for word in self._stated[name]]
        unknown = [word for word in words if word not in stated]
        if unknown:
            self._problems.add(
                f"column {name!r} holds {', '.join(map(repr, unknown[:5]))}: expected the stated categories "
                f"{', '.join(map(repr, stated[:10]))}"
            )
        return stated

    def _check_missing(self, name: str) -> bool:
        missing = missing_values(self._table.column(name))
        rows = self._kept(np.flatnonzero(missing))
        if len(rows):
            remedy = "fill it in"
            if name in self._names.roles["action"] and np.isin(rows, self._lasts).all():
                remedy += ", or leave these last observations of their episodes out, final_observations='drop'"
            self._problems.at(
                f"column {name!r} of the table: {self._source.places(rows)} has no value", rows, f"a value; {remedy}"
            )
        return bool(len(rows))

    def _kept(self, rows: np.ndarray) -> np.ndarray:
        """Those of these rows that are not dropped."""
        return rows[~np.isin(rows, self._finals)] if len(rows) else rows

    # What the columns are

    def _are_scalars(self, names: list[str]) -> bool:
        return not any(
            pa.types.is_nested(kind)
            or ((pa.types.is_string(kind) or pa.types.is_large_string(kind)) and name not in self._words)
            for name in names
            for kind in [self._table.column(name).type]
        )

    def _action_form(self) -> str:
        names = self._names.roles["action"]
        worded = [name in self._words for name in names]
        return "hybrid" if any(worded) and not all(worded) else "plain"

    def _action_space(self) -> Space | None:
        """The space of actions among which there are words; a hybrid of choices and numbers where both are."""
        names = self._names.roles["action"]
        if not any(name in self._words for name in names):
            return None
        sizes = {name: len(self._words[name]) for name in names if name in self._words}
        if len(names) == 1:
            space: Space = Discrete(sizes[names[0]])
        elif len(sizes) == len(names):
            space = MultiDiscrete(list(sizes.values()))
        else:
            space = Dict(
                [
                    (name, Discrete(sizes[name]) if name in sizes else Box(-np.inf, np.inf, (1,), np.float32))
                    for name in names
                ]
            )
        self._guesses["action_space"] = f"{space}: the words and numbers of {', '.join(names)}"
        return space


def _endings(rows: TableRows, names: StepTableColumns, episode_offsets: np.ndarray) -> dict[str, np.ndarray]:
    last = np.zeros(len(rows), bool)
    last[episode_offsets[1:] - 1] = True
    terminations = rows.flags(names.termination) if names.termination else np.zeros(len(rows), bool)
    truncations = rows.flags(names.truncation) if names.truncation else last & ~terminations
    if names.truncation and names.cut:
        truncations = truncations | (last & ~terminations)
    return {"terminations": terminations, "truncations": truncations}


def _rows_where(column: pa.ChunkedArray, is_wrong: Any) -> np.ndarray:
    rows, first = [], 0
    for chunk in column.chunks:
        wrong = is_wrong(chunk)
        if pc.any(wrong).as_py():
            rows.append(first + np.flatnonzero(wrong.to_numpy(zero_copy_only=False)))
        first += len(chunk)
    return np.concatenate(rows) if rows else np.zeros(0, np.int64)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
