"""Data that hold the observation after the last action: refused, or read right when that is stated."""

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from hf_seqrl import load_trajectories
from hf_seqrl.data.columns import TrajectoryColumns

LENGTHS = (3, 2)
STATES = [np.arange(4.0)[:, None] + 10 * number for number in range(2)]  # one more than actions in each episode
STATES[1] = STATES[1][:3]
EPISODES = [
    {
        "observations": STATES[number],
        "actions": np.arange(length) % 2,
        "rewards": np.arange(length, dtype=float),
        "terminations": np.arange(length) == length - 1,
    }
    for number, length in enumerate(LENGTHS)
]
EXPECTED = [0.0, 1.0, 2.0, 10.0, 11.0]


def states(dataset):
    return TrajectoryColumns(dataset).observations.take(np.arange(sum(LENGTHS)))[:, 0].tolist()


def one_after_the_other():
    return {name: np.concatenate([episode[name] for episode in EPISODES]) for name in EPISODES[0]}


def as_log():
    """One observation at the very end: those of one environment that was not reset between the episodes."""
    return {**one_after_the_other(), "observations": np.array([*EXPECTED, 12.0])[:, None]}


SOURCES = {
    "a list of episodes": lambda: EPISODES,
    "a dictionary of lists": lambda: {name: [episode[name] for episode in EPISODES] for name in EPISODES[0]},
    "steps": one_after_the_other,
    "a log": as_log,
    "rows": lambda: Dataset.from_list([{name: values.tolist() for name, values in one.items()} for one in EPISODES]),
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_final_observations_are_dropped_where_that_is_stated(make):
    with pytest.raises(ValueError, match="final_observations='drop'"):
        load_trajectories(make())
    assert states(load_trajectories(make(), final_observations="drop")) == EXPECTED


@pytest.mark.parametrize("layout", ["time_env", "env_time"])
def test_final_observations_of_parallel_environments(layout):
    whole = {
        name: np.stack([values, values + (10 if name == "observations" else 0)])
        for name, values in EPISODES[0].items()
    }
    arrays = {name: values.swapaxes(0, 1) if layout == "time_env" else values for name, values in whole.items()}
    dataset = load_trajectories(arrays, layout=layout, final_observations="drop")
    assert TrajectoryColumns(dataset).observations.take(np.arange(6))[:, 0].tolist() == [0, 1, 2, 10, 11, 12]


def test_what_has_no_final_observation_is_refused():
    without = [{**episode, "observations": episode["observations"][:-1]} for episode in EPISODES]
    with pytest.raises(ValueError, match="of episode 0 has 3 entries, and there are 3 actions: expected 4"):
        load_trajectories(without, final_observations="drop")
    steps = {**one_after_the_other(), "observations": np.zeros((9, 1))}
    with pytest.raises(ValueError, match=r"9 entries for 5 actions in 2 episodes: expected 7 .* or 6"):
        load_trajectories(steps, final_observations="drop")
    with pytest.raises(ValueError, match="final_observations is 'keep': expected one of refuse, drop"):
        load_trajectories(EPISODES, final_observations="keep")


def table(**changes):
    """The last row of each run has no action, and the flag of the end stands there."""
    return pd.DataFrame(
        {
            "run": [0, 0, 0, 1, 1],
            "x": [0.0, 1.0, 2.0, 3.0, 4.0],
            "a": [1.0, 0.0, np.nan, 1.0, np.nan],
            "r": [5.0, 6.0, np.nan, 7.0, np.nan],
            "done": [0, 0, 1, 0, 0],
            **changes,
        }
    )


NAMES = {"episode": "run", "observation": ["x"], "action": "a", "reward": "r", "termination": "done"}


def test_last_rows_without_an_action():
    with pytest.raises(
        ValueError, match="leave these last observations of their episodes out, final_observations='drop'"
    ):
        load_trajectories(table(), **NAMES)
    columns = TrajectoryColumns(load_trajectories(table(), **NAMES, final_observations="drop"))
    everything = np.arange(3)
    assert columns.observations.take(everything)[:, 0].tolist() == [0.0, 1.0, 3.0]
    assert columns.rewards.take(everything).tolist() == [5.0, 6.0, 7.0]
    assert columns.terminations.take(everything).tolist() == [False, True, False]
    assert columns.truncations.take(everything).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": [1.0, np.nan, np.nan, 1.0, np.nan]}, "column 'a' of the table: row 1 has no value"),
        ({"a": [1.0, 0.0, 1.0, 1.0, 0.0], "r": 0.0}, "no episode ends with a row without an action"),
        (
            {"r": [0.0, 5.0, 6.0, 0.0, 7.0]},
            "column 'r' is 6.0 at row 2, where no action is: .* shift the column by one row",
        ),
        ({"a": [1.0, 0.0, np.nan, 1.0, np.nan], "run": [0, 0, 0, 1, 2]}, "the episode at row 4 has no action"),
    ],
)
def test_last_rows_that_are_something_else(changes, message):
    with pytest.raises(ValueError, match=message):
        load_trajectories(table(**changes), **NAMES, final_observations="drop")
