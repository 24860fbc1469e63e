"""Collecting data: policies run episodes, whose transitions become a data set with its provenance."""

import platform
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from gymnasium.spaces import Space
from tqdm.auto import tqdm

from hf_seqrl import __version__
from hf_seqrl.data.composite_spaces import entry_names
from hf_seqrl.data.environment_ids import d4rl_reference_returns
from hf_seqrl.data.metadata import TrajectoryMetadata, with_metadata
from hf_seqrl.data.secrets import masked
from hf_seqrl.data.spaces import space_to_dict, step_shape
from hf_seqrl.data.writing import PIECE_BYTES, dataset_from_stream
from hf_seqrl.evaluation.environments import EnvironmentSource, environment_id, open_lanes
from hf_seqrl.evaluation.episode_loop import Episode, EpisodeLoop, FinishedEpisode, Step, check_fit
from hf_seqrl.evaluation.lanes import Lanes
from hf_seqrl.evaluation.policies import Policy, as_actor, default_target, policy_name, reads_vectors, time_limit_of
from hf_seqrl.models.actor import Actor

_FIRST_CAPACITY = 256  # steps of an episode for which room is made at first; doubled when it is full


@dataclass(frozen=True)
class Portion:
    """The share of one policy of a mixture: a number of episodes, or of steps."""

    name: str
    policy: Policy
    num_episodes: int | None
    num_steps: int | None


def collect(
    policy: Policy | Mapping[str, Policy] | Sequence[tuple[float, Policy]],
    env: EnvironmentSource,
    num_episodes: int | None = None,
    num_steps: int | None = None,
    num_envs: int = 16,
    seed: int = 0,
    *,
    target_return: float | None = None,
    backend: str = "gymnasium",
    env_kwargs: dict[str, Any] | None = None,
    max_episode_steps: int | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = False,
) -> Dataset:
    """Run episodes with one or several policies and record the transitions.

    Episode `i` is seeded with `seed + i` and stands in row `i`, so the data do not depend on `num_envs`. (In EnvPool they do;
    see `rollout`.) The policies of a mixture play one after the other. Episodes are written to disk in pieces; memory does not
    grow with their number.

    Args:
        policy: An `Agent`, a callable `observations -> actions`, `"random"`, `noisy(...)`; or several: a dictionary from
            name to policy (equal shares) or a list of `(share, policy)`. Shares are of the episodes when `num_episodes` is
            given, of the steps when `num_steps` is.
        env: As `rollout` takes it.
        num_episodes (`int`, *optional*): How many episodes. Exactly one of this and `num_steps` must be given.
        num_steps (`int`, *optional*): Play whole episodes until there are at least so many steps.
        num_envs (`int`, *optional*, defaults to `16`): Environments that run side by side.
        seed (`int`, *optional*, defaults to `0`): Of the first episode.
        target_return (`float`, *optional*): For agents that take one, raw return units. Defaults to the first target of
            the agent's processor.
        backend (`str`, *optional*, defaults to `"gymnasium"`): As `rollout` takes it.
        env_kwargs (`dict`, *optional*): Passed on to `gymnasium.make`, `envpool.make` or to the callable.
        max_episode_steps (`int`, *optional*): Truncates episodes earlier than the environment's own limit.
        cache_dir (`str`, *optional*): Where the Arrow file is kept. By default it is gone when this process ends: keep the data
            set with `save_to_disk` or `push_to_hub`.
        progress (`bool`, *optional*, defaults to `False`): Show a progress bar.

    Returns:
        One row an episode: `observations` (before the action), `actions` (as executed), `rewards`, `terminations`,
        `truncations`; with the metadata of `hf_seqrl.data.metadata_of`, whose provenance names the versions, the policies and
        the seeds of each.

    Example:
        >>> dataset = collect("random", "CartPole-v1", num_episodes=3)
        >>> dataset.num_rows, len(dataset[0]["observations"][0])
        (3, 4)
    """
    portions = _portions(policy, num_episodes, num_steps)
    largest = num_envs if num_episodes is None else min(num_envs, num_episodes)
    flat = all(reads_vectors(portion.policy) for portion in portions)
    with open_lanes(
        env,
        largest,
        env_kwargs,
        max_episode_steps,
        default_limit=_time_limit(portions),
        flat_observations=flat,
        backend=backend,
    ) as lanes:
        actors = [as_actor(portion.policy, lanes.action_space) for portion in portions]
        for actor in actors:
            check_fit(actor.task, lanes.observation_space, lanes.action_space)
        targets = _targets(actors, target_return)
        accounts: list[dict[str, Any]] = []

        def episodes() -> Iterator[dict[str, np.ndarray]]:
            first_seed = seed
            for portion, actor, target in zip(portions, actors, targets):
                accounts.append((yield from _play(portion, actor, lanes, first_seed, target, bar)))
                first_seed += accounts[-1]["num_episodes"]

        unit = "episode" if num_episodes else "step"
        with tqdm(total=num_episodes or num_steps, unit=unit, disable=not progress) as bar:
            dataset = dataset_from_stream(episodes(), cache_dir, PIECE_BYTES)
        return with_metadata(dataset, _metadata(lanes, accounts, seed, env_kwargs, max_episode_steps))


