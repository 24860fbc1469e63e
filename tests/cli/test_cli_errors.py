"""Every way in which a command can fail ends in one line and an exit status, and leaves nothing behind."""

import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hf_seqrl import Agent, DecisionTransformerProcessor, TrainableDT
from hf_seqrl.cli.main import main

SMALL = ["--hidden_size", "16", "--n_layer", "1", "--context_length", "4", "--max_steps", "1", "--eval_episodes", "0"]
COLUMNS = ["--episode", "run", "--observation", "obs", "--action", "act", "--reward", "reward"]
TRAIN = ["train", "decision-transformer", "--output_dir", "out", *SMALL]


@contextmanager
def chdir(folder):  # as contextlib's, which Python 3.10 has not
    former = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(former)


def _fill(cartpole_dataset):
    """A sound agent and data, beside damaged ones, in the working folder."""
    processor = DecisionTransformerProcessor.from_dataset(cartpole_dataset, context_length=4)
    agent = Agent(TrainableDT(processor.model_config(hidden_size=16, n_layer=1, n_head=1)), processor)
    agent.save_pretrained("agent")
    cartpole_dataset.save_to_disk("data")
    for name, file, content in (
        ("cut", "model.safetensors", b"\x10"),
        ("noconfig", "config.json", b"{"),
        ("noprocessor", "processor_config.json", b"[]"),
        ("nomanifest", "manifest.json", b"[" * 100_000),
    ):
        agent.save_pretrained(name)
        if name != "nomanifest":
            Path(name, "manifest.json").unlink()
        Path(name, file).write_bytes(content)
    for name in ("broken.csv", "broken.parquet", "broken.xlsx", "broken.npz", "broken.hdf5", "broken.csv.gz"):
        Path(name).write_bytes(b"\xff\xfe\x00broken")
    Path("empty.csv").write_text("")
    pd.DataFrame({"run": [0, 0], "obs": [0.0, 1.0], "act": [0.0, 1.0], "reward": ["a", "b"]}).to_csv("words.csv")
    np.savez("objects.npz", observations=np.array([{"a": 1}], dtype=object))
    Path("folder").mkdir()
    Path("data2").mkdir()
    Path("data2", "state.json").write_text("{")
    Path("results.json").write_text("{")


