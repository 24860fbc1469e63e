"""What the options of a Decision Transformer mean that are left open: the paper's values, or what suits the data."""

from typing import TYPE_CHECKING, Any

import numpy as np

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import returns_of_episodes
from hf_seqrl.data.sampling import return_temperature

if TYPE_CHECKING:
    from datasets import Dataset

# Chen et al. (2021), appendix A.2
PAPER = {
    "context_length": 20,
    "hidden_size": 128,
    "dropout": 0.1,
    "return_form": "to_go",
    "timesteps": "absolute",
    "past_actions": True,
    "return_temperature": 0.0,
    "uniform_share": 0.0,
    "opening_share": 0.0,
    "average_decay": 0.0,
}
_SMALL = {"context_length": 4, "hidden_size": 64, "dropout": 0.0, "opening_share": None, "average_decay": 0.998}
# The state is enough: a time that is read tells episodes apart, and past actions invite to repeat the last one.
_BY_STATE = {"timesteps": "none", "past_actions": False}
_PACE = _SMALL | _BY_STATE | {"return_form": "pace", "uniform_share": 0.1}
_CLONING = _PACE | {"return_form": "to_go", "uniform_share": 0.0}
# Where a return says how long an episode lasts and nothing else, the model counts down, and half of the draws keep all
# lengths in view.
_COUNTDOWN = _SMALL | {
    "return_form": "to_go",
    "timesteps": "absolute",
    "past_actions": True,
    "uniform_share": 0.5,
}


def suited_to(
    dataset: "Dataset", conditioning: str = "return", favor: bool = True
) -> tuple[dict[str, Any], list[str]]:
    """What the options mean for a data set, and why.

    Args:
        dataset: The trajectories that are trained on.
        conditioning: What actions are conditioned on.
        favor: Whether to choose a temperature by which good episodes are drawn more often; otherwise it is 0.

    Returns:
        The options by name, as in `PAPER`, and what was chosen by the data, one sentence each.
    """
    columns = TrajectoryColumns.of(dataset)
    is_cloning = conditioning == "none" or columns.metadata.has_rewards is False
    meaning, why = (_CLONING, "no return is read") if is_cloning else _form_of_returns(columns)
    names = ("return_form", "timesteps", "past_actions")
    notes = [f"{', '.join(f'{name} {meaning[name]}' for name in names)}: {why}."]
    temperature = None
    if favor:
        temperature = return_temperature(returns_of_episodes(columns), np.diff(columns.episode_offsets))
        why = "as low as leaves enough episodes" if temperature else "returns are equal, or too few episodes"
        notes.append(f"return_temperature {temperature or 0:.3g}: {why}.")
    return meaning | {"return_temperature": temperature or 0.0}, notes


def _form_of_returns(columns: TrajectoryColumns) -> tuple[dict[str, Any], str]:
    rewards = {float(value) for block in columns.rewards.blocks() for value in (block.min(), block.max())}
    if len(rewards) == 1:
        return _COUNTDOWN, "every step has the same reward"
    return _PACE, "rewards differ from step to step"