def _time_limit(portions: Sequence["Portion"]) -> int | None:
    """The longest limit that an agent of the mixture was saved with."""
    limits = [time_limit_of(portion.policy) for portion in portions]
    return max((limit for limit in limits if limit is not None), default=None)


def _targets(actors: Sequence[Actor], target_return: float | None) -> list[float | None]:
    """The target of each actor; only those that are conditioned on a return take the one that was given."""
    if target_return is not None and not any(actor.is_conditioned for actor in actors):
        raise ValueError(
            f"target_return is {target_return}, but no policy here is conditioned on a return: leave it out."
        )
    if target_return is None:
        return [default_target(actor) for actor in actors]
    return [float(target_return) if actor.is_conditioned else None for actor in actors]


def _play(
    portion: Portion,
    actor: Actor,
    lanes: Lanes,
    seed: int,
    target_return: float | None,
    bar: tqdm,
) -> Generator[dict[str, np.ndarray], None, dict[str, Any]]:
    """The episodes of one policy's portion, column by column; returns what was played, for the provenance."""
    recorder = TrajectoryRecorder(lanes)
    loop = EpisodeLoop(actor, lanes, _queue(portion, seed, target_return, recorder), recorder)
    returns, seeds, num_steps = [], [], 0
    for outcome in _in_order(loop.play()):
        yield recorder.fetch(outcome.episode.index)
        returns.append(outcome.total_reward)
        seeds.append(outcome.seed)
        num_steps += outcome.length
        bar.update(1 if portion.num_episodes else outcome.length)
        if portion.num_steps and num_steps >= portion.num_steps:
            break
    return {
        "policy": portion.name,
        "num_episodes": len(returns),
        "num_steps": num_steps,
        "seeds": [seeds[0], seeds[-1]] if min(seeds) >= 0 else None,  # a vector environment may have reset itself
        "mean_return": float(np.mean(returns)),
        "target_return": target_return,
    }


def _queue(
    portion: Portion, seed: int, target_return: float | None, recorder: "TrajectoryRecorder"
) -> Iterator[Episode]:
    for index in count():
        # steps of running episodes count: they will be there when the episodes before them have ended
        enough = portion.num_steps is not None and recorder.num_steps >= portion.num_steps
        if index == portion.num_episodes or enough:
            return
        yield Episode(index, seed + index, target_return)


def _in_order(outcomes: Iterator[FinishedEpisode]) -> Iterator[FinishedEpisode]:
    """The episodes by their index, each as soon as all before it have ended."""
    waiting: dict[int, FinishedEpisode] = {}
    following = 0
    for outcome in outcomes:
        waiting[outcome.episode.index] = outcome
        while following in waiting:
            yield waiting.pop(following)
            following += 1


def _portions(policy: Any, num_episodes: int | None, num_steps: int | None) -> list[Portion]:
    total = num_episodes if num_steps is None else num_steps
    if (num_episodes is None) == (num_steps is None) or total < 1:
        raise ValueError(
            f"num_episodes is {num_episodes} and num_steps is {num_steps}: expected one of them, at least 1."
        )
    shares, names, policies = _mixture(policy)
    amounts = _apportioned(total, shares)
    return [
        Portion(name, one, *((amount, None) if num_steps is None else (None, amount)))
        for name, one, amount in zip(names, policies, amounts)
        if amount
    ]


def _mixture(policy: Any) -> tuple[list[float], list[str], list[Policy]]:
    if isinstance(policy, Mapping):
        pairs, names = [(1.0, one) for one in policy.values()], list(map(str, policy))
    elif isinstance(policy, list | tuple):
        pairs = [tuple(pair) for pair in policy]
        names = [policy_name(pair[-1]) for pair in pairs]
    else:
        pairs, names = [(1.0, policy)], [policy_name(policy)]
    shares = [pair[0] for pair in pairs]
    if not pairs or any(len(pair) != 2 for pair in pairs) or not all(share > 0 for share in shares):
        raise ValueError(f"the mixture {policy!r}: expected pairs (share, policy) with shares above 0, at least one.")
    return shares, names, [pair[1] for pair in pairs]


def _apportioned(total: int, shares: Sequence[float]) -> list[int]:
    """`total` in whole numbers by these shares: rounded down, the rest to the largest remainders."""
    exact = total * np.asarray(shares, np.float64) / np.sum(shares)
    amounts = np.floor(exact).astype(int)
    largest = np.argsort(amounts - exact, kind="stable")[: total - amounts.sum()]
    amounts[largest] += 1
    return amounts.tolist()


