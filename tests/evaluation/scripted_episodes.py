"""An environment whose every episode is known from its seed, and an actor that checks what it is told."""

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from hf_seqrl.data.task import Task
from hf_seqrl.models.actor import Actor


class ScriptedEpisodes(gym.Env):
    """Seed s: observations (s, t), reward s + t / 10 at step t, over after 1 + s % 7 steps; by termination for even s, by
    truncation for odd s. The frames show s and t."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, render_mode: str | None = None, action_space: gym.Space | None = None):
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = action_space or gym.spaces.Discrete(3)
        self.render_mode = render_mode
        self.executed: list[Any] = []
        self.closed = False

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.script = int(self.np_random.integers(1000)) if seed is None else seed
        self.time = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.executed.append(action)
        reward = self.script + self.time / 10
        self.time += 1
        over = self.time == length_of(self.script)
        return self._observation(), reward, over and self.script % 2 == 0, over and self.script % 2 == 1, {}

    def render(self) -> np.ndarray | None:
        return np.full((6, 8, 3), (self.script, self.time, 0), np.uint8) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        self.closed = True

    def _observation(self) -> np.ndarray:
        return np.array([self.script, self.time], np.float64)


def length_of(seed: int) -> int:
    return 1 + seed % 7


def return_of(seed: int) -> float:
    return sum(seed + t / 10 for t in range(length_of(seed)))


class RememberingActor(Actor):
    """Keeps a history an environment, and raises where an observation or a reward does not continue it.

    Attributes:
        played: `(seed, target_return, number of steps)` of each episode that ended.
        batch_sizes: The number of environments at each step.
        executed: The actions of each step, as they were executed.
    """

    def __init__(self, task: Task | None = None, targets: Sequence[float] | None = None) -> None:
        super().__init__(task, conditioned=targets is not None, target_returns=targets or ())
        self.played: list[tuple[int, float | None, int]] = []
        self.batch_sizes: list[int] = []
        self.executed: list[np.ndarray] = []

    def _allocate(self, num_envs: int) -> None:
        self.histories = [_History(None, None, over=True) for _ in range(num_envs)]

    def _begin(self, env_indices: np.ndarray) -> None:
        for index in env_indices:
            history = self.histories[index]
            if self._episodes[index]:  # an episode has ended; what begins there gets its seed when it is restarted
                assert not history.over
                history.over = True
                self.played.append((history.seed, history.target, history.time))
            else:
                assert history.over
                target = float(self._target_returns[index]) if self.is_conditioned else None
                self.histories[index] = _History(int(self._seeds[index]), target)

    def _choose(self, observations: np.ndarray) -> np.ndarray:
        assert len(observations) == len(self.histories)
        self.batch_sizes.append(len(observations))
        for history, (script, time) in zip(self.histories, observations):
            assert history.over or (history.seed, history.time) == (script, time)
        return np.zeros(len(observations), np.int64)

    def _remember(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        self.executed.append(actions)
        for history, reward in zip(self.histories, rewards):
            if history.over:  # it is being reset
                assert reward == 0
                continue
            assert np.isclose(reward, history.seed + history.time / 10)  # EnvPool's are float32
            history.time += 1

    def _keep(self, env_indices: np.ndarray) -> None:
        dropped = set(range(len(self.histories))) - set(env_indices)
        assert all(self.histories[index].over for index in dropped)
        self.histories = [self.histories[index] for index in env_indices]


class _History:
    def __init__(self, seed: int | None, target: float | None, over: bool = False):
        self.seed, self.target, self.time, self.over = seed, target, 0, over
