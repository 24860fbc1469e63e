"""Off-policy evaluation in a learned model: the policy acts in episodes that the model imagines."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_seqrl.evaluation.logged_episodes import LoggedEpisodes
from hf_seqrl.evaluation.policies import Policy, as_actor
from hf_seqrl.models.registry import family_of

_EPISODES = 100
_HORIZONS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class ImaginedReturns:
    """What a learned model says.

    Attributes:
        returns: Of imagined episodes, `(episodes,)`, discounted.
        errors: How wrong the model is about recorded episodes, by the number of steps: `steps`, `error` (the mean return of so
            many steps with the recorded actions, imagined less recorded), `spread` (the standard deviation of the recorded
            returns).
    """

    returns: np.ndarray
    errors: tuple[dict[str, float], ...]


def imagined_returns(
    world_model: Any, policy: Policy, log: LoggedEpisodes, discount: float, target_return: float | None, seed: int
) -> ImaginedReturns:
    """Let a policy act in a learned model from the first states of up to 100 recorded episodes.

    Args:
        world_model: An `Agent` of a family that models the dynamics, trained on such data.
        policy: The policy to be evaluated.
        log: The recorded episodes.
        discount: Weight of a reward one step later.
        target_return: Raw, for policies that take one.
        seed: Of the draws.

    Raises:
        ValueError: the family models no dynamics.
    """
    episodes = np.random.default_rng(seed).permutation(log.num_episodes)[:_EPISODES]
    returns = _play(_imagined(world_model, log, episodes, seed), policy, log, episodes, discount, target_return, seed)
    errors = _errors(_imagined(world_model, log, episodes, seed), log, episodes)
    return ImaginedReturns(returns, errors)


def _imagined(world_model: Any, log: LoggedEpisodes, episodes: np.ndarray, seed: int) -> Any:
    family = family_of(world_model.model.config.model_type)
    if family.imagine is None:
        raise ValueError(f"a {family.name} does not model what follows an action: give an agent of another family.")
    firsts = log.observations[log.first_steps[episodes]]
    return family.imagine(world_model.model.eval(), world_model.processor, firsts, seed + episodes)


def _play(
    imagined: Any,
    policy: Policy,
    log: LoggedEpisodes,
    episodes: np.ndarray,
    discount: float,
    target_return: float | None,
    seed: int,
) -> np.ndarray:
    actor = as_actor(policy, log.action_space)
    actor.reset(len(episodes), target_return, seed + episodes)
    observations = log.observations[log.first_steps[episodes]]
    returns, running = np.zeros(len(episodes)), np.ones(len(episodes), bool)
    for step in range(log.horizon):
        actions = actor.act(observations)
        observations, rewards, terminated = imagined.step(actions)
        returns += discount**step * rewards * running
        running &= ~terminated
        if not running.any():
            break
        actor.observe(rewards, np.zeros(len(episodes), bool))
    return returns


def _errors(imagined: Any, log: LoggedEpisodes, episodes: np.ndarray) -> tuple[dict[str, float], ...]:
    """With the recorded actions; after the end of a record, whatever the model says does not count."""
    rewards, actions = log.padded(log.rewards)[episodes], log.padded(log.actions)[episodes]
    recorded = np.arange(rewards.shape[1]) < log.lengths[episodes][:, None]
    total, true_total, running, rows = (
        np.zeros(len(episodes)),
        np.zeros(len(episodes)),
        np.ones(len(episodes), bool),
        [],
    )
    for step in range(rewards.shape[1]):
        _, predicted, terminated = imagined.step(actions[:, step])
        total += predicted * running * recorded[:, step]
        true_total += rewards[:, step] * recorded[:, step]
        running &= ~terminated
        if step + 1 in _HORIZONS or step + 1 == rewards.shape[1]:
            error, spread = float((total - true_total).mean()), float(true_total.std())
            rows.append({"steps": float(step + 1), "error": error, "spread": spread})
    return tuple(rows)
