"""One episode of an agent step by step: what it was asked for, what it got, and how it looked."""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from hf_seqrl.evaluation.opening import EnvironmentSource
from hf_seqrl.evaluation.rolling import rollout

# What simulators raise where there is no display, no OpenGL or no drawing library: they have no error in common.
CANNOT_RENDER = (gymnasium.error.Error, ImportError, AttributeError, RuntimeError, OSError)


@dataclass(frozen=True, eq=False)
class WatchedEpisode:
    """An episode that an agent played.

    Attributes:
        rewards: `(steps,)`, raw.
        returns_to_go: `(steps,)`, raw: what the agent was still asked for when it chose each action; `None` for an
            agent that is asked for nothing.
        seed: Of the environment and of the agent.
        terminated: Whether it ended by itself; otherwise it was cut, by a time limit for instance.
        frames: `(frames, height, width, 3)` uint8; `None` where the environment cannot be drawn here.
        frames_per_second: Of the environment's own time.
        not_drawn_because: Why there are no frames.
    """

    rewards: np.ndarray
    returns_to_go: np.ndarray | None
    seed: int
    terminated: bool
    frames: np.ndarray | None = None
    frames_per_second: float = 30.0
    not_drawn_because: str | None = None

    @property
    def total_return(self) -> float:
        """The sum of the raw rewards."""
        return float(self.rewards.sum())


def watch_episode(
    agent: Any, env: EnvironmentSource, target_return: float | None = None, seed: int = 0
) -> WatchedEpisode:
    """Play one episode and keep every step of it, and its pictures where the environment can be drawn.

    Args:
        agent (`Agent`): Who plays.
        env: As `rollout` takes it.
        target_return (`float`, *optional*): What to ask for, raw units; defaults to the agent's own. An agent that is
            asked for nothing is not told.
        seed (`int`, *optional*, defaults to `0`): Of the environment and of the agent.
    """
    target_return = target_return if agent.is_conditioned else None
    try:
        return _played(agent, env, target_return, seed, draw=True)
    except CANNOT_RENDER as error:
        reason = f"the environment could not be drawn ({type(error).__name__}: {error})"
        return _played(agent, env, target_return, seed, draw=False, not_drawn_because=reason)


def _played(
    agent: Any,
    env: EnvironmentSource,
    target_return: float | None,
    seed: int,
    draw: bool,
    not_drawn_because: str | None = None,
) -> WatchedEpisode:
    witness = _Witness(agent)
    result = rollout(witness, env, 1, target_return, num_envs=1, seed=seed, record_frames=int(draw))
    return WatchedEpisode(
        rewards=np.array(witness.rewards),
        returns_to_go=np.array(witness.returns_to_go) if agent.is_conditioned else None,
        seed=seed,
        terminated=bool(result.terminated[0]),
        frames=result.frames[0] if result.frames else None,
        frames_per_second=result.frames_per_second,
        not_drawn_because=not_drawn_because,
    )


class _Witness:
    """Acts as an agent does in one episode, and notes what that is told."""

    def __init__(self, agent: Any) -> None:
        self.agent, self.processor = agent, agent.processor
        self.rewards: list[float] = []
        self.returns_to_go: list[float] = []
        self.reset, self.restart, self.select = agent.reset, agent.restart, agent.select

    def act(self, observations: np.ndarray) -> np.ndarray:
        if self.agent.is_conditioned:
            self.returns_to_go.append(float(self.agent.returns_to_go[0]))
        return self.agent.act(observations)

    def observe(self, rewards: np.ndarray, dones: np.ndarray) -> None:
        self.rewards.append(float(rewards[0]))
        self.agent.observe(rewards, dones)
