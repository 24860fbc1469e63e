"""Evaluation of an agent in parallel episodes of an environment, each with its own seed."""

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from hf_seqrl.data.environment_ids import d4rl_reference_returns
from hf_seqrl.evaluation.environments import EnvironmentSource, environment_id, open_lanes
from hf_seqrl.evaluation.episode_loop import Episode, EpisodeLoop, FinishedEpisode, FrameRecorder, check_fit
from hf_seqrl.evaluation.lanes import Lanes
from hf_seqrl.evaluation.policies import Policy, as_actor, default_target, reads_vectors, time_limit_of
from hf_seqrl.evaluation.results import RolloutResult
from hf_seqrl.models.actor import AUTO, Actor
from hf_seqrl.models.allocator import keep_freed_memory


def rollout(
    actor: Policy,
    env: EnvironmentSource,
    num_episodes: int = 10,
    target_return: float | Sequence[float] | str | None = None,
    num_envs: int = 16,
    seed: int = 0,
    *,
    backend: str = "gymnasium",
    env_kwargs: dict[str, Any] | None = None,
    max_episode_steps: int | None = None,
    reference_returns: tuple[float, float] | None = None,
    discount: float | None = None,
    record_frames: int = 0,
    progress: bool = False,
) -> RolloutResult:
    """Run episodes and report the achieved returns.

    Episode `i` resets its environment and its actor with `seed + i`, so the result depends neither on `num_envs` nor on the
    order in which episodes end. (EnvPool, and a vectorized environment that is passed in and resets itself, can only be
    seeded once per lane; see `EnvPoolLanes` and `VectorEnvironmentLanes`.) Environments without further episodes are removed,
    also from the batch of the actor.

    Args:
        actor: An `Agent` or another `Actor`, a callable that takes observations
            `(num_envs, *observation_shape)` to actions `(num_envs, *action_shape)`, `"random"`, or `noisy(...)`.
        env: A gymnasium id, a callable that makes an environment, an environment, or a vectorized environment of any
            autoreset mode. The last two are used as they are and not closed.
        num_episodes (`int`, *optional*, defaults to `10`): Episodes for each target return.
        target_return (`float`, list of `float` or `"auto"`, *optional*): Raw. Several are evaluated in one batch, each with
            the same seeds (in EnvPool only where `num_envs` is at least the number of all episodes). Defaults to the first
            target of the agent's processor. `"auto"` asks, in each episode, for a high return that the data support from its
            first observation on (see [`~hf_seqrl.models.actor.Actor`]); the result then is one group, without targets.
        num_envs (`int`, *optional*, defaults to `16`): Number of parallel environments.
        seed (`int`, *optional*, defaults to `0`): Seed of the first episode.
        backend (`str`, *optional*, defaults to `"gymnasium"`): The library that makes the environments of an id. `"envpool"`
            steps those that EnvPool has in C++ and by threads. It begins other episodes than gymnasium, and only the first
            `num_envs` have seeds of their own: returns depend on `num_envs`, and the other seeds of the result are -1.
        env_kwargs (`dict`, *optional*): Passed to `gymnasium.make`, `envpool.make` or to the callable.
        max_episode_steps (`int`, *optional*): Truncates episodes earlier than the environment's own limit. In an environment
            that has none, episodes end at the limit that the agent was saved with, if it has one.
        reference_returns (`tuple`, *optional*): Raw returns (random, expert) for the normalized score. Defaults to those
            of the agent's processor, else to D4RL's.
        discount (`float`, *optional*): Weight of a reward one step later: the result then has `discounted_returns`, too, for
            comparison with the estimates of `evaluate_offline`.
        record_frames (`int`, *optional*, defaults to `0`): Number of episodes whose frames are kept, from the first on.
        progress (`bool`, *optional*, defaults to `False`): Show a progress bar.

    Raises:
        ImportError: `backend` is `"envpool"`, and EnvPool is not installed.
        ValueError: the agent has other spaces, is not conditioned on a return but a target is given, or returns invalid
            actions; or an episode does not end.

    Example:
        >>> result = rollout(lambda observations: np.ones(len(observations), np.int64), "CartPole-v1", num_episodes=3)
        >>> result.lengths.tolist(), result.seeds.tolist()
        ([8, 9, 10], [0, 1, 2])
    """
    if num_episodes < 1 or num_envs < 1:
        raise ValueError(f"num_episodes is {num_episodes} and num_envs {num_envs}: expected at least 1 of each.")
    if discount is not None and not 0 <= discount <= 1:
        raise ValueError(f"discount is {discount}: expected a number from 0 to 1.")
    keep_freed_memory()
    asked: list[float | str | None] = [None]
    if target_return is not None:
        asked = [AUTO] if isinstance(target_return, str) and target_return == AUTO else _checked_targets(target_return)
    lanes_wanted = min(num_envs, num_episodes * len(asked))
    with open_lanes(
        env,
        lanes_wanted,
        env_kwargs,
        max_episode_steps,
        record_frames > 0,
        default_limit=time_limit_of(actor),
        flat_observations=reads_vectors(actor),
        backend=backend,
    ) as lanes:
        acting = as_actor(actor, lanes.action_space)
        check_fit(acting.task, lanes.observation_space, lanes.action_space)
        targets = [default_target(acting)] if target_return is None else asked  # so that the result names it
        episodes = [
            Episode(i, seed + i % num_episodes, targets[i // num_episodes]) for i in range(num_episodes * len(targets))
        ]
        recorder = FrameRecorder(lanes, record_frames) if record_frames else None
        loop = EpisodeLoop(acting, lanes, episodes, recorder, 1.0 if discount is None else discount)
        began = time.perf_counter()
        finished = _play(loop, len(episodes), progress)
        seconds = time.perf_counter() - began
        references = reference_returns or _known_references(acting, environment_id(lanes))
        return _result(finished, lanes, seconds, references, recorder, discount)


def _checked_targets(target_return: Any) -> list[float | str | None]:
    try:
        targets = np.atleast_1d(np.asarray(target_return, np.float64))
    except ValueError:
        targets = np.array([np.nan])
    if targets.ndim != 1 or len(targets) == 0 or not np.isfinite(targets).all():
        raise ValueError(f"target_return is {target_return!r}: expected a finite number or a list of them, or 'auto'.")
    if len(set(targets)) < len(targets):
        raise ValueError(f"target_return {target_return!r} names a target twice: expected different ones.")
    return targets.tolist()


def _known_references(actor: Actor, env_id: str | None) -> tuple[float, float] | None:
    return actor.task.reference_returns or d4rl_reference_returns(env_id)


def _play(loop: EpisodeLoop, num_episodes: int, progress: bool) -> list[FinishedEpisode]:
    finished = []
    with tqdm(total=num_episodes, unit="episode", desc="rollout", disable=not progress) as bar:
        for outcome in loop.play():
            finished.append(outcome)
            bar.update()
            if progress:
                bar.set_postfix_str(f"return {np.mean([one.total_reward for one in finished]):.1f}", refresh=False)
    return sorted(finished, key=lambda outcome: outcome.episode.index)


def _result(
    finished: list[FinishedEpisode],
    lanes: Lanes,
    seconds: float,
    reference_returns: tuple[float, float] | None,
    recorder: FrameRecorder | None,
    discount: float | None,
) -> RolloutResult:
    targets = [outcome.episode.target_return for outcome in finished]
    discounted = None if discount is None else np.array([outcome.discounted_reward for outcome in finished])
    frames = recorder.frames if recorder else {}
    return RolloutResult(
        returns=np.array([outcome.total_reward for outcome in finished]),
        lengths=np.array([outcome.length for outcome in finished]),
        seeds=np.array([outcome.seed for outcome in finished]),
        terminated=np.array([outcome.terminated for outcome in finished]),
        target_returns=None if None in targets or AUTO in targets else np.array(targets),
        discounted_returns=discounted,
        discount=discount,
        env_id=environment_id(lanes),
        backend=lanes.backend,
        seconds=seconds,
        reference_returns=reference_returns,
        finished_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        frames=tuple(np.stack(frames[index]) for index in sorted(frames)),
        frames_per_second=recorder.frames_per_second if recorder else lanes.fps,
    )
