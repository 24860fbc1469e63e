"""What a critic says, in raw units and arrays."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from hf_seqrl.models.critic.advantages import action_values, in_blocks
from hf_seqrl.models.critic.modeling_critic import CriticModel
from hf_seqrl.models.critic.processing_critic import CriticProcessor

if TYPE_CHECKING:
    from collections.abc import Callable


class CriticValues:
    """See [`~hf_seqrl.models.values.Values`].

    Args:
        model, processor: The critic.
    """

    def __init__(self, model: CriticModel, processor: CriticProcessor) -> None:
        self._model, self._processor = model, processor
        self.return_discount = processor.return_discount

    def action_values(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The mean over the Q-networks, `(n,)`, discounted raw returns."""
        return action_values(self._model, self._processor, observations, actions)

    def state_values(self, observations: np.ndarray) -> np.ndarray:
        """V, `(n,)`, discounted raw returns."""
        return self._of(observations, lambda states, rows: self._model.state_values(states))

    def supported_returns(self, observations: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        """The expectile of the returns of the data, `(n,)`, raw.

        Raises:
            ValueError: the critic was trained without `return_expectile`.
        """
        times = torch.from_numpy(self._processor.encode_times(timesteps)).to(self._model.device)
        return self._of(observations, lambda states, rows: self._model.return_values(states, times[rows]))

    def _of(
        self, observations: np.ndarray, values: "Callable[[torch.Tensor, np.ndarray], torch.Tensor]"
    ) -> np.ndarray:
        def of_rows(rows: np.ndarray) -> torch.Tensor:
            states = self._processor.encode_observations(observations[rows])
            return values(torch.from_numpy(np.asarray(states)).to(self._model.device), rows)

        return in_blocks(len(observations), of_rows)
