"""EnvPool itself as a backend, compared with loops over its environments by hand (`make test-envpool`)."""

import gymnasium as gym
import numpy as np
import pytest
from envpool_stand_in import as_a_rollout, episodes_by_hand

from hf_seqrl import metadata_of
from hf_seqrl.evaluation.collect import collect
from hf_seqrl.evaluation.rollout import rollout

pytestmark = pytest.mark.envpool


def follow_the_pole(observations):
    return (observations[:, 2] > 0).astype(np.int64)


def right(observations):
    return np.ones(len(observations), np.int64)


def hop(observations):
    return np.sin(1000 * observations[:, 5:8])  # so that episodes differ


@pytest.fixture(scope="module", autouse=True)
def envpool():
    import envpool  # not optional: a run without it fails

    return envpool


@pytest.mark.filterwarnings("ignore:.*precision lowered by casting")  # of the pool that is made by hand
@pytest.mark.parametrize(
    ("env_id", "policy", "options"),
    [
        ("CartPole-v1", follow_the_pole, {}),
        ("CartPole-v1", follow_the_pole, {"max_episode_steps": 30}),
        ("Hopper-v5", hop, {}),
        ("Hopper-v5", hop, {"max_episode_steps": 20}),
        ("Hopper-v5", hop, {"terminate_when_unhealthy": False, "max_episode_steps": 40}),
    ],
)
def test_returns_lengths_and_ends_are_those_of_a_loop_by_hand(envpool, env_id, policy, options):
    pool = envpool.make(env_id, env_type="gymnasium", num_envs=5, seed=7, num_threads=1, **options)
    by_hand = as_a_rollout(episodes_by_hand(pool, policy, 23), 23)
    limit = options.get("max_episode_steps")
    env_kwargs = {name: value for name, value in options.items() if name != "max_episode_steps"}
    settings = {"num_episodes": 23, "num_envs": 5, "seed": 7, "env_kwargs": env_kwargs, "max_episode_steps": limit}
    result = rollout(policy, env_id, backend="envpool", **settings)
    assert [*zip(result.returns, result.lengths, result.terminated)] == by_hand
    assert result.seeds.tolist() == [*range(7, 12), *[-1] * 18]
    if limit is not None:
        assert result.lengths.max() == limit and not result.terminated[result.lengths == limit].any()
        assert result.terminated[result.lengths < limit].all()


def test_the_number_of_threads_makes_no_difference():
    play = {"num_episodes": 30, "num_envs": 9, "backend": "envpool"}
    returns = [rollout(hop, "Hopper-v5", env_kwargs={"num_threads": n}, **play).returns.tolist() for n in (1, 2, 8)]
    assert returns[0] == returns[1] == returns[2]


def test_an_episode_depends_on_its_seed_alone():
    whole = rollout(hop, "Hopper-v5", num_episodes=12, num_envs=12, seed=3, backend="envpool")
    part = rollout(hop, "Hopper-v5", num_episodes=4, num_envs=4, seed=7, backend="envpool")
    assert whole.returns[4:8].tolist() == part.returns.tolist() and len(set(whole.returns)) == 12


@pytest.mark.parametrize(
    "env_id", ["CartPole-v1", "Pendulum-v1", "MountainCar-v0", "Acrobot-v1", "Hopper-v5", "Walker2d-v5"]
)
def test_time_limits_are_those_of_gymnasium(envpool, env_id):
    assert envpool.make_spec(env_id).config.max_episode_steps == gym.spec(env_id).max_episode_steps


def test_truncated_at_the_step_of_gymnasium():
    settings = {"num_episodes": 2, "num_envs": 2, "env_kwargs": {"terminate_when_unhealthy": False}}
    for backend in ("gymnasium", "envpool"):
        result = rollout(hop, "Hopper-v5", backend=backend, **settings)
        assert result.lengths.tolist() == [1000, 1000] and result.truncated.all()


def test_terminated_where_gymnasium_terminates():
    for backend in ("gymnasium", "envpool"):
        result = rollout(right, "CartPole-v1", num_episodes=5, num_envs=2, backend=backend)
        assert result.terminated.all() and set(result.lengths) <= {8, 9, 10, 11}


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Hopper-v5", "FrozenLake-v1"])
def test_collected_data_have_the_spaces_of_gymnasium(env_id):
    play = {"num_episodes": 3, "num_envs": 2, "max_episode_steps": 50}
    ours, theirs = (metadata_of(collect("random", env_id, backend=one, **play)) for one in ("envpool", "gymnasium"))
    assert ours.observations.shape == theirs.observations.shape and ours.actions.shape == theirs.actions.shape
    assert (
        ours.max_episode_steps == theirs.max_episode_steps == 50 and ours.reference_returns == theirs.reference_returns
    )


def test_observations_under_names_are_flattened():
    dataset = collect("random", "AcrobotSwingup-v1", num_episodes=2, max_episode_steps=20, backend="envpool")
    assert np.shape(dataset[0]["observations"]) == (20, 6)
    assert metadata_of(dataset).observations == gym.spaces.Box(-np.inf, np.inf, (6,), np.float32)


def test_other_options_and_players_are_refused():
    with pytest.raises(ValueError, match=r"does not make Hopper-v5 with {'gravity': 3} .*'gravity'"):
        rollout("random", "Hopper-v5", backend="envpool", env_kwargs={"gravity": 3})
    with pytest.raises(ValueError, match=r"with {'frame_skip': 'x'} .*incompatible constructor arguments\):"):
        rollout("random", "Hopper-v5", backend="envpool", env_kwargs={"frame_skip": "x"})
    with pytest.raises(ValueError, match="for 2 players"):
        rollout("random", "TicTacToe-v1", backend="envpool")
