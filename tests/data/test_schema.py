"""Kinds and shapes of columns: what is stated is used, what is guessed is written down."""

import gymnasium
import numpy as np
import pytest
from datasets import Dataset
from gymnasium import spaces
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete, Tuple

from hf_seqrl import load_trajectories, metadata_of
from hf_seqrl.data.column_values import as_flags
from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.writing import loses_values

LENGTH = 6


def episode(actions, observations=None, **columns):
    length = len(actions)
    return {
        "observations": np.random.default_rng(0).normal(size=(length, 2)) if observations is None else observations,
        "actions": actions,
        "rewards": np.ones(length),
        "terminations": np.arange(length) == length - 1,
        **columns,
    }


def actions_of(dataset):
    columns = TrajectoryColumns(dataset)
    return columns.actions.take(np.arange(columns.num_steps))


CODES = np.array([0, 2, 1, 1, 0, 2])


@pytest.mark.parametrize(
    "written",
    [CODES[:, None], CODES.astype(float), CODES[:, None].astype(float), np.eye(3)[CODES], np.eye(3, dtype=int)[CODES]],
    ids=["column", "floats", "column of floats", "one-hot", "one-hot integers"],
)
@pytest.mark.parametrize("stated", [{}, {"action_space": Discrete(3)}], ids=["guessed", "stated"])
def test_codes_are_read_however_they_are_written(written, stated):
    dataset = load_trajectories([episode(written)], **stated)
    assert actions_of(dataset).tolist() == CODES.tolist()
    assert ("action_space" in metadata_of(dataset).guesses) == (not stated)


def test_a_stated_space_keeps_what_would_have_been_guessed_otherwise():
    switches = np.eye(3, dtype=int)[CODES]
    assert actions_of(load_trajectories([episode(switches)], action_space=MultiBinary(3))).shape == (LENGTH, 3)
    assert actions_of(load_trajectories([episode(switches)], action_space=MultiDiscrete([2, 2, 2]))).shape == (
        LENGTH,
        3,
    )
    whole = np.array([[100], [250], [0], [500], [75], [0]])
    dataset = load_trajectories([episode(whole)], action_space=Box(0, 500, (1,)))
    assert actions_of(dataset).dtype == np.float32
    assert metadata_of(dataset).actions == Box(0, 500, (1,))


def test_codes_with_a_start_are_kept():
    dataset = load_trajectories([episode(CODES - 1)], action_space=Discrete(3, start=-1))
    assert actions_of(dataset).tolist() == (CODES - 1).tolist()


def test_the_space_of_the_environment_decides_about_columns_of_one_entry():
    dataset = load_trajectories([episode(np.array([[0], [1], [0]]), np.zeros((3, 4)))], env_id="CartPole-v1")
    assert actions_of(dataset).tolist() == [0, 1, 0]
    dataset = load_trajectories([episode(np.array([[0], [1], [0]]), np.zeros((3, 3)))], env_id="Pendulum-v1")
    assert actions_of(dataset).tolist() == [[0.0], [1.0], [0.0]]


def test_a_fraction_among_codes_is_named():
    with pytest.raises(ValueError, match=r"'actions' is 0.5 at step 2: expected whole numbers for Discrete\(3\)"):
        load_trajectories([episode(np.array([0.0, 1.0, 0.5]))], action_space=Discrete(3))


def test_a_huge_set_of_actions_is_refused_with_the_memory_that_it_would_take():
    with pytest.raises(ValueError, match=r"integers up to 50,000,000: as one-hot vectors, .* would take 238.4 GiB"):
        load_trajectories([episode(np.array([3, 50_000_000, 7]))])


def test_words_become_codes_that_do_not_depend_on_their_order_and_come_back_as_words():
    words = ["sell", "buy", "hold", "buy"]
    dataset = load_trajectories([episode(words)])
    task = metadata_of(dataset)
    assert actions_of(dataset).tolist() == [2, 0, 1, 0]
    assert task.categories == {"action": ["buy", "hold", "sell"]}
    assert task.actions == Discrete(3)
    assert task.words(actions_of(dataset)) == words
    again = load_trajectories([episode(words[::-1])])
    assert metadata_of(again).categories == task.categories


