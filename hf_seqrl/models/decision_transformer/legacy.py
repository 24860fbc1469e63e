"""Checkpoints from before processors: `edbeeching/decision-transformer-gym-*` and others of their kind.

They hold the weights alone; what normalizes the states is written in the text of their cards.
"""

import re
from typing import TYPE_CHECKING

import numpy as np
from gymnasium.spaces import Box

from hf_seqrl.data.environment_ids import d4rl_reference_returns
from hf_seqrl.data.spaces import space_to_dict
from hf_seqrl.models.decision_transformer.processing_decision_transformer import DecisionTransformerProcessor
from hf_seqrl.models.registry import LegacyCheckpoint

if TYPE_CHECKING:
    from datasets import Dataset

# task in the repository's name -> (environment, state_dim, act_dim, targets of kzl/decision-transformer, raw returns).
# The data were recorded in version 2 of these environments; version 5 is the one that is maintained.
_TASKS = {
    "hopper": ("Hopper-v5", 11, 3, [3600.0, 1800.0]),
    "halfcheetah": ("HalfCheetah-v5", 17, 6, [12000.0, 6000.0]),
    "walker2d": ("Walker2d-v5", 17, 6, [5000.0, 2500.0]),
}
_TIME_LIMIT = 1000  # steps, of each of these tasks
_RETURN_SCALE = 1000.0
_CONTEXT_LENGTH = 20  # `max_length` in configs of old
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def legacy_processor(checkpoint: LegacyCheckpoint, dataset: "Dataset | None" = None) -> DecisionTransformerProcessor:
    """The processor of a checkpoint that was saved without one.

    Args:
        checkpoint: Where `mean = [...]` and `std = [...]` stand in the card, they normalize the states.
        dataset: The data it was trained on; gives the statistics in their place.

    Raises:
        ValueError: there is neither, or the card's lines do not fit the model.
    """
    context_length = checkpoint.config.get("max_length") or _CONTEXT_LENGTH
    if dataset is not None:
        return DecisionTransformerProcessor.from_dataset(dataset, context_length, return_scale=_RETURN_SCALE)
    mean, std = (_statistic(checkpoint, name) for name in ("mean", "std"))
    if not (std > 0).all():
        raise ValueError(f"the card of {checkpoint.name!r} gives std = {std.tolist()}: expected numbers > 0.")
    env_id, target_returns = _task(checkpoint)
    bound = 1.0 if checkpoint.config.get("action_tanh", True) else np.inf
    return DecisionTransformerProcessor(
        env_id=env_id,
        observation_space=space_to_dict(Box(-np.inf, np.inf, (checkpoint.config["state_dim"],), np.float64)),
        action_space=space_to_dict(Box(-bound, bound, (checkpoint.config["act_dim"],), np.float32)),
        state_mean=mean,
        state_std=std,
        return_scale=_RETURN_SCALE,
        context_length=context_length,
        target_returns=target_returns,
        max_episode_steps=_TIME_LIMIT if env_id else checkpoint.config.get("max_ep_len", _TIME_LIMIT),
        reference_returns=d4rl_reference_returns(env_id),
    )


def _statistic(checkpoint: LegacyCheckpoint, name: str) -> np.ndarray:
    """The numbers of the card's line `name = [...]`, as `float32`; they are read, never evaluated."""
    found = re.search(
        rf"^\W*{name}\s*[=:]\s*(?:np\.array\()?\[([^\[\]]*)\]", checkpoint.card, re.MULTILINE | re.IGNORECASE
    )
    if found is None:
        raise ValueError(
            f"{checkpoint.name!r} holds the weights of a Decision Transformer, but no processor_config.json, and its card "
            f"has no line '{name} = [...]' that says how states were normalized. Pass the data it was trained on, "
            "Agent.from_pretrained(..., dataset=load_trajectories(...)), or a processor with the numbers, "
            "Agent.from_pretrained(..., processor=DecisionTransformerProcessor(state_mean=[...], state_std=[...], "
            "return_scale=1000, env_id=..., observation_space=..., action_space=...))."
        )
    values = [value.strip() for value in found[1].split(",") if value.strip()]
    wrong = [value for value in values if not re.fullmatch(_NUMBER, value)]
    if wrong or len(values) != checkpoint.config["state_dim"]:
        raise ValueError(
            f"the card of {checkpoint.name!r} gives {name} = [{found[1].strip()}]: expected {checkpoint.config['state_dim']} "
            "numbers, one for each entry of a state."
        )
    return np.array(values, dtype=np.float32)


def _task(checkpoint: LegacyCheckpoint) -> tuple[str | None, list[float]]:
    """The environment that the name, or else the card's text, speaks of, if the model fits it; and returns to ask for."""
    for text in (checkpoint.name.rpartition("/")[2], checkpoint.card):
        named = [task for task in _TASKS if re.search(task, text, re.IGNORECASE)]
        if len(named) == 1:
            env_id, state_dim, act_dim, target_returns = _TASKS[named[0]]
            if (checkpoint.config["state_dim"], checkpoint.config["act_dim"]) == (state_dim, act_dim):
                return env_id, target_returns
    return None, []
