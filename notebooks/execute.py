"""Run notebooks from top to bottom in fresh kernels and keep what they put out: `make notebooks`."""

import hashlib
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

_SECONDS_A_CELL = 600


def executed(notebook: NotebookNode, folder: str | Path) -> NotebookNode:
    """A copy of a notebook with the outputs of a run of all its cells, in order, in a kernel of its own.

    Args:
        notebook: Only its sources matter.
        folder: The working directory of the run; what the notebook saves lands here.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
        KeyboardInterrupt: This process received SIGINT or SIGTERM.
    """
    fresh = nbformat.from_dict(notebook)
    fresh.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for cell in fresh.cells:
        cell.metadata = {}
    client = NotebookClient(
        fresh,
        timeout=_SECONDS_A_CELL,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    try:
        client.execute(env=_kernel_environment())
    except Exception as error:
        # nbclient shuts the kernel down at SIGINT and SIGTERM, reports that the kernel died, and the signal is lost
        if hasattr(client, "_async_cleanup_kernel_future"):
            raise KeyboardInterrupt("a signal stopped the notebook") from error
        raise
    fresh.metadata["executed_code"] = code_digest(fresh)
    fresh.metadata.pop("widgets", None)
    return fresh


def _kernel_environment() -> dict[str, str]:
    # the kernel draws into the notebook unless the environment names another backend
    inherited = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    # no widgets, which a file cannot keep, and no word about their absence; no window for what pygame draws
    return {**inherited, "PYTHONWARNINGS": "ignore:IProgress not found", "SDL_VIDEODRIVER": "dummy"}


def code_digest(notebook: NotebookNode) -> str:
    """A fingerprint of the code cells, by which outputs are known to belong to the code above them."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def main(paths: list[str]) -> None:
    """Execute notebooks in place, each in a temporary working directory."""
    for path in map(Path, paths):
        print(f"{path} ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(nbformat.read(path, as_version=4), folder)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1:])
