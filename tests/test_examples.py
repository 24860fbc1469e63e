"""The scripts that people copy: each runs at a small setting and achieves what it is there for."""

import importlib
import json
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel

from hf_seqrl import Agent, DecisionTransformerProcessor, RolloutResult, TrainableDT, collect, rollout

FOLDER = Path(__file__).parents[1] / "examples"


def _run(monkeypatch, script, *arguments):
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    monkeypatch.syspath_prepend(FOLDER)  # as for a script that is run
    return runpy.run_path(str(FOLDER / script), run_name="__main__")


def test_trains_from_the_table_that_it_makes(tmp_path, monkeypatch, capsys):
    _run(monkeypatch, "train_from_logs.py", "--output_dir", tmp_path, "--max_steps", 60, "--disable_tqdm", "true")
    table = pd.read_csv(tmp_path / "example.csv")
    agent = Agent.from_pretrained(tmp_path)
    assert agent.processor.state_dim == 4 and agent.env_id == "CartPole-v1"
    assert agent.processor.max_episode_steps == 500
    np.testing.assert_allclose(agent.processor.state_mean[2], table.angle.mean(), atol=0.01)  # a tenth is held out
    assert agent.evaluation.mean_return > 60  # three times what random pushes bring
    assert "A guess that looks at nothing: 0.69" in capsys.readouterr().out
    assert (tmp_path / "judgement.png").exists()


def test_trains_from_a_table_of_somebody_else(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = {name: rng.normal(size=120) for name in ("temperature", "pressure", "valve", "fan", "profit")}
    table = pd.DataFrame(
        {"batch": np.repeat(["a", "b", "c", "d", "e", "f"], 20), "minute": np.tile(range(20), 6), **rows}
    )
    table.sample(frac=1, random_state=0).to_parquet(tmp_path / "plant.parquet", index=False)
    options = ["--table", tmp_path / "plant.parquet", "--episode", "batch", "--step", "minute", "--reward", "profit"]
    options += ["--observation", "temperature", "pressure", "--action", "valve", "fan"]
    _run(monkeypatch, "train_from_logs.py", *options, "--output_dir", tmp_path / "agent", "--max_steps", 5)
    agent = Agent.from_pretrained(tmp_path / "agent")
    assert (agent.processor.state_dim, agent.processor.act_dim, agent.env_id) == (2, 2, None)
    agent.reset(1)
    assert agent.act(np.zeros((1, 2), np.float32)).shape == (1, 2)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory):
    """The folder of an agent, and what the script printed."""
    folder, printed = tmp_path_factory.mktemp("fine-tuned"), StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, redirect_stdout(printed):
        _run(monkeypatch, "fine_tune.py", "--output_dir", folder, "--max_steps", 60, "--num_episodes", 10)
    return folder, printed.getvalue()


def test_fine_tuning_makes_it_better_and_what_was_evaluated_is_saved(fine_tuned):
    folder, printed = fine_tuned
    agent = Agent.from_pretrained(folder)
    again = rollout(agent, "CartPole-v1", 10, 200.0, num_envs=10, seed=1000)
    np.testing.assert_array_equal(again.returns, agent.evaluation.returns)
    before, after = (float(mean) for mean in re.findall(r"^ +200 +([\d.]+)", printed, flags=re.MULTILINE))
    assert after == pytest.approx(agent.evaluation.mean_return, abs=0.05)
    assert after > max(60, 2 * before)


def test_an_adapter_is_saved_by_itself_and_within_the_weights(fine_tuned, tmp_path, monkeypatch, capsys):
    start, _ = fine_tuned
    options = ["--agent", start, "--lora", "--max_steps", 10, "--num_episodes", 5, "--output_dir", tmp_path]
    _run(monkeypatch, "fine_tune.py", *options)
    torch.manual_seed(0)
    batch = {"states": torch.randn(2, 5, 4), "actions": torch.eye(2)[torch.randint(2, (2, 5))]}
    batch |= {"returns_to_go": torch.rand(2, 5, 1), "timesteps": torch.arange(5).expand(2, 5)}
    before = TrainableDT.from_pretrained(start).eval()
    predicted_before = before(**batch).action_preds
    adapted = PeftModel.from_pretrained(before, tmp_path / "adapter").eval()(**batch).action_preds
    agent = Agent.from_pretrained(tmp_path)
    merged = agent.model.eval()(**batch).action_preds
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-5)
    assert (merged - predicted_before).abs().max() > 1e-2
    again = rollout(agent, "CartPole-v1", 5, 200.0, num_envs=5, seed=1000)
    np.testing.assert_array_equal(again.returns, agent.evaluation.returns)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size < 100_000