@pytest.fixture(scope="module")
def filled(cartpole_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    with chdir(folder):
        _fill(cartpole_dataset)
    return folder


@pytest.fixture
def place(filled, monkeypatch):
    """The folder, in which no command leaves anything."""
    monkeypatch.chdir(filled)
    before = sorted(path.name for path in filled.iterdir())
    yield filled
    assert sorted(path.name for path in filled.iterdir()) == before


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        # a name that is not there: at once, with the nearest
        (["info", "agnet"], "Did you mean 'agent'"),
        (["evaluate", "agnet"], "Did you mean 'agent'"),
        (["evaluate", "me/agent-that-is-nowhere"], "the Hub cannot be reached"),
        (["serve", "agnet"], "Did you mean 'agent'"),
        (["demo", "agnet"], "Did you mean 'agent'"),
        (["convert", "agnet", "out"], "Did you mean 'agent'"),
        (["push", "agnet", "me/it"], "Did you mean 'agent'"),
        ([*TRAIN, "--dataset", "dta"], "Did you mean 'data'"),
        ([*TRAIN, "--dataset", "me/dta"], "the Hub cannot be reached"),
        ([*TRAIN, "--dataset", "nothing.csv", *COLUMNS], "nothing.csv"),
        # environments and policies
        (["collect", "CartPol-v1", "--output", "out", "--num_episodes", "1"], "CartPole"),
        (["collect", "no_module:Env-v0", "--output", "out", "--num_episodes", "1"], "no_module"),
        (["collect", "CartPole-v1", "--output", "out", "--num_episodes", "1", "--policy", "randm"], "randm"),
        (["collect", "CartPole-v1", "--output", "out", "--num_episodes", "0"], "num_episodes"),
        (["collect", "CartPole-v1", "--output", "broken.csv/x", "--num_episodes", "1"], "broken.csv"),
        (["evaluate", "agent", "--env", "CartPol-v1"], "CartPole"),
        (["evaluate", "agent", "--env", "MountainCar-v0"], "observation"),
        (["evaluate", "agent", "--num_episodes", "-1"], "num_episodes"),
        (["evaluate", "agent", "--acting_option", "beam_width"], "NAME=VALUE"),
        (["evaluate", "agent", "--acting_option", "beam=1"], "beam"),
        (["evaluate", "agent", "--acting_option", "x=[1"], "x=\\[1|YAML|ParserError"),
        (["evaluate", "agent", "--dtype", "float3"], "float3"),
        (["evaluate", "agent", "--device", "nowhere"], "nowhere"),
        (["evaluate", "agent", "--compile", "--offline", "data"], "--compile is for episodes in an environment"),
        (["evaluate", "agent", "--compile", "--save"], "leave out --acting_option, --dtype and --compile, or --save"),
        (
            ["evaluate", "agent", "--compile", "--acting_option", "matmul_precision=high"],
            "leave out matmul_precision, or compile",
        ),
        (["evaluate", "agent", "--output", "results.json"], "--overwrite"),
        (
            ["collect", "CartPole-v1", "--output", "agent", "--overwrite"],
            "agent holds other files, which would be lost",
        ),
        (["export", "agent", "data", "--overwrite"], "data holds other files, which would be lost"),
        (["evaluate", "agent", "--output", "agent/config.json/x"], "cannot write"),
        *(
            (command, "cannot write to broken.csv/x")
            for command in (
                ["evaluate", "agent", "--video", "broken.csv/x.mp4"],
                ["evaluate", "agent", "--offline", "data", "--output", "broken.csv/x"],
                ["convert", "agent", "broken.csv/x"],
                ["export", "agent", "broken.csv/x"],
                ["finetune", "agent", "--output_dir", "broken.csv/x"],
                ["compare", "data", "--output_dir", "broken.csv/x"],
                ["quickstart", "--output_dir", "broken.csv/x"],
                ["act", "agent", "--state", "broken.csv/x"],
                ["train", "cloning", "--output_dir", "broken.csv/x", "--dataset", "data"],
            )
        ),
        (["info", "\x1b]0;title\x07"], "\\x1b]0;title\\x07"),
        # damaged agents
        *((["info", name], name) for name in ("cut", "noconfig", "noprocessor", "nomanifest", "folder")),
        (["evaluate", "cut"], "cut"),
        (["push", "noprocessor", "me/it"], "noprocessor"),
        # damaged data
        *(([*TRAIN, "--dataset", f"broken.{kind}"], "broken") for kind in ("csv", "parquet", "npz", "hdf5", "xlsx")),
        *(
            ([*TRAIN, "--dataset", f"broken.{kind}", *COLUMNS], "broken")
            for kind in ("csv", "parquet", "xlsx", "csv.gz")
        ),
        ([*TRAIN, "--dataset", "empty.csv", *COLUMNS], "empty.csv"),
        ([*TRAIN, "--dataset", "words.csv", *COLUMNS, "--episode", "rum"], "'rum'"),
        ([*TRAIN, "--dataset", "words.csv", *COLUMNS], "reward"),
        ([*TRAIN, "--dataset", "objects.npz"], "objects.npz|allow_pickle"),
        ([*TRAIN, "--dataset", "folder"], "folder"),
        ([*TRAIN, "--dataset", "data2"], "data2"),
        (["info", "data2"], "data2"),
        (["info", "empty.csv"], "empty.csv"),
        (["evaluate", "agent", "--offline", "nothing.csv", *COLUMNS], "nothing.csv"),
        # values of options
        ([*TRAIN, "--dataset", "data", "--learning_rate", "fast"], "learning_rate"),
        ([*TRAIN, "--dataset", "data", "--hidden_size", "0"], "hidden_size"),
        ([*TRAIN, "--dataset", "data", "--context_length", "0"], "context_length"),
        ([*TRAIN, "--dataset", "data", "--per_device_train_batch_size", "0"], "batch"),
        ([*TRAIN, "--dataset", "data", "--env_id", "CartPol-v1", "--eval_episodes", "1"], "CartPole-v1"),
        (["serve", "agent", "--port", "99999999"], "port"),
    ],
    ids=lambda part: " ".join(part)[:90].replace("/", "_") if isinstance(part, list) else "",
)
def test_a_failure_is_one_line_and_a_status(place, capsys, command, complaint):
    try:
        status = main(command)
    except SystemExit as stopped:
        status = stopped.code
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.startswith("hf-seqrl") and "loading" not in line]
    assert status in (1, 2), shown
    assert "Traceback" not in shown.err + shown.out
    assert len(lines) == 1, shown.err
    assert any(word in lines[0] for word in complaint.split("|")) or complaint in lines[0], lines[0]


@pytest.mark.parametrize(
    "text",
    [
        "family: [decision-transformer\n",
        "family: decision-transformer\n\tmax_steps: 3\n",
        "- family\n- decision-transformer\n",
        "3\n",
        "!!python/object/apply:os.mkdir [out]\n",
        "family: !!python/name:os.system\n",
        "family: {}\n",
        "family: decision-transformer\noutput_dir: out\ndataset: data\nmax_steps: many\n",
        "family: decision-transformer\noutput_dir: out\ndataset: data\nmax_steps: [1, 2]\n",
        "family: decision-transformer\noutput_dir: out\ndataset: {a: 1}\n",
        "family: decision-transformer\noutput_dir: [out]\ndataset: data\n",
        "\x00",
    ],
    ids=range(12),
)
def test_a_yaml_file_that_cannot_be_read_is_one_line(place, capsys, text):
    Path("results.json").unlink()
    Path("run.yaml").write_text(text)
    try:
        status = main(["train", "run.yaml"])
    except SystemExit as stopped:
        status = stopped.code
    shown = capsys.readouterr().err
    Path("run.yaml").rename("results.json")
    assert status in (1, 2) and "Traceback" not in shown and "TypeError" not in shown
    assert len([line for line in shown.splitlines() if line.startswith("hf-seqrl") and "loading" not in line]) == 1
