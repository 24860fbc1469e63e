"""Choosing by value: actors around another one, which a critic helps to choose."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from hf_seqrl.models.actor import Actor


class Values(Protocol):
    """What a critic says, raw: `ModelFamily.make_values` gives it.

    Attributes:
        return_discount: Of `supported_returns`.
    """

    return_discount: float

    def action_values(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """What is expected after actions `(n, *action_shape)` at observations `(n, *observation_shape)`: `(n,)`, discounted."""

    def state_values(self, observations: np.ndarray) -> np.ndarray:
        """What is expected from observations `(n, *observation_shape)` on: `(n,)`, discounted."""

    def supported_returns(self, observations: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        """A high expectile of what episodes of the data achieve from observations `(n, *observation_shape)` at `timesteps` `(n,)`
        on: `(n,)`, discounted by `return_discount`."""


class BestOfCandidates(Actor):
    """Takes, at every step, the action with the highest value among those that another actor proposes.

    The proposals are those at several target returns, or several draws. Every proposer lives through the same episode and is told
    what was executed.

    Args:
        actor: What proposes. It belongs to this actor from now on.
        values: What a critic says.
        targets: Raw target returns to propose actions for, at least two.
        draws: How many actions to draw, at least two, from an actor that samples. Give one of the two.

    Raises:
        ValueError: not one of the two is given, there is nothing to choose from, or the actor does not fit.
    """

    def __init__(
        self, actor: Actor, values: Values, targets: Sequence[float] | None = None, draws: int | None = None
    ) -> None:
        if isinstance(targets, str) or not isinstance(targets, Sequence | np.ndarray | None):
            raise ValueError(f"candidate_targets is {targets!r}: expected a list of returns.")
        if isinstance(draws, bool) or not isinstance(draws, int | None):
            raise ValueError(f"candidate_actions is {draws!r}: expected a number of actions.")
        count = len(targets) if targets is not None else draws or 0
        if (targets is None) == (draws is None) or count < 2:
            raise ValueError(
                f"candidate_targets is {targets} and candidate_actions is {draws}: expected one of them, and at least two candidates."
            )
        if targets is not None and not np.isfinite(np.asarray(targets, np.float64)).all():
            raise ValueError(f"candidate_targets is {targets}: expected finite returns.")
        if targets is not None and not actor.is_conditioned:
            raise ValueError("candidate_targets are for an agent that is conditioned on a return: leave them out.")
        if draws is not None and actor.deterministic:
            raise ValueError(
                f"candidate_actions is {draws}, but this agent always takes the same action: let it sample, for instance with "
                "temperature=1.0 or deterministic=False."
            )
        super().__init__(
            actor.task,
            conditioned=actor.is_conditioned and targets is None,
            deterministic=actor.deterministic,
            target_returns=actor.target_returns if targets is None else (),
            discount=actor.discount,
            missing_values=actor.missing_values,
        )
        self.values, self.return_estimator = values, actor.return_estimator
        self._targets_asked = None if targets is None else [float(target) for target in targets]
        self.actors = [actor, *(Actor.twin(actor) for _ in range(count - 1))]  # which read the model at every reset

    @property
    def memory(self) -> int | None:
        return self.actors[0].memory

    def twin(self) -> "BestOfCandidates":
        twin = super().twin()
        twin.actors = [actor.twin() for actor in self.actors]
        return twin

    def _allocate(self, num_envs: int) -> None:
        for actor in self.actors:
            actor._make_room(num_envs)

    def _begin(self, env_indices: np.ndarray) -> None:
        for number, actor in enumerate(self.actors):
            targets = self._target_returns[env_indices] if self._targets_asked is None else self._targets_asked[number]
            actor._target_returns[env_indices] = targets
            actor._seeds[env_indices] = self._seeds[env_indices] + np.uint64(number << 40)  # streams of their own
            actor._episodes[env_indices] = self._episodes[env_indices]
            actor._start(env_indices, None, None)

    def _place(self, env_indices: np.ndarray, timesteps: np.ndarray, returns_to_go: np.ndarray) -> None:
        super()._place(env_indices, timesteps, returns_to_go)
        for actor in self.actors:
            ahead = (
                0.0  # of this actor's own return-to-go, which begins at 0 where the candidates have their own targets
            )
            if self._targets_asked is not None:
                ahead = actor._target_returns[env_indices] / self.discount**timesteps
            actor._place(env_indices, timesteps, returns_to_go + ahead)

    def _choose(self, observations: np.ndarray) -> np.ndarray:
        proposed = np.stack([actor.act(observations) for actor in self.actors])  # (candidates, num_envs, ...)
        repeated = np.concatenate([observations] * len(self.actors))
        values = self.values.action_values(repeated, proposed.reshape(-1, *proposed.shape[2:]))
        best = values.reshape(len(self.actors), -1).argmax(axis=0)
        return proposed[best, np.arange(len(best))]

    def _absorb(self, observations: np.ndarray) -> None:
        for actor in self.actors:
            actor.watch(observations)

    def _remember(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        goes_on = np.zeros(len(rewards), bool)  # an episode that ended is begun anew by `_begin`
        for actor in self.actors:
            actor.observe(rewards, goes_on, actions)

    def _keep(self, env_indices: np.ndarray) -> None:
        for actor in self.actors:
            actor.select(env_indices)
