"""Minari's own library writes what we read, and reads what we write."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from hf_seqrl import collect, load_trajectories, to_minari
from hf_seqrl.data.metadata import metadata_of
from hf_seqrl.data.spaces import space_from_dict

minari = pytest.importorskip("minari")
pytestmark = pytest.mark.filterwarnings("ignore")  # Minari misses facts about authors


@pytest.fixture(autouse=True)
def minari_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def _store(dataset_id, space, make_observation, **facts):
    """Three episodes of 2, 3 and 4 steps; the first terminates, the others are truncated."""
    from minari.data_collector.episode_buffer import EpisodeBuffer

    buffers = []
    for number, length in enumerate((2, 3, 4)):
        last = np.arange(length) == length - 1
        buffers.append(
            EpisodeBuffer(
                observations=make_observation(length + 1),
                actions=np.arange(length) % 2,
                rewards=np.arange(length, dtype=np.float32) + number,
                terminations=last & (number == 0),
                truncations=last & (number > 0),
            )
        )
    minari.create_dataset_from_buffers(
        dataset_id, buffers, observation_space=space, action_space=spaces.Discrete(2), jpeg_encoding=False, **facts
    )


def _vectors(count):
    return np.arange(count * 3, dtype=np.float32).reshape(count, 3)


def test_a_local_data_set_comes_with_its_ends_and_facts():
    space = spaces.Box(-100, 100, (3,))
    _store(
        "toys/counting/plain-v0",
        space,
        _vectors,
        env="CartPole-v1",
        author="Ada",
        ref_min_score=0.0,
        ref_max_score=9.0,
    )
    dataset = load_trajectories("toys/counting/plain-v0")
    assert dataset["rewards"][:] == [[0, 1], [1, 2, 3], [2, 3, 4, 5]]
    assert dataset["terminations"][:] == [[False, True], [False] * 3, [False] * 4]
    assert dataset["truncations"][:] == [[False] * 2, [False, False, True], [False, False, False, True]]
    np.testing.assert_array_equal(
        dataset["observations"][1], _vectors(4)[:3]
    )  # the one after the last action is left out
    metadata = metadata_of(dataset)
    assert (metadata.env_id, metadata.max_episode_steps) == ("CartPole-v1", 500)
    assert metadata.reference_returns == (0.0, 9.0)
    assert metadata.provenance["author"] == "Ada"
    assert metadata.provenance["minari_id"] == "toys/counting/plain-v0"
    assert space_from_dict(metadata.observation_space) == space


def test_a_short_id_is_minaris_where_it_lies_in_its_folder():
    _store("counting/plain-v0", spaces.Box(-100, 100, (3,)), _vectors)
    assert len(load_trajectories("counting/plain-v0")) == len(load_trajectories("minari://counting/plain-v0")) == 3


GOAL_SPACE = spaces.Dict(
    achieved=spaces.Box(-1e3, 1e3, (2,)), mode=spaces.Discrete(3), position=spaces.Box(-9, 9, (1, 2))
)


def _goals(count):
    return {
        "achieved": np.arange(count * 2, dtype=np.float32).reshape(count, 2),
        "mode": np.arange(count) % 3,
        "position": np.ones((count, 1, 2), np.float32),
    }


def test_entries_of_a_dict_follow_one_another():
    _store("toys/goals/all-v0", GOAL_SPACE, _goals)
    dataset = load_trajectories("toys/goals/all-v0")
    assert dataset["observations"][0] == [[0, 1, 1, 0, 0, 1, 1], [2, 3, 0, 1, 0, 1, 1]]
    places = metadata_of(dataset).provenance["observation_entries"]
    assert places == {"achieved": [0, 2], "mode": [2, 5], "position": [5, 7]}
    for step in (0, 1):  # as gymnasium flattens them
        flat = spaces.flatten(GOAL_SPACE, {name: values[step] for name, values in _goals(3).items()})
        np.testing.assert_array_equal(dataset["observations"][0][step], flat)


def test_entries_of_a_dict_can_be_chosen():
    _store("toys/goals/all-v0", GOAL_SPACE, _goals)
    assert load_trajectories("toys/goals/all-v0", observation="achieved")["observations"][0] == [[0, 1], [2, 3]]
    two = load_trajectories("toys/goals/all-v0", observation=["position", "achieved"])
    assert two["observations"][0] == [[1, 1, 0, 1], [1, 1, 2, 3]]
    with pytest.raises(ValueError, match="no entry 'goal': expected one of achieved, mode, position"):
        load_trajectories("toys/goals/all-v0", observation="goal")


def test_images_stay_images():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)
    space = spaces.Dict(image=spaces.Box(0, 255, (8, 6, 3), np.uint8), speed=spaces.Box(-1, 1, (1,)))
    _store("toys/pixels/all-v0", space, lambda n: {"image": pixels[:n], "speed": np.zeros((n, 1), np.float32)})
    dataset = load_trajectories("toys/pixels/all-v0", observation="image")
    np.testing.assert_array_equal(np.array(dataset["observations"][2]), pixels[:4])
    with pytest.raises(ValueError, match=r"image 'image' beside speed: choose entries, observation='image'"):
        load_trajectories("toys/pixels/all-v0")


def test_what_goes_to_minari_comes_back(cartpole_dataset):
    stored = to_minari(cartpole_dataset, "cartpole/random-v0", author="Ada")
    assert stored.total_steps == sum(map(len, cartpole_dataset["rewards"]))
    assert stored.recover_environment().spec.id == "CartPole-v1"
    back = load_trajectories("minari://cartpole/random-v0")
    for name in ("observations", "actions", "rewards", "terminations", "truncations"):
        assert back[name][:] == cartpole_dataset[name][:]
    assert metadata_of(back).env_id == "CartPole-v1"
    assert metadata_of(back).max_episode_steps == gym.spec("CartPole-v1").max_episode_steps


def test_more_episodes_than_are_held_at_once_all_arrive(monkeypatch):
    monkeypatch.setattr("hf_seqrl.data.minari_source._EPISODES_AT_ONCE", 2)
    dataset = collect("random", "CartPole-v1", num_episodes=5, num_envs=5)
    assert to_minari(dataset, "cartpole/five-v0").total_episodes == 5
    assert load_trajectories("minari://cartpole/five-v0")["rewards"][:] == dataset["rewards"][:]


def test_minari_needs_the_spaces():
    dataset = load_trajectories(
        {"observations": _vectors(3), "actions": [0, 1, 0], "rewards": [1.0] * 3, "dones": [0, 0, 1]}
    )
    with pytest.raises(ValueError, match=r"does not say which spaces.*observation_space=\.\.\."):
        to_minari(dataset, "toys/nothing-v0")


def test_a_minari_data_set_that_is_open_is_read_with_its_filter():
    _store("own/open-v0", spaces.Box(-9, 9, (2,), np.float32), lambda count: np.zeros((count, 2), np.float32))
    stored = minari.load_dataset("own/open-v0")
    assert load_trajectories(stored).to_dict() == load_trajectories("own/open-v0").to_dict()
    longer = stored.filter_episodes(lambda episode: len(episode.rewards) > 2)
    assert [len(rewards) for rewards in load_trajectories(longer)["rewards"]] == [3, 4]
    with pytest.raises(ValueError, match="layout='steps' has no meaning for a Minari data set"):
        load_trajectories(stored, layout="steps")


def test_values_are_not_taken_from_other_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    _store("counting/plain-v0", spaces.Box(-100, 100, (3,)), _vectors)
    with h5py.File(tmp_path / "other.hdf5", "w") as other:
        other["rewards"] = np.zeros(3, np.float32)
    (path,) = (tmp_path / "minari").rglob("*.hdf5")
    with h5py.File(path, "r+") as file:
        del file["episode_1/rewards"]
        file["episode_1/rewards"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/rewards")
    with pytest.raises(ValueError, match="'episode_1/rewards' stands in another file"):
        load_trajectories("counting/plain-v0")
