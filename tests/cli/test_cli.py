import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hf_seqrl import Agent, load_trajectories
from hf_seqrl.cli.main import VERBS, main
from hf_seqrl.cli.options import make_parser
from hf_seqrl.models.registry import family_named, family_names
from hf_seqrl.training.run import TrainingInterrupted

HELP = Path(__file__).with_name("help")
SMALL = ["--hidden_size", "16", "--n_layer", "1", "--context_length", "4", "--max_steps", "4", "--save_steps", "2"]
SMALL += ["--use_cpu", "--disable_tqdm", "true", "--eval_episodes", "2", "--report_to", "none"]


@pytest.fixture
def data(cartpole_dataset, tmp_path):
    cartpole_dataset.save_to_disk(tmp_path / "data")
    return str(tmp_path / "data")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train"], *([verb, "--help"] for verb in VERBS if verb != "train")]
)
def test_help_is_as_it_was_read_and_approved(arguments, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    try:
        main(arguments)
    except SystemExit as stopped:
        assert stopped.code == 0
    shown = capsys.readouterr().out
    approved = HELP / f"{arguments[0].lstrip('-')}.txt"
    if os.environ.get("HF_SEQRL_APPROVE_HELP"):
        approved.write_text(shown)
    assert shown == approved.read_text()


@pytest.mark.parametrize("name", family_names())
def test_every_family_explains_its_own_options_and_takes_all_of_the_trainers(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["train", name, "--help"]) == 0
    shown = capsys.readouterr().out
    family = family_named(name)
    for option in family.options_class.__dataclass_fields__:
        assert f"--{option}" in shown
    assert len(shown.splitlines()) < 180
    everything = make_parser(family).format_help()
    assert "--gradient_accumulation_steps" in everything and "--warmup_steps" in everything
    assert "--gradient_accumulation_steps" not in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["train", "trajectory-transformer", "--help"],
        ["collect", "--help"],
        ["evaluate", "--help"],
        ["train", "decision-transformer", "--dataset", "data"],
        ["train", "decision-former", "--output_dir", "runs"],
    ],
)
def test_help_and_errors_of_usage_wait_for_no_deep_learning_library(arguments):
    program = (
        f"import sys; sys.argv = ['hf-seqrl', *{arguments}]\n"
        "from hf_seqrl_command import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_the_command_knows_every_family_although_it_registers_late(tmp_path):
    program = (
        "import sys; sys.argv = ['hf-seqrl', 'info', 'no-such-folder']\n"
        "import hf_seqrl_command; hf_seqrl_command.main()\n"
        "from transformers import AutoConfig\n"
        "print(AutoConfig.for_model('trajectory_transformer').model_type)"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "trajectory_transformer"


def test_a_misspelt_verb_or_option_is_answered_with_the_right_one(capsys):
    assert main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "decision-transformer", "--output_dir", "x", "--hiden_size", "3"])
    assert "did you mean 'hidden_size'" in capsys.readouterr().err


def test_without_a_folder_for_the_agent_nothing_is_trained(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "decision-transformer", "--dataset", "data"]) == 1
    assert "name one with --output_dir" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_errors_are_sentences_and_debug_shows_where_they_come_from(capsys):
    assert main(["train", "decision-transformer", "--output_dir", "x"]) == 1
    assert "name them with --dataset" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--dataset"):
        main(["train", "decision-transformer", "--output_dir", "x", "--debug"])


def test_collect_mixes_policies_and_does_not_overwrite(tmp_path, capsys):
    output = str(tmp_path / "episodes")
    command = ["collect", "CartPole-v1", "--output", output, "--num_episodes", "6"]
    command += ["--policy", "random,share=2", "balance_cartpole,epsilon=0.1..0.2"]
    assert main(command) == 0
    dataset = load_trajectories(output)
    lengths = [len(rewards) for rewards in dataset["rewards"]]
    assert max(lengths[:4]) < 150 < min(lengths[4:])  # random falls soon, the controller does not
    assert main(command) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["episodes"]


@pytest.mark.parametrize("policy", ["random,share=x", "random,gamma=1", "random,epsilon=1..2..3", "random,share=1..2"])
def test_a_policy_that_cannot_be_read_is_named(policy, tmp_path, capsys):
    assert main(["collect", "CartPole-v1", "--output", str(tmp_path / "out"), "--policy", policy]) == 1
    assert repr(policy) in capsys.readouterr().err


