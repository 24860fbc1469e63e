"""An actor around another one, which lives through the same episodes."""

from collections.abc import Mapping, Sequence

import numpy as np

from hf_seqrl.models.actor import Actor


class ActorWrapper(Actor):
    """Passes everything on to the actor within; a subclass changes its actions by `_changed`.

    The actor within is told what was executed, so that its history is that of the episode.

    Args:
        actor: The actor within. It belongs to the wrapper from now on.
    """

    def __init__(self, actor: Actor) -> None:
        super().__init__(
            actor.task,
            conditioned=actor.is_conditioned,
            deterministic=actor.deterministic,
            target_returns=actor.target_returns,
            discount=actor.discount,
            missing_values=actor.missing_values,
        )
        self.actor, self.return_estimator = actor, actor.return_estimator

    @property
    def memory(self) -> int | None:
        return self.actor.memory

    def twin(self) -> "ActorWrapper":
        twin = super().twin()
        twin.actor = self.actor.twin()
        return twin

    def own_state(self) -> dict[str, np.ndarray]:
        return self.actor.own_state()

    def restore_own_state(self, state: Mapping[str, np.ndarray], corrected: bool) -> None:
        self.actor.restore_own_state(state, corrected)

    def _allocate(self, num_envs: int) -> None:
        self.actor._make_room(num_envs)

    def _begin(self, env_indices: np.ndarray) -> None:
        for name in ("_target_returns", "_seeds", "_episodes"):
            getattr(self.actor, name)[env_indices] = getattr(self, name)[env_indices]
        self.actor._start(env_indices, None, None)

    def _place(self, env_indices: np.ndarray, timesteps: np.ndarray, returns_to_go: np.ndarray) -> None:
        super()._place(env_indices, timesteps, returns_to_go)
        self.actor._place(env_indices, timesteps, returns_to_go)

    def _changed(self, actions: np.ndarray, observations: np.ndarray) -> np.ndarray:
        """What becomes of actions `(num_envs, *action_shape)` of the actor within."""
        return actions

    def _choose(self, observations: np.ndarray) -> np.ndarray:
        return self._changed(self.actor.act(observations), observations)

    def _choose_together(self, actors: "Sequence[ActorWrapper]") -> list[np.ndarray]:
        within = Actor.act_together([one.actor for one in actors], [one._observed[0] for one in actors])
        return [one._changed(action[None], one._observed) for one, action in zip(actors, within, strict=True)]

    def _absorb(self, observations: np.ndarray) -> None:
        self.actor.watch(observations)

    def _remember(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        goes_on = np.zeros(len(rewards), bool)  # an episode that ended is started again by `_begin`
        self.actor.observe(rewards, goes_on, actions)

    def _keep(self, env_indices: np.ndarray) -> None:
        self.actor.select(env_indices)
