"""Small models, batches and data sets of Decision Transformers."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import DecisionTransformerConfig

from hf_seqrl import TrainableDT


@pytest.fixture
def config():
    """`config(**keys)`: a small model of 5 numbers a state and 3 an action."""
    defaults = {"state_dim": 5, "act_dim": 3, "hidden_size": 32, "n_head": 2, "n_layer": 3, "max_ep_len": 60}
    defaults |= {"bos_token_id": None, "eos_token_id": None}
    return lambda **keys: DecisionTransformerConfig(**(defaults | keys))


@pytest.fixture
def lively():
    """`lively(config)`: a model in eval mode whose weights are far from zero, so that every token matters."""

    def build(config, seed=0):
        torch.manual_seed(seed)
        model = TrainableDT(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn_like(parameter)
                scale = 0.3 if parameter.dim() > 1 else 0.1
                parameter.copy_(noise * scale + (1.0 if "ln" in name and name.endswith("weight") else 0.0))
        return model.eval()

    return build


@pytest.fixture
def batch():
    """`batch(config, padding=[...])`: random windows, row i with that many padded steps on the left."""

    def build(config, padding=(0, 3), time=8, seed=1):
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(len(padding), time, *shape, generator=generator)  # noqa: E731
        mask = torch.arange(time)[None] >= torch.tensor(padding)[:, None]
        actions = draw(config.act_dim).clamp(-1, 1)
        groups = getattr(config, "action_groups", None)
        if groups:
            logits = actions.split(groups, dim=-1)
            one_hot = [torch.nn.functional.one_hot(part.argmax(-1), part.shape[-1]).float() for part in logits]
            actions = torch.cat(one_hot, dim=-1)
        return {
            "states": draw(config.state_dim),
            "actions": actions,
            "rewards": draw(1),
            "returns_to_go": draw(1),
            "timesteps": (torch.arange(time)[None] + 7 - torch.tensor(padding)[:, None]).clamp(min=0),
            "attention_mask": mask.float(),
        }

    return build


@pytest.fixture
def episodes():
    """`episodes(lengths, actions=...)`: a data set of random episodes, discrete where `actions` is a number."""

    def build(lengths=(30, 4, 11), actions=None, seed=0):
        rng = np.random.default_rng(seed)
        rows = {"observations": [], "actions": [], "rewards": [], "dones": []}
        for length in lengths:
            rows["observations"].append((rng.normal(size=(length, 5)) * 3 + 1).astype(np.float32).tolist())
            drawn = rng.uniform(-1, 1, size=(length, 3)).astype(np.float32)
            rows["actions"].append((rng.integers(0, actions, length) if actions else drawn).tolist())
            rows["rewards"].append((rng.normal(size=length) * 100).astype(np.float32).tolist())
            rows["dones"].append([False] * (length - 1) + [True])
        return Dataset.from_dict(rows)

    return build
