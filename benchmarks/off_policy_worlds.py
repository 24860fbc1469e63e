"""Worlds whose policies have exact values, for `off_policy_evaluation.py`: the bicycle and ICU-Sepsis, by dynamic programming."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from datasets import Dataset
from gymnasium.spaces import Box, MultiDiscrete

from hf_seqrl.data.metadata import TrajectoryMetadata, with_metadata
from hf_seqrl.data.writing import dataset_from_steps
from hf_seqrl.envs import bicycle_rules as rules
from hf_seqrl.evaluation.behavior import PROPENSITIES


@dataclass(frozen=True)
class World:
    """A Markov decision process with a table of everything.

    Attributes:
        transitions: Probabilities `(states, actions, states)`.
        rewards: Expected `(states, actions)` for the values, and by successor `(states, actions, states)` for the episodes.
        first: Probabilities of the first states, `(states,)`.
        terminal: Which states end the episode, `(states,)`.
        observations: What is seen of each state, `(states, size)` float32, each row different.
        action_space: Its joint actions are numbered as the tables.
        behavior: The policy behind the data, `(states, actions)`.
        horizon: The time limit, in steps.
    """

    transitions: np.ndarray
    rewards: np.ndarray
    first: np.ndarray
    terminal: np.ndarray
    observations: np.ndarray
    action_space: MultiDiscrete
    behavior: np.ndarray
    horizon: int

    def values(self, policy: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Of `horizon` steps to go: `(states, actions)` and the mean over the first states; of the best policy without one."""
        expected = (self.transitions * self.rewards).sum(axis=2)
        values = np.zeros(len(self.first))
        for _ in range(self.horizon):
            q_values = expected + self.transitions @ np.where(self.terminal, 0.0, values)
            values = q_values.max(axis=1) if policy is None else (policy * q_values).sum(axis=1)
        return q_values, float(self.first @ values)

    def state_of(self, observations: np.ndarray) -> np.ndarray:
        """The number of each observed state, `(n,)`."""
        found = {row.tobytes(): state for state, row in enumerate(self.observations)}
        rows = np.ascontiguousarray(observations, np.float32)
        return np.array([found[row.tobytes()] for row in rows])

    def episodes(self, num_episodes: int, seed: int, with_propensities: bool = True) -> Dataset:
        """Episodes of the policy behind the data."""
        generator = np.random.default_rng(seed)
        state = generator.choice(len(self.first), num_episodes, p=self.first)
        running = np.arange(num_episodes)
        rows = []
        cumulative, policy = self.transitions.cumsum(axis=2), self.behavior.cumsum(axis=1)
        for step in range(self.horizon):
            action = _drawn(policy[state], generator)
            following = _drawn(cumulative[state, action], generator)
            ended = self.terminal[following]
            reward = self.rewards[state, action, following]
            rows.append((running, np.full(len(running), step), state, action, reward, ended))
            running, state = running[~ended], following[~ended]
            if not len(running):
                break
        episode, step, state, action, reward, ended = (np.concatenate(column) for column in zip(*rows))
        order = np.lexsort((step, episode))
        last = np.append(np.diff(episode[order]) > 0, True)
        parts = np.unravel_index(action[order], self.action_space.nvec)
        steps = {
            "observations": self.observations[state[order]],
            "actions": np.stack(parts, axis=1),
            "rewards": reward[order],
            "terminations": ended[order],
            "truncations": last & ~ended[order],
        }
        if with_propensities:
            steps[PROPENSITIES] = self.behavior[state, action][order]
        dataset = dataset_from_steps(steps, np.concatenate([[0], np.flatnonzero(last) + 1]))
        space = Box(-np.inf, np.inf, (self.observations.shape[1],), np.float32)
        metadata = {"observation_space": space, "action_space": self.action_space, "max_episode_steps": self.horizon}
        return with_metadata(dataset, TrajectoryMetadata(**metadata))


