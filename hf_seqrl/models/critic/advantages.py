"""What a trained critic says about the steps of a data set, and the weights that follow from it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.models.critic.modeling_critic import CriticModel
from hf_seqrl.models.critic.processing_critic import CriticProcessor

if TYPE_CHECKING:
    from datasets import Dataset

_STEPS_AT_ONCE = 1 << 14
_LARGEST_WEIGHT = 20.0


def step_advantages(model: CriticModel, processor: CriticProcessor, dataset: "Dataset") -> np.ndarray:
    """How much better each recorded action is than the state's value, `min_i Q_i(s, a) - V(s)`: `(steps,)` float32, in
    discounted raw returns.

    Args:
        model: A critic of method `"iql"`.
        processor: Its processor.
        dataset: Trajectories, one row an episode; the order of the steps is that of `TrajectoryWindows`.
    """
    columns = TrajectoryColumns.of(dataset)
    return in_blocks(
        columns.num_steps,
        lambda steps: model.advantages(
            *_encoded(model, processor, columns.observations.take(steps), columns.actions.take(steps))
        ),
    )


def action_values(
    model: CriticModel, processor: CriticProcessor, observations: np.ndarray, actions: np.ndarray
) -> np.ndarray:
    """The mean over the Q-networks of what is expected after given actions, `(batch,)` float32 discounted raw returns.

    Args:
        model, processor: The critic.
        observations: Raw, `(batch, *observation_shape)`.
        actions: Raw, `(batch, *action_shape)`.
    """
    return network_values(model, processor, observations, actions).mean(-1)


def network_values(
    model: CriticModel, processor: CriticProcessor, observations: np.ndarray, actions: np.ndarray
) -> np.ndarray:
    """As `action_values`, what each Q-network expects: `(batch, num_critics)` float32 discounted raw returns."""
    return in_blocks(
        len(observations),
        lambda rows: model.q_values(*_encoded(model, processor, observations[rows], actions[rows])),
    )


def advantage_weights(advantages: np.ndarray, beta: float = 1.0, largest: float = _LARGEST_WEIGHT) -> np.ndarray:
    """Weights `exp(beta * A / std(A))` of the actions in a loss (advantage-weighted regression, Peng et al., 2019; implicit
    Q-learning, equation 7), clipped and then divided by their mean.

    Args:
        advantages: `(steps,)`.
        beta: How sharply good actions are preferred, per standard deviation of the advantages; 0 for not at all.
        largest: Weights above it are clipped, before they are divided by their mean.

    Returns:
        `(steps,)` float32 with mean 1.

    Example:
        >>> [round(float(weight), 3) for weight in advantage_weights(np.array([-1.0, 1.0]), beta=0.5)]
        [0.538, 1.462]
    """
    if beta < 0:
        raise ValueError(f"beta is {beta}: expected a number of at least 0.")
    advantages = np.asarray(advantages, np.float64)
    exponents = beta * advantages / max(advantages.std(), 1e-12)
    weights = np.exp(np.minimum(exponents, np.log(largest)))
    return (weights / weights.mean()).astype(np.float32)


def critic_weights(name_or_path: str, dataset: "Dataset", beta: float) -> np.ndarray:
    """The weights of the steps of a data set by the advantages of a saved critic (a folder or Hub id), `(steps,)`."""
    critic, processor = CriticModel.from_pretrained(name_or_path), CriticProcessor.from_pretrained(name_or_path)
    return advantage_weights(step_advantages(critic.eval(), processor, dataset), beta)


def _encoded(
    model: CriticModel, processor: CriticProcessor, observations: np.ndarray, actions: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    arrays = processor.encode_observations(observations), processor.encode_actions(actions)
    observed, taken = (torch.from_numpy(np.asarray(array)).to(model.device) for array in arrays)
    return observed, taken


@torch.no_grad()
def in_blocks(count: int, values: Callable[[np.ndarray], torch.Tensor]) -> np.ndarray:
    """`values(rows)` of all of `count` rows, some at a time, one after the other."""
    blocks = [np.arange(start, min(start + _STEPS_AT_ONCE, count)) for start in range(0, count, _STEPS_AT_ONCE)]
    return np.concatenate([values(rows).cpu().numpy() for rows in blocks])