def _metadata(
    lanes: Lanes,
    accounts: list[dict[str, Any]],
    seed: int,
    env_kwargs: dict[str, Any] | None,
    max_episode_steps: int | None,
) -> TrajectoryMetadata:
    env_id = environment_id(lanes)
    versions = {"hf_seqrl": __version__, "python": platform.python_version()}
    packages = ["gymnasium", "numpy"]
    if lanes.backend == "envpool":
        packages.append("envpool")
    elif lanes.spec and "mujoco" in str(lanes.spec.entry_point):
        packages.append("mujoco")  # its physics differ between versions
    return TrajectoryMetadata(
        env_id=env_id,
        observation_space=space_to_dict(lanes.observation_space),
        action_space=space_to_dict(lanes.action_space),
        source_observation_space=lanes.source_observation_space,
        observation_names=entry_names(lanes.source_observation_space) if lanes.source_observation_space else None,
        reference_returns=d4rl_reference_returns(env_id),
        max_episode_steps=max_episode_steps or (lanes.spec.max_episode_steps if lanes.spec else None),
        provenance={
            "made_by": "hf_seqrl.collect",
            "backend": lanes.backend,
            **({"num_envs": lanes.num_envs} if lanes.backend == "envpool" else {}),  # on which its data depend
            "seed": seed,
            "policies": masked(accounts),
            "env_kwargs": masked({name: repr(value) for name, value in (env_kwargs or {}).items()}),
            "versions": {**versions, **{name: version(name) for name in packages}},
        },
    )


class TrajectoryRecorder:
    """Keeps the transitions of the running episodes, and of those that ended until they are fetched.

    Floats are kept as float32 (as D4RL does), everything else in its own dtype: images stay uint8.

    Args:
        lanes: The environments.

    Attributes:
        num_steps: Steps recorded so far, of running episodes too.
    """

    def __init__(self, lanes: Lanes):
        self.num_steps = 0
        self._columns = {
            "observations": (lanes.observation_space.shape, _stored_dtype(lanes.observation_space)),
            "actions": (step_shape(lanes.action_space), _stored_dtype(lanes.action_space)),
            "rewards": ((), np.dtype(np.float32)),
            "terminations": ((), np.dtype(bool)),
            "truncations": ((), np.dtype(bool)),
        }
        self._buffers: dict[str, np.ndarray] = {}  # each (lanes, capacity, *shape)
        self._lengths = np.zeros(0, np.int64)
        self._episodes: list[Episode] = []
        self._ended: dict[int, dict[str, np.ndarray]] = {}

    def fetch(self, index: int) -> dict[str, np.ndarray]:
        """The columns of an episode that has ended, `(steps, *shape)` each; they can be fetched once."""
        return self._ended.pop(index)

    def begin(self, episodes: Sequence[Episode]) -> None:
        self._episodes, self._lengths = list(episodes), np.zeros(len(episodes), np.int64)
        self._buffers = {
            name: np.empty((len(episodes), _FIRST_CAPACITY, *shape), dtype)
            for name, (shape, dtype) in self._columns.items()
        }

    def before_step(self) -> None:
        """Nothing to do."""

    def record(self, step: Step) -> None:
        if self._lengths.max() == self._buffers["rewards"].shape[1]:
            self._buffers = {name: np.concatenate([b, np.empty_like(b)], 1) for name, b in self._buffers.items()}
        lanes = np.flatnonzero(step.counts)
        places = (lanes, self._lengths[lanes])
        self._buffers["observations"][places] = step.observations[lanes]
        self._buffers["actions"][places] = step.actions[lanes]
        for name in ("rewards", "terminations", "truncations"):
            self._buffers[name][places] = getattr(step.outcome, name)[lanes]
        self._lengths[lanes] += 1
        self.num_steps += len(lanes)

    def finish(self, lanes: np.ndarray) -> None:
        for lane in lanes:
            length = self._lengths[lane]
            columns = {name: buffer[lane, :length].copy() for name, buffer in self._buffers.items()}
            self._ended[self._episodes[lane].index] = columns

    def restart(self, lanes: np.ndarray, episodes: Sequence[Episode]) -> None:
        for lane, episode in zip(lanes, episodes):
            self._episodes[lane] = episode
        self._lengths[lanes] = 0

    def select(self, lanes: np.ndarray) -> None:
        self._episodes = [self._episodes[lane] for lane in lanes]
        self._lengths = self._lengths[lanes]
        self._buffers = {name: buffer[lanes] for name, buffer in self._buffers.items()}


def _stored_dtype(space: Space) -> np.dtype:
    """In which dtype a data set keeps values of this space; a Tuple or Dict has no dtype of its own."""
    is_float = space.dtype is None or np.issubdtype(space.dtype, np.floating)
    return np.dtype(np.float32) if is_float else np.dtype(space.dtype)
