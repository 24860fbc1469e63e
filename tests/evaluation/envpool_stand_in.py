"""What the package uses of EnvPool, on gymnasium's environments: a module for machines where EnvPool is not installed."""

import warnings
from types import ModuleType, SimpleNamespace

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from scripted_episodes import ScriptedEpisodes

NO_LIMIT = 2**31 - 1


class Endless(gym.Env):
    """Never ends by itself; its observations have bounds as EnvPool states them where there are none."""

    observation_space, action_space = gym.spaces.Box(1, 2, (3,), np.float32), gym.spaces.Discrete(2)
    observation_space.low[:], observation_space.high[:] = np.finfo(np.float32).tiny, np.finfo(np.float32).max

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full(3, -1, np.float32), {}

    def step(self, action):
        return np.full(3, -1, np.float32), 1.0, False, False, {}


class InParts(ScriptedEpisodes):
    """The script and the time under names."""

    def __init__(self):
        super().__init__()
        part = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.observation_space = gym.spaces.Dict({"script": part, "time": part})

    def _observation(self):
        return {"script": np.array([self.script], np.float64), "time": np.array([self.time], np.float64)}


KNOWN = {  # how to make one, the limit and the number of players
    "Scripted-v0": (ScriptedEpisodes, 100, 1),
    "InParts-v0": (InParts, 100, 1),
    "Endless-v0": (Endless, NO_LIMIT, 1),
    "Chess-v0": (ScriptedEpisodes, 100, 2),
    "CartPole-v1": (lambda: gym.make("CartPole-v1").unwrapped, 500, 1),
    "FrozenLake-v1": (lambda: gym.make("FrozenLake-v1").unwrapped, 100, 1),
}


def make_spec(task_id, num_threads=0, max_episode_steps=None, reward_scale=1.0):
    make_one, limit, players = KNOWN[task_id]
    env = make_one()
    return SimpleNamespace(
        observation_space=env.observation_space,
        action_space=env.action_space,
        config=SimpleNamespace(max_episode_steps=max_episode_steps or limit, max_num_players=players),
    )


class Pool(VectorEnv):
    """Environments whose first episodes have the seeds that were given, and which reset themselves on the next step."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    __module__ = "envpool.stand_in"

    def __init__(self, task_id, num_envs, seed=42, **options):
        self.spec = make_spec(task_id, **options)
        self.num_envs, self.num_threads, self.scale = (
            num_envs,
            options.get("num_threads"),
            options.get("reward_scale", 1),
        )
        self.seeds = list(seed) if isinstance(seed, list) else list(range(seed, seed + num_envs))
        assert len(self.seeds) == num_envs
        self.envs = [KNOWN[task_id][0]() for _ in range(num_envs)]
        self.single_observation_space, self.single_action_space = self.spec.observation_space, self.spec.action_space
        self.elapsed, self.over, self.seeded = (
            np.zeros(num_envs, int),
            np.ones(num_envs, bool),
            np.zeros(num_envs, bool),
        )
        self.stepped, self.closed_by_maker = 0, False

    def reset(self, env_id=None, *, seed=None, options=None):
        if seed is not None:
            warnings.warn("EnvPool seeds are fixed when the environment is created.", stacklevel=2)
        return self._stacked([self._begin(i) for i in self._ids(env_id)]), {}

    def step(self, action, env_id=None):
        outcomes = [self._step(i, one) for i, one in zip(self._ids(env_id), action, strict=True)]
        observations, rewards, dones, truncations = zip(*outcomes)
        truncated = np.array(truncations)
        return (
            self._stacked(observations),
            np.array(rewards, np.float32),
            np.array(dones) & ~truncated,
            truncated,
            {"env_id": self._ids(env_id)},
        )

    def close(self, **kwargs):
        self.closed_by_maker = True

    def _ids(self, env_id):
        return np.arange(self.num_envs) if env_id is None else env_id

    def _begin(self, i):
        observation, _ = self.envs[i].reset(seed=None if self.seeded[i] else self.seeds[i])
        self.elapsed[i], self.over[i], self.seeded[i] = 0, False, True
        return observation

    def _step(self, i, action):
        if self.over[i]:
            return self._begin(i), 0.0, False, False
        self.stepped += 1
        observation, reward, terminated, truncated, _ = self.envs[i].step(action)
        self.elapsed[i] += 1
        truncated = truncated or self.elapsed[i] >= self.spec.config.max_episode_steps
        self.over[i] = terminated or truncated
        return observation, self.scale * reward, self.over[i], truncated

    def _stacked(self, observations):
        if isinstance(observations[0], dict):
            return {name: np.stack([one[name] for one in observations]) for name in observations[0]}
        return np.stack(observations)


def stand_in() -> ModuleType:
    """The module `envpool`; `made` are the pools that were made."""
    module = ModuleType("envpool")
    module.made = []

    def make(task_id, env_type, **options):
        assert env_type == "gymnasium"
        module.made.append(Pool(task_id, **options))
        return module.made[-1]

    module.make, module.make_spec, module.list_all_envs = make, make_spec, lambda: list(KNOWN)
    return module


def episodes_by_hand(pool, act, num_episodes):
    """The return, length and whether it terminated of the first `num_episodes` of each environment, stepped together.

    Args:
        act: From observations `(num_envs, size)` to actions.
    """
    observations, _ = pool.reset()
    over = np.zeros(pool.num_envs, bool)
    episodes, running = [[] for _ in over], [[0.0, 0] for _ in over]
    while min(map(len, episodes)) < num_episodes:
        observations, rewards, terminated, truncated, _ = pool.step(act(observations))
        for lane in np.flatnonzero(~over):  # of the others, this step was the reset
            running[lane][0] += float(rewards[lane])
            running[lane][1] += 1
            if terminated[lane] or truncated[lane]:
                episodes[lane].append((*running[lane], bool(terminated[lane])))
                running[lane] = [0.0, 0]
        over = ~over & (terminated | truncated)
    return episodes


def as_a_rollout(of_lanes, num_episodes):
    """The same episodes in the order in which a rollout begins them: a lane takes the next one when its own has ended."""
    free, played, order = [0] * len(of_lanes), [0] * len(of_lanes), []
    for _ in range(num_episodes):
        lane = int(np.argmin(free))
        order.append(of_lanes[lane][played[lane]])
        free[lane] += order[-1][1]
        played[lane] += 1
    return order