def test_train_evaluate_info_go_hand_in_hand(data, tmp_path, capsys, monkeypatch):
    agent, results = str(tmp_path / "agent"), str(tmp_path / "results.json")
    assert main(["train", "decision-transformer", "--dataset", data, "--output_dir", agent, *SMALL]) == 0
    assert "no replay" not in capsys.readouterr().out
    assert Path(agent, "replay.mp4").stat().st_size > 1000
    assert "Video of an episode: [replay.mp4]" in Path(agent, "README.md").read_text()
    assert main(["train", "decision-transformer", "--dataset", data, "--output_dir", agent, *SMALL]) == 1
    assert "holds a finished agent" in capsys.readouterr().err
    assert main(["train", "decision-transformer", "--dataset", data, "--output_dir", agent, *SMALL, "--resume"]) == 0
    assert "is finished: there is nothing to resume" in capsys.readouterr().out

    command = ["evaluate", agent, "--num_episodes", "3", "--target_return", "30", "9", "--seed", "4"]
    assert main([*command, "--output", results, "--plot", str(tmp_path / "plot.svg")]) == 0
    kept = json.loads(Path(results).read_text())
    assert kept["target_returns"] == [30.0] * 3 + [9.0] * 3
    assert kept["seeds"] == [4, 5, 6] * 2
    assert (tmp_path / "plot.svg").stat().st_size > 1000
    monkeypatch.setattr("hf_seqrl.models.compiled_actor.BACKEND", "eager")  # not everywhere is a C++ compiler
    compiled = str(tmp_path / "compiled.json")
    assert main([*command, "--compile", "--output", compiled]) == 0
    assert json.loads(Path(compiled).read_text())["returns"] == kept["returns"]
    capsys.readouterr()
    assert main([*command, "--output", results]) == 1
    assert "--overwrite" in capsys.readouterr().err

    assert main(["info", agent]) == 0
    facts = yaml.safe_load(capsys.readouterr().out)
    assert facts["family"] == "decision-transformer"
    assert facts["trained"]["command"].startswith("hf-seqrl train decision-transformer --dataset")
    assert main(["info", data]) == 0
    facts = yaml.safe_load(capsys.readouterr().out)
    assert (facts["episodes"], facts["environment"]) == (30, "CartPole-v1")


def test_a_yaml_file_holds_all_options_and_typed_ones_count_more(data, tmp_path, capsys):
    options = {"family": "decision-transformer", "dataset": data, "output_dir": str(tmp_path / "agent")}
    options |= {"hidden_size": 16, "n_layer": 1, "context_length": 4, "max_steps": 4, "learning_rate": "1e-3"}
    options |= {"use_cpu": True, "disable_tqdm": True, "eval_episodes": 0, "target_returns": [40, 20.5], "seed": 5}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(options))
    assert main(["train", str(tmp_path / "run.yaml"), "--max_steps", "2"]) == 0
    agent = Agent.from_pretrained(tmp_path / "agent")
    assert agent.target_returns == [40.0, 20.5]
    assert (agent.run.updates, agent.run.hyperparameters["learning_rate"], agent.run.seed) == (2, 1e-3, 5)
    assert agent.evaluation is None
    assert "not evaluated" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("dataset: x\n", "add a line `family: decision-transformer`"),
        ("family: decision-transformer\n", "name one with --output_dir"),
        ("family: decision-transformer\noutput_dir: x\nhiden_size: 3\n", "did you mean 'hidden_size'"),
        ("family: decision-former\n", "no model family 'decision-former'"),
    ],
)
def test_a_yaml_file_with_a_slip_is_answered(text, complaint, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(text)
    assert main(["train", str(tmp_path / "run.yaml")]) == 1
    assert complaint in capsys.readouterr().err


def test_an_environment_that_cannot_be_made_is_told_before_the_training(data, tmp_path, capsys):
    command = ["train", "decision-transformer", "--dataset", data, "--output_dir", str(tmp_path / "agent"), *SMALL]
    assert main([*command, "--env_id", "NoSuchWorld-v0"]) == 1
    assert "--eval_episodes 0" in capsys.readouterr().err
    assert not (tmp_path / "agent").exists()


def test_ctrl_c_is_a_sentence_and_the_usual_status(monkeypatch, capsys):
    def interrupted(arguments):
        raise TrainingInterrupted("stopped at update 7: go on with --resume.")

    monkeypatch.setattr("hf_seqrl.cli.info.main", interrupted)
    assert main(["info", "x"]) == 130
    assert "stopped at update 7: go on with --resume." in capsys.readouterr().err


@pytest.mark.slow
def test_quickstart_reaches_its_targets_and_reloads(tmp_path):
    program = [sys.executable, "-m", "hf_seqrl.cli.main", "quickstart", "--output_dir", str(tmp_path / "quick")]
    ran = subprocess.run(program, check=True, capture_output=True, text=True, timeout=900)
    assert "identically, to the last bit" in ran.stdout
    agent = Agent.from_pretrained(tmp_path / "quick" / "agent")
    achieved = {target: part.mean_return for target, part in agent.evaluation.by_target().items()}
    assert achieved[500.0] >= 475 and 160 <= achieved[200.0] <= 240 and 40 <= achieved[50.0] <= 60
    again = subprocess.run(program, check=True, capture_output=True, text=True, timeout=900)
    assert "was trained before" in again.stdout
