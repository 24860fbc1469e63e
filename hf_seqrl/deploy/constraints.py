"""Constraints at the edge: rules that every action must keep, whatever the agent chooses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_seqrl.data.task import Task
from hf_seqrl.deploy.user_values import UserValues
from hf_seqrl.evaluation.policies import Policy, as_actor
from hf_seqrl.models.wrapper import ActorWrapper

# rule(actions (n, *action_shape), observations (n, *observation_shape), previous actions or NaN (n, *action_shape)) -> actions
Rule = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
Limits = float | Sequence[float] | Mapping[str, float]


class Constrained(ActorWrapper):
    """An agent whose actions keep rules: for `rollout`, for [`~hf_seqrl.deploy.controller.Controller`], for everything that takes an
    actor.

    The rules are applied in the given order, so the last one has the last word. What they make of an action is executed, and the
    agent's history holds what was executed.

    Args:
        agent: An `Agent`, another `Actor`, or a callable. Its weights are those of now.
        rules: [`Bounds`], [`RateLimit`], [`Forbidden`], or a callable `rule(actions, observations, previous)` that returns
            actions: arrays with a first axis of parallel episodes, `previous` the executed actions of the last step as `float64`,
            NaN at the first step of an episode.

    Raises:
        ValueError: a rule names a column or a word that the agent's data did not have.

    Example:
        >>> eager = lambda observations: 2.0 * observations
        >>> safe = Constrained(eager, RateLimit(0.5), Bounds(0.0, 1.0))
        >>> safe.reset(1)
        >>> first = safe.act(np.array([[0.3]]))
        >>> safe.observe([0.0], [False])
        >>> first, safe.act(np.array([[3.0]])), safe.interventions
        (array([[0.6]]), array([[1.]]), {'RateLimit': 1, 'Bounds': 1})
    """

    def __init__(self, agent: Policy, *rules: "Rule | Bounds | RateLimit | Forbidden") -> None:
        super().__init__(as_actor(agent).twin())
        if not rules:
            raise ValueError("there is no rule: give Bounds(...), RateLimit(...), Forbidden(...) or a function.")
        self._rules = [
            rule.bound(self.task) if isinstance(rule, Bounds | RateLimit | Forbidden) else rule for rule in rules
        ]
        self._names = _distinct([getattr(rule, "__name__", type(rule).__name__) for rule in rules])
        self._counts = np.zeros(len(rules), np.int64)

    @property
    def interventions(self) -> dict[str, int]:
        """For each rule, how many actions it changed since `reset`."""
        return dict(zip(self._names, self._counts.tolist()))

    @property
    def memory(self) -> int | None:
        within = super().memory
        return None if within is None else max(within, 1)

    def own_state(self) -> dict[str, np.ndarray]:
        return super().own_state() | {"interventions": self._counts.copy()}

    def restore_own_state(self, state: Mapping[str, np.ndarray], corrected: bool) -> None:
        within = dict(state)
        counts = within.pop("interventions", self._counts)
        if counts.shape != self._counts.shape:
            raise ValueError(
                f"the state counts {len(counts)} rules, this agent has {len(self._counts)}: give it the same ones."
            )
        self._counts = counts.copy()
        super().restore_own_state(within, corrected)

    def _allocate(self, num_envs: int) -> None:
        super()._allocate(num_envs)
        self._counts = np.zeros(len(self._rules), np.int64)
        self._previous: np.ndarray | None = None

    def _begin(self, env_indices: np.ndarray) -> None:
        super()._begin(env_indices)
        if self._previous is not None:
            self._previous[env_indices] = np.nan

    def _changed(self, actions: np.ndarray, observations: np.ndarray) -> np.ndarray:
        previous = np.full(actions.shape, np.nan) if self._previous is None else self._previous
        for index, rule in enumerate(self._rules):
            kept = np.asarray(rule(actions.copy(), observations, previous.copy()))
            if kept.shape != actions.shape:
                raise ValueError(
                    f"the rule {self._names[index]} made actions of shape {kept.shape}: expected {actions.shape}."
                )
            kept = kept.astype(actions.dtype)
            self._counts[index] += (kept != actions).reshape(len(actions), -1).any(axis=1).sum()
            actions = kept
        return actions

    def _remember(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        super()._remember(actions, rewards)
        self._previous = np.array(actions, dtype=np.float64)

    def _keep(self, env_indices: np.ndarray) -> None:
        super()._keep(env_indices)
        self._previous = None if self._previous is None else self._previous[env_indices]


@dataclass(frozen=True)
class Bounds:
    """Moves each entry of an action into `low .. high`, in the unit of the action.

    Attributes:
        low, high: A number for all entries, one for each `(*action_shape)`, or a mapping from the names of the action's columns; those
            that it does not name are not bounded.
    """

    low: Limits = -np.inf
    high: Limits = np.inf

    def bound(self, task: Task) -> Rule:
        """The rule for the actions of this task."""
        low, high = _limits(self.low, task, -np.inf), _limits(self.high, task, np.inf)
        if (low > high).any():
            raise ValueError(f"the bounds are {self.low} .. {self.high}: expected low <= high.")
        return lambda actions, observations, previous: np.clip(actions, low, high)


@dataclass(frozen=True)
class RateLimit:
    """Lets each entry of an action differ from the action executed before by no more than this; the first action of an episode is free.

    Attributes:
        most: As the limits of [`Bounds`], > 0, in the unit of the action a step.
    """

    most: Limits

    def bound(self, task: Task) -> Rule:
        """The rule for the actions of this task."""
        most = _limits(self.most, task, np.inf)
        if not (most > 0).all():
            raise ValueError(f"the greatest change is {self.most}: expected numbers > 0.")

        def limited(actions: np.ndarray, observations: np.ndarray, previous: np.ndarray) -> np.ndarray:
            before = np.where(np.isnan(previous), actions, previous)
            return np.clip(actions, before - most, before + most)

        return limited


@dataclass(frozen=True)
class Forbidden:
    """Replaces discrete actions that are not allowed by one that is.

    Attributes:
        actions: The forbidden ones, as the data had them (words or numbers).
        instead: The action that takes their place.
        when: `when(observations)` gives booleans `(n,)`: where the actions are forbidden; everywhere by default.
    """

    actions: Sequence[Any]
    instead: Any
    when: Callable[[np.ndarray], np.ndarray] | None = None

    def bound(self, task: Task) -> Rule:
        """The rule for the actions of this task."""
        if task.action_space is not None and task.action_space["type"] == "Box":
            raise ValueError("the actions are numbers of a Box: limit them by Bounds, or by a function of your own.")
        values = UserValues(task)
        forbidden, instead = [values.executed(action) for action in self.actions], values.executed(self.instead)
        if any(np.array_equal(action, instead) for action in forbidden):
            raise ValueError(f"{self.instead!r} is to take the place of what is forbidden, and is forbidden itself.")

        def allowed(actions: np.ndarray, observations: np.ndarray, previous: np.ndarray) -> np.ndarray:
            wrong = np.zeros(len(actions), bool)
            for action in forbidden:
                wrong |= (actions == action).reshape(len(actions), -1).all(axis=1)
            if self.when is not None:
                wrong &= np.asarray(self.when(observations), bool)
            actions[wrong] = instead
            return actions

        return allowed


def constrained_by(agent: Policy, rules: Any) -> Policy:
    """The agent under rules as a YAML file writes them: a list of mappings with one entry each.

    Args:
        agent: As [`Constrained`] takes it.
        rules: For instance `[{"bounds": {"low": 0, "high": 0.8}}, {"rate_limit": 0.05}]`, or
            `[{"forbidden": {"actions": ["open"], "instead": "hold"}}]`; the entries are the arguments of [`Bounds`], [`RateLimit`] and
            [`Forbidden`].

    Raises:
        ValueError: a rule that is none of them.
    """
    if not isinstance(rules, list):
        raise ValueError(f"the rules are {rules!r}: expected a list, with `- bounds: ...` for instance.")
    return Constrained(agent, *map(_rule, rules)) if rules else agent


def _rule(written: Any) -> "Bounds | RateLimit | Forbidden":
    kinds: dict[str, Any] = {"bounds": Bounds, "rate_limit": RateLimit, "forbidden": Forbidden}
    if not isinstance(written, Mapping) or len(written) != 1 or not set(written) <= set(kinds):
        raise ValueError(f"a rule is {written!r}: expected one of {', '.join(kinds)} with its limits.")
    ((name, value),) = written.items()
    try:
        return kinds[name](**value) if name != "rate_limit" else RateLimit(value)
    except TypeError as error:
        raise ValueError(f"the rule {name} is {value!r}: {error}") from error


def _limits(limits: Limits, task: Task, absent: float) -> np.ndarray:
    """A number, an array of the shape of an action, or named limits in the order of the action's columns."""
    if not isinstance(limits, Mapping):
        return np.asarray(limits, dtype=np.float64)
    names = task.action_names or ()
    for name in limits:
        if name not in names:
            raise ValueError(
                f"the limits name {name!r}: expected one of {', '.join(names) or 'no name, the data had none'}."
            )
    return np.array([limits.get(name, absent) for name in names], dtype=np.float64)


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, those that occur again with a number."""
    return [name if (n := names[:i].count(name)) == 0 else f"{name}_{n + 1}" for i, name in enumerate(names)]
