"""The policy behind recorded episodes: recorded propensities, frequencies in a table, or a model trained by cloning."""

from dataclasses import dataclass

import numpy as np

from hf_seqrl.evaluation.fitting import fit
from hf_seqrl.evaluation.logged_episodes import LoggedEpisodes, PolicyOnLog, policy_on_log
from hf_seqrl.models.registry import behavior_model

PROPENSITIES = "propensities"
_CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Behavior:
    """What is known of the policy behind the data.

    Attributes:
        source: `"recorded"`, `"frequencies"` (of each action in each state of a table) or `"cloned"` (a network).
        propensities: Its probability of each recorded action, `(steps,)`.
        probabilities: Of all joint actions at each step, `(steps, num_joint_actions)`; `None` with recorded propensities.
        log_loss: Of the recorded actions in episodes that were held out of the fit, in nats a step; of all episodes where the
            propensities were recorded.
        uninformed_log_loss: That of the frequencies of the actions, whatever the state.
        calibration_error: Expected calibration error of the probabilities of the actions in held-out episodes: the mean
            distance of a probability from how often such actions were taken, 0 to 1; `None` with recorded propensities.
    """

    source: str
    propensities: np.ndarray
    probabilities: np.ndarray | None
    log_loss: float
    uninformed_log_loss: float
    calibration_error: float | None


def behavior_of(log: LoggedEpisodes, states: np.ndarray | None, seed: int) -> Behavior:
    """The policy behind episodes with discrete actions.

    A column `propensities` of the data set, the probability with which each action was taken, is used where there is one.
    Otherwise the policy is estimated from all episodes, which is also what weights use: estimated propensities give
    estimates of lower variance than the true ones (Hanna, Niekum and Stone, 2019). How good the estimate is, is measured by
    fitting it to two halves of the episodes, each tried on the other.

    Args:
        log: The episodes.
        states: The code of each step's state, where they recur often enough for a table; else `None`.
        seed: Of the training of a model.
    """
    uninformed = _entropy(np.bincount(log.codes) / log.num_steps)
    recorded = recorded_propensities(log)
    if recorded is not None:
        return Behavior("recorded", recorded, None, -float(np.log(recorded).mean()), uninformed, None)
    halves = [np.flatnonzero(np.arange(log.num_episodes) % 2 == half) for half in (0, 1)]
    if states is not None:
        source = "frequencies"
        fitted = _frequencies(log, states, np.ones(log.num_steps, bool), smoothing=0.0)
        held_out = np.zeros_like(fitted)
        for half in halves:
            inside = np.isin(log.episode_of_step, half)
            held_out[~inside] = _frequencies(log, states, inside, smoothing=1.0)[~inside]
    else:
        source = "cloned"
        fitted = _cloned(log, np.arange(log.num_episodes), seed)
        held_out = np.zeros_like(fitted)
        inside = np.isin(log.episode_of_step, halves[0])
        held_out = _cloned(log, halves[0], seed)[~inside]
    codes = log.codes if states is not None else log.codes[~inside]
    rows = np.arange(len(codes))
    log_loss = -float(np.log(np.maximum(held_out[rows, codes], 1e-12)).mean())
    error = calibration_error(held_out, codes)
    return Behavior(source, fitted[np.arange(log.num_steps), log.codes], fitted, log_loss, uninformed, error)


def recorded_propensities(log: LoggedEpisodes) -> np.ndarray | None:
    """The column `propensities` of the data set, `(steps,)` float64; `None` where there is none.

    Raises:
        ValueError: it has other lengths than the episodes, or a value that is no probability.
    """
    if PROPENSITIES not in log.dataset.column_names:
        return None
    values = (
        log.columns.further(PROPENSITIES).take(np.arange(log.num_steps)).astype(np.float64).reshape(log.num_steps, -1)
    )
    if values.shape[1] > 1:
        raise ValueError(
            f"column 'propensities' has {values.shape[1]} entries a step: expected one, the probability of the recorded action."
        )
    values = values[:, 0]
    if not ((values > 0) & (values <= 1)).all():
        step = int(np.argmin((values > 0) & (values <= 1)))
        raise ValueError(
            f"column 'propensities' of episode {log.episode_of_step[step]} is {values[step]} at step {log.timesteps[step]}: "
            "expected the probability with which the recorded action was taken, above 0 and at most 1."
        )
    return values


def calibration_error(probabilities: np.ndarray, codes: np.ndarray) -> float:
    """The expected calibration error of distributions over actions, in ten bins of equal width (Naeini et al., 2015), with every
    action of a step as one prediction.

    Args:
        probabilities: `(steps, actions)`.
        codes: The actions that were taken, `(steps,)`.

    Example:
        >>> calibration_error(np.tile([0.75, 0.25], (4, 1)), np.array([0, 0, 0, 1]))
        0.0
    """
    happened = np.zeros(probabilities.shape)
    happened[np.arange(len(codes)), codes] = 1
    bins = np.minimum((probabilities * _CALIBRATION_BINS).astype(np.int64), _CALIBRATION_BINS - 1).ravel()
    gaps = np.bincount(bins, (probabilities - happened).ravel(), _CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / probabilities.size)


def _frequencies(log: LoggedEpisodes, states: np.ndarray, inside: np.ndarray, smoothing: float) -> np.ndarray:
    """How often each action was taken in each step's state, among the steps `inside`, `(steps, actions)`; smoothed towards
    the frequencies over all states."""
    count = int(log.num_actions or 0)
    visits = np.zeros((int(states.max()) + 1, count))
    np.add.at(visits, (states[inside], log.codes[inside]), 1.0)
    overall = (visits.sum(axis=0) + 1e-3) / (visits.sum() + 1e-3 * count)
    visits = visits + smoothing * overall
    totals = visits.sum(axis=1, keepdims=True)
    return (visits / np.where(totals > 0, totals, 1.0))[states]


def _cloned(log: LoggedEpisodes, episodes: np.ndarray, seed: int) -> np.ndarray:
    """What a network that was trained on these episodes says of the actions at every step, `(steps, actions)`."""
    recipe = behavior_model()
    dataset = log.dataset.select(episodes)
    model, processor = fit(lambda: recipe.prepare(dataset), recipe.training_defaults, seed)
    policy: PolicyOnLog = policy_on_log(recipe.make_actor(model, processor), log)
    if policy.probabilities is None:
        raise ValueError("the behavior model names no probabilities: expected one for discrete actions.")
    return policy.probabilities.astype(np.float64)


def _entropy(shares: np.ndarray) -> float:
    return -float((shares[shares > 0] * np.log(shares[shares > 0])).sum())
