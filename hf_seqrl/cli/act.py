"""`hf-seqrl act`: answer observations with actions, line by line, for files, pipes and programs in any language."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hf_seqrl.data.durable import check_writable
from hf_seqrl.deploy.runner import LINES, Runner, run_lines, target
from hf_seqrl.installation import install_command

REGISTERS = False  # an exported agent acts without torch and transformers


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    check_writable(options.state)
    return run_lines(_loaded(options.agent), options.target_return, options.state)


def _loaded(agent: str) -> Any:
    if Path(agent, "agent.json").is_file():
        if find_spec("onnxruntime") is None:
            raise ImportError(f"{agent} is an exported agent, which needs onnxruntime: {install_command('onnx')}")
        return Runner(agent)
    from hf_seqrl.deploy.controller import Controller
    from hf_seqrl.models.registry import register_with_ecosystem

    register_with_ecosystem()
    return Controller(agent)


def _parser() -> ArgumentParser:
    description = "Answer observations with actions: a line of JSON in, a line of JSON out."
    parser = ArgumentParser(
        prog="hf-seqrl act", description=description, epilog=LINES, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("agent", help="an exported folder (needs neither torch nor transformers), or any agent")
    parser.add_argument(
        "--target_return", type=target, metavar="RETURN", help="raw, or auto (default: the agent's first)"
    )
    parser.add_argument("--state", metavar="FILE", help="go on from this file where it exists, and keep it up to date")
    return parser
