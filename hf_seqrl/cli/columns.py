"""The column options of `load_trajectories` as options of the commands that open a data set."""

from argparse import ArgumentParser, Namespace
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from hf_seqrl.data.column_options import ColumnOptions


def add_column_options(parser: ArgumentParser) -> None:
    """Add one option for each field of `ColumnOptions`."""
    group = parser.add_argument_group("the columns of a table or data set")
    kinds = get_type_hints(ColumnOptions)
    for option in fields(ColumnOptions):
        kind = kinds[option.name]
        is_list = list[str] in get_args(kind)
        group.add_argument(
            f"--{option.name}",
            type=int if int in get_args(kind) else str,
            nargs="+" if is_list else None,
            default=option.default,
            metavar="COLUMN" if is_list or "column" in option.metadata["help"].lower() else option.name.upper(),
            help=option.metadata["help"],
        )


def column_arguments(options: Namespace) -> dict[str, Any]:
    """The keyword arguments of `load_trajectories` that were typed."""
    return ColumnOptions(**{one.name: getattr(options, one.name) for one in fields(ColumnOptions)}).arguments()
