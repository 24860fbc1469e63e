"""The base class of all actors: seeds, target returns, and histories."""

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.spaces import Space

from hf_seqrl.data.joint_actions import joint_codes, num_joint_actions
from hf_seqrl.data.task import Task
from hf_seqrl.models.episode import EpisodeInProgress
from hf_seqrl.models.random_streams import uniform_noise
from hf_seqrl.models.step_checks import (
    HISTORY,
    StepChecks,
    checked_dones,
    checked_history,
    checked_rewards,
    warn_of_far_targets,
    warn_of_growing_returns,
)

if TYPE_CHECKING:
    from typing_extensions import Self


AUTO = "auto"


class Actor(ABC):
    """Chooses the actions of `num_envs` parallel episodes, each with its own history.

    The calls of one step are `act` (before the environments step) and `observe` (after). Every episode depends
    only on its own history, target and seed: the same episode has the same actions whatever runs in parallel.

    **Seeds.** An int `seed` gives episode `i` the seed `seed + i`; an array gives one seed per episode; `None` draws one. When
    an episode ends, the next one in the same environment has a new random stream, unless `restart` gives a seed.

    **Target returns** are raw. An actor that is not conditioned on a return raises an error for one. When an episode ends, the next one
    starts with the full target again. With `"auto"` each episode asks, at its first observation, for a high return that the data
    support: what `return_estimator` says or, without one, the 0.95 quantile of the returns of the data.

    A family implements `_allocate`, `_begin`, `_choose`, `_remember` and `_keep`; where it can take in a step without choosing,
    also `_absorb`; where a batch of many is faster than many and gives the same actions, also `_choose_together`; where only the last steps matter, also `memory`; where a choice depends on more than the history, such as a
    plan made earlier, also `own_state` and `restore_own_state`; where it draws
    from a distribution that it can name, also `_probabilities`.

    Args:
        task: The task of one environment. Unknown spaces are not checked.
        conditioned: Whether the actions depend on a return-to-go.
        deterministic: Whether the actions do not depend on random numbers.
        target_returns: Raw returns; the first is the default.
        discount: Discount of the returns-to-go.
        missing_values: What to do about NaN in an observation: `"error"` raises, `"last"` replaces it with the last finite value of
            that entry (`0` if there was none yet).

    Attributes:
        num_envs: The number of running episodes; 0 before `reset`.
        timesteps: `(num_envs,)` int64, the number of past steps of each episode.
        return_estimator: `return_estimator(observations, timesteps)` gives the raw returns-to-go `(n,)` that `"auto"` asks for.
    """

    return_estimator: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    _chosen: np.ndarray | None = None

    def __init__(
        self,
        task: Task | None = None,
        *,
        conditioned: bool = False,
        deterministic: bool = True,
        target_returns: Sequence[float] = (),
        discount: float = 1.0,
        missing_values: str = "error",
    ) -> None:
        if missing_values not in ("error", "last"):
            raise ValueError(f"missing_values is {missing_values!r}: expected 'error' or 'last'.")
        self.task = task or Task()
        self.is_conditioned = conditioned
        self.deterministic = deterministic
        self.target_returns = [float(target) for target in target_returns]
        self.discount = discount
        self.missing_values = missing_values
        self.num_envs = 0
        self.timesteps = np.zeros(0, np.int64)
        self._awaits_observation = True
        self._has_told = False  # what "auto" asks for

    # What a family implements

    @abstractmethod
    def _allocate(self, num_envs: int) -> None:
        """Allocate the histories of `num_envs` episodes, with the model's current weights."""

    @abstractmethod
    def _begin(self, env_indices: np.ndarray) -> None:
        """Clear the histories of these environments `(n,)`, where new episodes begin."""

    @abstractmethod
    def _choose(self, observations: np.ndarray) -> np.ndarray:
        """Actions `(num_envs, *action_shape)` for raw, checked observations `(num_envs, *observation_shape)`."""

    @abstractmethod
    def _remember(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Add the step after the last observations: the executed actions
        `(num_envs, *action_shape)` and the raw rewards `(num_envs,)`. Ended episodes are restarted afterwards."""

    @abstractmethod
    def _keep(self, env_indices: np.ndarray) -> None:
        """Reorder the histories: environment `i` becomes what environment `env_indices[i]` was."""

    def _absorb(self, observations: np.ndarray) -> None:
        """Process the raw observations of a step whose actions are known; by default calls `_choose`."""
        self._choose(observations)

    def _choose_together(self, actors: "Sequence[Self]") -> list[np.ndarray]:
        """`_choose` of twins, each for the one episode that it has, `(1, *action_shape)` each; one after the other by default."""
        return [actor._choose(actor._observed) for actor in actors]

    @property
    def memory(self) -> int | None:
        """How many past steps a choice can depend on, beside the number of the step and the return-to-go; `None` for all."""
        return None

    def own_state(self) -> dict[str, np.ndarray]:
        """What a choice of the first environment depends on beside its history, by name; nothing by default."""
        return {}

    def restore_own_state(self, state: Mapping[str, np.ndarray], corrected: bool) -> None:
        """Take over what `own_state` gave; `corrected`: the history has been corrected since then."""
        if state:
            raise ValueError(
                f"the state holds {', '.join(state)}, which this agent does not have: it is of another one."
            )

    def _probabilities(self) -> np.ndarray | None:
        """The distribution from which the last call of `_choose` drew, `(num_envs, num_joint_actions)`; asked of actors that are
        not deterministic and have discrete actions. `None`, the default: it cannot be named."""
        return None

    # What users call

    def reset(
        self, num_envs: int, target_return: Any = None, seed: Any = None, history: Sequence[Mapping] | None = None
    ) -> None:
        """Begin `num_envs` new episodes.

        Args:
            num_envs: The number of episodes.
            target_return (`float`, `(num_envs,)` or `"auto"`, *optional*): Raw target returns; defaults to the first of
                `target_returns`.
            seed (`int` or `(num_envs,)` ints, *optional*): Random seeds; see above.
            history (list of mappings, *optional*): The past steps of episodes in progress:
                `observations` `(steps, *observation_shape)`, the executed `actions` `(steps, *action_shape)`, and
                `rewards` `(steps,)`, raw. `target_return` is that of the whole episode, these rewards
                included.

        Raises:
            ValueError: a target for an actor that is not conditioned, a missing target, a value that is not finite, or a
                history of another shape.
        """
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}: expected at least 1.")
        targets = self._targets(num_envs, target_return)
        seeds = self._spread(seed, num_envs)
        self._make_room(num_envs)
        self._start(np.arange(num_envs), targets, seeds)
        if history is not None:
            self._replay(checked_history(history, num_envs))

    def restart(self, env_indices: np.ndarray, target_return: Any = None, seed: Any = None) -> None:
        """Begin new episodes in these environments `(n,)`; the others continue. `None` keeps the target and the random stream.

        Args:
            env_indices: The environments, `(n,)`.
            target_return: Raw, a float, `(n,)` or `"auto"`.
            seed: An int, with `seed + i` for environment `env_indices[i]`, or `(n,)` ints.
        """
        env_indices = np.asarray(env_indices, dtype=np.int64)
        targets = None if target_return is None else self._targets(len(env_indices), target_return)
        self._start(env_indices, targets, None if seed is None else self._spread(seed, len(env_indices)))

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Choose actions.

        Args:
            observations: Raw, `(num_envs, *observation_shape)`.

        Returns:
            `(num_envs, *action_shape)`, in the action space.

        Raises:
            RuntimeError: `reset` was not called.
            ValueError: observations of another shape, or with values that are not finite.
        """
        self._take_in(observations, "act")
        return self._take_over(self._choose(self._observed))

    @staticmethod
    def act_together(actors: "Sequence[Actor]", observations: Sequence[np.ndarray]) -> list[np.ndarray]:
        """`act` of twins of one actor, each with one episode: the same actions, in one batch where the family can.

        Args:
            actors: See `twin`.
            observations: One for each, raw, `(*observation_shape)`.

        Returns:
            The actions, `(*action_shape)` each.

        Raises:
            RuntimeError, ValueError: as for `act`, for any of them.
        """
        for actor, observation in zip(actors, observations, strict=True):
            actor._take_in(observation[None], "act")
        chosen = actors[0]._choose_together(actors)
        return [actor._take_over(action)[0] for actor, action in zip(actors, chosen, strict=True)]

    def watch(self, observations: np.ndarray) -> None:
        """Take in observations `(num_envs, *observation_shape)` for which somebody else chooses; `observe` tells the actions.

        Raises:
            RuntimeError: `reset` was not called.
            ValueError: as for `act`.
        """
        self._take_in(observations, "watch")
        self._absorb(self._observed)
        self._chosen = None
        self._awaits_observation = False

    def _take_in(self, observations: np.ndarray, call: str) -> None:
        if not self.num_envs:
            raise RuntimeError(f"{call} was called before reset: call reset(num_envs) first to begin the episodes.")
        self._observed = self._checks.observations(observations, self.timesteps)
        self._set_open_targets()

    def _take_over(self, actions: np.ndarray) -> np.ndarray:
        self._chosen = self._checks.actions(actions, self.timesteps)
        self._awaits_observation = False
        return self._chosen

    def observe(self, rewards: np.ndarray, dones: np.ndarray, actions: np.ndarray | None = None) -> None:
        """Update the histories with the result of the actions.

        Args:
            rewards: Raw, `(num_envs,)`.
            dones: Whether the episodes ended, `(num_envs,)`. The next `act` begins new ones there with the same target.
            actions: The executed actions, `(num_envs, *action_shape)`, if they are not the chosen ones.

        Raises:
            RuntimeError: neither `act` nor `watch` was called since the last call, or only `watch` and `actions` is missing.
            ValueError: rewards, dones or actions of another shape, or values that are not finite.
        """
        if self._awaits_observation:
            raise RuntimeError("observe was called before act: choose actions for the current observations first.")
        rewards, dones = checked_rewards(rewards, self.timesteps), checked_dones(dones, self.num_envs)
        executed = self._chosen if actions is None else self._checks.actions(actions, self.timesteps, chosen=False)
        if executed is None:
            raise RuntimeError("somebody else chose for the observations that were watched: tell observe the actions.")
        self._advance(executed, rewards)
        ended = np.flatnonzero(dones)
        if len(ended):
            self._episodes[ended] += np.uint64(1)
            self._start(ended, None, None)

    def action_probabilities(self, action_space: Space | None = None) -> np.ndarray | None:
        """The distribution from which the last actions were drawn, for discrete actions.

        Args:
            action_space: Of one environment, for actors whose task does not name it.

        Returns:
            `(num_envs, num_joint_actions)`, in the order of [`~hf_seqrl.data.joint_actions.joint_codes`]; one-hot for a
            deterministic actor. `None` where actions are continuous, or where the actor draws them in a way whose
            probabilities are not known (a planner that samples).

        Raises:
            RuntimeError: `act` was not called since the last `observe`.
        """
        if self._awaits_observation or self._chosen is None:
            raise RuntimeError("action_probabilities was called before act: choose actions first.")
        known = None if self.task.action_space is None else self.task.actions
        space = action_space or known
        count = None if space is None else num_joint_actions(space)
        if space is None or count is None:
            return None
        return np.eye(count)[joint_codes(space, self._chosen)] if self.deterministic else self._probabilities()

    def select(self, env_indices: np.ndarray) -> None:
        """Keep only these environments, in this order: `num_envs` becomes `len(env_indices)`."""
        env_indices = np.asarray(env_indices, dtype=np.int64)
        self.num_envs = len(env_indices)
        for name in ("timesteps", "_target_returns", "_returns_to_go", "_seeds", "_episodes"):
            setattr(self, name, getattr(self, name)[env_indices])
        self._checks.select(env_indices)
        if not self._awaits_observation:
            self._observed = self._observed[env_indices]
            self._chosen = None if self._chosen is None else self._chosen[env_indices]
        self._keep(env_indices)

    def resume(self, episode: EpisodeInProgress, corrected: bool = False) -> None:
        """Go on with one episode where another actor of the same agent left it; `num_envs` becomes 1.

        Args:
            episode: With at least the last `memory` steps.
            corrected: Whether its steps have been corrected since its `own_state` was taken.

        Raises:
            ValueError: its steps do not fit the spaces.
        """
        self._make_room(1)
        only = np.zeros(1, np.int64)
        self._start(only, np.array([episode.target_return or 0.0]), np.array([episode.seed], np.uint64))
        self._place(only, np.array([episode.first_timestep]), np.array([episode.return_to_go]))
        for step in range(episode.num_steps):
            self._observed = self._checks.observations(episode.observations[step][None], self.timesteps)
            self._absorb(self._observed)
            action = self._checks.actions(episode.actions[step][None], self.timesteps, chosen=False)
            self._advance(action, checked_rewards([episode.rewards[step]], self.timesteps))
        if episode.observed is not None:
            self.watch(episode.observed[None])
            chosen = episode.chosen
            self._chosen = None if chosen is None else self._checks.actions(chosen[None], self.timesteps)
        self.restore_own_state(episode.own_state, corrected)

    def twin(self) -> "Self":
        """An actor for episodes of its own that reads the same weights; call `reset` to begin. Where the weights are
        arranged for acting, it keeps those of now, and they take memory once for all twins."""
        twin = copy.copy(self)
        twin.num_envs, twin.timesteps, twin._awaits_observation = 0, np.zeros(0, np.int64), True
        return twin

    @property
    def interventions(self) -> dict[str, int]:
        """How many actions each constraint has changed since `reset`, by its name; see `hf_seqrl.Constrained`."""
        return {}

    @property
    def observed(self) -> np.ndarray:
        """The observations of the step under way, `(num_envs, *observation_shape)`, with missing values filled in."""
        return self._observed

    @property
    def returns_to_go(self) -> np.ndarray:
        """The raw return-to-go of each episode, `(num_envs,)`.

        Raises:
            ValueError: the actor is not conditioned on a return.
        """
        if not self.is_conditioned:
            raise ValueError("this agent has no returns-to-go: it is not conditioned on a return.")
        return self._returns_to_go.copy()

    # For families that sample

    def uniform(self, size: int) -> np.ndarray:
        """Random numbers in (0, 1) `(num_envs, size)` that depend only on the seed, the episode and the step."""
        return uniform_noise(self._seeds, self._episodes, self.timesteps, size)

    def stream_seeds(self) -> np.ndarray:
        """A seed for each environment `(num_envs,)` int64 >= 0 that depends on the seed, the episode and the step alone."""
        return (self.uniform(1)[:, 0] * 2.0**53).astype(np.int64)

    def episode_seed(self, env_index: int) -> list[int]:
        """The seed of a random stream of one environment's episode: the seed, and from the second episode with that seed on
        also its number."""
        seed, episode = int(self._seeds[env_index]), int(self._episodes[env_index])
        return [seed, episode] if episode else [seed]

    # Implemented here once

    def _make_room(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.timesteps = np.zeros(num_envs, np.int64)
        self._target_returns, self._returns_to_go = np.zeros(num_envs), np.zeros(num_envs)
        self._seeds, self._episodes = np.zeros(num_envs, np.uint64), np.zeros(num_envs, np.uint64)
        self._checks = StepChecks(self.task, self.missing_values)
        self._awaits_observation, self._has_warned_of_growth = True, False
        self._allocate(num_envs)

    def _place(self, env_indices: np.ndarray, timesteps: np.ndarray, returns_to_go: np.ndarray) -> None:
        """Have episodes that have just begun go on at a later step `(n,)` with a raw return-to-go `(n,)`."""
        self.timesteps[env_indices] = timesteps
        self._returns_to_go[env_indices] = returns_to_go

    def _start(self, env_indices: np.ndarray, targets: np.ndarray | None, seeds: np.ndarray | None) -> None:
        if targets is not None:
            self._target_returns[env_indices] = targets
        if seeds is not None:
            self._seeds[env_indices] = seeds
            self._episodes[env_indices] = 0
        self.timesteps[env_indices] = 0
        self._returns_to_go[env_indices] = self._target_returns[env_indices]
        self._checks.begin(env_indices)
        self._begin(env_indices)

    def _advance(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        self._remember(actions, rewards)
        self._returns_to_go = (self._returns_to_go - rewards) / self.discount
        self.timesteps = self.timesteps + 1
        self._awaits_observation = True
        if self.discount < 1 and self.is_conditioned and not self._has_warned_of_growth:
            self._has_warned_of_growth = warn_of_growing_returns(
                self._returns_to_go, self._target_returns, self.timesteps, self.discount, self.task.return_range
            )

    def _replay(self, history: list[dict[str, np.ndarray]]) -> None:
        """Replay the histories: all end at the same call, the shorter ones begin later."""
        lengths = np.array([len(part["rewards"]) for part in history])
        for step in range(-int(lengths.max(initial=0)), 0):
            begins = np.flatnonzero((lengths == -step) & (self.timesteps > 0))
            if len(begins):
                self._start(begins, None, None)
            rows = [part if len(part["rewards"]) else _blank(history) for part in history]
            at = [max(len(row["rewards"]) + step, 0) for row in rows]
            taken = {name: np.stack([row[name][i] for row, i in zip(rows, at)]) for name in HISTORY}
            self._observed = self._checks.observations(taken["observations"], self.timesteps)
            self._set_open_targets()
            self._absorb(self._observed)
            self._advance(taken["actions"], taken["rewards"])
        unbegun = np.flatnonzero((lengths == 0) & (self.timesteps > 0))
        if len(unbegun):
            self._start(unbegun, None, None)

    def _targets(self, count: int, target_return: Any) -> np.ndarray:
        if not self.is_conditioned:
            if target_return is not None:
                raise ValueError(
                    f"target_return is {target_return}, but this agent is not conditioned on a return: leave it out."
                )
            return np.zeros(count)
        if target_return is None:
            if not self.target_returns:
                raise ValueError(
                    "target_return is None and the processor has no target_returns: give the return to reach."
                )
            target_return = self.target_returns[0]
        if isinstance(target_return, str) and target_return == AUTO:
            return np.full(count, np.nan)  # until the first observation
        try:
            targets = np.asarray(target_return, dtype=np.float64)
        except (TypeError, ValueError):
            targets = np.array(np.nan)
        if targets.ndim > 1 or (targets.ndim == 1 and len(targets) != count) or not np.isfinite(targets).all():
            raise ValueError(
                f"target_return is {target_return!r}: expected a finite number, one for each of {count}, or 'auto'."
            )
        warn_of_far_targets(targets, self.task.return_range)
        return np.broadcast_to(targets, count)

    def _set_open_targets(self) -> None:
        """Where `"auto"` is asked for and an episode begins, ask for what the data support from this observation on."""
        begins = np.flatnonzero(np.isnan(self._returns_to_go))
        if not len(begins):
            return
        if self.return_estimator is None:
            self._returns_to_go[begins] = self._high_return()
        else:
            self._returns_to_go[begins] = self.return_estimator(self._observed[begins], self.timesteps[begins])

    @property
    def high_return(self) -> float | None:
        """What `"auto"` asks for without a `return_estimator`, raw, if it is known."""
        return next(iter(self.target_returns), None) if self.task.high_return is None else self.task.high_return

    def _high_return(self) -> float:
        high = self.high_return
        if high is None:
            raise ValueError(
                "target_return is 'auto', but there is no critic, and neither returns of the data nor targets were saved with "
                "this agent: give the return to reach."
            )
        if not self._has_told:
            self._has_told = True
            warnings.warn(
                f"target_return is 'auto' and there is no critic that knows the state: {high:.6g} is asked for, a high return of the "
                "data.",
                stacklevel=5,
            )
        return high

    @staticmethod
    def _spread(seed: Any, count: int) -> np.ndarray:
        if seed is None:
            seed = np.random.SeedSequence().generate_state(1, np.uint64)[0]
        if np.ndim(seed) == 0:
            return np.uint64(seed) + np.arange(count, dtype=np.uint64)
        seeds = np.asarray(seed)
        if len(seeds) != count:
            raise ValueError(
                f"seed has {len(seeds)} entries: expected an int, or one for each of {count} environments."
            )
        return seeds.astype(np.uint64)


def _blank(history: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """A step of any history, as padding for an episode without one: it is cleared before it counts."""
    return next(part for part in history if len(part["rewards"]))
