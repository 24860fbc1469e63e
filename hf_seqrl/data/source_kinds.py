"""What kind of source somebody names, and which options are read for it: an option that would be ignored is an error."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict

from hf_seqrl.data.array_reading import HDF5_SUFFIXES
from hf_seqrl.data.column_options import ColumnOptions
from hf_seqrl.data.minari_source import is_minari
from hf_seqrl.data.sources import parquet_files
from hf_seqrl.data.table_files import TABLE_SUFFIXES, kinds_of_files

_ROLES = {"observation", "action", "reward", "termination", "truncation"}
_CUTS = {"cut_every", "cut_at_gap", "cut_at_change"}
_HUB_ID = re.compile(r"[\w.-]+/[\w-]+")
_ALWAYS = {"out_of_bounds"}
# kind of source -> the options that are read for it
_OPTIONS = {
    "a table with one row per step": _ROLES
    | _CUTS
    | {"episode", "step", "time_format", "gaps", "files", "final_observations"},
    "a text file": {"separator", "decimal", "encoding"},
    "a workbook": {"sheet"},
    "arrays": _ROLES | _CUTS | {"step", "layout", "final_observations"},
    "a data set with one row per episode": _ROLES | _CUTS | {"step", "final_observations"},
    "a Minari data set": {"observation", "reward"},
    "a data set on the Hub": {"name", "split", "revision"},
    "a DatasetDict": {"split"},
}


def refuse_ignored(source: Any, given: Mapping[str, Any], is_table: bool) -> None:
    """Raise for an option that says something about another kind of source.

    Args:
        source: As in `load_trajectories`.
        given: The options by name; those that have their defaults do not count.
        is_table: Whether the source is a table with one row per step.

    Raises:
        ValueError: names the option, and the kinds of sources that it is for.
    """
    if any(looks_like_a_file(path) and not path.exists() for path in paths_of(source)):
        return  # which is said when it is opened
    typed = {name for name, value in given.items() if value != getattr(ColumnOptions, name, None)} - _ALWAYS
    kinds = _kinds_of(source, is_table)
    read = set().union(*(_OPTIONS[kind] for kind in kinds))
    if ignored := sorted(typed - read):
        name = ignored[0]
        suitable = " or ".join(kind for kind, options in _OPTIONS.items() if name in options)
        raise ValueError(
            f"{name}={given[name]!r} has no meaning for {' and '.join(kinds)}: it is for {suitable}; leave it out"
            f"{', or name the episode column of a table' if name in _OPTIONS['a table with one row per step'] else ''}."
        )
    if "step" in typed and not is_table and given["cut_at_gap"] is None:
        raise ValueError(
            f"step={given['step']!r} has no meaning for {' and '.join(kinds)}, whose steps are in order, except with cut_at_gap=: "
            "leave it out, or name the episode column of a table, episode=..."
        )
    if is_table and "step" not in typed and (unused := sorted(typed & {"time_format", "gaps"})):
        raise ValueError(f"{unused[0]}={given[unused[0]]!r} is about the step column: name it, step=...")


def is_step_table(source: Any, names: Mapping[str, Any]) -> bool:
    """Whether a source without an episode column has one row per step: its actions are no lists."""
    action = names["action"]
    first = action if isinstance(action, str) else next(iter(action or []), "actions")
    if isinstance(source, pd.DataFrame):
        return first not in source or source[first].dtype != object or isinstance(source[first].iloc[0], str)
    if isinstance(source, Dataset):
        return pa.types.is_nested(source.data.schema.field(first).type) is False if first in source.features else False
    paths = paths_of(source)
    if not paths or not all(path.exists() and kinds_of_files(path) for path in paths):
        return False
    files = [file for path in paths for file in parquet_files(path)]
    if not files:
        return True
    schema = pq.read_schema(files[0])
    return first not in schema.names or not pa.types.is_nested(schema.field(first).type)


def looks_like_a_file(path: Path) -> bool:
    """Whether a name is that of a file, and not an id on the Hub."""
    return path.suffix in (".parquet", ".gz", ".npz", *TABLE_SUFFIXES, *HDF5_SUFFIXES)


def paths_of(source: Any) -> list[Path]:
    """The path or the paths that somebody gave; empty for another kind of source, and for an id on the Hub."""
    if isinstance(source, str | Path):
        return [Path(source)]
    if isinstance(source, Sequence) and len(source) and all(isinstance(one, str | Path) for one in source):
        return [Path(one) for one in source]
    return []


def is_tabular(source: Any) -> bool:
    """Whether a table is read as files, a data frame, arrays or a data set, without looking up what the source is."""
    if isinstance(source, str | Path):
        path = Path(source)
        return path.exists() and (path.is_file() or bool(kinds_of_files(path)))
    return not isinstance(source, DatasetDict)


def _is_copy(source: Any) -> bool:
    """Whether a folder stands where the id of a data set on the Hub would find it: code written for the Hub reads it, too."""
    return isinstance(source, str) and bool(_HUB_ID.fullmatch(source)) and Path(source).is_dir()


def _kinds_of(source: Any, is_table: bool) -> list[str]:
    kinds = ["a table with one row per step"] if is_table else []
    if isinstance(source, DatasetDict):
        kinds.append("a DatasetDict")
    if not is_table and is_minari(source):
        return ["a Minari data set"]
    paths = paths_of(source)
    if paths and is_table:
        files = set().union(*(kinds_of_files(path) for path in paths if path.exists()))
        kinds += ["a text file"] * ("text" in files) + ["a workbook"] * ("workbook" in files)
    if paths and (not paths[0].exists() or _is_copy(source)):
        kinds.append("a data set on the Hub")
    elif paths and (paths[0] / "dataset_dict.json").exists():
        kinds.append("a DatasetDict")
    if is_table:
        return kinds
    is_array = isinstance(source, Mapping) and not isinstance(source, DatasetDict)
    is_array |= isinstance(source, Sequence) and not isinstance(source, str) and not paths
    is_array |= bool(paths) and paths[0].suffix in (".npz", *HDF5_SUFFIXES)
    return [*kinds, "arrays" if is_array else "a data set with one row per episode"]
