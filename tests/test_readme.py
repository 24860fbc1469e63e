"""What the README shows is what happens."""

import re
import shlex
from pathlib import Path

import pytest
from transformers import TrainingArguments

from hf_seqrl.cli import main as command
from hf_seqrl.cli.options import parse
from hf_seqrl.models import family_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def _blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def _commands(program):
    lines = [shlex.split(line, comments=True) for block in _blocks("bash") for line in block.splitlines()]
    return [line[1:] for line in lines if line[:1] == [program]]


def test_python_blocks_run_as_printed(cartpole_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cartpole_dataset.save_to_disk("outputs/quickstart/data")
    quick = {
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
    }
    monkeypatch.setattr("transformers.TrainingArguments", lambda *a, **k: TrainingArguments(*a, **{**k, **quick}))
    for block in _blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    assert "mean return" in capsys.readouterr().out
    assert (tmp_path / "outputs" / "my-agent" / "README.md").is_file()


def test_commands_are_understood(monkeypatch):
    shown = _commands("hf-seqrl")
    assert {line[0] for line in shown} >= {"collect", "train", "evaluate", "info"}
    for verb, *arguments in shown:
        if verb == "train" and not arguments[0].endswith(".yaml"):
            run, options, training = parse(family_of(arguments[0].replace("-", "_")), [*arguments[1:], "--use_cpu"])
            assert run.dataset and training.output_dir and options
        assert verb in command.VERBS


def test_make_targets_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {line[0] for line in _commands("make")} <= set(targets)
    assert {"quickstart", "install", "test", "test-slow", "bench", "lint"} <= set(targets)


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README) or ["LICENSE"])
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_folders_of_the_architecture_exist():
    for folder in re.findall(r"^\| `(hf_seqrl/\w+)`", README, flags=re.MULTILINE):
        assert (ROOT / folder).is_dir()
