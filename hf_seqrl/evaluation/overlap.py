"""How much recorded episodes can say about a policy: where it acts like the data, and how much rests on few of them."""

from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from hf_seqrl.evaluation.behavior import Behavior
from hf_seqrl.evaluation.importance_sampling import ImportanceWeights
from hf_seqrl.evaluation.logged_episodes import LoggedEpisodes, PolicyOnLog
from hf_seqrl.evaluation.offline_results import OverlapReport, OverlapRow
from hf_seqrl.evaluation.tabular_q import TabularQ

_RANGES = 5
_RARE = 0.01
_NEIGHBORS, _MOST_QUERIES, _MOST_REFERENCES = 20, 1000, 4000
_USUAL = 0.95


def overlap_report(
    log: LoggedEpisodes,
    policy: PolicyOnLog,
    behavior: Behavior | None,
    weights: ImportanceWeights | None,
    table: TabularQ | None,
    seed: int,
) -> OverlapReport:
    """What the data can say about a policy.

    Args:
        log: The episodes.
        policy: The policy at each of their steps.
        behavior: Of discrete actions, where the policy's probabilities are known.
        weights: The same.
        table: Where the states recur.
        seed: Of the sample of steps for continuous actions.
    """
    unsupported, means = _unsupported(log, policy, behavior, table, seed)
    of_weights: dict[str, Any] = {}
    if weights is not None and behavior is not None:
        of_weights = {
            "effective_episodes": float(weights.effective_sample_size[-1]),
            "largest_share": weights.largest_share(min(5, log.num_episodes)),
            "mean_weight": float(weights.weights[:, -1].mean()),
            "cut_share": weights.cut_share,
            "behavior_source": behavior.source,
            "behavior_log_loss": behavior.log_loss,
            "uninformed_log_loss": behavior.uninformed_log_loss,
            "calibration_error": behavior.calibration_error,
        }
    return OverlapReport(tuple(_by_step(log, policy, behavior, weights)), unsupported, means, **of_weights)


def _by_step(
    log: LoggedEpisodes, policy: PolicyOnLog, behavior: Behavior | None, weights: ImportanceWeights | None
) -> list[OverlapRow]:
    if behavior is not None:
        name, values = "overlap", np.minimum(_ratios(log, policy, behavior), 1.0)
    elif isinstance(log.action_space, Box):
        name, values = "distance", _action_distances(log, policy.actions, log.actions) ** 2
    else:
        return []
    bounds = np.unique(np.linspace(0, int(log.lengths.max()), _RANGES + 1).astype(np.int64))
    rows = []
    for first, end in pairwise(bounds.tolist()):
        inside = (log.timesteps >= first) & (log.timesteps < end)
        value = float(values[inside].mean())
        effective = None if weights is None else float(weights.effective_sample_size[end - 1])
        figures = {name: value if name == "overlap" else value**0.5}
        rows.append(OverlapRow(int(first), int(end) - 1, effective_episodes=effective, **figures))
    return rows


def _unsupported(
    log: LoggedEpisodes, policy: PolicyOnLog, behavior: Behavior | None, table: TabularQ | None, seed: int
) -> tuple[float | None, str]:
    if table is not None:
        return float(table.unseen().mean()), "never taken in the state"
    if behavior is not None and policy.probabilities is not None:
        if behavior.probabilities is not None:
            rare = behavior.probabilities < _RARE
            return float((policy.probabilities * rare).sum(axis=1).mean()), "the data take them with less than 1 %"
        # where every action has a chance, the ratios of probabilities have the mean 1
        return max(0.0, 1 - float(_ratios(log, policy, behavior).mean())), "the data never take them"
    if isinstance(log.action_space, Box):
        return _far_from_neighbors(
            log, policy, seed
        ), "unlike all of those taken in the most similar states; 5 % is usual"
    return None, ""


def _ratios(log: LoggedEpisodes, policy: PolicyOnLog, behavior: Behavior) -> np.ndarray:
    if policy.probabilities is None:
        raise ValueError("the policy's probabilities are not known.")
    return policy.probabilities[np.arange(log.num_steps), log.codes] / behavior.propensities


def _far_from_neighbors(log: LoggedEpisodes, policy: PolicyOnLog, seed: int) -> float:
    """The share of the policy's actions that are farther from all actions in the most similar recorded states than 95 % of the
    recorded actions are. Queries and references are of different episodes."""
    generator = np.random.default_rng(seed)
    if log.num_episodes < 2:
        half = np.arange(log.num_steps) < log.num_steps // 2
    else:
        half = np.isin(log.episode_of_step, generator.permutation(log.num_episodes)[: log.num_episodes // 2])
    queries, references = (
        generator.permutation(np.flatnonzero(part))[:most]
        for part, most in ((half, _MOST_QUERIES), (~half, _MOST_REFERENCES))
    )
    flat = log.observations.reshape(log.num_steps, -1).astype(np.float64)
    flat = flat / np.maximum(flat.std(axis=0), 1e-9)
    squares = (
        (flat[queries] ** 2).sum(1)[:, None] + (flat[references] ** 2).sum(1) - 2 * flat[queries] @ flat[references].T
    )
    count = min(_NEIGHBORS, len(references) - 1)
    neighbors = references[np.argpartition(squares, count, axis=1)[:, :count]]  # (queries, neighbors)
    nearest = [
        np.min([_action_distances(log, actions[queries], log.actions[column]) for column in neighbors.T], axis=0)
        for actions in (log.actions, policy.actions)
    ]
    return float((nearest[1] > np.quantile(nearest[0], _USUAL)).mean())


def _action_distances(log: LoggedEpisodes, actions: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Root mean square distances `(n,)` in standard deviations of the recorded actions."""
    scale = np.maximum(log.actions.reshape(log.num_steps, -1).std(axis=0), 1e-9)
    return np.sqrt((((actions - others).reshape(len(actions), -1) / scale) ** 2).mean(axis=1))
