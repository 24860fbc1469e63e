"""Finds the verb that was typed and imports only its module, so that help comes at once."""

import signal
import sys
import threading
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from hf_seqrl.data.secrets import masked

VERBS = {
    "quickstart": "collect CartPole episodes, train, evaluate, save and load an agent in two minutes",
    "collect": "run episodes with policies and save them as a data set",
    "train": "train a model on trajectories and save an agent with its model card",
    "finetune": "fine-tune an agent with episodes that it plays itself",
    "evaluate": "evaluate an agent at one or more target returns",
    "act": "answer observations with actions, line by line",
    "export": "write an agent as ONNX with a runner that needs neither torch nor transformers",
    "compare": "train the methods that fit a data set, judge them alike, and recommend one",
    "convert": "convert a checkpoint without a processor into a complete agent",
    "push": "upload an agent or a data set to the Hub",
    "demo": "watch agents on a web page, or create it as a Hugging Face Space",
    "serve": "serve an agent over HTTP, one session for each stream",
    "info": "describe a data set or an agent",
}

_INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `hf-seqrl` with these arguments (by default those of the command line); returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    verb, *rest = arguments
    if verb == "--version":
        from hf_seqrl import __version__

        print(f"hf-seqrl {__version__}")
        return 0
    if verb not in VERBS:
        print(f"hf-seqrl: {_unknown(verb)}", file=sys.stderr)
        return 2
    return _run(verb, rest)


def overview() -> str:
    """The text of `hf-seqrl --help`."""
    width = max(map(len, VERBS))
    lines = [f"  {verb.ljust(width)}  {purpose}" for verb, purpose in VERBS.items()]
    return "\n".join(
        [
            "usage: hf-seqrl COMMAND [options]",
            "",
            "Offline reinforcement learning by sequence modeling, native to the Hugging Face ecosystem.",
            "",
            *lines,
            "",
            "`hf-seqrl COMMAND --help` lists the options of a command.",
        ]
    )


def _run(verb: str, arguments: list[str]) -> int:
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    module = import_module(f"hf_seqrl.cli.{verb}")
    former = signal.signal(signal.SIGTERM, _stop) if threading.current_thread() is threading.main_thread() else None
    try:
        if not {"-h", "--help"} & set(arguments):
            if verb == "train":
                module.refuse_incomplete(arguments)
            if getattr(module, "REGISTERS", True):
                _register()
        return module.main(arguments)
    except KeyboardInterrupt as interrupt:
        print(f"\nhf-seqrl {verb}: {interrupt if interrupt.args else 'interrupted.'}", file=sys.stderr)
        return _INTERRUPTED
    except Exception as error:
        if debug:
            raise
        print(f"hf-seqrl {verb}: {_sentence(error)} (--debug shows where this comes from)", file=sys.stderr)
        return 1
    finally:
        if former is not None:
            signal.signal(signal.SIGTERM, former)


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt("stopped by SIGTERM; what was not finished is not there.")


def _sentence(error: Exception) -> str:
    """One line: those whose class says more than their text are named. What files of others hold cannot steer the terminal."""
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(str(error).split()))
    text = masked(text) or "no more is known"
    expected = isinstance(error, ValueError | OSError | ImportError) and type(error).__module__ != "yaml.scanner"
    return text if expected else f"{type(error).__name__}: {text}"


def _register() -> None:
    from hf_seqrl.models.registry import register_with_ecosystem

    register_with_ecosystem()


def _unknown(verb: str) -> str:
    similar = get_close_matches(verb, VERBS, n=1)
    hint = f"did you mean {similar[0]!r}?" if similar else f"expected one of {', '.join(VERBS)}."
    return f"no verb {verb!r}: {hint}"


if __name__ == "__main__":
    sys.exit(main())
