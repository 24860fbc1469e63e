"""The entry of the command `hf-seqrl`; it lies beside the package, because importing that registers the model families.

While this module is loaded, `import hf_seqrl` leaves the registration, which imports torch, to `hf_seqrl.cli.main`. So help
and errors of usage come at once.
"""


def main() -> int:
    """Run the command with the arguments of the process; returns the exit status."""
    from hf_seqrl.cli.main import main as run

    return run()
