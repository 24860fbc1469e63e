"""From the checkpoints of the original repository (jannerm/trajectory-transformer) to this model."""

import re
from pathlib import Path

import torch

from .configuration_trajectory_transformer import TrajectoryTransformerConfig
from .modeling_trajectory_transformer import TrajectoryTransformerModel

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