def test_booleans_come_back_as_booleans():
    dataset = load_trajectories([episode(np.array([True, False, True]))])
    assert actions_of(dataset).tolist() == [1, 0, 1]
    assert metadata_of(dataset).words(actions_of(dataset)) == [True, False, True]


# Bounds


BEYOND = np.array([[0.5], [3.0], [-2.0], [1.0]])


def test_actions_beyond_the_bounds_are_refused():
    with pytest.raises(
        ValueError, match=r"episode 0 is 3 at step 1, entry \[0\]: .* 2 steps lie outside.*out_of_bounds='clip'"
    ):
        load_trajectories([episode(BEYOND)], action_space=Box(-1, 1, (1,)))


def test_actions_beyond_the_bounds_are_clipped_or_rescaled_where_that_is_chosen():
    space = Box(-1, 1, (1,))
    clipped = load_trajectories([episode(BEYOND)], action_space=space, out_of_bounds="clip")
    assert actions_of(clipped)[:, 0].tolist() == [0.5, 1.0, -1.0, 1.0]
    rescaled = load_trajectories([episode(BEYOND)], action_space=space, out_of_bounds="rescale")
    np.testing.assert_allclose(actions_of(rescaled)[:, 0], (BEYOND[:, 0] + 2) / 5 * 2 - 1, rtol=1e-6)
    assert "2 steps were clipped" in metadata_of(clipped).guesses["actions"]
    with pytest.raises(ValueError, match="out_of_bounds='clip' needs the bounds"):
        load_trajectories([episode(BEYOND)], out_of_bounds="clip")


def test_the_bounds_of_the_environment_count_too():
    from hf_seqrl import DecisionTransformerProcessor

    dataset = load_trajectories([episode(BEYOND, np.zeros((4, 3)))], env_id="Pendulum-v1")
    with pytest.raises(ValueError, match="is 3 at step 1"):
        DecisionTransformerProcessor.from_dataset(dataset)
    clipped = load_trajectories([episode(BEYOND, np.zeros((4, 3)))], env_id="Pendulum-v1", out_of_bounds="clip")
    assert actions_of(clipped).max() == 2.0


def test_observations_are_held_against_stated_bounds():
    with pytest.raises(
        ValueError, match=r"'observations' of episode 0 is 7.0 at step 1, entry \[0\]: expected a value of Box"
    ):
        load_trajectories([episode([0, 1], np.array([[0.0], [7.0]]))], observation_space=Box(-1, 1, (1,)))


# Observations


@pytest.mark.parametrize(
    ("space", "values"),
    [
        (Discrete(4, start=1), np.array([1, 4, 2, 3, 1, 1])),
        (MultiDiscrete([2, 3]), np.array([[0, 2], [1, 1], [0, 0], [1, 2], [0, 1], [1, 0]])),
        (MultiBinary(3), np.random.default_rng(0).integers(0, 2, (6, 3))),
    ],
    ids=str,
)
def test_discrete_observations_become_what_gymnasium_flattens_them_to(space, values):
    dataset = load_trajectories([episode(CODES, values)], observation_space=space)
    expected = [spaces.flatten(space, value) for value in values]
    np.testing.assert_array_equal(dataset["observations"][0], expected)
    task = metadata_of(dataset)
    assert task.observations == Box(0, 1, (len(expected[0]),))
    assert spaces.flatdim(space) == len(task.observation_names)
    np.testing.assert_array_equal(task.flat_observations(values), expected)
    again = load_trajectories(dataset)
    assert metadata_of(again) == task and again["observations"][:] == dataset["observations"][:]


def test_state_numbers_of_a_known_environment_become_one_hot():
    dataset = load_trajectories([episode([0, 1, 2], np.array([0, 4, 15]))], env_id="FrozenLake-v1")
    assert np.argmax(dataset["observations"][0], axis=1).tolist() == [0, 4, 15]
    assert metadata_of(dataset).source_observation_space == {"type": "Discrete", "n": 16, "start": 0}


def test_a_whole_number_that_may_be_a_state_or_a_quantity_is_refused():
    with pytest.raises(ValueError, match=r"one integer a step: give observation_space=Discrete\(n\) .* or .*Box"):
        load_trajectories([episode([0, 1], np.array([3, 4]))])


