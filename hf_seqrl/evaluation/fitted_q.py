"""Fitted Q evaluation with networks: values of a policy's actions, learned from recorded transitions (Le et al., 2019)."""

from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from gymnasium.spaces import Box

from hf_seqrl.data.joint_actions import joint_actions
from hf_seqrl.data.metadata import TrajectoryMetadata, with_metadata
from hf_seqrl.data.spaces import space_to_dict
from hf_seqrl.data.writing import dataset_from_steps
from hf_seqrl.evaluation.fitting import fit
from hf_seqrl.evaluation.logged_episodes import LoggedEpisodes, PolicyOnLog
from hf_seqrl.models.registry import policy_evaluation

_DRAWS = 4  # of a stochastic policy at each step
_UPDATES_OF_ONE_STEP_BACK = 20  # at the critic's default target_update of 0.05


@dataclass(frozen=True)
class CriticEstimate:
    """What an ensemble of Q-networks says, each trained on its own bootstrap sample of the episodes.

    Attributes:
        values: The mean value of the first states of each network's episodes, `(num_critics,)`.
        counts: How often the sample of each network holds each episode, `(num_critics, episodes)`.
        q_values, state_values: Of each step, `(steps,)`, the mean over the networks that have not seen its episode (over all,
            where each has); `None` where actions are continuous.
    """

    values: np.ndarray
    counts: np.ndarray
    q_values: np.ndarray | None
    state_values: np.ndarray | None


def fitted_q_values(
    log: LoggedEpisodes,
    policy: PolicyOnLog,
    discount: float,
    num_critics: int,
    max_steps: int,
    seed: int,
    with_steps: bool = True,
) -> CriticEstimate:
    """Train Q-networks of a policy and read its value off them.

    The networks read the observation and the share of the horizon that has passed, so that they learn the return up to the
    horizon. The last step of an episode that was cut before it teaches nothing.

    Args:
        log: The episodes.
        policy: What the policy does at each of their steps.
        discount: Weight of a reward one step later.
        num_critics: Networks, each with a bootstrap sample of its own.
        max_steps: Updates of the training.
        seed: Of the samples, the weights and the order.
        with_steps: Whether `q_values` and `state_values` are asked for.
    """
    generator = np.random.default_rng([seed, 1])
    draws = generator.integers(log.num_episodes, size=(num_critics, log.num_episodes))
    counts = np.stack([np.bincount(draw, minlength=log.num_episodes) for draw in draws]).astype(np.float64)
    timed = _with_time(log)
    next_actions = policy.draws(log.action_space, _DRAWS, seed)
    evaluation = policy_evaluation()
    config = {"num_critics": num_critics, "hidden_size": 64}
    model, processor = fit(
        lambda: evaluation.prepare(timed, next_actions, discount=discount, episode_weights=counts.T, **config),
        evaluation.training_defaults,
        seed,
        max_steps=max_steps,
    )
    observations = _timed_observations(log)
    values_of = lambda seen, actions: evaluation.action_values(model, processor, seen, actions)  # noqa: E731
    firsts = _state_values(values_of, observations, next_actions, policy, log, log.first_steps)
    values = (counts.T * firsts).sum(axis=0) / counts.sum(axis=1)
    if not with_steps or policy.probabilities is None:
        return CriticEstimate(values, counts, None, None)
    everywhere = np.arange(log.num_steps)
    unseen = (counts == 0).T[log.episode_of_step]  # (steps, num_critics)
    unseen = np.where(unseen.any(axis=1, keepdims=True), unseen, True)
    q_values = (values_of(observations, log.actions) * unseen).sum(axis=1) / unseen.sum(axis=1)
    states = _state_values(values_of, observations, next_actions, policy, log, everywhere)
    return CriticEstimate(values, counts, q_values, (states * unseen).sum(axis=1) / unseen.sum(axis=1))


def updates_for(log: LoggedEpisodes, discount: float) -> int:
    """Updates in which a reward travels back over the effective horizon several times, from 2,000 to 20,000."""
    reach = log.horizon if discount == 1 else min(log.horizon, 1 / (1 - discount))
    return int(np.clip(3 * _UPDATES_OF_ONE_STEP_BACK * reach, 2_000, 20_000))


def _state_values(values_of, observations, next_actions, policy, log, steps) -> np.ndarray:
    """The value of the policy's actions at these steps by each network, `(len(steps), num_critics)`."""
    if policy.probabilities is None or policy.deterministic:
        return np.mean(
            [values_of(observations[steps], draw[steps]) for draw in np.moveaxis(next_actions, 1, 0)], axis=0
        )
    total = 0.0
    for code, action in enumerate(joint_actions(log.action_space)):
        repeated = np.broadcast_to(action, (len(steps), *np.shape(action)))
        total = total + policy.probabilities[steps, code, None] * values_of(observations[steps], repeated)
    return np.asarray(total)


def _with_time(log: LoggedEpisodes) -> Dataset:
    """The episodes with the time in each observation, the horizon as a termination."""
    observations = _timed_observations(log)
    steps = {
        "observations": observations,
        "actions": log.actions,
        "rewards": log.rewards,
        "terminations": log.ends,
        "truncations": log.is_last & ~log.ends,
    }
    space = Box(-np.inf, np.inf, (observations.shape[1],), np.float32)
    metadata = TrajectoryMetadata(
        observation_space=space_to_dict(space),
        action_space=space_to_dict(log.action_space),
        max_episode_steps=log.horizon,
    )
    return with_metadata(dataset_from_steps(steps, log.columns.episode_offsets), metadata)


def _timed_observations(log: LoggedEpisodes) -> np.ndarray:
    """`(steps, size + 1)` float32: the observation, and the share of the horizon that has passed."""
    flat = log.observations.reshape(log.num_steps, -1).astype(np.float32)
    return np.concatenate([flat, (log.timesteps / log.horizon)[:, None].astype(np.float32)], axis=1)
