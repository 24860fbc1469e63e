"""How the commands that act load their agent: the same options in all of them."""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from hf_seqrl.hub.agent import Agent


def add_agent_options(parser: ArgumentParser) -> None:
    """Add the options that `load_agent` reads."""
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")
    parser.add_argument("--device", help="device of the model, for instance cuda (default: cpu)")
    parser.add_argument("--dtype", help="precision of the weights, for instance bfloat16 (default: as saved)")
    parser.add_argument(
        "--acting_option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of how the family acts, for instance beam_width=32; may be repeated",
    )
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="let the files of the agent and of data name code that is run"
    )


def load_agent(options: Namespace, **more: Any) -> "Agent":
    """The agent `options.agent`, a folder or Hub id; `more` are further arguments of `Agent.from_pretrained`.

    Raises:
        ValueError: an acting option is not of the form `NAME=VALUE`.
    """
    acting_options = dict(map(name_and_value, options.acting_option))

    from hf_seqrl.hub.agent import Agent

    return Agent.from_pretrained(
        options.agent,
        revision=options.revision,
        device=options.device,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
        **more,
        **acting_options,
    )


def name_and_value(text: str) -> tuple[str, Any]:
    """An option of the command line such as `beam_width=32`, its value read as YAML."""
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"--acting_option {text!r}: expected NAME=VALUE, for instance beam_width=32.")
    return name, yaml.safe_load(value)