def test_dictionaries_and_tuples_are_flattened_as_gymnasium_does():
    space = spaces.Dict(arm=spaces.Dict(angle=Box(-9, 9, (2,))), mode=Discrete(3))
    rng = np.random.default_rng(0)
    values = {"arm": {"angle": rng.normal(size=(4, 2)).astype(np.float32)}, "mode": np.array([0, 2, 1, 1])}
    dataset = load_trajectories([episode([0, 1, 0, 1], values)], observation_space=space)
    expected = [
        spaces.flatten(space, {"arm": {"angle": values["arm"]["angle"][i]}, "mode": values["mode"][i]})
        for i in range(4)
    ]
    np.testing.assert_allclose(dataset["observations"][0], expected, rtol=1e-6)
    assert metadata_of(dataset).observation_names == ("arm.angle[0]", "arm.angle[1]", "mode=0", "mode=1", "mode=2")


def test_hybrid_actions_keep_their_parts():
    gears, steering = np.array([0, 2, 1]), np.array([[0.5], [-0.5], [0.0]])
    space = Tuple((Discrete(3), Box(-1, 1, (1,))))
    dataset = load_trajectories([{**episode([0, 0, 0]), "actions": (gears, steering)}], action_space=space)
    assert actions_of(dataset).tolist() == [[0.0, 0.5], [2.0, -0.5], [1.0, 0.0]]
    guessed = load_trajectories([{**episode([0, 0, 0]), "actions": {"gear": gears, "steer": steering}}])
    assert metadata_of(guessed).actions["gear"] == Discrete(3)
    assert "from the kinds and the largest values" in metadata_of(guessed).guesses["action_space"]


def test_a_choice_outside_a_hybrid_space_is_named():
    actions = (np.array([0, 3, 1]), np.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"'actions' of episode 0 is 3.0 at step 1, entry \[0\]"):
        load_trajectories(
            [{**episode([0, 0, 0]), "actions": actions}], action_space=Tuple((Discrete(3), Box(-1, 1, (1,))))
        )


def test_infos_beside_the_columns_are_left_out():
    dataset = load_trajectories([episode([0, 1, 0], infos={"success": np.zeros(3)}, seed="seven")])
    assert set(dataset.column_names) == {"observations", "actions", "rewards", "terminations"}


def test_boolean_observations_become_zeros_and_ones():
    flags = np.array([[True, False], [False, False], [True, True]])
    assert load_trajectories([episode([0, 1, 0], flags)])["observations"][0] == [[1, 0], [0, 0], [1, 1]]


def test_images_of_floats_are_guessed_and_small_arrays_are_features():
    images = np.random.default_rng(0).random((3, 36, 36, 3))
    assert "images" in metadata_of(load_trajectories([episode([0, 1, 0], images)])).guesses["observation_space"]
    features = np.random.default_rng(0).random((3, 2, 3, 4))
    assert (
        "Box without bounds"
        in metadata_of(load_trajectories([episode([0, 1, 0], features)])).guesses["observation_space"]
    )


# Flags and rewards


@pytest.mark.parametrize(
    "values", [[0, 1], [0.0, 1.0], ["False", "True"], [b"false", b"true"], [[False], [True]]], ids=str
)
def test_flags_in_any_form(values):
    assert as_flags(np.array(values), "done").tolist() == [False, True]


@pytest.mark.parametrize("values", [[0.0, np.nan], [0.0, 0.5], [0, 2], ["no", "perhaps"]], ids=str)
def test_what_is_no_flag_is_named(values):
    with pytest.raises(ValueError, match=r"column 'done' has the value .* at step .: expected true or false"):
        as_flags(np.array(values), "done")


def test_named_flags_count_more_than_a_column_called_dones():
    rows = Dataset.from_dict(
        {
            "observations": [[[0.0], [0.0]]],
            "actions": [[0, 1]],
            "rewards": [[0.0, 1.0]],
            "terminated": [[False, False]],
            "dones": [[False, True]],
        }
    )
    columns = TrajectoryColumns(load_trajectories(rows, termination="terminated"))
    assert columns.terminations.take([0, 1]).tolist() == [False, False]
    assert columns.truncations.take([0, 1]).tolist() == [False, True]