def test_two_processes_achieve_what_one_does(tmp_path, monkeypatch):
    options = ["--num_episodes", 5, "--target_return", 30, 20, "--output"]
    _run(monkeypatch, "evaluate_distributed.py", *options, tmp_path / "one.json")
    program = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command = [*program, FOLDER / "evaluate_distributed.py", *options, tmp_path / "two.json"]
    finished = subprocess.run([str(part) for part in command], check=True, timeout=300, capture_output=True, text=True)
    assert "process 0 of 2 has played 3" in finished.stdout and "process 1 of 2 has played 2" in finished.stdout
    one, two = (RolloutResult.load(tmp_path / f"{name}.json") for name in ("one", "two"))
    for name in ("returns", "lengths", "seeds", "target_returns"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert len(one.returns) == 10


def test_without_ray_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit, match=r'Ray is not installed.*pip install "hf-seqrl\[ray\] @'):
        _run(monkeypatch, "evaluate_ray.py")


def test_sweeps_a_grid_of_targets(tmp_path, monkeypatch):
    options = ["--max_steps", 30, "--num_targets", 3, "--num_episodes", 4, "--highest", 98]
    _run(monkeypatch, "sweep_targets.py", *options, "--output_dir", tmp_path)
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert len(content["returns"]) == 12 and len(set(content["target_returns"])) == 3
    assert content["target_returns"][-1] == 98
    assert len(set(content["lengths"][:4])) > 1  # the episodes start in different places
    assert (tmp_path / "sweep.png").stat().st_size > 10_000


def test_a_ward_that_is_known_is_checked_exactly(tmp_path, monkeypatch, capsys):
    """A small ward of the same form: two states, death, survival and what follows them; the sixth dose saves."""
    states, saving = 5, 6
    transitions = np.zeros((states, 25, states))
    transitions[0, :, 1], transitions[1, :, 2], transitions[1, saving] = 1.0, 1.0, np.eye(states)[3]
    transitions[2:, :, 4] = 1.0
    rewards = np.zeros_like(transitions)
    rewards[1, saving, 3] = 1.0
    clinicians = np.full((states, 25), 1 / 25)
    clinicians[1] = np.where(np.arange(25) == saving, 0.5, 0.5 / 24)
    measurements = np.random.default_rng(0).normal(size=(states, 3))
    np.savez(tmp_path / "ward.npz", tx_mat=transitions, r_mat=rewards, d_0=np.eye(states)[0], expert_policy=clinicians,
             state_cluster_centers=measurements)  # fmt: skip
    arguments = [
        "--dynamics",
        tmp_path / "ward.npz",
        "--patients",
        300,
        "--simulated",
        50,
        "--updates",
        80,
        "--seeds",
        1,
    ]
    _run(monkeypatch, "icu_sepsis.py", *arguments, "--output_dir", tmp_path / "out")
    shown = capsys.readouterr().out
    found = dict(re.findall(r"^\| ([^|]+) \| ([\d.]+) \|", shown, flags=re.MULTILINE))
    assert (
        found["clinicians"] == "0.500" and found["any dose at random"] == "0.040" and found["best possible"] == "1.000"
    )
    assert found["cloning all"] == "1.000"  # the likeliest dose is the one that saves
    assert "exported: 1.000; one patient:" in shown
    assert re.search(r"hour   4: fluids low, vasopressors low\nsurvived", shown)


