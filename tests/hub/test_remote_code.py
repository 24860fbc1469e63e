"""Models load with the code in their repository where hf_seqrl cannot be imported."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from hf_seqrl import (
    Agent,
    PolicyGradientModel,
    TrajectorySeq2SeqModel,
    TrajectoryTransformerModel,
)
from hf_seqrl.data.spaces import space_to_dict
from hf_seqrl.models.policy_gradient import PolicyGradientProcessor
from hf_seqrl.models.trajectory_seq2seq.processing_trajectory_seq2seq import TrajectorySeq2SeqProcessor
from hf_seqrl.models.trajectory_transformer.processing_trajectory_transformer import TrajectoryTransformerProcessor

SPACES = {
    "observation_space": space_to_dict(Box(-np.inf, np.inf, (4,))),
    "action_space": space_to_dict(Discrete(2)),
}

_LOAD_ELSEWHERE = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_seqrl":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Blocker())
import torch
from transformers import AutoConfig, AutoModel

for folder in sys.argv[1:]:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    assert type(AutoConfig.from_pretrained(folder, trust_remote_code=True)).__name__ == type(model.config).__name__
    inputs, expected = torch.load(f"{folder}/example.pt")
    with torch.no_grad():
        output = model(**inputs)
    output = output if isinstance(output, torch.Tensor) else output.logits
    torch.testing.assert_close(output, expected)
    print(type(model).__name__)
"""


def _with_example(folder, model, **inputs):
    """Leaves what the model makes of these inputs in its folder."""
    model.eval()
    with torch.no_grad():
        output = model(**inputs)
    torch.save((inputs, output if isinstance(output, torch.Tensor) else output.logits), folder / "example.pt")


@pytest.fixture
def planner(cartpole_dataset):
    options = {"horizon": 2, "beam_width": 2}
    processor = TrajectoryTransformerProcessor.from_dataset(cartpole_dataset, num_bins=8, planner_options=options)
    return Agent(TrajectoryTransformerModel(processor.model_config(n_layer=1, n_head=2, n_embd=16)), processor)


def test_every_model_of_ours_loads_without_hf_seqrl(planner, tmp_path):
    torch.manual_seed(0)
    states, folders = torch.randn(2, 3, 4), [tmp_path / name for name in ("planner", "seq2seq", "policy")]
    planner.save_pretrained(folders[0], include_code=True)
    _with_example(folders[0], planner.model, trajectories=torch.randint(8, (2, 14)))
    transitions = torch.randn(3, planner.processor.transition_dim)
    _with_example(folders[0] / "discretizer", planner.processor.discretizer, transitions=transitions)

    processor = TrajectorySeq2SeqProcessor(**SPACES, context_length=3)
    config = processor.model_config(backbone="transformer", hidden_size=16, num_attention_heads=2)
    translator = Agent(TrajectorySeq2SeqModel(config), processor)
    translator.save_pretrained(folders[1], include_code=True)
    history = {"states": states, "actions": torch.zeros(2, 3, dtype=torch.long), "labels": torch.zeros(2, 2).long()}
    _with_example(folders[1], translator.model, **history)

    processor = PolicyGradientProcessor(**SPACES)
    policy = Agent(PolicyGradientModel(processor.model_config()), processor)
    policy.save_pretrained(folders[2], include_code=True)
    _with_example(folders[2], policy.model, observations=states[0])

    folders.insert(1, folders[0] / "discretizer")
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", _LOAD_ELSEWHERE, *map(str, folders)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    names = ["TrajectoryTransformerModel", "TrajectoryDiscretizer", "TrajectorySeq2SeqModel", "PolicyGradientModel"]
    assert finished.stdout.split() == names


def test_no_code_goes_along_unless_asked_for(planner, tmp_path):
    planner.save_pretrained(tmp_path / "with", include_code=True)
    assert "auto_map" in json.loads((tmp_path / "with" / "config.json").read_text())
    assert list((tmp_path / "with" / "discretizer").glob("*.py"))
    again = Agent.from_pretrained(tmp_path / "with")
    again.save_pretrained(tmp_path / "without")
    assert not list((tmp_path / "without").rglob("*.py"))
    for config in (tmp_path / "without").rglob("config.json"):
        assert "auto_map" not in json.loads(config.read_text())


def test_a_model_that_transformers_knows_needs_no_code(tiny_agent, tmp_path):
    tiny_agent.save_pretrained(tmp_path, include_code=True)
    assert not list(tmp_path.glob("*.py"))
