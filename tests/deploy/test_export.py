"""Exported agents: the same actions as the agent's over whole episodes, where neither torch nor transformers can be imported."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from step_cases import ACTIONS, CASES, OBSERVATIONS, agent_of, data

pytest.importorskip("onnxscript", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

from hf_seqrl import Agent, ExportedActor, Runner, export_agent, rollout
from hf_seqrl.models.registry import family_named

ROOT = Path(__file__).parents[2]

# Stands before the script: whatever is imported but NumPy, onnxruntime and what these need is an error.
BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "hf_seqrl", "gymnasium", "datasets", "onnx"):
            raise ImportError(name + " must not be imported")
sys.meta_path.insert(0, Blocker())
import runpy
runpy.run_path("runner.py", run_name="__main__")
"""


def folder_of(tmp_path_factory, agent, **options):
    return agent.export(tmp_path_factory.mktemp("exported") / "folder", num_episodes=2, **options)


@pytest.fixture(scope="module")
def cartpole(cartpole_dataset, tmp_path_factory):
    """An untrained agent for CartPole and what was exported of it, with everything."""
    from hf_seqrl import DecisionTransformerProcessor, TrainableDT

    torch.manual_seed(0)
    processor = DecisionTransformerProcessor.from_dataset(cartpole_dataset, context_length=4, target_returns=[200.0])
    agent = Agent(TrainableDT(processor.model_config(hidden_size=16, n_layer=1, n_head=1)), processor)
    with torch.no_grad():
        for parameter in agent.model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return agent, folder_of(tmp_path_factory, agent, quantize=True, program=True)


def test_the_rollout_is_that_of_the_agent(cartpole):
    agent, folder = cartpole
    expected = rollout(agent, "CartPole-v1", num_episodes=5, num_envs=3)
    found = rollout(ExportedActor(folder, "step.onnx"), "CartPole-v1", num_episodes=5, num_envs=3)
    assert expected.returns.tolist() == found.returns.tolist()
    assert len(set(expected.returns)) > 1


def test_the_folder_states_what_was_measured(cartpole):
    _, folder = cartpole
    about = json.loads((folder / "agent.json").read_text())
    measured = about["measured"]
    exact = measured["step.onnx"]
    assert exact["equal"] == exact["steps"] > 0 and exact["greatest_difference"] == 0
    assert exact["latency_ms"]["p50"] <= exact["latency_ms"]["p99"]
    assert measured["step.int8.onnx"]["episodes"] == 20  # by which the cost in return is judged
    card = (folder / "README.md").read_text()
    assert f"| step.onnx | 20 episodes of CartPole-v1 | {exact['steps']} | {exact['steps']} | 0.0e+00 |" in card
    assert "ONNX opset 20" in card and f"onnxruntime {about['versions']['onnxruntime']}" in card
    assert f"| step.onnx | {(folder / 'step.onnx').stat().st_size} |" in card
    assert str(folder.parent).encode() not in (folder / "step.onnx").read_bytes()
    assert b"site-packages" not in (folder / "step.onnx").read_bytes()


def test_the_program_of_torch_export_computes_the_same(cartpole):
    agent, folder = cartpole
    graph = agent.family.step_graph(agent.model.eval(), agent.processor)
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.rand(one.shape, generator=generator, dtype=torch.float64).to(one.dtype) for one in graph.inputs.values()
    ]
    loaded = torch.export.load(folder / "step.pt2").module()(*inputs)
    for expected, found in zip(graph.module(*inputs), loaded, strict=True):
        torch.testing.assert_close(found, expected)


