"""The code in a repository runs in a virtual environment that has transformers and nothing of this package."""

import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from hf_seqrl import Agent, PolicyGradientModel
from hf_seqrl.data.spaces import space_to_dict
from hf_seqrl.models.policy_gradient import PolicyGradientProcessor

_LOAD = """
import importlib.util, sys, torch
from transformers import AutoModel
assert importlib.util.find_spec("hf_seqrl") is None
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
inputs, expected = torch.load(f"{sys.argv[1]}/example.pt")
with torch.no_grad():
    torch.testing.assert_close(model(**inputs).logits, expected)
"""


@pytest.mark.slow
def test_a_policy_loads_where_only_transformers_is_installed(tmp_path):
    spaces = {"observation_space": Box(-np.inf, np.inf, (4,)), "action_space": Discrete(2)}
    processor = PolicyGradientProcessor(**{name: space_to_dict(space) for name, space in spaces.items()})
    agent = Agent(PolicyGradientModel(processor.model_config()), processor)
    agent.save_pretrained(tmp_path / "policy", include_code=True)
    inputs = {"observations": torch.randn(3, 4)}
    with torch.no_grad():
        torch.save((inputs, agent.model.eval()(**inputs).logits), tmp_path / "policy" / "example.pt")

    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    packages = [f"{name}=={version(name)}" for name in ("torch", "transformers")]
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-compile", *packages], check=True)
    subprocess.run([str(python), "-c", _LOAD, str(tmp_path / "policy")], check=True, cwd=tmp_path)
