"""Flat tables, one row a step, as people's logs are: made into one row an episode.

Only the columns of episodes and steps are looked at as a whole. The others are checked column by column, and read and written
some episodes at a time, so that a table on disk may be larger than memory, whatever the order of its rows.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space

from hf_seqrl.data.columns import episode_blocks
from hf_seqrl.data.metadata import TrajectoryMetadata, with_metadata
from hf_seqrl.data.step_order import sort_keys
from hf_seqrl.data.table_columns import StepTableColumns
from hf_seqrl.data.table_files import StepTable
from hf_seqrl.data.table_rows import TableRows, codes_of, decoded, missing_values
from hf_seqrl.data.writing import PIECE_BYTES, dataset_from_pieces, dataset_from_steps

_MOST_WORDS = 1000
_DIGITS = re.compile(r"[+-]?\d[\d.,' ]*")  # numbers as people write them
_PARTS = ("part", "chunk", "shard", "-of-")


def episodes_from_table(
    source: StepTable | pa.Table, names: StepTableColumns, piece_bytes: int = PIECE_BYTES
) -> Dataset:
    """One row an episode, in the order in which the episodes first appear in the table, with names and words as metadata.

    Args:
        source: One row a step; it may be memory-mapped.
        names: Its columns.
        piece_bytes: How much of the table is read at a time, but at least one episode. What takes several pieces is
            written to disk and memory-mapped.

    Raises:
        ValueError: a named column does not exist, or values are missing, are no numbers, or contradict each other; all that is
            wrong is named together.
    """
    source = source if isinstance(source, StepTable) else StepTable(source)
    names = names.resolved(source.table.column_names)
    table = source.table.select(names.all)
    if not len(table):
        raise ValueError("the table has no rows: expected at least one step.")
    reading = _TableReading(StepTable(table, source.files, source.starts, source.is_text, dict(source.guesses)), names)
    order, offsets = reading.order()
    reading.check_columns(order, offsets)
    blocks = list(episode_blocks(offsets, max(1, int(piece_bytes * len(order) / max(1, table.nbytes)))))
    pieces = reading.pieces(order, offsets, blocks)
    dataset = next(pieces) if len(blocks) == 1 else dataset_from_pieces(pieces)
    return with_metadata(dataset, reading.metadata())


class _TableReading:
    """One reading of a table: what is wrong with it, the words of its columns, and its episodes."""

    def __init__(self, source: StepTable, names: StepTableColumns) -> None:
        self._source, self._table, self._names = source, source.table, names
        self._guesses, self._words = dict(source.guesses), {}
        self._problems: list[str] = []
        self._labels: Any = None

    def order(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows sorted by episode and step, and where each episode begins among them."""
        codes = self._episode_codes()
        keys = None if self._names.step is None else self._step_keys()
        self._raise()
        codes = self._restarted(codes, keys)
        if keys is None:
            order = np.argsort(codes, kind="stable")
        else:
            order = np.lexsort((keys, codes))
            self._check_steps(order, codes, keys)
            self._raise()
        offsets = np.concatenate([[0], np.cumsum(np.bincount(codes))])
        if self._names.cut:
            times = None if keys is None else keys[order]
            changing = [codes_of(self._table.column(name))[order] for name in self._names.cut.change]
            offsets = self._names.cut.offsets(offsets, times, changing)
        return order, offsets

    def check_columns(self, order: np.ndarray, offsets: np.ndarray) -> None:
        """Hold every named column against its role; find the words of those that hold words.

        Raises:
            ValueError: names everything that is wrong.
        """
        roles = self._names.roles
        for role in ("observation", "action"):
            for name in roles[role]:
                self._check_values(name, role)
        for name in roles.get("reward", []):
            self._check_values(name, "reward")
        for role in ("termination", "truncation"):
            for name in roles.get(role, []):
                self._check_missing(name)
        self._raise()

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
            yield dataset_from_steps(columns | _endings(rows, names, offsets - offsets[0]), offsets - offsets[0])

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

    # Episodes and steps

    def _episode_codes(self) -> np.ndarray:
        """The number of each row's episode, numbered in the order of their first rows."""
        columns = self._names.roles.get("episode", [])
        if not columns:
            self._labels = ["the log"]
            return np.zeros(len(self._table), np.int64)
        codes, labels = np.zeros(len(self._table), np.int64), [""]
        for name in columns:
            column = self._table.column(name)
            missing = missing_values(column)
            if missing.any():
                rows = np.flatnonzero(missing)
                self._problem(
                    f"column {name!r} has no value at {self._source.places(rows)}", rows, "the episode of every step"
                )
                return codes
            part, words = codes_of(column, labels=True)
            codes = codes * (int(part.max()) + 1) + part
            _, firsts, codes = np.unique(codes, return_index=True, return_inverse=True)
            labels = [
                _label(words, part[row]) if len(columns) == 1 else f"{_row_label(self._table, columns, row)}"
                for row in firsts
            ]
        rank = np.empty(len(firsts), np.int64)
        rank[np.argsort(firsts, kind="stable")] = np.arange(len(firsts))
        self._labels = [labels[place] for place in np.argsort(firsts, kind="stable")]
        return rank[codes]

    def _step_keys(self) -> np.ndarray:
        name = self._names.step
        column = self._table.column(name)
        missing = missing_values(column)
        if missing.any():
            rows = np.flatnonzero(missing)
            self._problem(
                f"column {name!r} has no value at {self._source.places(rows)}", rows, "the step of every row"
            )
            return np.zeros(len(self._table))
        keys, because = sort_keys(column, name, self._names.time_format, self._source.places)
        if because:
            self._guesses["step"] = because
        return keys

    def _restarted(self, codes: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        """Ids that begin anew in the next file become other episodes."""
        starts = self._source.starts
        if len(starts) < 3 or self._names.episode is None or self._names.files == "continue":
            return codes
        runs, last_run = np.zeros(len(codes), np.int64), {}
        for number, (first, end) in enumerate(pairwise(starts)):
            if end == first:
                continue
            part = codes[first:end]
            for code in np.unique(part):
                run = last_run.get(code)
                rows = first + np.flatnonzero(part == code)
                if run is None:
                    last_run[code] = (0, number, rows)
                    continue
                restarts = self._restarts(code, run, rows, number, keys, codes)
                last_run[code] = (run[0] + restarts, number, rows)
                runs[rows] = run[0] + restarts
        if not runs.any():
            return codes
        self._guesses["episodes"] = "episode ids that begin anew in the next file are other episodes (files='restart')"
        together = runs * (codes.max() + 1) + codes
        _, firsts, inverse = np.unique(together, return_index=True, return_inverse=True)
        by_first = np.argsort(firsts, kind="stable")
        rank = np.empty(len(firsts), np.int64)
        rank[by_first] = np.arange(len(firsts))
        self._labels = [self._labels[codes[firsts[place]]] for place in by_first]
        return rank[inverse]

    def _restarts(
        self, code: int, run: tuple, rows: np.ndarray, file: int, keys: np.ndarray | None, codes: np.ndarray
    ) -> bool:
        """Whether an id that was in an earlier file stands for another episode in this one."""
        if self._names.files == "restart":
            return True
        before = run[2]
        if keys is not None:
            return bool(keys[rows].min() <= keys[before].max())
        start = int(self._source.starts[file])
        goes_on = codes[start] == code and codes[start - 1] == code
        if not goes_on:
            return True
        names = [self._source.files[number].lower() for number in (run[1], file)]
        if all(any(part in name for part in _PARTS) for name in names):
            self._guesses["episodes"] = (
                "an id at the end of one part and at the beginning of the next is the same episode"
            )
            return False
        raise ValueError(
            f"episode {self._labels[code]} is at the end of {self._source.files[run[1]]} and at the beginning of "
            f"{self._source.files[file]}: say whether it is the same episode (files='continue') or another one (files='restart'), "
            "or name the step column."
        )

    def _check_steps(self, order: np.ndarray, codes: np.ndarray, keys: np.ndarray) -> None:
        """Steps that stand twice, or are missing where the column counts them."""
        same_episode = codes[order][1:] == codes[order][:-1]
        between = keys[order][1:] - keys[order][:-1]
        zero = between.dtype.type(0)
        twice = order[1:][same_episode & (between == zero)]
        if len(twice):
            row = int(twice[0])
            step = self._table.column(self._names.step)[row].as_py()
            more = "" if len(twice) == 1 else f"; {len(twice)} rows are affected"
            self._problems.append(
                f"episode {self._labels[codes[row]]} has step {step} more than once ({self._source.place(row)}){more}: expected each "
                "step once; drop duplicates, or check the episode column"
            )
            return
        steps = between[same_episode]
        if keys.dtype.kind not in "iu" or self._names.gaps == "allow" or self._names.cut.gap is not None:
            return
        gaps = same_episode & (between > 1)
        if gaps.any() and (steps == 1).mean() > 0.5:
            row = int(order[1:][gaps][0])
            before = int(keys[order[:-1][gaps][0]])
            more = "" if gaps.sum() == 1 else f"; there are {int(gaps.sum())} gaps"
            self._problems.append(
                f"episode {self._labels[codes[row]]} goes from step {before} to step {int(keys[row])} "
                f"({self._source.place(row)}){more}: expected no step to be missing; give cut_at_gap=1 to cut there, or gaps='allow'"
            )

    # Columns of values

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
            self._problems.append(
                f"column {name!r} holds {kind} values: expected numbers; name it as step=, or convert it"
            )
        elif pa.types.is_floating(kind):
            wrong = _rows_where(column, lambda chunk: pc.invert(pc.is_finite(chunk)))
            if len(wrong):
                self._problem(
                    f"column {name!r} is {column[int(wrong[0])].as_py()} at {self._source.places(wrong)}",
                    wrong,
                    "finite numbers",
                )

    def _check_words(self, name: str, role: str, column: pa.ChunkedArray) -> None:
        words = sorted(str(word) for word in pc.unique(decoded(column)).to_pylist())
        if all(word.strip().startswith("[") for word in words):
            return  # lists, which are parsed when they are read
        numbers = [word for word in words if _is_number(word) or _DIGITS.fullmatch(word.strip())]
        if role == "reward" or len(numbers) * 2 > len(words):
            texts = [word for word in words if not _is_number(word)] or words
            rows = np.flatnonzero(np.isin(np.asarray(decoded(column).to_pylist(), dtype=object), texts))
            shown = ", ".join(map(repr, texts[:3]))
            self._problem(f"column {name!r} holds text ({shown}) at {self._source.places(rows)}", rows, "numbers")
        elif len(words) > _MOST_WORDS:
            self._problems.append(
                f"column {name!r} has {len(words):,} different words: expected a category; is it an id?"
            )
        else:
            self._words[name] = words
            self._guesses.setdefault(name, f"a category, because it holds the words {', '.join(words[:5])}")

    def _check_missing(self, name: str) -> bool:
        missing = missing_values(self._table.column(name))
        rows = np.flatnonzero(missing)
        if len(rows):
            self._problem(
                f"column {name!r} of the table: {self._source.places(rows)} has no value", rows, "a value; fill it in"
            )
        return bool(len(rows))

    def _problem(self, what: str, rows: np.ndarray, expected: str) -> None:
        count = "" if len(rows) == 1 else f" ({len(rows)} rows)"
        self._problems.append(f"{what}{count}: expected {expected}")

    def _raise(self) -> None:
        self._problems = list(dict.fromkeys(self._problems))
        if len(self._problems) == 1:
            raise ValueError(f"{self._problems[0]}.")
        if self._problems:
            lines = "\n".join(f"- {problem}." for problem in self._problems)
            raise ValueError(f"the table has {len(self._problems)} problems:\n{lines}")

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


def _label(words: Any, code: int) -> str:
    return str(words[int(code)].as_py())


def _row_label(table: pa.Table, columns: list[str], row: int) -> str:
    return "/".join(str(table.column(name)[int(row)].as_py()) for name in columns)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
