"""What a trained critic says about the steps of a data set, and the weights that follow from it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
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
    return AdvantageScale.of(advantages, beta, largest).weights(advantages)


@dataclass(frozen=True)
class AdvantageScale:
    """The rule of `advantage_weights` with the figures of one data set.

    Attributes:
        beta, largest: See `advantage_weights`.
        deviation: The standard deviation of the advantages.
        mean: Of the weights before they are divided by it.
    """

    beta: float
    largest: float
    deviation: float
    mean: float = 1.0

    @classmethod
    def of(cls, advantages: np.ndarray, beta: float, largest: float = _LARGEST_WEIGHT) -> "AdvantageScale":
        """The rule for these advantages `(steps,)`."""
        if beta < 0:
            raise ValueError(f"beta is {beta}: expected a number of at least 0.")
        advantages = np.asarray(advantages, np.float64)
        scale = cls(beta, largest, max(advantages.std(), 1e-12))
        return replace(scale, mean=scale._unscaled(advantages).mean())

    def weights(self, advantages: np.ndarray) -> np.ndarray:
        """The weights of steps, `(steps,)` float32."""
        return (self._unscaled(np.asarray(advantages, np.float64)) / self.mean).astype(np.float32)

    def _unscaled(self, advantages: np.ndarray) -> np.ndarray:
        return np.exp(np.minimum(self.beta * advantages / self.deviation, np.log(self.largest)))


class CriticWeights:
    """The weights of steps by the advantages of a saved critic, with the scale of one data set: see `advantage_weights`.

    Args:
        name_or_path: A folder or Hub id.
        dataset: The data set whose advantages give the scale.
        beta: As for `advantage_weights`.
    """

    def __init__(self, name_or_path: str, dataset: "Dataset", beta: float) -> None:
        self._critic = CriticModel.from_pretrained(name_or_path).eval()
        self._processor = CriticProcessor.from_pretrained(name_or_path)
        self._scale = AdvantageScale.of(step_advantages(self._critic, self._processor, dataset), beta)

    def __call__(self, dataset: "Dataset") -> np.ndarray:
        """The weights of the steps of this data set, `(steps,)`."""
        return self._scale.weights(step_advantages(self._critic, self._processor, dataset))


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