def _drawn(cumulative: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    drawn = (generator.random((len(cumulative), 1)) >= cumulative).sum(axis=1)
    return np.minimum(drawn, cumulative.shape[1] - 1)


def icu_sepsis() -> World:
    """ICU-Sepsis (Choudhary, Gupta and Thomas, 2024), from the package `icu-sepsis`; its clinicians' policy as behavior."""
    spec = find_spec("icu_sepsis")
    if spec is None:
        raise ModuleNotFoundError("ICU-Sepsis is not installed: pip install --no-deps icu-sepsis.")
    data = np.load(Path(spec.submodule_search_locations[0]) / "envs" / "assets" / "dynamics.npz")
    states = len(data["d_0"])
    terminal = np.arange(states) >= states - 3  # death, survival, and the state after them
    return World(
        transitions=data["tx_mat"],
        rewards=data["r_mat"],
        first=data["d_0"],
        terminal=terminal,
        observations=np.arange(states, dtype=np.float32)[:, None],
        action_space=MultiDiscrete([5, 5]),
        behavior=data["expert_policy"],
        horizon=30,
    )


def bicycle(grid_size: int = 5, speed: int = 3, horizon: int = 30, noise: float = 0.6) -> World:
    """The bicycle with random starts; the data are those of the best policy with random actions."""
    config = rules.BicycleConfig(grid_size=grid_size, max_speed=speed, random_starts=True)
    bumps = rules.bump_map(config)
    y, x, column = (part.ravel() for part in np.indices((grid_size, grid_size, speed)))
    states, space = len(x), rules.action_space(config)
    transitions, rewards = np.zeros((states, 6, states)), np.zeros((states, 6, states))
    goal = rules.cells_to_goal(config, x, y) == 0
    for action, (pedal, steer) in enumerate(np.ndindex(2, 3)):
        after_x, after_y, after_speed = rules.ride(config, bumps, x, y, column + 1, pedal, steer - 1)
        following = (after_y * grid_size + after_x) * speed + after_speed - 1
        transitions[np.arange(states), action, following] = 1
        before, after = (rules.cells_to_goal(config, *cell) for cell in ((x, y), (after_x, after_y)))
        rewards[np.arange(states), action, following] = rules.reward_of(config, before, after)
    first = ((column == 0) & ~goal).astype(np.float64)
    observations = np.stack([x, y, column + 1, bumps[y, x]], axis=1).astype(np.float32)
    uniform = np.full((states, 6), 1 / 6)
    world = World(transitions, rewards, first / first.sum(), goal, observations, space, uniform, horizon)
    best = np.eye(6)[world.values()[0].argmax(axis=1)]
    return World(
        transitions, rewards, world.first, goal, observations, space, (1 - noise) * best + noise * uniform, horizon
    )


def policies_of(world: World, seed: int = 0) -> dict[str, tuple[np.ndarray, bool]]:
    """Policies of different quality `(states, actions)`, and whether each is near the behavior: at least three quarters of it."""
    q_values, _ = world.values()
    count = q_values.shape[1]
    best, worst = np.eye(count)[q_values.argmax(axis=1)], np.eye(count)[q_values.argmin(axis=1)]
    uniform = np.full_like(best, 1 / count)
    other = np.random.default_rng(seed).dirichlet(np.ones(count), len(q_values))
    mixed = lambda share, policy: (1 - share) * world.behavior + share * policy  # noqa: E731
    squares = world.behavior**2
    sharpened = squares / np.maximum(squares.sum(axis=1, keepdims=True), 1e-300)
    mode = np.eye(count)[world.behavior.argmax(axis=1)]
    return {
        "behavior": (world.behavior, True),
        "best 0.1": (mixed(0.1, best), True),
        "best 0.25": (mixed(0.25, best), True),
        "best 0.5": (mixed(0.5, best), False),
        "best 0.75": (mixed(0.75, best), False),
        "best": (best, False),
        "uniform 0.25": (mixed(0.25, uniform), True),
        "uniform 0.5": (mixed(0.5, uniform), False),
        "uniform": (uniform, False),
        "worst 0.1": (mixed(0.1, worst), True),
        "worst 0.25": (mixed(0.25, worst), True),
        "worst 0.5": (mixed(0.5, worst), False),
        "worst": (worst, False),
        "other 0.25": (mixed(0.25, other), True),
        "sharpened": (sharpened, False),
        "mode": (mode, False),
    }
