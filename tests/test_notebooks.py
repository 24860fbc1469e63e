"""Every notebook runs from top to bottom at its small setting, and what is committed comes from such a run."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
_OF_A_MACHINE = re.compile(r"(?<![\w.:/])/(?:work|root|home|tmp|opt|usr|mnt|var|Users)/|site-packages")

sys.path.insert(0, str(FOLDER))

from execute import code_digest, executed  # noqa: E402

from hf_seqrl.installation import requirement  # noqa: E402

every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def _code(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@every_notebook
def test_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    for name, value in {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    notebook = executed(nbformat.read(path, as_version=4), tmp_path)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs and not [output for output in outputs if output.output_type == "error"]


def test_a_signal_stops_the_run(tmp_path):
    code = "import os, signal, time\nos.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(60)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    with pytest.raises(KeyboardInterrupt):
        executed(notebook, tmp_path)


@every_notebook
def test_is_valid_and_small(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert path.stat().st_size < 500_000


@every_notebook
def test_opens_with_the_colab_badge(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert "https://colab.research.google.com/assets/colab-badge.svg" in first.source
    assert (
        f"https://colab.research.google.com/github/hf-seqrl/hf-seqrl/blob/main/notebooks/{path.name}" in first.source
    )


@every_notebook
def test_installs_first_where_the_package_is_absent(path):
    condition, install = _code(path)[0].source.rstrip().splitlines()[-2:]
    assert condition == 'if find_spec("hf_seqrl") is None:'
    extras = re.match(r'    %pip install -q "hf-seqrl(?:\[([\w,-]+)\])?', install)[1]
    assert install == f'    %pip install -q "{requirement(*extras.split(",") if extras else ())}"'


@every_notebook
def test_one_variable_leads_to_the_larger_setting(path):
    sources = [cell.source for cell in _code(path)]
    assert len(re.findall(r"^SMALL = True\b", "\n".join(sources), flags=re.MULTILINE)) == 1
    assert [source for source in sources if re.search(r"\bif (not )?SMALL\b", source)]


@every_notebook
def test_outputs_are_of_a_whole_run_of_this_code(path):
    notebook, code = nbformat.read(path, as_version=4), _code(path)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert notebook.metadata["executed_code"] == code_digest(notebook), "the code was changed: run make notebooks"
    outputs = [output for cell in code for output in cell.outputs]
    assert {"image/png"} <= {kind for output in outputs for kind in output.get("data", {})}
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


@every_notebook
def test_names_no_machine(path):
    assert not _OF_A_MACHINE.search(path.read_text(encoding="utf-8"))
