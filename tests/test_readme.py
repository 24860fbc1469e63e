"""What the README shows is what happens."""

import re
import shlex
from pathlib import Path

import pytest
from transformers import TrainingArguments

from hf_seqrl.cli.main import VERBS
from hf_seqrl.installation import REPOSITORY_URL, requirement

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LOGS = """run,minute,level,inflow,valve,saved,spilled
monday,0,0.5,1.0,2,2.0,false
monday,1,0.9,1.5,0,0.5,true
friday,0,0.4,0.2,1,1.0,false
"""


def _blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def _commands(program):
    lines = [shlex.split(line, comments=True) for block in _blocks("bash") for line in block.splitlines()]
    return [line[1:] for line in lines if line[:1] == [program]]


@pytest.mark.filterwarnings("ignore:target_return is 500, far outside")  # the data here are of a random policy alone
@pytest.mark.filterwarnings("ignore:target_return is 200, far outside")
def test_python_blocks_run_as_printed(cartpole_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cartpole_dataset.save_to_disk("outputs/quickstart/data")
    Path("logs.csv").write_text(LOGS)
    quick = {
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
    }
    monkeypatch.setattr("transformers.TrainingArguments", lambda *a, **k: TrainingArguments(*a, **{**k, **quick}))
    names = {}
    for block in _blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert "mean return" in capsys.readouterr().out
    assert (tmp_path / "outputs" / "my-agent" / "README.md").is_file()
    assert names["dataset"]["rewards"] == [[2.0, 0.5], [1.0]]
    assert names["dataset"]["terminations"] == [[False, True], [False]]


def test_what_is_installed_exists():
    project = (ROOT / "pyproject.toml").read_text()
    assert _commands("pip") == [["install", requirement()]]
    extras = re.search(r"# extras: (.*)", README)[1].split(", ")
    assert extras and all(re.search(rf"^{extra} = \[", project, flags=re.MULTILINE) for extra in extras)


def test_the_first_commands_clone_the_repository_and_make_what_exists():
    """The folder of the clone is not named like the package: beside it, Python would import the folder instead."""
    first = [shlex.split(line) for line in _blocks("bash")[0].splitlines()]
    assert first == [
        ["git", "clone", REPOSITORY_URL, "hf-seqrl"],
        ["cd", "hf-seqrl"],
        ["make", "quickstart"],
        ["make", "test"],
    ]


def test_every_line_of_a_shell_block_is_tested_somewhere():
    """`hf-seqrl` lines are run in their order in tests/hub/over_http/test_readme_over_http.py."""
    lines = [shlex.split(line, comments=True) for block in _blocks("bash") for line in block.splitlines()]
    assert {line[0] for line in lines} == {"git", "cd", "make", "pip", "hf-seqrl"}
    assert {line[1] for line in lines if line[0] == "hf-seqrl"} <= set(VERBS)


def test_make_targets_exist():
    lines = re.findall(r"^([a-z -]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    targets = [target for line in lines for target in line.split()]
    assert set(re.findall(r"`make ([a-z-]+)`", README)) <= set(targets)
    assert {"quickstart", "install", "test", "test-slow", "bench", "lint"} <= set(targets)


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README) or ["LICENSE"])
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_folders_of_the_architecture_exist():
    named = set(re.findall(r"^\| `(hf_seqrl/\w+)`", README, flags=re.MULTILINE))
    folders = {f"hf_seqrl/{path.parent.name}" for path in (ROOT / "hf_seqrl").glob("*/__init__.py")}
    assert named == folders