def test_dones_beside_terminations_must_agree_with_them():
    sound = {"truncations": [False, False, True], "terminations": [False] * 3, "dones": [False, False, True]}
    assert load_trajectories([episode([0, 1, 0], **sound)])["terminations"][0] == [False] * 3
    with pytest.raises(ValueError, match="'dones' and 'terminations' contradict each other at step 0"):
        load_trajectories([episode([0, 1, 0], **{**sound, "dones": [True, False, True]})])


def test_demonstrations_have_no_rewards_and_can_only_be_cloned():
    from hf_seqrl import DecisionTransformerProcessor

    demonstration = episode([0, 1, 0])
    del demonstration["rewards"]
    dataset = load_trajectories([demonstration], reward=None)
    assert dataset["rewards"][:] == [[0.0, 0.0, 0.0]] and metadata_of(dataset).has_rewards is False
    assert not DecisionTransformerProcessor.from_dataset(dataset).is_conditioned
    with pytest.raises(ValueError, match="recorded without rewards: clone them"):
        DecisionTransformerProcessor.from_dataset(dataset, conditioning="return")
    with pytest.raises(ValueError, match="'rewards'"):
        load_trajectories([demonstration])


# Precision


def test_what_float32_would_make_equal_stays_double():
    clock = 1.7e9 + 10.0 * np.arange(6)
    dataset = load_trajectories([episode(CODES, clock[:, None])])
    assert metadata_of(dataset).doubles == ("observations",)
    assert TrajectoryColumns(dataset).observations.take(np.arange(6))[:, 0].tolist() == clock.tolist()
    from hf_seqrl import DecisionTransformerProcessor

    processor = DecisionTransformerProcessor.from_dataset(dataset)
    states = processor.normalize_states(TrajectoryColumns(dataset).observations.take(np.arange(6)))
    np.testing.assert_allclose(states[:, 0], (clock - clock.mean()) / clock.std(), rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "loses"),
    [
        (1.7e12 + np.arange(5.0), True),
        (16_777_216 + np.arange(5), True),
        (1.0 + 1e-14 * np.arange(5), False),
        (np.random.default_rng(0).normal(size=100_000), False),
        (np.full(5, 0.1), False),
        (np.arange(5, dtype=np.float32), False),
    ],
    ids=["milliseconds", "counter", "jitter", "noise", "constant", "single"],
)
def test_only_differences_that_mean_something_are_kept_in_double(values, loses):
    assert loses_values(values) == loses


def test_guesses_are_dropped_when_they_are_stated_later():
    dataset = load_trajectories([episode(np.eye(2)[[0, 1, 0]], np.zeros((3, 4)))])
    assert metadata_of(dataset).actions == Discrete(2)
    assert "action_space" not in metadata_of(load_trajectories(dataset, action_space=Discrete(2))).guesses
    known = metadata_of(load_trajectories(dataset, env_id="CartPole-v1"))
    assert known.action_space is None and "action_space" not in known.guesses
    assert gymnasium.spec("CartPole-v1").id == known.env_id


def test_numbers_of_states_that_were_saved_stay_numbers_and_every_family_reads_them():
    from hf_seqrl import DecisionTransformerGymDataCollator, DecisionTransformerProcessor, TrajectoryWindows
    from hf_seqrl.data.metadata import TrajectoryMetadata, with_metadata

    rows = Dataset.from_dict(
        {"observations": [[3, 0, 1]], "actions": [[0, 1, 0]], "rewards": [[1.0] * 3], "terminations": [[False] * 3]}
    )
    saved = with_metadata(rows, TrajectoryMetadata(observation_space=Discrete(4), action_space=Discrete(2)))
    loaded = load_trajectories(saved)
    assert loaded["observations"][:] == [[3, 0, 1]]
    processor = DecisionTransformerProcessor.from_dataset(loaded, context_length=3)
    batch = DecisionTransformerGymDataCollator(loaded, processor)(
        TrajectoryWindows(loaded, processor).__getitems__([0])
    )
    assert batch["states"][0].argmax(-1).tolist() == [3, 0, 1] and processor.state_dim == 4
