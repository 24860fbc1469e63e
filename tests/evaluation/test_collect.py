"""Collected data against plain loops and known episodes."""

import gymnasium as gym
import numpy as np
import pytest
from datasets import load_from_disk
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scripted_episodes import RememberingActor, ScriptedEpisodes, length_of

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.loading import load_trajectories
from hf_seqrl.data.metadata import metadata_of
from hf_seqrl.data.spaces import space_from_dict
from hf_seqrl.evaluation.collect import collect
from hf_seqrl.evaluation.policies import balance_cartpole, noisy


def by_angle(observations):
    return (observations[:, 2] > 0).astype(np.int64)


def zeros(observations):
    return np.zeros(len(observations), np.int64)


def rows(dataset):
    return dataset.data.table.to_pylist()


@pytest.mark.parametrize("num_envs", [1, 4, 9])
def test_equals_a_plain_loop(num_envs):
    dataset = collect(by_angle, "CartPole-v1", num_episodes=7, num_envs=num_envs, seed=30)
    env = gym.make("CartPole-v1")
    for index, row in enumerate(dataset.with_format("numpy")):
        observation, _ = env.reset(seed=30 + index)
        for step in range(len(row["rewards"])):
            np.testing.assert_array_equal(row["observations"][step], observation)
            assert row["actions"][step] == by_angle(observation[None])[0]
            observation, reward, terminated, truncated, _ = env.step(int(row["actions"][step]))
            assert (row["rewards"][step], row["terminations"][step]) == (reward, terminated)
            assert row["truncations"][step] == truncated
        assert terminated or truncated


def test_columns_of_known_episodes():
    dataset = collect(zeros, ScriptedEpisodes, num_episodes=9, num_envs=4)
    columns = TrajectoryColumns(dataset)
    assert np.diff(columns.episode_offsets).tolist() == [length_of(seed) for seed in range(9)]
    steps = np.arange(columns.num_steps)
    seeds, times = columns.observations.take(steps).T
    np.testing.assert_allclose(columns.rewards.take(steps), seeds + times / 10, rtol=1e-6)
    last = np.isin(steps, columns.episode_offsets[1:] - 1)
    np.testing.assert_array_equal(columns.terminations.take(steps), last & (seeds % 2 == 0))
    np.testing.assert_array_equal(columns.truncations.take(steps), last & (seeds % 2 == 1))
    assert columns.observations.dtype == np.float32 and columns.actions.dtype == np.int64


@pytest.mark.parametrize("amount", [{"num_episodes": 10}, {"num_steps": 300}])
def test_data_do_not_depend_on_the_number_of_environments(amount):
    mixture = [(1, "random"), (2, noisy(balance_cartpole, epsilon=(0.3, 1.0)))]
    one, *others = [collect(mixture, "CartPole-v1", num_envs=n, seed=4, **amount) for n in (1, 3, 8)]
    assert all(rows(other) == rows(one) for other in others)
    assert all(metadata_of(other) == metadata_of(one) for other in others)
    assert rows(collect(mixture, "CartPole-v1", seed=5, **amount)) != rows(one)


def test_steps_are_reached_with_whole_episodes_and_no_more():
    dataset = collect(zeros, ScriptedEpisodes, num_steps=11, num_envs=5)
    assert [len(row["rewards"]) for row in rows(dataset)] == [1, 2, 3, 4, 5]  # 10 are too few


def test_shares_are_of_episodes_or_of_steps():
    mixture = [(0.5, "random"), (0.25, by_angle), (0.25, balance_cartpole)]
    played = metadata_of(collect(mixture, "CartPole-v1", num_episodes=7)).provenance["policies"]
    assert [part["num_episodes"] for part in played] == [3, 2, 2]
    played = metadata_of(collect(mixture, "CartPole-v1", num_steps=2000)).provenance["policies"]
    assert 1000 <= played[0]["num_steps"] < 1100 and 500 <= played[1]["num_steps"] < 600
    assert played[2]["num_steps"] == 500


def test_provenance_names_policies_seeds_and_versions():
    dataset = collect({"novice": "random", "expert": balance_cartpole}, "CartPole-v1", num_episodes=6, seed=100)
    metadata = metadata_of(dataset)
    assert metadata.env_id == "CartPole-v1" and metadata.max_episode_steps == 500
    env = gym.make("CartPole-v1")
    assert space_from_dict(metadata.observation_space) == env.observation_space
    assert space_from_dict(metadata.action_space) == env.action_space
    novice, expert = metadata.provenance["policies"]
    assert (novice["policy"], novice["seeds"], novice["num_episodes"]) == ("novice", [100, 102], 3)
    assert (expert["policy"], expert["seeds"], expert["mean_return"]) == ("expert", [103, 105], 500.0)
    assert metadata.provenance["versions"]["gymnasium"] == gym.__version__
    assert metadata.provenance["seed"] == 100


