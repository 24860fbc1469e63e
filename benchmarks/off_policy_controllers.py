"""Data sets of controllers and agents of different quality, for `off_policy_evaluation.py`, whose values are means of rollouts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_seqrl import Agent, balance_cartpole, collect, load_trajectories, noisy
from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import returns_of_episodes, returns_to_go
from hf_seqrl.evaluation.behavior import PROPENSITIES
from hf_seqrl.evaluation.fitting import fit
from hf_seqrl.evaluation.policies import swing_up_pendulum
from hf_seqrl.models.registry import family_named


@dataclass(frozen=True)
class Setting:
    """What is estimated, and from what.

    Attributes:
        env_id: Where the true values are measured.
        agents: By name.
        near: The names of those that act nearly as the data do.
        behavior: The policy behind the data, or its value, for data of many policies.
        datasets: One a replicate, that no agent was made from.
        options: Of `evaluate_offline`.
    """

    env_id: str
    agents: dict[str, Any]
    near: frozenset[str]
    behavior: Any
    datasets: list[Dataset]
    options: dict[str, Any]


def cartpole(replicates: int) -> Setting:
    """Feedback laws, and the scripted controller with noise, half of whose actions are random in the data."""
    feedback = lambda *gains: lambda seen: (seen @ np.array(gains) > 0).astype(np.int64)  # noqa: E731
    noise = (0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9, 1)
    agents: dict[str, Any] = {f"epsilon {epsilon:g}": noisy(balance_cartpole, epsilon) for epsilon in noise}
    agents |= {
        "best": balance_cartpole,
        "angle only": feedback(0, 0, 1.0, 0),
        "velocity only": feedback(0, 0, 0, 1.0),
        "no position": feedback(0, 0, 3.0, 1.0),
        "wrong way": feedback(0, 0, -1.0, -1.0),
        "always left": feedback(0, 0, 0, 0),
    }
    near = frozenset(f"epsilon {epsilon:g}" for epsilon in (0.3, 0.4, 0.5, 0.6, 0.7))
    behavior = noisy(balance_cartpole, 0.5)
    datasets = [_with_propensities(one, 0.5) for one in _collected(behavior, "CartPole-v1", 300, replicates)]
    return Setting("CartPole-v1", agents, near, behavior, datasets, {"discount": 0.97, "critic_steps": 4000})


def pendulum(replicates: int) -> Setting:
    """The scripted controller with shares of its torque and with noise; with noise in the data."""
    scaled = lambda share, sigma=0.0: noisy(lambda seen: share * swing_up_pendulum(seen), sigma=sigma)  # noqa: E731
    agents: dict[str, Any] = {
        f"{share:g} of the torque": scaled(share) for share in (-0.5, 0, 0.25, 0.4, 0.5, 0.6, 0.75, 1)
    }
    agents |= {f"noise {sigma:g}": scaled(1, sigma) for sigma in (0.5, 1, 2)}
    agents |= {"half, noise 1": scaled(0.5, 1), "random": "random"}
    near = frozenset(("noise 0.5", "noise 1", "1 of the torque", "0.75 of the torque"))
    behavior = noisy(swing_up_pendulum, epsilon=0.3, sigma=1.0)
    datasets = _collected(behavior, "Pendulum-v1", 100, replicates)
    return Setting("Pendulum-v1", agents, near, behavior, datasets, {"discount": 0.97, "critic_steps": 4000})


def hopper(replicates: int, folder: Path) -> Setting:
    """Networks that cloned parts of hopper-medium-replay, by return, and noise; estimated from the other half of its episodes."""
    dataset = load_trajectories(folder)
    order = np.random.default_rng(0).permutation(len(dataset))
    made_from, rest = dataset.select(order[: len(order) // 2]), order[len(order) // 2 :]
    best = _cloned(made_from, 0.9, 1.0)
    agents: dict[str, Any] = {
        "best tenth": best,
        "best tenth, few updates": _cloned(made_from, 0.9, 1.0, max_steps=60),
        "best quarter": _cloned(made_from, 0.75, 1.0),
        "all": _cloned(made_from, 0.0, 1.0),
        "third quarter": _cloned(made_from, 0.5, 0.75),
        "worst half": _cloned(made_from, 0.0, 0.5),
        "upper tenths": _cloned(made_from, 0.8, 0.9),
    }
    agents |= {f"best tenth, noise {sigma:g}": noisy(best, sigma=sigma) for sigma in (0.1, 0.2, 0.4, 0.8)}
    agents |= {"nothing": lambda seen: np.zeros((len(seen), 3), np.float32), "random": "random"}
    near = frozenset(("best tenth", "best quarter", "upper tenths", "best tenth, noise 0.1", "best tenth, noise 0.2"))
    datasets = [dataset.select(part) for part in np.array_split(rest, replicates)]
    columns = TrajectoryColumns.of(dataset)
    value = float(returns_to_go(columns, 0.99).take(columns.episode_offsets[:-1]).mean())
    return Setting("Hopper-v5", agents, near, value, datasets, {"discount": 0.99})


def _cloned(dataset: Dataset, low: float, high: float, max_steps: int = 800) -> Agent:
    """A network that cloned the episodes whose returns lie between two quantiles."""
    returns = returns_of_episodes(TrajectoryColumns.of(dataset))
    first, last = np.quantile(returns, (low, high))
    part = dataset.select(np.flatnonzero((returns >= first) & (returns <= last)))
    family = family_named("cloning")
    options = family.options_class(weighting="none", num_members=1)
    defaults = family.training_defaults | {"max_steps": max_steps}
    return Agent(*fit(lambda: family.prepare(part, options), defaults, seed=0))


def _collected(behavior: Any, env_id: str, num_episodes: int, replicates: int) -> list[Dataset]:
    return [
        collect(behavior, env_id, num_episodes=num_episodes, seed=50_000 + 1000 * replicate)
        for replicate in range(replicates)
    ]


def _with_propensities(dataset: Dataset, epsilon: float) -> Dataset:
    """The probabilities of the actions of `noisy(balance_cartpole, epsilon)`."""
    columns = TrajectoryColumns.of(dataset)
    steps = np.arange(columns.num_steps)
    chosen = balance_cartpole(columns.observations.take(steps)) == columns.actions.take(steps)
    values = np.where(chosen, 1 - epsilon / 2, epsilon / 2)
    return dataset.add_column(
        PROPENSITIES, [part.tolist() for part in np.split(values, columns.episode_offsets[1:-1])]
    )
