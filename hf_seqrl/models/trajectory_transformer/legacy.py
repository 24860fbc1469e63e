"""Checkpoints from elsewhere: those of the original repository (jannerm/trajectory-transformer), and those of transformers 4
(`CarlCochet/trajectory-transformer-*`), which hold weights and no bins."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hf_seqrl.models.registry import LegacyCheckpoint

from .configuration_trajectory_transformer import TrajectoryTransformerConfig
from .modeling_trajectory_transformer import TrajectoryTransformerModel
from .processing_trajectory_transformer import TrajectoryTransformerProcessor

if TYPE_CHECKING:
    from datasets import Dataset

# the original keeps the feed-forward layers of a block in one `nn.Sequential`
_FEED_FORWARD = {"mlp.0": "l1", "mlp.2": "l2"}


def convert_original_checkpoint(
    checkpoint: str | Path | dict[str, torch.Tensor], *, observation_dim: int, n_head: int = 4, **config_overrides
) -> TrajectoryTransformerModel:
    """The model that a `state_*.pt` of the original repository holds.

    Args:
        checkpoint: The file (read with `weights_only=True`) or the state dict itself.
        observation_dim: Tokens of an observation; the weights tell only the size of a whole transition.
        n_head: Attention heads, which the weights do not tell either.
        config_overrides: Further fields of [`TrajectoryTransformerConfig`]: loss weights, dropout.

    Raises:
        ValueError: the checkpoint is not one of the original model.
    """
    state_dict = checkpoint
    if not isinstance(checkpoint, dict):
        state_dict = torch.load(checkpoint, map_location="cpu", weights_only=True)
    missing = {"tok_emb.weight", "pos_emb", "head.weight"} - set(state_dict)
    if missing:
        raise ValueError(
            f"The checkpoint lacks {', '.join(sorted(missing))}: expected the state dict of the original "
            f"repository's GPT, got keys like {sorted(state_dict)[:3]}."
        )
    config = TrajectoryTransformerConfig(
        **_sizes(state_dict, observation_dim), n_head=n_head, observation_dim=observation_dim, **config_overrides
    )
    model = TrajectoryTransformerModel(config)
    model.load_state_dict(
        {_renamed(name): tensor for name, tensor in state_dict.items() if not name.endswith("attn.mask")}
    )
    return model.eval()


def legacy_processor(checkpoint: LegacyCheckpoint, dataset: "Dataset | None" = None) -> TrajectoryTransformerProcessor:
    """The processor of a checkpoint that was saved without one, its bins fitted to a data set.

    Args:
        checkpoint: Says how many bins there are, and how long a window is.
        dataset: The data that the checkpoint was trained on: other data have other bins, and tokens would mean something
            else than they did in training.

    Raises:
        ValueError: there is no data set, or its transitions do not fit the model.
    """
    config = checkpoint.config
    if dataset is None:
        raise ValueError(
            f"{checkpoint.name!r} holds the weights of a Trajectory Transformer, but no discretizer: nothing says which values "
            "its tokens stand for. Fit one to the data it was trained on: "
            "Agent.from_pretrained(..., dataset=load_trajectories(...)) does so "
            f"(TrajectoryDiscretizer.from_dataset(dataset, num_bins={config['vocab_size']}) gives the bins alone)."
        )
    processor = TrajectoryTransformerProcessor.from_dataset(
        dataset,
        num_bins=config["vocab_size"],
        sequence_transitions=(config["block_size"] + 1) // config["transition_dim"],
    )
    sizes = processor.observation_dim, processor.action_dim
    if sizes != (config["observation_dim"], config["action_dim"]):
        raise ValueError(
            f"the data have observations of {sizes[0]} entries and actions of {sizes[1]}, {checkpoint.name!r} was trained on "
            f"{config['observation_dim']} and {config['action_dim']}: give the data that it was trained on."
        )
    return processor


def _sizes(state_dict: dict[str, torch.Tensor], observation_dim: int) -> dict[str, int]:
    """The fields of the config that the shapes of the weights determine."""
    transition_dim, num_outputs, n_embd = state_dict["head.weight"].shape
    return {
        "vocab_size": num_outputs - 1,
        "block_size": state_dict["pos_emb"].shape[1],
        "action_dim": transition_dim - observation_dim - 2,
        "transition_dim": transition_dim,
        "n_layer": len({name.split(".")[1] for name in state_dict if name.startswith("blocks.")}),
        "n_embd": n_embd,
    }


def _renamed(name: str) -> str:
    return re.sub(r"mlp\.[02]", lambda match: _FEED_FORWARD[match.group()], name)
