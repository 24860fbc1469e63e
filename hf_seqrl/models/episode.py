"""An episode in progress, as one actor hands it to another."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class EpisodeInProgress:
    """The last steps of one episode, and what the next choice depends on beside them.

    Attributes:
        observations, actions, rewards: The steps: raw observations `(steps, *observation_shape)`, the executed actions
            `(steps, *action_shape)`, raw rewards `(steps,)`.
        target_return: Raw, of the whole episode; `None` for an agent that is not conditioned on a return.
        seed: Of the episode.
        first_timestep: The number of the first of the steps.
        return_to_go: Raw, at the first of the steps.
        observed: The observation `(*observation_shape)` of the step whose reward is awaited, if there is one.
        chosen: The action `(*action_shape)` that was chosen for it; `None` where somebody else chooses.
        own_state: As the actor gave it.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    target_return: float | None
    seed: int
    first_timestep: int = 0
    return_to_go: float = 0.0
    observed: np.ndarray | None = None
    chosen: np.ndarray | None = None
    own_state: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """The number of steps that are there."""
        return len(self.rewards)
