"""Folders of models with their code, and the program that loads them where this package is not installed."""

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete

from hf_seqrl import Agent, PolicyGradientModel, TrajectorySeq2SeqModel, TrajectoryTransformerModel
from hf_seqrl.data.spaces import space_to_dict
from hf_seqrl.models.policy import PolicyGradientProcessor
from hf_seqrl.models.trajectory_seq2seq.processing_trajectory_seq2seq import TrajectorySeq2SeqProcessor
from hf_seqrl.models.trajectory_transformer.processing_trajectory_transformer import TrajectoryTransformerProcessor

# A program that loads models by their folders, without this package, and compares what they make of the inputs there.
LOAD_ELSEWHERE = """
import sys
import torch
from transformers import AutoConfig, AutoModel

for folder in sys.argv[1:]:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    assert type(AutoConfig.from_pretrained(folder, trust_remote_code=True)) is type(model.config)
    name, inputs, expected = torch.load(f"{folder}/example.pt")
    with torch.no_grad():
        output = model(**inputs)
    torch.testing.assert_close(output if name is None else output[name], expected)
    print(type(model).__name__, type(model).__module__.partition(".")[0])
"""

# Class and where it comes from, in the order of the folders.
LOADED_ELSEWHERE = [
    "DecisionTransformerModel transformers",
    "TrajectoryTransformerModel transformers_modules",
    "TrajectoryDiscretizer transformers_modules",
    "TrajectorySeq2SeqModel transformers_modules",
    "PolicyGradientModel transformers_modules",
]


def folders_with_code(dataset, decision_transformer, place):
    """A folder for each model of this package, with its code and an example of what it makes of some inputs."""
    torch.manual_seed(0)
    states = torch.randn(2, 3, 4)
    spaces = {
        "observation_space": space_to_dict(Box(-np.inf, np.inf, (4,))),
        "action_space": space_to_dict(Discrete(2)),
    }

    def save(model, processor, name, **inputs):
        Agent(model, processor).save_pretrained(place / name, include_code=True)
        return _with_example(model, place / name, **inputs)

    steps = {"states": states, "actions": torch.zeros(2, 3, 2), "rewards": torch.zeros(2, 3, 1)}
    steps |= {"returns_to_go": torch.ones(2, 3, 1), "timesteps": torch.arange(3).repeat(2, 1)}
    steps["attention_mask"] = torch.ones(2, 3, dtype=torch.long)
    folders = [save(decision_transformer.model, decision_transformer.processor, "decisions", **steps)]

    options = {"horizon": 2, "beam_width": 2}
    processor = TrajectoryTransformerProcessor.from_dataset(dataset, num_bins=8, planner_options=options)
    model = TrajectoryTransformerModel(processor.model_config(n_layer=1, n_head=2, n_embd=16))
    folders.append(save(model, processor, "planner", trajectories=torch.randint(8, (2, 14))))
    transitions = torch.randn(3, processor.transition_dim)
    folders.append(_with_example(processor.discretizer, folders[-1] / "discretizer", transitions=transitions))

    processor = TrajectorySeq2SeqProcessor(**spaces, context_length=3)
    config = processor.model_config(backbone="transformer", hidden_size=16, num_attention_heads=2)
    history = {"states": states, "actions": torch.zeros(2, 3, dtype=torch.long), "labels": torch.zeros(2, 2).long()}
    folders.append(save(TrajectorySeq2SeqModel(config), processor, "seq2seq", **history))

    processor = PolicyGradientProcessor(**spaces)
    model = PolicyGradientModel(processor.model_config())
    folders.append(save(model, processor, "policy", observations=states[0]))
    return [str(folder) for folder in folders]


def _with_example(model, folder, **inputs):
    """Leaves what the model makes of these inputs in its folder."""
    model.eval()
    with torch.no_grad():
        output = model(**inputs)
    name = None if isinstance(output, torch.Tensor) else ("logits" if "logits" in output else "action_preds")
    torch.save((name, inputs, output if name is None else output[name]), folder / "example.pt")
    return folder
