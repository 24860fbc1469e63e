import copy

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_seqrl.data.validation import validate_trajectories

LENGTHS = [3, 5, 2, 4]


def sound(discrete=False):
    return {
        "observations": [[[0.5, float(step)] for step in range(length)] for length in LENGTHS],
        "actions": [[step % 3 if discrete else [0.1, 0.2, 0.3] for step in range(length)] for length in LENGTHS],
        "rewards": [[1.0] * length for length in LENGTHS],
        "terminations": [[False] * (length - 1) + [True] for length in LENGTHS],
        "truncations": [[False] * length for length in LENGTHS],
    }


def set_value(column, value, entry=None):
    def corrupt(rows, episode, step):
        if entry is None:
            rows[column][episode][step] = value
        else:
            rows[column][episode][step][entry] = value

    return corrupt


def remove_step(column):
    return lambda rows, episode, step: rows[column][episode].pop(step)


def remove_entry(column):
    return lambda rows, episode, step: rows[column][episode][step].pop()


# name: (discrete actions?, what is done to the rows, what the message must say)
CORRUPTIONS = {
    "nan": (
        False,
        set_value("observations", float("nan"), 1),
        "'observations' of episode {e} is nan at step {s}, entry [1]",
    ),
    "infinity": (
        False,
        set_value("actions", float("inf"), 0),
        "'actions' of episode {e} is inf at step {s}, entry [0]",
    ),
    "nan reward": (
        False,
        set_value("rewards", float("nan")),
        "'rewards' of episode {e} is nan at step {s}: expected finite",
    ),
    "null": (False, set_value("rewards", None), "'rewards' of episode {e} has no value (null) at step {s}"),
    "null entry": (False, set_value("actions", None, 2), "'actions' of episode {e} has no value (null) at step {s}"),
    "ragged": (False, remove_entry("actions"), "'actions' of episode {e} has 2 values at step {s}: expected 3"),
    "negative": (
        True,
        set_value("actions", -1),
        "'actions' of episode {e} is -1 at step {s}: expected integers from 0",
    ),
    "unequal": (
        False,
        remove_step("observations"),
        "'observations' of episode {e} has {less} steps, column 'rewards' has",
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_a_corrupted_step_is_named(name, data):
    discrete, corrupt, message = CORRUPTIONS[name]
    episode = data.draw(st.integers(0, len(LENGTHS) - 1))
    step = data.draw(st.integers(0, LENGTHS[episode] - 1))
    rows = sound(discrete)
    validate_trajectories(Dataset.from_dict(rows))
    corrupt(rows, episode, step)
    with pytest.raises(ValueError) as caught:
        validate_trajectories(Dataset.from_dict(rows))
    assert message.format(e=episode, s=step, less=LENGTHS[episode] - 1) in str(caught.value)


@pytest.mark.parametrize("column", ["terminations", "truncations"])
def test_an_episode_that_goes_on_after_its_end_is_named(column):
    rows = sound()
    rows[column][1][2] = True
    with pytest.raises(
        ValueError, match=f"{column}' of episode 1 is true at step 2 of 5: expected it only at the last"
    ):
        validate_trajectories(Dataset.from_dict(rows))


def test_episode_numbers_count_across_chunks_and_follow_the_rows():
    rows = sound()
    rows["rewards"][1][2] = float("nan")
    bad, good = Dataset.from_dict(rows), Dataset.from_dict(sound())
    for dataset, episode in ((concatenate_datasets([good, bad]), 5), (bad.select([3, 0, 1]), 2)):
        with pytest.raises(ValueError, match=f"'rewards' of episode {episode} is nan at step 2"):
            validate_trajectories(dataset)


def test_ragged_steps_in_a_later_chunk_are_named():
    rows = sound()
    rows["actions"] = [[[0.1, 0.2]] * length for length in LENGTHS]
    with pytest.raises(
        ValueError, match=r"'actions' of episode 4 has values of shape \(2,\) a step, episode 0 of \(3,\)"
    ):
        validate_trajectories(concatenate_datasets([Dataset.from_dict(sound()), Dataset.from_dict(rows)]))


@pytest.mark.parametrize("column", ["observations", "actions", "rewards", "terminations"])
def test_a_missing_column_is_named(column):
    dataset = Dataset.from_dict(sound()).remove_columns(column)
    with pytest.raises(ValueError, match=f"column '{column}' is missing: expected .*; rename the columns"):
        validate_trajectories(dataset)


def test_an_empty_episode_and_an_empty_data_set_are_refused():
    rows = {name: [*values, []] for name, values in sound().items()}
    with pytest.raises(ValueError, match="episode 4 has no steps"):
        validate_trajectories(Dataset.from_dict(rows))
    with pytest.raises(ValueError, match="has no episodes"):
        validate_trajectories(Dataset.from_dict(sound()).select([]))


@pytest.mark.parametrize(
    "column, values, message",
    [
        ("terminations", lambda length: [0] * length, "'terminations' holds int64 values: expected booleans"),
        ("actions", lambda length: ["left"] * length, "holds string values at step 0: expected numbers"),
        ("observations", lambda length: [1.0] * length, "'observations' has one number a step: expected a vector"),
        ("actions", lambda length: [1.0] * length, "'actions' has one float a step: expected a vector"),
        (
            "rewards",
            lambda length: [[1.0]] * length,
            r"'rewards' has values of shape \(1,\) a step: expected one value",
        ),
        ("actions", lambda length: None, "'actions' of episode 0 is missing"),
    ],
)
def test_a_wrong_type_is_named(column, values, message):
    rows = {**sound(), column: [values(length) for length in LENGTHS]}
    if column == "actions" and rows[column][0] is None:
        rows[column][1:] = sound()[column][1:]
    with pytest.raises(ValueError, match=message):
        validate_trajectories(Dataset.from_dict(rows))


def test_a_column_of_numbers_instead_of_episodes_is_named():
    rows = {**sound(), "rewards": [1.0] * len(LENGTHS)}
    with pytest.raises(ValueError, match="'rewards' holds double: expected a list"):
        validate_trajectories(Dataset.from_dict(rows))


@pytest.mark.parametrize(
    "space, message",
    [
        (Discrete(2), r"'actions' of episode 0 is 2 at step 2: expected an action of Discrete\(2\)"),
        (Discrete(3, start=1), "'actions' of episode 0 is 0 at step 0"),
        (MultiDiscrete([3]), r"'actions' has values of shape \(\) a step: expected \(1,\)"),
    ],
)
def test_integer_actions_are_held_against_the_space(space, message):
    dataset = Dataset.from_dict(sound(discrete=True))
    validate_trajectories(dataset, action_space=Discrete(3))
    with pytest.raises(ValueError, match=message):
        validate_trajectories(dataset, action_space=space)


def test_multi_discrete_actions_are_held_against_each_component():
    rows = sound()
    rows["actions"] = [[[1, 4] for _ in range(length)] for length in LENGTHS]
    dataset = Dataset.from_dict(rows)
    validate_trajectories(dataset, action_space=MultiDiscrete([2, 5]))
    with pytest.raises(ValueError, match=r"is 4 at step 0, entry \[1\]: expected an action of MultiDiscrete"):
        validate_trajectories(dataset, action_space=MultiDiscrete([2, 4]))


def test_shapes_and_types_are_held_against_the_spaces():
    dataset = Dataset.from_dict(sound())
    validate_trajectories(dataset, Box(-1, 1, (2,)), Box(-1, 1, (3,)))
    with pytest.raises(ValueError, match=r"'observations' has values of shape \(2,\) a step: expected \(5,\)"):
        validate_trajectories(dataset, observation_space=Box(-1, 1, (5,)))
    with pytest.raises(ValueError, match="'actions' holds float32 values: expected integers for Mult"):
        validate_trajectories(dataset, action_space=MultiDiscrete([2, 2, 2]))


def test_real_data_are_sound(shared_data):
    from hf_seqrl import load_trajectories

    for name in ("hopper-medium", "cartpole-mixed"):
        dataset = load_trajectories(shared_data(name))
        corrupted = copy.deepcopy(dataset[7])
        corrupted["rewards"][3] = float(np.nan)
        tainted = concatenate_datasets(
            [dataset.select(range(7)), Dataset.from_list([corrupted], features=dataset.features)]
        )
        with pytest.raises(ValueError, match="'rewards' of episode 7 is nan at step 3"):
            load_trajectories(tainted)