def example(name, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module(name)


def test_goods_are_neither_made_nor_lost_in_the_supply_chain(monkeypatch):
    """Every unit that was there or was made is sold, in stock or on the way; every unit of profit has its cause."""
    stock_keeping = example("stock_keeping", monkeypatch)
    chain, rng = stock_keeping.SupplyChain(), np.random.default_rng(0)
    for seed in range(5):
        chain.reset(seed=seed)
        coming, stock, made, sold = np.zeros((3, 40), int), [100, 100, 200], 0, 0
        for week in range(30):
            orders = rng.integers(0, 41, 3)
            shipped = [min(orders[0], stock[1]), min(orders[1], stock[2]), orders[2]]
            coming[range(3), week + np.array([3, 5, 10])] = shipped
            bought = min(stock[0] + coming[0, week], chain.demands[week])
            stock = (stock + coming[:, week] - [bought, *shipped[:2]]).tolist()
            made, sold = made + shipped[2], sold + bought
            unfilled = [chain.demands[week] - bought, *(orders - shipped)]
            expected = 2 * bought - 0.5 * shipped[2] - np.dot([0.15, 0.1, 0.05], stock)
            seen, profit, _, ended, _ = chain.step(orders)
            assert profit == pytest.approx(expected - np.dot([0.1, 0.075, 0.05, 0.025], unfilled))
            assert seen[0] == 29 - week and seen[1] == chain.demands[week]
            assert 400 + made == sold + seen[3:].sum() and seen[3:6].tolist() == stock
        assert ended


def test_the_reactor_rests_where_its_equations_say_and_runs_away_where_they_say(monkeypatch):
    """At 0.5 mol/l, 350 K and a coolant of 300 K it is in an equilibrium that does not hold (Seborg et al.)."""
    chemical_process = example("chemical_process", monkeypatch)
    reactor = chemical_process.Reactor()
    reactor.reset(seed=0)
    reactor._feed, reactor._coolant = 350.0, 300.0
    assert np.abs(reactor._slope(np.array([0.5, 350.0]))).max() < 0.01 * 350
    reactor.concentration, reactor.temperature = 0.8773, 324.5  # the other one, which holds
    for _ in range(40):
        reactor._integrate()
    assert reactor.concentration == pytest.approx(0.877, abs=2e-3)
    assert reactor.temperature == pytest.approx(324.5, abs=0.2)
    reactor.concentration, reactor.temperature = 0.5, 351.0
    for _ in range(40):
        reactor._integrate()
    assert reactor.temperature > chemical_process.TRIP


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "weakest", "strongest"),
    [
        (
            "stock_keeping.py",
            "base-stock, for the usual demand",
            "base-stock, minding the season's end and the demand",
        ),
        ("chemical_process.py", "controllers of the log, left alone", "PID, tuned in the simulator"),
    ],
)
def test_a_job_from_its_log_to_the_exported_agent(script, weakest, strongest, tmp_path, monkeypatch, capsys):
    options = ["--episodes", 24, "--checked", 8, "--updates", 20, "--judging_updates", 20, "--seeds", 1]
    _run(monkeypatch, script, *options, "--output_dir", tmp_path)
    shown = capsys.readouterr().out
    rows = {
        cells[1].strip(): cells
        for line in shown.splitlines()
        if (cells := line.split("|"))[0] == "" and len(cells) > 4
    }
    assert float(rows[weakest][3]) < float(rows[strongest][3])
    assert {"cloning all", "cloning weighted by a critic", "Decision Transformer"} <= set(rows)
    differs = float(re.search(r"none differs by more than ([\d.e+-]+)", shown)[1])
    assert differs < 1e-2
    assert (tmp_path / "onnx" / "step.onnx").is_file() and re.search(r"of this (season|run): ", shown)


def test_online_fine_tuning_collects_and_trains(tmp_path, monkeypatch, capsys):
    options = ["--rounds", 1, "--updates_per_round", 5, "--num_episodes", 2, "--output_dir", tmp_path / "tuned"]
    start = tmp_path / "start"
    data = collect("random", "CartPole-v1", num_episodes=10, seed=0)
    processor = DecisionTransformerProcessor.from_dataset(data, context_length=3)
    Agent(TrainableDT(processor.model_config(hidden_size=16, n_layer=1)), processor).save_pretrained(start)
    _run(monkeypatch, "fine_tune_online.py", "--agent", start, *options)
    assert "round 1 of 1" in capsys.readouterr().out
    assert Agent.from_pretrained(tmp_path / "tuned").run.data["episodes"] == 20