def test_data_survive_being_saved_and_loaded(tmp_path):
    dataset = collect("random", "CartPole-v1", num_episodes=4)
    dataset.save_to_disk(tmp_path / "data")
    for loaded in (load_trajectories(tmp_path / "data"), load_trajectories(dataset)):
        assert rows(loaded) == rows(dataset)
        assert metadata_of(loaded).provenance == metadata_of(dataset).provenance
        assert metadata_of(loaded).env_id == "CartPole-v1"
    assert rows(load_from_disk(str(tmp_path / "data"))) == rows(dataset)


class Camera(gym.ObservationWrapper):
    """The script's numbers as a picture."""

    def __init__(self):
        super().__init__(ScriptedEpisodes(action_space=gym.spaces.Box(-1, 1, (2,), np.float32)))
        self.observation_space = gym.spaces.Box(0, 255, (4, 3, 2), np.uint8)

    def observation(self, observation):
        return np.broadcast_to(observation.astype(np.uint8), (4, 3, 2)).copy()


def test_images_stay_bytes_and_clipped_actions_are_those_executed():
    dataset = collect(lambda observations: np.tile([7.0, 0.5], (len(observations), 1)), Camera, num_episodes=5)
    columns = TrajectoryColumns(dataset)
    assert columns.observations.dtype == np.uint8
    assert columns.observations.shape_per_step == (4, 3, 2)
    pictures = columns.observations.take(np.arange(columns.num_steps))
    np.testing.assert_array_equal(pictures[:, 0, 0, 1], np.concatenate([np.arange(length_of(s)) for s in range(5)]))
    assert (pictures == pictures[:, :1, :1]).all()
    assert (columns.actions.take(np.arange(3)) == np.float32([1.0, 0.5])).all()


def test_actions_of_several_choices():
    space = gym.spaces.MultiDiscrete([2, 3])
    dataset = collect("random", lambda: ScriptedEpisodes(action_space=space), num_episodes=8)
    actions = TrajectoryColumns(dataset).actions
    assert actions.shape_per_step == (2,) and actions.dtype == np.int64
    assert actions.take(np.arange(20)).max(0).tolist() == [1, 2]


def test_long_collections_are_written_in_pieces(monkeypatch):
    whole = collect(zeros, ScriptedEpisodes, num_episodes=50)
    monkeypatch.setattr("hf_seqrl.evaluation.collect.PIECE_BYTES", 500)
    pieces = collect(zeros, ScriptedEpisodes, num_episodes=50)
    assert len(whole.data.table.column(0).chunks) == 1 < len(pieces.data.table.column(0).chunks)
    assert rows(pieces) == rows(whole)
    assert pieces._fingerprint != whole._fingerprint


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_environments_of_the_callers(mode):
    envs = SyncVectorEnv([ScriptedEpisodes] * 3, autoreset_mode=mode)
    dataset = collect(zeros, envs, num_episodes=10)
    for row in rows(dataset):
        seed = int(row["observations"][0][0])
        assert row["observations"] == [[seed, t] for t in range(length_of(seed))]
    seeds = metadata_of(dataset).provenance["policies"][0]["seeds"]
    assert seeds == ([0, 9] if mode is AutoresetMode.DISABLED else None)


def test_agents_with_a_memory_and_a_target():
    actor = RememberingActor(targets=[1.0])
    dataset = collect(actor, ScriptedEpisodes, num_episodes=5, num_envs=2, target_return=77.0)
    assert sorted(actor.played) == [(seed, 77.0, length_of(seed)) for seed in range(5)]
    assert metadata_of(dataset).provenance["policies"][0]["target_return"] == 77.0


def test_of_a_mixture_only_those_that_take_a_target_get_it():
    mixture = [(1, "random"), (1, RememberingActor(targets=[1.0]))]
    played = metadata_of(collect(mixture, ScriptedEpisodes, num_episodes=4, target_return=5.0)).provenance["policies"]
    assert [part["target_return"] for part in played] == [None, 5.0]


def test_an_interrupt_leaves_no_file_and_no_open_environment(tmp_path):
    made = []

    def make():
        made.append(ScriptedEpisodes())
        return made[-1]

    def interrupted(observations):
        if (observations[:, 0] == 3).any():
            raise KeyboardInterrupt
        return zeros(observations)

    with pytest.raises(KeyboardInterrupt):
        collect(interrupted, make, num_episodes=5, num_envs=2, cache_dir=tmp_path)
    assert all(env.closed for env in made)
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_kept_where_asked(tmp_path):
    dataset = collect(zeros, ScriptedEpisodes, num_episodes=2, cache_dir=tmp_path / "data")
    assert [str(path) for path in (tmp_path / "data").iterdir()] == [file["filename"] for file in dataset.cache_files]


@pytest.mark.parametrize("amount", [{}, {"num_episodes": 2, "num_steps": 5}, {"num_episodes": 0}])
def test_how_much_must_be_said_once(amount):
    with pytest.raises(ValueError, match="expected one of them"):
        collect("random", ScriptedEpisodes, **amount)


@pytest.mark.parametrize("mixture", [[], [(0.0, "random")], ["random", "random"], {}])
def test_mixtures_must_be_shares_and_policies(mixture):
    with pytest.raises(ValueError, match=r"pairs \(share, policy\)"):
        collect(mixture, ScriptedEpisodes, num_episodes=2)