def test_the_loop_of_the_documentation_is_all_that_the_graph_asks_for(cartpole, monkeypatch, capsys):
    agent, folder = cartpole
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import numpy as np\nimport onnxruntime.*?)```", page, flags=re.DOTALL)
    rng = np.random.default_rng(5)
    stream = [(rng.normal(scale=(1.0, 1.0, 0.1, 1.0)), rng.uniform(0, 3)) for _ in range(30)]
    (folder.parent / "onnx").symlink_to(folder)
    monkeypatch.chdir(folder.parent)
    exec(code, {"stream": stream})
    agent.reset(1, 120.0)
    expected = []
    for observation, reward in stream:
        expected.append(float(agent.act(observation[None].astype(np.float32))[0]))
        agent.observe(np.array([reward]), np.array([False]))
    assert [float(line.strip("[]")) for line in capsys.readouterr().out.splitlines()] == expected
    assert len(set(expected)) > 1


def episode(agent, target):
    """An episode as lines for the runner, and what the agent does in it; an operator overrules it now and then."""
    rng = np.random.default_rng(3)
    agent.reset(1, target)
    lines, actions, told = [], [], {"begin": True, "target_return": target}
    for step in range(40):
        observation = rng.normal(scale=(1.0, 1.0, 0.1, 1.0)).astype(np.float32)
        actions.append(int(agent.act(observation[None])[0]))
        lines.append(json.dumps(told | {"observation": observation.tolist()}) + "\n")
        told = {"reward": rng.uniform(0, 3), "action": actions[-1] if step % 5 else step % 2}
        agent.observe(np.array([told["reward"]]), np.array([False]), np.array([told["action"]]))
    return "".join(lines), actions


@pytest.mark.parametrize("command", ["runner.py", "hf-seqrl act"])
def test_it_runs_where_torch_and_transformers_cannot_be_imported(cartpole, command):
    agent, folder = cartpole
    about = json.loads((folder / "agent.json").read_text())
    lines, expected = episode(agent, 150.0)
    code = BLOCKED
    if command == "hf-seqrl act":
        code = BLOCKED[: BLOCKED.index("import runpy")].replace('"hf_seqrl", ', "")
        code += 'import hf_seqrl_command\nsys.argv = ["hf-seqrl", "act", "."]\nsys.exit(hf_seqrl_command.main())'
    (folder / "agent.json").write_text(json.dumps(about | {"graph": "step.onnx"}))
    try:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        run = subprocess.run(
            [sys.executable, "-c", code], input=lines, cwd=folder, env=environment, capture_output=True, text=True
        )
    finally:
        (folder / "agent.json").write_text(json.dumps(about))
    assert run.returncode == 0, run.stderr
    assert [json.loads(line) for line in run.stdout.splitlines()] == expected
    assert len(set(expected)) > 1


def parity_of(folder):
    return json.loads((folder / "agent.json").read_text())["measured"]["step.onnx"]


CHEAP = (6, 8, 13)  # a cache, a GRU, a policy that is conditioned; the others are slow
SLOW = [case for place, case in enumerate(CASES) if place not in CHEAP]


@pytest.mark.parametrize(
    ("family", "options", "actions", "observations"),
    [*(CASES[place] for place in CHEAP), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_every_family_and_mode_acts_as_the_agent_does(tmp_path_factory, family, options, actions, observations):
    agent = agent_of(family, options, actions, observations)
    found = parity_of(folder_of(tmp_path_factory, agent))
    assert found["equal"] == found["steps"] == 300
    if agent.processor.task.actions.dtype is not None and agent.processor.task.actions.dtype.kind == "i":
        assert found["greatest_difference"] == 0


@pytest.mark.slow
def test_a_critic_is_exported_with_its_values(tmp_path):
    family = family_named("critic")
    processor = family.processor_class.from_dataset(data(ACTIONS["box"], OBSERVATIONS["vector"]))
    agent = Agent(family.model_class(processor.model_config(hidden_size=16)), processor)
    runner = Runner(export_agent(agent, tmp_path / "critic"))
    seen, done = np.array([0.5, -1.0, 2.0]), np.array([1.5, 100.0])
    encoded = [
        torch.from_numpy(encode(values[None]))
        for encode, values in ((processor.encode_observations, seen), (processor.encode_actions, done))
    ]
    found = runner.values(seen, done)
    np.testing.assert_allclose(found["q_values"], agent.model.q_values(*encoded)[0].detach(), rtol=1e-5)
    np.testing.assert_allclose(found["advantage"], agent.model.advantages(*encoded)[0].detach(), atol=1e-5)
    measured = parity_of(tmp_path / "critic")
    assert measured["equal"] == measured["steps"] == 300 and "mean_return" not in measured
    assert "| step.onnx | drawn steps | 300 | 300 |" in (tmp_path / "critic" / "README.md").read_text()
    with pytest.raises(ValueError, match="chooses no actions"):
        ExportedActor(tmp_path / "critic")


def test_a_planner_and_a_sampling_agent_are_refused(tiny_agent, tmp_path):
    planner = agent_of(
        "trajectory-transformer", {"n_embd": 16, "n_layer": 1, "n_head": 2, "num_bins": 16}, "discrete", "vector"
    )
    with pytest.raises(ValueError, match="it plans, and the search at each step is no fixed graph"):
        planner.export(tmp_path / "planner")
    sampling = Agent(tiny_agent.model, tiny_agent.processor, temperature=1.0)
    with pytest.raises(ValueError, match="samples its actions"):
        sampling.export(tmp_path / "sampling")
    (tmp_path / "there").mkdir()
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]
