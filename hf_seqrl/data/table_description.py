"""What a table with one row per step looks like, and how it might be loaded."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_seqrl.data.sources import parquet_files
from hf_seqrl.data.step_order import sort_keys
from hf_seqrl.data.table_files import TableFormat, kinds_of_files, open_table
from hf_seqrl.data.table_rows import codes_of, decoded, missing_values

_MOST_COLUMNS = 40
_ROLE_NAMES = {
    "episode": r"(?i)^(episode|run|traj|trajectory|batch|patient|subject|session|trip|flight|lot|campaign|stay)s?([_ .-]?(id|index|nr|no|number|name))?$|[_ .-](episode|run|batch|patient|session)$",
    "step": r"(?i)^(step|t|time|timestamp|timestep|date|datetime|minute|second|hour|day|index|frame|frame_index|tick|k)s?$|(timestamp|_time|_step|_date)$",
    "reward": r"(?i)^(reward|r|return|profit|score|utility|gain)s?$|[_ .-]reward$",
    "termination": r"(?i)^(done|terminal|terminated|termination|terminate|failure|failed|dead|died|death)s?$|[_ .-](done|terminal|terminated)$",
    "truncation": r"(?i)^(timeout|truncated|truncation|cut)s?$",
    "action": r"(?i)^(action|a|u|act|command|control|setpoint|dose|decision|order|choice|steering|throttle|move)s?(\d+|[_ .-].*)?$|[_ .-](action|setpoint|command|cmd|sp)$",
}


@dataclass(frozen=True)
class ColumnDescription:
    """What one column of a table looks like.

    Attributes:
        name: As it stands in the table.
        kind: `"whole numbers"`, `"numbers"`, `"flags"`, `"words"`, `"times"`, `"lists"` or `"nothing"`.
        missing: Rows without a value.
        distinct: Different values.
        example: The range of numbers, or the first words.
        changes: How often the value changes from a row to the next.
    """

    name: str
    kind: str
    missing: int
    distinct: int
    example: str
    changes: int


@dataclass(frozen=True)
class TableDescription:
    """What a table with one row per step looks like, and how it might be loaded.

    Attributes:
        source: The file or folder.
        rows: How many.
        columns: One description each.
        guesses: What was found out about the format of the file.
        options: The column options that are proposed; arguments of `load_trajectories`.
        reasons: Why, by the name of the option.
    """

    source: str
    rows: int
    columns: tuple[ColumnDescription, ...]
    guesses: dict[str, str]
    options: dict[str, Any]
    reasons: dict[str, str]

    @property
    def command(self) -> str:
        """The command that trains on the table as proposed."""
        words = ["hf-seqrl", "train", "decision-transformer", "--dataset", self.source]
        for name, value in self.options.items():
            values = value if isinstance(value, list) else ["none" if value is None else str(value)]
            words += [f"--{name}", *values]
        return " ".join(shlex.quote(word) for word in [*words, "--output_dir", "agent"])

    def facts(self) -> dict[str, Any]:
        """What `hf-seqrl info` prints, in plain values."""
        columns = {
            column.name: f"{column.kind}, {column.example}"
            + (f", {column.missing} missing" if column.missing else "")
            + (", constant" if column.distinct == 1 else "")
            for column in self.columns[:_MOST_COLUMNS]
        }
        if len(self.columns) > _MOST_COLUMNS:
            columns["..."] = f"{len(self.columns) - _MOST_COLUMNS} more columns"
        open_roles = [role for role in ("action", "observation") if role not in self.options]
        return {
            "table": self.source,
            "rows": self.rows,
            "format": self.guesses or "as usual",
            "columns": columns,
            "proposed": self.reasons,
            "not found": [f"{role}: say which, --{role} COLUMN" for role in open_roles] or "nothing",
            "command": self.command,
        }


def is_step_table(path: Path) -> bool:
    """Whether a file or folder holds a table with one row per step, and not one row per episode."""
    files = parquet_files(path)
    if files:
        schema = pq.read_schema(files[0])
        names = ("rewards", "actions")
        return not any(name in schema.names and pa.types.is_nested(schema.field(name).type) for name in names)
    return bool(kinds_of_files(path))


def describe_table(source: Any, form: TableFormat | None = None) -> TableDescription:
    """Look at a table with one row per step, of which no column is named yet, and propose how to load it.

    Args:
        source: As `load_trajectories` takes a table.
        form: How its text files are written.
    """
    opened = open_table(source, None, form)
    columns = tuple(_column(opened.table, name) for name in opened.table.column_names)
    options, reasons = _proposal(columns, len(opened.table))
    return TableDescription(
        str(source) if isinstance(source, str | Path) else type(source).__name__,
        len(opened.table),
        columns,
        opened.guesses,
        options,
        reasons,
    )


def _column(table: pa.Table, name: str) -> ColumnDescription:
    column = decoded(table.column(name))
    missing = int(missing_values(column).sum())
    kind = _kind_of(column)
    if kind == "lists" or missing == len(column):
        return ColumnDescription(
            name, kind if missing < len(column) else "nothing", missing, len(column), str(column.type), 0
        )
    codes, _ = codes_of(column, labels=True)
    if kind in ("words", "flags"):
        example = ", ".join(str(word) for word in pc.unique(column.drop_null()).to_pylist()[:3])
    else:
        bounds = pc.min_max(column).as_py()
        example = f"{_short(bounds['min'])} to {_short(bounds['max'])}"
    return ColumnDescription(
        name, kind, missing, int(codes.max()) + 1, example, int(np.count_nonzero(codes[1:] != codes[:-1]))
    )


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float | int) else str(value)


def _kind_of(column: pa.ChunkedArray) -> str:
    kind = column.type
    if pa.types.is_nested(kind):
        return "lists"
    if pa.types.is_boolean(kind):
        return "flags"
    if pa.types.is_temporal(kind):
        return "times"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        try:
            sort_keys(column.slice(0, 1000).drop_null(), "")
        except ValueError:
            return "words"
        return "times"
    return "whole numbers" if pa.types.is_integer(kind) else "numbers"


def _proposal(columns: Sequence[ColumnDescription], rows: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Which column looks like what, by its name and its values."""
    useful = [column for column in columns if column.kind != "nothing"]
    found: dict[str, list[str]] = {}
    for role, pattern in _ROLE_NAMES.items():
        taken = {name for names in found.values() for name in names}
        named = [one.name for one in useful if re.search(pattern, one.name) and one.name not in taken]
        found[role] = named if role == "action" else named[:1]
    reasons = {role: f"{', '.join(names)}: by the name" for role, names in found.items() if names}
    _find_by_values(useful, rows, found, reasons)
    taken = {name for names in found.values() for name in names}
    observed = [one.name for one in useful if one.name not in taken and one.distinct > 1 and one.kind != "times"]
    observed = [name for name in observed if not _is_id(next(one for one in useful if one.name == name), rows)]
    found["observation"] = observed
    if observed:
        reasons["observation"] = f"{len(observed)} other columns that vary and are no times"
    options: dict[str, Any] = {}
    for role in ("episode", "step", "observation", "action", "reward", "termination", "truncation"):
        if names := found.get(role):
            options[role] = names if role in ("observation", "action") else names[0]
    if "reward" not in options:
        options["reward"] = None
        reasons["reward"] = "none: no column looks like a reward, so the data can only be cloned"
    if "episode" not in options:
        options["cut_every"] = min(1000, max(1, rows))
        reasons["cut_every"] = (
            "no column tells episodes apart: cut after so many steps, or name --cut_at_gap or --cut_at_change"
        )
    return options, reasons


def _find_by_values(
    columns: Sequence[ColumnDescription], rows: int, found: dict[str, list[str]], reasons: dict[str, str]
) -> None:
    taken = {name for names in found.values() for name in names}
    rest = [one for one in columns if one.name not in taken]
    if not found["step"]:
        times = [one for one in rest if one.kind == "times"]
        if times:
            found["step"] = [times[0].name]
            reasons["step"] = f"{times[0].name}: it holds times"
    if not found["episode"]:
        blocks = [
            one
            for one in rest
            if one.kind in ("whole numbers", "words")
            and 1 < one.distinct < rows / 2
            and one.changes == one.distinct - 1
        ]
        if blocks:
            found["episode"] = [blocks[0].name]
            reasons["episode"] = (
                f"{blocks[0].name}: each of its {blocks[0].distinct} values stands in one block of rows"
            )


def _is_id(column: ColumnDescription, rows: int) -> bool:
    return column.kind == "words" and column.distinct > min(100, rows / 2)
