"""Which rows of a flat table are one episode, and in which order its steps are."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_seqrl.data.step_order import sort_keys
from hf_seqrl.data.table_columns import StepTableColumns
from hf_seqrl.data.table_files import StepTable
from hf_seqrl.data.table_rows import codes_of, missing_values

_PARTS = ("part", "chunk", "shard", "-of-")


class Problems:
    """What is wrong with a table, so that it is all said at once."""

    def __init__(self) -> None:
        self._sentences: list[str] = []

    def add(self, sentence: str) -> None:
        self._sentences.append(sentence)

    def at(self, what: str, rows: Sequence[int] | np.ndarray, expected: str) -> None:
        """Something that is wrong in these rows."""
        count = "" if len(rows) == 1 else f" ({len(rows)} rows)"
        self.add(f"{what}{count}: expected {expected}")

    def raise_all(self) -> None:
        """Raise one error that says everything, if there is anything."""
        sentences = list(dict.fromkeys(self._sentences))
        if len(sentences) == 1:
            raise ValueError(f"{sentences[0]}.")
        if sentences:
            lines = "\n".join(f"- {sentence}." for sentence in sentences)
            raise ValueError(f"the table has {len(sentences)} problems:\n{lines}")


class TableEpisodes:
    """The episodes of a table.

    Args:
        source: One row per step.
        names: Its columns.
        problems: Where to note what is wrong.

    Attributes:
        guesses: What was guessed, by name.
    """

    def __init__(self, source: StepTable, names: StepTableColumns, problems: Problems) -> None:
        self._source, self._table, self._names, self._problems = source, source.table, names, problems
        self.guesses: dict[str, str] = {}
        self._labels: Any = None

    def order(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows sorted by episode and step, and where each episode begins among them."""
        codes = self._episode_codes()
        keys = None if self._names.step is None else self._step_keys()
        self._problems.raise_all()
        codes = self._restarted(codes, keys)
        if keys is None:
            self._check_runs(codes)
            self._problems.raise_all()
            order = np.argsort(codes, kind="stable")
        else:
            order = np.lexsort((keys, codes))
            self._check_steps(order, codes, keys)
            self._problems.raise_all()
        offsets = np.concatenate([[0], np.cumsum(np.bincount(codes))])
        if self._names.cut:
            times = None if keys is None else keys[order]
            changing = [codes_of(self._table.column(name))[order] for name in self._names.cut.change]
            offsets = self._names.cut.offsets(offsets, times, changing)
        return order, offsets

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
                self._problems.at(
                    f"column {name!r} has no value at {self._source.places(rows)}", rows, "the episode of every step"
                )
                return codes
            part, words = codes_of(column, labels=True)
            self._check_blanks(name, words)
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

    def _check_blanks(self, name: str, words: pa.Array) -> None:
        """Ids that look the same."""
        if not (pa.types.is_string(words.type) or pa.types.is_large_string(words.type)):
            return
        if len(pc.unique(pc.utf8_trim_whitespace(words))) < len(words):
            known: dict[str, str] = {}
            for word in words.to_pylist():
                if known.setdefault(word.strip(), word) != word:
                    self._problems.add(
                        f"column {name!r} has the episodes {known[word.strip()]!r} and {word!r}, which differ only in blanks: "
                        "expected one spelling; strip them"
                    )
                    return

    def _step_keys(self) -> np.ndarray:
        name = self._names.step
        column = self._table.column(name)
        missing = missing_values(column)
        if missing.any():
            rows = np.flatnonzero(missing)
            self._problems.at(
                f"column {name!r} has no value at {self._source.places(rows)}", rows, "the step of every row"
            )
            return np.zeros(len(self._table))
        keys, because = sort_keys(column, str(name), self._names.time_format, self._source.places)
        if because:
            self.guesses["step"] = because
        return keys

    def _restarted(self, codes: np.ndarray, keys: np.ndarray | None) -> np.ndarray:
        """Ids that begin anew in the next file become other episodes."""
        starts = self._source.starts
        if len(starts) < 3 or self._names.episode is None or self._names.files == "continue":
            return codes
        runs = np.zeros(len(codes), np.int64)
        last_run: dict[int, tuple[int, int, np.ndarray]] = {}
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
        self.guesses["episodes"] = "episode ids that begin anew in the next file are other episodes (files='restart')"
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
            self.guesses["episodes"] = (
                "an id at the end of one part and at the beginning of the next is the same episode"
            )
            return False
        raise ValueError(
            f"episode {self._labels[code]} is at the end of {self._source.files[run[1]]} and at the beginning of "
            f"{self._source.files[file]}: say whether it is the same episode (files='continue') or another one (files='restart'), "
            "or name the step column."
        )

    def _check_runs(self, codes: np.ndarray) -> None:
        """Without steps, an id that comes again after another one may be the same episode or another one."""
        if self._names.files == "continue":
            return
        begins = np.flatnonzero(codes[1:] != codes[:-1]) + 1
        again = begins[codes[begins] < np.maximum.accumulate(codes)[begins]]
        if len(again) and self._are_interleaved(codes, np.concatenate([[0], begins])):
            self.guesses["episodes"] = (
                "rows of several episodes alternate, one row each: those of one id are one episode"
            )
        elif len(again):
            row, name = int(again[0]), " and ".join(self._names.roles["episode"])
            self._problems.add(
                f"episode {self._labels[codes[row]]} comes again at {self._source.place(row)}, after other episodes: name the "
                f"step column; without one, say files='continue' for the same episode, or give cut_at_change={name!r} in the "
                "place of episode for another one"
            )

    @staticmethod
    def _are_interleaved(codes: np.ndarray, begins: np.ndarray) -> bool:
        """Whether ids that come again come row by row, as a log of parallel environments has them."""
        lengths = np.diff(np.append(begins, len(codes)))
        last_block = np.zeros(codes.max() + 1, np.int64)
        last_block[codes[begins]] = np.arange(len(begins))  # later assignments win
        earlier = last_block[codes[begins]] != np.arange(len(begins))
        return bool((lengths[earlier] == 1).all())

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
            self._problems.add(
                f"episode {self._labels[codes[row]]} has step {step} more than once ({self._source.place(row)}){more}: expected each "
                "step once; drop duplicates, or check the episode column"
            )
            return
        steps = between[same_episode]
        if keys.dtype.kind not in "iu" or self._names.gaps == "allow" or self._names.cut.gap is not None:
            return
        usual = _usual(steps)
        gaps = same_episode & (between >= 2 * usual)
        if gaps.any():
            row = int(order[1:][gaps][0])
            before = int(keys[order[:-1][gaps][0]])
            more = "" if gaps.sum() == 1 else f"; there are {int(gaps.sum())} gaps"
            self._problems.add(
                f"episode {self._labels[codes[row]]} goes from step {before} to step {int(keys[row])} "
                f"({self._source.place(row)}){more}: expected no step to be missing; give cut_at_gap={usual} to cut there, or gaps='allow'"
            )


def _usual(steps: np.ndarray) -> int:
    """The distance of steps in a column that counts or was sampled regularly: 1 where most distances are, another where nearly
    all are; else the greatest, which no gap exceeds."""
    distances, counts = np.unique(steps, return_counts=True)
    if not len(steps):
        return 0
    most = int(counts.argmax())
    is_regular = counts[most] > (0.5 if distances[most] == 1 else 0.9) * len(steps)
    return int(distances[most] if is_regular else distances[-1])


def _label(words: Any, code: int) -> str:
    return str(words[int(code)].as_py())


def _row_label(table: pa.Table, columns: list[str], row: int) -> str:
    return "/".join(str(table.column(name)[int(row)].as_py()) for name in columns)
