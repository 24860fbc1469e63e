"""Vector environments of the caller's, in every autoreset mode."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from scripted_episodes import RememberingActor, ScriptedEpisodes, length_of, return_of

from hf_seqrl.evaluation.rolling import rollout

MODES = list(AutoresetMode)


class ByObservation(RememberingActor):
    """As `RememberingActor`, where episodes are seeded by the environments themselves: it learns the seed by looking."""

    def act(self, observations):
        for history, (script, time) in zip(self.histories, observations):
            if not history.over and history.time == 0:
                assert time == 0
                history.seed = int(script)
        return super().act(observations)


def vector_env(num_envs, mode, **kwargs):
    return SyncVectorEnv([lambda: ScriptedEpisodes(**kwargs)] * num_envs, autoreset_mode=mode)


def test_without_autoreset_every_episode_has_its_own_seed():
    actor = RememberingActor()
    result = rollout(actor, vector_env(4, AutoresetMode.DISABLED), num_episodes=11, seed=5)
    assert result.seeds.tolist() == list(range(5, 16))
    np.testing.assert_allclose(result.returns, [return_of(s) for s in range(5, 16)])
    assert sum(actor.batch_sizes) == result.lengths.sum()


@pytest.mark.parametrize("mode", MODES)
def test_steps_that_only_reset_do_not_count(mode):
    actor = ByObservation()
    result = rollout(actor, vector_env(3, mode), num_episodes=13)
    assert len(actor.played) == 13
    assert sorted(result.lengths) == sorted(length_of(script) for script, _, _ in actor.played)
    np.testing.assert_allclose(sorted(result.returns), sorted(return_of(script) for script, _, _ in actor.played))


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_seeds_that_the_environment_chose_are_not_made_up(mode):
    result = rollout(ByObservation(), vector_env(3, mode), num_episodes=5, seed=20)
    assert result.seeds.tolist() == [20, 21, 22, -1, -1]
    assert result.summary()["seeds"] is None
    np.testing.assert_allclose(result.returns[:3], [return_of(s) for s in (20, 21, 22)])


@pytest.mark.parametrize("mode", MODES)
def test_fewer_episodes_than_environments(mode):
    actor = RememberingActor()
    result = rollout(actor, vector_env(8, mode), num_episodes=3, seed=1)
    assert actor.batch_sizes == [3, 3, 2, 1]
    np.testing.assert_allclose(result.returns, [return_of(s) for s in (1, 2, 3)])


def test_a_grid_of_targets_without_autoreset():
    result = rollout(RememberingActor(), vector_env(5, AutoresetMode.DISABLED), num_episodes=4, target_return=[9, 8])
    assert result.seeds.tolist() == [0, 1, 2, 3] * 2
    np.testing.assert_allclose(result.returns, [return_of(s) for s in range(4)] * 2)


def test_environments_in_other_processes():
    envs = AsyncVectorEnv([ScriptedEpisodes] * 2, autoreset_mode=AutoresetMode.DISABLED)
    try:
        result = rollout(RememberingActor(), envs, num_episodes=5)
    finally:
        envs.close()
    np.testing.assert_allclose(result.returns, [return_of(s) for s in range(5)])


def test_a_vectorised_implementation_that_takes_a_single_seed():
    envs = gym.make_vec("CartPole-v1", num_envs=4, vectorization_mode="vector_entry_point")
    result = rollout(lambda observations: np.ones(len(observations), np.int64), envs, num_episodes=10)
    assert result.env_id == "CartPole-v1"
    assert ((result.lengths >= 8) & (result.lengths <= 11)).all()  # always to the right: the pole falls at once
    assert result.terminated.all()


def test_a_limit_cannot_be_put_on_it():
    with pytest.raises(ValueError, match="where that is made"):
        rollout(RememberingActor(), vector_env(2, AutoresetMode.NEXT_STEP), max_episode_steps=3)


def test_frames_of_a_vector_environment():
    result = rollout(
        RememberingActor(),
        vector_env(2, AutoresetMode.DISABLED, render_mode="rgb_array"),
        num_episodes=4,
        seed=1,
        record_frames=3,
    )
    assert [frames[0, 0, 0, 0] for frames in result.frames] == [1, 2, 3]
    assert [frames[:, 0, 0, 1].tolist() for frames in result.frames] == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]
