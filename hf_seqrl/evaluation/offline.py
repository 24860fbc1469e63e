"""Off-policy evaluation: what a policy would achieve, estimated from recorded episodes alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset

from hf_seqrl.evaluation.behavior import Behavior, behavior_of
from hf_seqrl.evaluation.fitted_q import CriticEstimate, fitted_q_values, updates_for
from hf_seqrl.evaluation.importance_sampling import (
    ImportanceWeights,
    behavior_values,
    bootstrap_counts,
    importance_weights,
    weighted_values,
)
from hf_seqrl.evaluation.logged_episodes import LoggedEpisodes, PolicyOnLog, policy_on_log
from hf_seqrl.evaluation.model_based import ImaginedReturns, imagined_returns
from hf_seqrl.evaluation.offline_results import OfflineEvaluation, OverlapReport, ValueEstimate
from hf_seqrl.evaluation.overlap import overlap_report
from hf_seqrl.evaluation.policies import Policy
from hf_seqrl.evaluation.tabular_q import TabularEstimate, TabularQ, fitted_prior_visits, is_tabular, state_codes

_METHODS = ("fqe", "wdr", "dr", "wis", "pdis")
_UNDISCOUNTED_HORIZON = 100
_LONG_DISCOUNT = 0.99
_USUAL_MEAN_WEIGHTS = (0.5, 2.0)
MIN_EFFECTIVE_EPISODES = 20.0
MAX_UNSUPPORTED = 0.3


def evaluate_offline(
    policy: Policy,
    dataset: Dataset,
    *,
    methods: Sequence[str] | None = None,
    target_return: float | None = None,
    discount: float | None = None,
    horizon: int | None = None,
    num_bootstrap: int = 200,
    confidence: float = 0.95,
    num_critics: int = 8,
    critic_steps: int | None = None,
    max_weight: float | None = None,
    min_effective_episodes: float = MIN_EFFECTIVE_EPISODES,
    max_unsupported: float = MAX_UNSUPPORTED,
    world_model: Any = None,
    seed: int = 0,
) -> OfflineEvaluation:
    """Estimate what a policy would achieve from episodes that another policy recorded.

    The estimated value is the mean over initial states of the return `sum_t discount^t r_t` of an episode of at most `horizon`
    steps. The initial states are the first states of the recorded episodes. An episode ends with a termination, after which
    nothing is earned, or at the horizon. A truncation before the horizon is neither: what would have followed is not known,
    and no method takes it for zero.

    An agent is fed the recorded episodes as when it acts, with its target return, its memory, and the recorded actions as the
    executed ones.

    Args:
        policy: An `Agent` or another actor, a callable `observations -> actions` (without memory and the same actions for the same
            observations), `stochastic(...)`, `noisy(...)` or `"random"`.
        dataset (`datasets.Dataset`): Recorded episodes, better ones that the agent was not trained on, one row an episode. A
            column `propensities` (the probability with which each action was taken) is used where there is one.
        methods (list of `str`, *optional*): Defaults to all that the actions allow.

            - `"fqe"`: fitted Q evaluation (Le et al., 2019). Where actions are discrete and states recur, by a table; else by
              networks. For every kind of action.
            - `"wdr"`, `"dr"`: doubly robust (Thomas and Brunskill, 2016; Jiang and Li, 2016), with the values of `"fqe"`.
            - `"wis"`, `"pdis"`: weighted and plain per-decision importance sampling (Precup et al., 2000). These and the
              doubly robust ones are for discrete actions whose probabilities are known.
        target_return (`float`, *optional*): Raw, for agents that take one; defaults to the first of its processor.
        discount (`float`, *optional*): Weight of a reward one step later. Defaults to 1, the return itself, for a horizon of up
            to 100 steps and for tables; else to 0.99.
        horizon (`int`, *optional*): In steps; defaults to the time limit of the task.
        num_bootstrap (`int`, *optional*, defaults to 200): Bootstrap samples of the episodes. Networks are trained on
            `num_critics` of them instead.
        confidence (`float`, *optional*, defaults to 0.95): Of intervals, and of each one-sided bound.
        num_critics (`int`, *optional*, defaults to 8): Q-networks, each with a bootstrap sample of its own; at least 4.
        critic_steps (`int`, *optional*): Updates of the Q-networks; by default, enough for rewards to travel back.
        max_weight (`float`, *optional*): Greater importance weights are cut to it (Ionides, 2008), for example to the square root
            of the number of episodes; not by default, as cutting biases the estimates.
        min_effective_episodes (`float`, *optional*, defaults to 20): Methods that use weights give no number below this
            effective sample size (Kong, 1992).
        max_unsupported (`float`, *optional*, defaults to 0.3): No method gives a number where a greater share of the policy's actions
            is hardly known to the data. Importance sampling gives none either where the mean weight is not between 0.5 and 2.
        world_model (`Agent`, *optional*): A Trajectory Transformer of such data, in which the policy acts from the first states of
            up to 100 episodes: a further estimate, `"model"`, whose interval does not count the error of the model. That is
            reported by the number of steps.
        seed (`int`, *optional*, defaults to 0): Of everything random.

    Returns:
        `OfflineEvaluation`: print its `report()`.

    Raises:
        ValueError: an unknown method, one that the actions do not allow, or an episode longer than the horizon.

    Example:

    ```python
    >>> from hf_seqrl import balance_cartpole, collect, noisy
    >>> dataset = collect(noisy(balance_cartpole, epsilon=0.5), "CartPole-v1", num_episodes=10)
    >>> evaluation = evaluate_offline(noisy(balance_cartpole, epsilon=0.48), dataset, methods=["wis"], discount=0.95)
    >>> evaluation.estimates[0].method, evaluation.horizon
    ('wis', 500)

    ```
    """
    if num_critics < 4:
        raise ValueError(f"num_critics is {num_critics}: expected at least 4, whose spread is the uncertainty.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: expected a number between 0 and 1, both excluded.")
    log = LoggedEpisodes.of(dataset, horizon)
    on_log = policy_on_log(policy, log, target_return, seed)
    states = state_codes(log) if log.num_actions else None
    tabular = states is not None and on_log.probabilities is not None and is_tabular(log, states)
    if discount is None:
        discount = 1.0 if tabular or log.horizon <= _UNDISCOUNTED_HORIZON else _LONG_DISCOUNT
    settings = _Settings(discount, num_bootstrap, confidence, num_critics, critic_steps, max_weight, seed)
    evidence = _Evidence(log, on_log, states if tabular else None, settings)
    asked = _checked_methods(methods, on_log)
    overlap = overlap_report(log, on_log, evidence.behavior, evidence.weights, evidence.table, seed)
    limits = (min_effective_episodes, max_unsupported)
    refusals = {method: _refusal(method, log, overlap, *limits) for method in asked}
    estimates = tuple(
        ValueEstimate(method, None, refused=why) if why else evidence.estimate(method)
        for method, why in refusals.items()
    )
    imagined = None
    if world_model is not None:
        imagined = imagined_returns(world_model, policy, log, discount, target_return, seed)
        estimates = (*estimates, _of_model(imagined, evidence))
    return OfflineEvaluation(
        estimates=estimates,
        behavior=evidence.behavior_estimate,
        overlap=overlap,
        horizon=log.horizon,
        discount=discount,
        confidence=confidence,
        num_episodes=log.num_episodes,
        num_steps=log.num_steps,
        target_return=on_log.target_return,
        model_errors=() if imagined is None else imagined.errors,
    )


def _refusal(
    method: str, log: LoggedEpisodes, overlap: OverlapReport, min_effective_episodes: float, max_unsupported: float
) -> str | None:
    """Why a method gives no number."""
    if (overlap.unsupported or 0) > max_unsupported:
        return (
            f"{100 * (overlap.unsupported or 0):.0f} % of its actions are hardly known to the data, and {100 * max_unsupported:g} % "
            "are allowed."
        )
    if method == "fqe":
        return None
    if overlap.effective_episodes is not None and overlap.effective_episodes < min_effective_episodes:
        return f"its weights leave {overlap.effective_episodes:.1f} effective episodes, and {min_effective_episodes:g} are required."
    if method in ("wdr", "dr"):
        return None
    low, high = _USUAL_MEAN_WEIGHTS
    if overlap.mean_weight is not None and not low <= overlap.mean_weight <= high:
        return (
            f"its weights have the mean {overlap.mean_weight:.2g} instead of 1: the data lack what it does, or its heaviest episodes "
            "were not drawn."
        )
    return _unknown_tail(log)


def _of_model(imagined: ImaginedReturns, evidence: "_Evidence") -> ValueEstimate:
    settings, returns = evidence.settings, imagined.returns
    counts = bootstrap_counts(len(returns), settings.num_bootstrap, settings.seed)
    note = "the interval does not count the error of the model."
    values, behavior = counts @ returns / counts.sum(axis=1), evidence.behavior_resamples
    return ValueEstimate.from_resamples("model", values, behavior, settings.confidence, (note,))


def _unknown_tail(log: LoggedEpisodes) -> str | None:
    if log.unknown_from is None:
        return None
    return (
        f"no episode tells what is earned from step {log.unknown_from} on, as all were cut before the horizon of {log.horizon} steps; "
        "give a shorter horizon, or longer episodes."
    )


def _checked_methods(methods: Sequence[str] | None, policy: PolicyOnLog) -> tuple[str, ...]:
    allowed = _METHODS if policy.probabilities is not None else ("fqe",)
    if methods is None:
        return allowed
    for method in methods:
        if method not in _METHODS:
            raise ValueError(f"method {method!r}: expected one of {', '.join(_METHODS)}.")
        if method not in allowed:
            raise ValueError(
                f"method {method!r} needs the probabilities of the policy's discrete actions, which this policy does not name: "
                "use 'fqe'."
            )
    return tuple(method for method in _METHODS if method in methods)


@dataclass(frozen=True)
class _Settings:
    discount: float
    num_bootstrap: int
    confidence: float
    num_critics: int
    critic_steps: int | None
    max_weight: float | None
    seed: int


@dataclass(frozen=True)
class _Evidence:
    """What the methods share, each part made when it is first needed."""

    log: LoggedEpisodes
    policy: PolicyOnLog
    states: np.ndarray | None
    settings: _Settings

    @cached_property
    def counts(self) -> np.ndarray:
        return bootstrap_counts(self.log.num_episodes, self.settings.num_bootstrap, self.settings.seed)

    @cached_property
    def behavior(self) -> Behavior | None:
        if self.policy.probabilities is None:
            return None
        return behavior_of(self.log, self.states, self.settings.seed)

    @cached_property
    def weights(self) -> ImportanceWeights | None:
        if self.behavior is None:
            return None
        return importance_weights(self.log, self.policy, self.behavior.propensities, self.settings.max_weight)

    @cached_property
    def table(self) -> TabularQ | None:
        if self.states is None:
            return None
        prior_visits = fitted_prior_visits(self.log, self.states)
        return TabularQ(self.log, self.states, self.policy, self.settings.discount, prior_visits)

    @cached_property
    def q(self) -> TabularEstimate | CriticEstimate:
        if self.table is not None:
            return self.table.evaluate(self.counts)
        settings = self.settings
        steps = settings.critic_steps or updates_for(self.log, settings.discount)
        return fitted_q_values(self.log, self.policy, settings.discount, settings.num_critics, steps, settings.seed)

    def behavior_values(self, counts: np.ndarray) -> np.ndarray | None:
        return None if self.log.unknown_from is not None else behavior_values(self.log, self.settings.discount, counts)

    @cached_property
    def behavior_resamples(self) -> np.ndarray | None:
        return self.behavior_values(self.counts)

    @cached_property
    def behavior_estimate(self) -> ValueEstimate:
        values = self.behavior_resamples
        if values is None:
            return ValueEstimate("behavior", None, refused=_unknown_tail(self.log))
        return ValueEstimate.from_resamples("behavior", values, values, self.settings.confidence)

    def estimate(self, method: str) -> ValueEstimate:
        """Of a method that gives a number."""
        confidence = self.settings.confidence
        if method == "fqe" and isinstance(self.q, CriticEstimate):
            behavior = self.behavior_values(self.q.counts)
            return ValueEstimate.from_networks(method, self.q.values, behavior, confidence)
        if method == "fqe" or self.weights is None:
            values = self.q.values
        else:
            step_values = (self.q.q_values, self.q.state_values) if method in ("dr", "wdr") else ()
            values = weighted_values(method, self.log, self.weights, self.settings.discount, self.counts, *step_values)
        behavior = self.behavior_resamples
        if method != "fqe" or self.table is None:
            return ValueEstimate.from_resamples(method, values, behavior, confidence)
        margin = self.table.leaning(confidence)
        note = f"its interval is wider by {margin:.2g} on each side, since actions that are rare in the data lean on the others there."
        notes = (note,) if margin > 0 else ()
        return ValueEstimate.from_resamples(method, values, behavior, confidence, notes, reflected=True, margin=margin)
