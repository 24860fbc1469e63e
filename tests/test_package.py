"""The package as a whole: its public names, its doctests, the direction of its imports, and what must not be in it."""

import ast
import doctest
import importlib.util
import json
import pkgutil
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hf_seqrl

ROOT = Path(__file__).parents[1]
MODULES = sorted(module.name for module in pkgutil.walk_packages(hf_seqrl.__path__, "hf_seqrl."))
ONLY_TO_DEPLOY = ("hf_seqrl.deploy", "starlette", "uvicorn", "prometheus_client", "onnx", "onnxruntime")
ONLY_TO_TRAIN = ("transformers.trainer", "transformers.trainer_callback", "transformers.training_args", "peft")
LAYERS = ["data", "models", "evaluation", "hub", "training", "deploy", "cli"]


@pytest.mark.parametrize("name", hf_seqrl.__all__)
def test_public_name_is_there_and_documented(name):
    public = getattr(hf_seqrl, name)
    assert public.__doc__


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(AttributeError, match="it offers Agent"):
        hf_seqrl.Agnet  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    assert module.__doc__
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[1] in LAYERS])
def test_imports_run_one_way(name):
    layer = LAYERS.index(name.split(".")[1])
    path = Path(importlib.import_module(name).__file__)
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for imported in names:
            parts = (imported or "").split(".")
            if parts[0] == "hf_seqrl" and len(parts) > 1 and parts[1] in LAYERS:
                assert LAYERS.index(parts[1]) <= layer, f"{name} imports {imported}"


def _imports_of(name):
    """The modules of the package that a module imports: at its top, in a function, for types alone, or by `import_module`."""
    path = Path(importlib.import_module(name).__file__)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            inner = [f"{base}.{alias.name}" for alias in node.names]
            yield from (one if one in MODULES else base for one in inner)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
            yield from (one.value for one in node.args if isinstance(one, ast.Constant))


def test_imports_have_no_circles():
    graph = {name: {one for one in _imports_of(name) if one in MODULES and one != name} for name in MODULES}
    assert sum(map(len, graph.values())) > 2 * len(MODULES)  # they are seen
    TopologicalSorter(graph).prepare()  # raises `CycleError`, with the circle


def _tracked_text():
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    for name in filter(None, names):
        path = ROOT / name
        if path.is_file() and path.suffix not in (".png", ".gif", ".mp4", ".safetensors", ".npz", ".parquet"):
            yield name, path.read_text(encoding="utf-8")


def test_no_file_names_a_machine_a_registry_or_unfinished_work():
    path_of_a_machine = r"(?<![\w.~])/(?:" + "|".join(["wo" + "rk", "ro" + "ot", "ho" + "me/\\w+"]) + r")/"
    registry = "index" + r"-url|find" + "-links"
    unfinished = r"\b(?:TO" + "DO|FIX" + "ME|XX" + r"X)\b|raise NotImplemented" + "Error"
    forbidden = re.compile("|".join([path_of_a_machine, registry, unfinished]))
    found = [f"{name}: {hit[0]}" for name, text in _tracked_text() if (hit := forbidden.search(text))]
    assert found == []


def _instructions():
    """What users read or run; without the outputs of notebooks, which are of a run of the past."""
    for name, text in _tracked_text():
        if name.startswith("tests/"):
            continue
        if name.endswith(".ipynb"):
            text = "".join(line for cell in json.loads(text)["cells"] for line in cell["source"])
        yield name, text


def test_nothing_installs_the_package_by_a_name_that_it_does_not_own():
    by_name = re.compile(r"pip install (?:(?!hf-seqrl)[^\n])*hf-seqrl(?!(?:\[[\w,{}]+\])? @ git\+)(?![\w/])[^\n]*")
    assert by_name.search('pip install "hf-seqrl[mujoco]"') and by_name.search("pip install hf-seqrl")
    found = [f"{name}: {hit[0]}" for name, text in _instructions() for hit in by_name.finditer(text)]
    assert found == []


def test_version_is_that_of_the_distribution():
    assert f'version = "{hf_seqrl.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_acting_does_without_what_only_data_and_training_need():
    code = "import sys; from hf_seqrl import Agent, BeamPlanner, rollout; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'hf_seqrl.evaluation.rollout'" in loaded
    for module in ("datasets", "pandas", "matplotlib", *ONLY_TO_TRAIN, *ONLY_TO_DEPLOY):
        assert f"'{module}'" not in loaded
