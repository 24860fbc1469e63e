"""`hf-seqrl train`: from trajectories to an agent with its card."""

import shlex
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hf_seqrl.data.secrets import masked_arguments
from hf_seqrl.models.registry import family_names

if TYPE_CHECKING:
    from hf_seqrl.models.registry import ModelFamily

_USAGE = """usage: hf-seqrl train FAMILY --dataset DATA --output_dir FOLDER [options]
       hf-seqrl train run.yaml [options]

Train a model on trajectories and save an agent with its card. An interrupted run goes on with --resume.

families: {families}

`hf-seqrl train FAMILY --help` lists the options of a family. A YAML file holds `family: NAME` and lines of
`option: value`; options that are typed count more than those in the file.
"""


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE.format(families=", ".join(family_names())))
        return 0
    name, *rest = arguments
    file = name if name.endswith((".yaml", ".yml")) else None
    if file is not None:
        name = _family_in(file)
    written = files("hf_seqrl.cli").joinpath("help", f"train-{name}.txt")
    if {"-h", "--help"} & set(rest) and "--help_all" not in rest and written.is_file():
        print(written.read_text(encoding="utf-8"))
        return 0
    family = _family_named(name)

    from hf_seqrl.cli.options import help_text, parse

    if {"-h", "--help", "--help_all"} & set(rest):
        print(help_text(family, everything="--help_all" in rest))
        return 0
    run, options, training_arguments = parse(family, rest, file)
    command = shlex.join(["hf-seqrl", "train", *masked_arguments(arguments)])

    from hf_seqrl.cli.training import run_training

    return run_training(family, run, options, training_arguments, command)


def refuse_incomplete(arguments: Sequence[str]) -> None:
    """Stop before the libraries are loaded where something is missing without which nothing can be trained.

    Raises:
        ValueError: the family is unknown, or no output folder is given.
    """
    if not arguments or "--help_all" in arguments:
        return
    name, *rest = arguments
    options = {argument.partition("=")[0].replace("-", "_") for argument in rest}
    if name.endswith((".yaml", ".yml")):
        _refuse_unknown(_family_in(name))
        options |= {f"__{option}" for option in _options_in(name)}
    else:
        _refuse_unknown(name)
    if "__output_dir" not in options:
        raise ValueError("there is no folder for the agent: name one with --output_dir.")


def _options_in(file: str) -> dict[str, Any]:
    values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    return values if isinstance(values, dict) else {}


def _family_in(file: str) -> str:
    values = _options_in(file)
    if "family" not in values:
        raise ValueError(
            f"{file} does not say what to train: add a line `family: {family_names()[0]}` or another one."
        )
    return values["family"]


def _refuse_unknown(name: str) -> None:
    if name not in family_names():
        raise ValueError(f"no model family {name!r}: expected one of {', '.join(family_names())}, or a .yaml file.")


def _family_named(name: str) -> "ModelFamily":
    _refuse_unknown(name)
    print(f"hf-seqrl: loading {name} ...", file=sys.stderr)

    from hf_seqrl.models.registry import family_named

    return family_named(name)
