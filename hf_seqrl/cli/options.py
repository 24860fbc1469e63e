"""The options of `hf-seqrl train`: those of the run, of the family, and every field of `TrainingArguments`."""

from argparse import Action, ArgumentDefaultsHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from hf_seqrl.data.column_options import ColumnOptions
from hf_seqrl.models.registry import ModelFamily


@dataclass
class RunOptions:
    """What to train on and how to judge the agent at the end; `columns` and `left_to_data` are set by `parse`."""

    _argument_group_name = "the run"

    columns: ColumnOptions = field(default_factory=ColumnOptions, init=False)
    left_to_data: frozenset[str] = field(default=frozenset(), init=False)

    dataset: str | None = field(
        default=None,
        metadata={"help": "Trajectories: a folder, a file, a Hub id. Not for families that act to learn."},
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the episodes while they are trained on (folders of Parquet files, buckets, the Hub); needs --max_steps."
        },
    )
    stream_buffer_episodes: int = field(default=1000, metadata={"help": "Episodes of a stream in memory at a time."})
    stream_sample_episodes: int = field(
        default=1000, metadata={"help": "Episodes that are read first, for means, bins and the spread of returns."}
    )
    stream_windows_per_episode: int = field(
        default=100, metadata={"help": "Windows of an episode that are drawn before further episodes are read."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on with the interrupted run in output_dir."})
    resume_with_changes: bool = field(
        default=False,
        metadata={"help": "Go on with it although other settings are given than it was started with."},
    )
    resident: bool = field(
        default=False,
        metadata={
            "help": "Keep the encoded data on the training device and gather batches there; for data that fit into its memory."
        },
    )
    eval_episodes: int = field(
        default=20, metadata={"help": "Episodes to play for each target return, at each evaluation and at the end."}
    )
    eval_target_returns: list[float] | None = field(
        default=None, metadata={"help": "Returns to ask for, raw units; by default those of the processor."}
    )
    eval_num_envs: int = field(default=20, metadata={"help": "Environments side by side."})
    eval_seed: int = field(default=10_000, metadata={"help": "Seed of the first evaluation episode."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Let the files of the data set name code that is run."}
    )
    replay: bool = field(
        default=True,
        metadata={
            "help": "A film (mp4 or GIF) of the first episode of the evaluation at the end goes along; --no_replay leaves it out."
        },
    )


class _OneNameEach(ArgumentDefaultsHelpFormatter):
    """`--max_steps MAX_STEPS`, without the second spelling with dashes, which works as well."""

    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        name = action.option_strings[0]
        return name if action.nargs in (0, "?") else f"{name} {self._format_args(action, action.dest.upper())}"


def make_parser(family: ModelFamily) -> HfArgumentParser:
    """The parser of `hf-seqrl train <family>`, with the family's defaults in the place of transformers'."""
    return _parser(family, [RunOptions, _column_options(family), family.options_class, TrainingArguments])


def help_text(family: ModelFamily, everything: bool = False) -> str:
    """The options of the run and of the family; with `everything` also the hundred of `TrainingArguments`."""
    if everything:
        return make_parser(family).format_help()
    defaults = "\n".join(f"  --{name} {value}" for name, value in family.training_defaults.items())
    return (
        _parser(family, [RunOptions, _column_options(family), family.options_class]).format_help()
        + "\nEvery field of transformers.TrainingArguments is an option as well, --output_dir, --max_steps, --learning_rate,\n"
        "--per_device_train_batch_size, --eval_strategy and a hundred more: --help_all lists them. All options may stand\n"
        f"in a YAML file: hf-seqrl train run.yaml. For this family, these differ from transformers' defaults:\n{defaults}\n"
    )


def _names_of_column_options(family: ModelFamily) -> dict[str, str]:
    """How each field of `ColumnOptions` is typed: with `_column` behind it where the family has an option of that name."""
    taken = {option.name for option in fields(family.options_class)}
    return {one.name: f"{one.name}_column" if one.name in taken else one.name for one in fields(ColumnOptions)}


def _column_options(family: ModelFamily) -> type:
    """`ColumnOptions` with the names under which they are typed."""
    names = _names_of_column_options(family)
    options = [
        (names[one.name], one.type, field(default=one.default, metadata=dict(one.metadata)))
        for one in fields(ColumnOptions)
    ]
    return make_dataclass(
        "ColumnOptions", options, namespace={"_argument_group_name": ColumnOptions._argument_group_name}
    )


def _parser(family: ModelFamily, groups: list[type]) -> HfArgumentParser:
    parser = HfArgumentParser(
        groups,
        prog=f"hf-seqrl train {family.name}",
        usage=f"hf-seqrl train {family.name} --dataset DATA --output_dir FOLDER [options]",
        description=f"Train a {family.name} and save an agent with its card.",
        formatter_class=_OneNameEach,
        allow_abbrev=False,
    )
    known = {option.name for group in groups for option in fields(group)}
    parser.set_defaults(**{name: value for name, value in family.training_defaults.items() if name in known})
    return parser


def parse(
    family: ModelFamily, arguments: Sequence[str], file: str | Path | None = None
) -> tuple[RunOptions, Any, TrainingArguments]:
    """What was typed, over what stands in the YAML file, over the defaults.

    Raises:
        ValueError: the file holds names that are no options, or there is no output folder.
    """
    parser = make_parser(family)
    if not torch.accelerator.is_available():
        parser.set_defaults(use_cpu=True)  # without it, transformers takes no precision below float32 here
    if file is not None:
        parser.set_defaults(**_read_options(parser, file))
    *groups, unknown = parser.parse_args_into_dataclasses(
        arguments, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        parser.error(_no_such_option(unknown[0], parser))
    run, columns, options, training_arguments = groups
    given = _names_given(arguments, file)
    if "num_train_epochs" in given and "max_steps" not in given:
        training_arguments.max_steps = -1  # the number of updates in a family's defaults would override the epochs
        given.add("max_steps")
    run.left_to_data = frozenset(one.name for one in fields(TrainingArguments)) - given
    names = _names_of_column_options(family)
    run.columns = ColumnOptions(**{name: getattr(columns, typed) for name, typed in names.items()})
    return run, options, training_arguments


def _names_given(arguments: Sequence[str], file: str | Path | None) -> set[str]:
    """The options that were typed or stand in the file."""
    given = {argument.partition("=")[0].lstrip("-").replace("-", "_") for argument in arguments}
    if file is not None:
        given |= set(yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {})
    return given


def _read_options(parser: HfArgumentParser, file: str | Path) -> dict[str, Any]:
    values = yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds a {type(values).__name__}: expected lines of `option: value`.")
    values.pop("family", None)
    known = {option.name for group in parser.dataclass_types for option in fields(group)}
    for name in values:
        if name not in known:
            raise ValueError(f"{file}: {_no_such_option(name, parser)}")
    kinds = {option.name: str(option.type) for group in parser.dataclass_types for option in fields(group)}
    for name, value in values.items():
        if isinstance(value, list | dict) and type(value).__name__ not in kinds[name]:
            raise ValueError(f"{file}: {name} is {value!r}: expected a single value.")
    # YAML reads 1e-4 as text; argparse converts defaults that are text
    return {name: str(value) if isinstance(value, float) else value for name, value in values.items()}


def _no_such_option(name: str, parser: HfArgumentParser) -> str:
    known = [option.name for group in parser.dataclass_types for option in fields(group)]
    similar = get_close_matches(name.lstrip("-").split("=")[0], known, n=1)
    return f"no option {name!r}" + (f": did you mean {similar[0]!r}?" if similar else ".")
