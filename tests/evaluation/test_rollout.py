"""The rollout against plain loops and against episodes that are known beforehand."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_episodes import RememberingActor, ScriptedEpisodes, length_of, return_of

import hf_seqrl
from hf_seqrl.data.task import Task
from hf_seqrl.evaluation.collect import collect
from hf_seqrl.evaluation.policies import noisy
from hf_seqrl.evaluation.rollout import rollout


def wobbling(observations):
    """A CartPole policy whose episodes have very different lengths."""
    return (observations[:, 2] > 0).astype(np.int64)


def zeros(observations):
    return np.zeros(len(observations), np.int64)


def one_after_the_other(env, policy, seeds):
    returns, lengths, terminations = [], [], []
    for seed in seeds:
        observation, _ = env.reset(seed=seed)
        total, length, terminated, truncated = 0.0, 0, False, False
        while not (terminated or truncated):
            action = policy(observation[None])[0]
            observation, reward, terminated, truncated, _ = env.step(action)
            total, length = total + reward, length + 1
        returns.append(total)
        lengths.append(length)
        terminations.append(terminated)
    return returns, lengths, terminations


@pytest.mark.parametrize("num_envs", [1, 3, 8, 50])
def test_equals_a_plain_loop_whatever_the_number_of_environments(num_envs):
    returns, lengths, terminations = one_after_the_other(gym.make("CartPole-v1"), wobbling, range(7, 27))
    result = rollout(wobbling, "CartPole-v1", num_episodes=20, num_envs=num_envs, seed=7)
    assert len(set(lengths)) > 5
    assert result.returns.tolist() == returns
    assert result.lengths.tolist() == lengths
    assert result.terminated.tolist() == terminations
    assert result.seeds.tolist() == list(range(7, 27))
    assert result.env_id == "CartPole-v1"


@pytest.mark.parametrize("num_envs", [1, 3, 20])
def test_discounted_returns_are_geometric_series_where_each_step_earns_one(num_envs):
    result = rollout(wobbling, "CartPole-v1", num_episodes=20, num_envs=num_envs, seed=7, discount=0.9)
    np.testing.assert_allclose(result.discounted_returns, (1 - 0.9**result.lengths) / (1 - 0.9), rtol=1e-12)
    np.testing.assert_array_equal(result.returns, result.lengths)
    assert result.summary()["mean_discounted_return"] == result.discounted_returns.mean()
    assert "discounted by 0.9" in result.table()
    with pytest.raises(ValueError, match=r"discount is 1\.5: expected a number from 0 to 1"):
        rollout(wobbling, "CartPole-v1", discount=1.5)


def test_continuous_actions_equal_a_plain_loop():
    def damp(observations):
        return -observations[:, 2:] / 4

    returns, _, _ = one_after_the_other(gym.make("Pendulum-v1"), damp, range(4))
    result = rollout(damp, "Pendulum-v1", num_episodes=4, num_envs=3)
    np.testing.assert_allclose(result.returns, returns, rtol=1e-12)
    assert result.truncated.all()


@pytest.mark.parametrize("policy", ["random", noisy(wobbling, epsilon=(0.1, 0.9))])
def test_policies_that_draw_do_not_depend_on_the_number_of_environments(policy):
    results = [rollout(policy, "CartPole-v1", num_episodes=12, num_envs=n, seed=3) for n in (1, 5, 12)]
    assert len(set(results[0].returns)) > 3
    for other in results[1:]:
        assert other.returns.tolist() == results[0].returns.tolist()


@settings(max_examples=25, deadline=None)
@given(
    num_episodes=st.integers(1, 9),
    num_targets=st.integers(1, 3),
    num_envs=st.integers(1, 12),
    seed=st.integers(0, 100),
)
def test_an_actor_with_a_memory_sees_each_episode_from_its_start_to_its_end(num_episodes, num_targets, num_envs, seed):
    targets = [100.0 * (k + 1) for k in range(num_targets)]
    actor = RememberingActor(targets=targets)
    result = rollout(actor, ScriptedEpisodes, num_episodes, targets, num_envs, seed)
    seeds = list(range(seed, seed + num_episodes)) * num_targets
    assert result.seeds.tolist() == seeds
    assert result.target_returns.tolist() == list(np.repeat(targets, num_episodes))
    assert result.lengths.tolist() == [length_of(s) for s in seeds]
    np.testing.assert_allclose(result.returns, [return_of(s) for s in seeds])
    expected = [(s, target, length_of(s)) for target in targets for s in range(seed, seed + num_episodes)]
    assert sorted(actor.played) == sorted(expected)


def test_no_step_is_computed_for_environments_that_are_done():
    actor = RememberingActor()
    result = rollout(actor, ScriptedEpisodes, num_episodes=20, num_envs=6)
    assert sum(actor.batch_sizes) == result.lengths.sum()
    assert actor.batch_sizes[0] == 6 and actor.batch_sizes[-1] < 6


def test_targets_of_a_grid_share_their_seeds_and_their_batch():
    actor = RememberingActor(targets=[1.0])
    result = rollout(actor, ScriptedEpisodes, num_episodes=3, target_return=[3600, 1800], num_envs=6)
    assert actor.batch_sizes[0] == 6
    assert {target for _, target, _ in actor.played} == {3600.0, 1800.0}
    parts = result.by_target()
    assert list(parts) == [3600.0, 1800.0]
    assert [part.seeds.tolist() for part in parts.values()] == [[0, 1, 2], [0, 1, 2]]


def test_truncation_is_told_from_termination():
    result = rollout(zeros, ScriptedEpisodes, num_episodes=6)
    assert result.terminated.tolist() == [True, False] * 3
    assert result.truncated.tolist() == [False, True] * 3


def test_max_episode_steps_truncates():
    for env in ("CartPole-v1", lambda: gym.make("CartPole-v1"), gym.make("CartPole-v1")):
        result = rollout(wobbling, env, num_episodes=3, max_episode_steps=5)
        assert result.lengths.tolist() == [5, 5, 5]
        assert result.truncated.all()


def test_an_environment_of_the_callers_is_used_and_left_open():
    env = ScriptedEpisodes()
    result = rollout(RememberingActor(), env, num_episodes=4, num_envs=4)
    assert result.returns.tolist() == pytest.approx([return_of(s) for s in range(4)])
    assert not env.closed


def test_environments_made_here_are_closed_after_an_interrupt():
    made = []

    def make():
        made.append(ScriptedEpisodes())
        return made[-1]

    def interrupted(observations):
        if observations[0, 1] == 0 and observations[0, 0] > 0:
            raise KeyboardInterrupt
        return zeros(observations)

    with pytest.raises(KeyboardInterrupt):
        rollout(interrupted, make, num_episodes=5, num_envs=2)
    assert len(made) == 2 and all(env.closed for env in made)


def test_env_kwargs_reach_the_environment():
    calm = rollout("random", "FrozenLake-v1", num_episodes=5, env_kwargs={"is_slippery": False, "map_name": "8x8"})
    assert calm.num_episodes == 5
    with pytest.raises(ValueError, match="too late"):
        rollout("random", ScriptedEpisodes(), env_kwargs={"is_slippery": False})


def test_defaults_come_from_the_agents_task():
    actor = RememberingActor(Task(reference_returns=(0.0, 80.0)), targets=[40.0, 20.0])
    result = rollout(actor, ScriptedEpisodes, num_episodes=2)
    assert result.target_returns.tolist() == [40.0, 40.0]
    assert result.normalized_score == pytest.approx(result.mean_return / 0.8)


@pytest.mark.parametrize("policy", [RememberingActor(), zeros, "random", noisy(zeros, epsilon=0.5)])
def test_a_target_for_an_agent_that_takes_none_is_an_error(policy):
    for play in (rollout, collect):
        with pytest.raises(ValueError, match=r"target_return is .*123.* conditioned on a return: leave it out"):
            play(policy, ScriptedEpisodes, num_episodes=2, target_return=123)


def test_reference_returns_of_d4rl_are_known():
    pytest.importorskip("mujoco")
    result = rollout("random", "Hopper-v5", num_episodes=2, num_envs=2)
    assert result.normalized_score == pytest.approx(100 * (result.mean_return + 20.272305) / (3234.3 + 20.272305))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_episodes": 0}, "num_episodes is 0"),
        ({"num_envs": 0}, "num_envs 0"),
        ({"target_return": [1.0, 1.0]}, "twice"),
        ({"target_return": float("nan")}, "finite"),
        ({"target_return": []}, "finite number or a list"),
    ],
)
def test_senseless_requests_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        rollout(zeros, ScriptedEpisodes, **options)


def test_something_that_is_no_environment_is_refused():
    with pytest.raises(TypeError, match="expected a gymnasium id"):
        rollout(zeros, 7)
    with pytest.raises(TypeError, match=r"expected a gymnasium\.Env"):
        rollout(zeros, dict)


def test_the_name_in_the_package_is_the_function():
    assert hf_seqrl.rollout is rollout


def test_progress_is_shown_on_request(capsys):
    rollout(zeros, ScriptedEpisodes, num_episodes=2, progress=True)
    assert "2/2" in capsys.readouterr().err
    rollout(zeros, ScriptedEpisodes, num_episodes=2)
    assert capsys.readouterr().err == ""
