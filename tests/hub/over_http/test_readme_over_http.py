"""The commands of the README, one after the other in one folder, at a small setting, against a Hub."""

import json
import re
import shlex
from pathlib import Path

from hf_seqrl import Agent, load_trajectories
from hf_seqrl.cli.main import main

README = Path(__file__).parents[3] / "README.md"
SMALL = {
    "collect": ["--num_steps", "400"],
    "train": ["--max_steps", "4", "--hidden_size", "16", "--n_layer", "1", "--eval_episodes", "2", "--use_cpu"],
    "compare": ["--max_steps", "2", "--seeds", "1", "--num_episodes", "1", "--methods", "cloning"],
    "evaluate": ["--num_episodes", "2"],
    "finetune": ["--rounds", "1", "--episodes_per_round", "2", "--updates_per_round", "2", "--eval_episodes", "2"],
    "demo": ["--space", "space"],  # written, and not opened in a browser for ever
}
RUN_ELSEWHERE = {"quickstart"}


def _commands():
    for block in re.findall(r"```bash\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL):
        for line in block.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            if program == "hf-seqrl":
                yield arguments


def test_commands_of_the_readme_run_in_their_order(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ran = []
    for verb, *arguments in _commands():
        if verb not in RUN_ELSEWHERE:
            assert main([verb, *arguments, *SMALL.get(verb, [])]) == 0, capsys.readouterr().err
            ran.append(verb)
    assert ran == ["collect", "info", "train", "compare", "evaluate", "finetune", "push", "demo"]
    assert len(load_trajectories("data/cartpole")) > 2
    assert json.loads(Path("results.json").read_text())["target_returns"] == [500.0] * 2 + [200.0] * 2 + [50.0] * 2
    assert Agent.from_pretrained("me/my-agent").run.command.startswith("hf-seqrl train decision-transformer --dataset")
    assert Path("space", "app.py").is_file()
