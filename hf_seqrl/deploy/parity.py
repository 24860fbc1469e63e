"""What an export is worth: whether it does what the agent does, how fast, and what it achieves."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Space

from hf_seqrl.data.spaces import choice_bounds
from hf_seqrl.data.task import Task
from hf_seqrl.deploy.exported_actor import ExportedActor
from hf_seqrl.deploy.runner import Runner
from hf_seqrl.deploy.user_values import UserValues
from hf_seqrl.evaluation.results import RolloutResult, bootstrap_interval
from hf_seqrl.evaluation.rollout import rollout
from hf_seqrl.models.actor import Actor
from hf_seqrl.models.values import Values

_DRAWN_EPISODES, _DRAWN_STEPS, _DRAWN_VALUES = 3, 100, 300
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Parity:
    """A comparison over whole episodes, or of a critic's values.

    Attributes:
        source: Where the observations come from.
        steps: The number of compared actions (or values).
        equal: How many of them were the same: within 1e-5, relative to the greatest where that is above 1.
        greatest_difference: Between two entries of actions, in the action's units; or between two values.
        latencies: CPU seconds of the thread in each step of the exported agent, `(steps,)`.
        result: The episodes that the exported agent played, `None` without a simulator.
    """

    source: str
    steps: int
    equal: int
    greatest_difference: float
    latencies: np.ndarray
    result: RolloutResult | None

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers, latencies in milliseconds."""
        p50, p99 = np.percentile(1e3 * self.latencies, (50, 99))
        values: dict[str, Any] = {
            "source": self.source,
            "steps": self.steps,
            "equal": self.equal,
            "greatest_difference": self.greatest_difference,
            "latency_ms": {"p50": round(float(p50), 4), "p99": round(float(p99), 4)},
        }
        if self.result is not None:
            values["episodes"] = self.result.num_episodes
            values["mean_return"] = self.result.mean_return
            interval = bootstrap_interval(self.result.returns)
            if interval is not None:
                values["interval_95"] = list(interval)
        return values


class ComparedActor(ExportedActor):
    """An exported agent that asks the original one at every step, and does what itself would do.

    Args:
        reference: The original agent's actor.
        folder, graph: As for [`ExportedActor`].
    """

    def __init__(self, reference: Actor, folder: str | Path, graph: str | None = None) -> None:
        super().__init__(folder, graph)
        self._reference = reference
        self.equal, self._size = 0, 1.0
        self.latencies: list[float] = []
        self.differences: list[float] = []

    def reset(self, num_envs: int, target_return: Any = None, seed: Any = None, history: Any = None) -> None:
        super().reset(num_envs, target_return, seed, history)
        self._reference.reset(num_envs, target_return, seed, history)

    def restart(self, env_indices: np.ndarray, target_return: Any = None, seed: Any = None) -> None:
        super().restart(env_indices, target_return, seed)
        self._reference.restart(env_indices, target_return, seed)

    def act(self, observations: np.ndarray) -> np.ndarray:
        began = time.thread_time()
        chosen = super().act(observations)
        self.latencies.append(time.thread_time() - began)
        expected = self._reference.act(observations)
        self.differences.append(float(np.abs(chosen.astype(np.float64) - expected).max()))
        self._size = max(self._size, float(np.abs(expected).max()))
        self.equal += self.differences[-1] <= _TOLERANCE * self._size
        return chosen

    def observe(self, rewards: np.ndarray, dones: np.ndarray, actions: np.ndarray | None = None) -> None:
        executed = self._chosen if actions is None else actions
        super().observe(rewards, dones, executed)
        self._reference.observe(rewards, dones, executed)

    def select(self, env_indices: np.ndarray) -> None:
        super().select(env_indices)
        self._reference.select(env_indices)

    def parity(self, source: str, result: RolloutResult | None = None) -> Parity:
        """What was found."""
        steps, greatest = len(self.differences), max(self.differences)
        return Parity(source, steps, self.equal, greatest, np.array(self.latencies), result)


def measure(
    reference: Actor,
    folder: str | Path,
    graph: str | None = None,
    *,
    env_id: str | None = None,
    num_episodes: int = 3,
    seed: int = 0,
    statistics: tuple[np.ndarray, np.ndarray] | None = None,
) -> Parity:
    """Let an exported agent play and compare it with the original at every step.

    Args:
        reference: The original agent's actor.
        folder, graph: As for [`ExportedActor`].
        env_id: The environment; without one, observations are drawn.
        num_episodes: In the environment.
        seed: Of the first episode.
        statistics: Mean and standard deviation of observations that are drawn, `(entries,)` each; 0 and 1 by default.
    """
    compared = ComparedActor(reference, folder, graph)
    if env_id is None:
        _play_drawn(compared, statistics, seed)
        return compared.parity(f"{_DRAWN_EPISODES} episodes of drawn observations")
    result = rollout(compared, env_id, num_episodes, num_envs=1, seed=seed)
    return compared.parity(f"{num_episodes} episodes of {env_id}", result)


def measure_values(
    reference: Values,
    folder: str | Path,
    graph: str | None = None,
    *,
    statistics: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int = 0,
) -> Parity:
    """Compare the values that an exported critic gives to drawn steps with those of the original.

    Args:
        reference: What the original says.
        folder, graph: As for [`Runner`].
        statistics: As for [`measure`].
        seed: Of the drawn steps.
    """
    runner, rng = Runner(folder, graph), np.random.default_rng(seed)
    task = Task.from_dict(runner.description["task"])
    words, latencies, found = UserValues(task), [], []
    seen = np.stack([_drawn(task.observations, statistics, rng) for _ in range(_DRAWN_VALUES)])
    done = np.stack([_drawn(task.actions, None, rng) for _ in range(_DRAWN_VALUES)])
    for observation, action in zip(seen, done):
        named = words.action(action)
        began = time.thread_time()
        values = runner.values(observation, named)
        latencies.append(time.thread_time() - began)
        found.append([values["q_values"].mean()] + [values[name] for name in ("state_value",) if name in values])
    expected = [reference.action_values(seen, done)]
    expected += [reference.state_values(seen)] * (np.shape(found)[1] - 1)
    differences = np.abs(np.array(found) - np.stack(expected, axis=1)).max(axis=1)
    close = differences <= _TOLERANCE * max(1.0, float(np.abs(expected).max()))
    return Parity("drawn steps", len(seen), int(close.sum()), float(differences.max()), np.array(latencies), None)


def _play_drawn(actor: Actor, statistics: tuple[np.ndarray, np.ndarray] | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = (actor.target_returns or [0.0])[0] if actor.is_conditioned else None
    for _ in range(_DRAWN_EPISODES):
        actor.reset(1, target)
        for _ in range(_DRAWN_STEPS):
            actor.act(_drawn(actor.task.observations, statistics, rng)[None])
            actor.observe(rng.normal(size=1), np.zeros(1, bool))


def _drawn(space: Space, statistics: tuple[np.ndarray, np.ndarray] | None, rng: np.random.Generator) -> np.ndarray:
    if not isinstance(space, Box):
        low, high = choice_bounds(space)
        return rng.integers(low.astype(np.int64), high.astype(np.int64) + 1).reshape(space.shape)
    mean, std = (
        np.reshape(values, space.shape) for values in statistics or (np.zeros(space.shape), np.ones(space.shape))
    )
    return np.clip(rng.normal(mean, std), space.low, space.high).astype(space.dtype)
