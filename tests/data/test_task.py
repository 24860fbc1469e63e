import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

from hf_seqrl.data.task import Task


def test_a_task_survives_json_and_fields_of_later_versions_are_left_out():
    task = Task(
        "Hopper-v5",
        Box(-np.inf, np.inf, (2,)),
        Discrete(2),
        (0.0, 1.0),
        10,
        ("a", "b"),
        None,
        {"a": "m"},
        {"u": ["x"]},
    )
    assert Task.from_dict(task.to_dict() | {"invented_later": 1}) == task


@pytest.mark.parametrize("limit", [0, -1, 2.5, True])
def test_a_time_limit_is_a_number_of_steps(limit):
    with pytest.raises(ValueError, match="expected a number of steps"):
        Task(max_episode_steps=limit)


ORDERS = Task(action_space=Discrete(3), action_names=("order",), categories={"order": ["buy", "hold", "sell"]})
MIXED = Task(
    action_space=Dict([("valve", Box(0, 1, (1,))), ("mode", Discrete(2, start=1))]),
    action_names=("valve", "mode"),
    units={"valve": "%"},
    categories={"mode": ["auto", "hand"]},
)
GRID = Task(action_space=MultiDiscrete([2, 3]), action_names=("on", "gear"), categories={"on": [False, True]})


@pytest.mark.parametrize(
    ("task", "codes", "words"),
    [
        (ORDERS, np.array([2, 0]), ["sell", "buy"]),
        (ORDERS.updated(action_space=Discrete(3, start=-1)), np.array([1, -1]), ["sell", "buy"]),
        (MIXED, np.array([[0.5, 2.0], [0.25, 1.0]]), [[0.5, "hand"], [0.25, "auto"]]),
        (GRID, np.array([[1, 2], [0, 0]]), [[True, 2], [False, 0]]),
        (Task(action_space=Discrete(2, start=5)), np.array([5, 6]), [5, 6]),
        (Task(action_space=Box(-1, 1, (2,))), np.array([[0.5, 0.25]]), [[0.5, 0.25]]),
    ],
)
def test_actions_are_said_in_the_users_words_and_back(task, codes, words):
    assert task.words(codes) == words
    assert task.codes(words).tolist() == codes.tolist()


def test_several_entries_get_their_names():
    assert MIXED.named_actions(np.array([[0.5, 2.0]])) == [{"valve": 0.5, "mode": "hand"}]
    assert ORDERS.named_actions(np.array([2])) == ["sell"]


def test_a_choice_without_a_word_stays_a_number_and_an_unknown_word_is_refused():
    assert ORDERS.updated(action_space=Discrete(4)).words(np.array([3])) == [3]
    with pytest.raises(ValueError, match="the action is 'wait': expected one of 'buy', 'hold', 'sell'"):
        ORDERS.codes(["wait"])


def test_an_observation_from_its_entries_by_name():
    task = Task(
        observation_names=("level", "mode=auto", "mode=hand", "gear=1", "gear=2"),
        categories={"mode": ["auto", "hand"]},
    )
    assert task.observation_vector({"gear": 2, "level": 0.5, "mode": "auto"}).tolist() == [0.5, 1, 0, 0, 1]
    with pytest.raises(ValueError, match="mode is 'off': expected one of 'auto', 'hand'"):
        task.observation_vector({"gear": 2, "level": 0.5, "mode": "off"})
    with pytest.raises(ValueError, match="the observation has no gear=1, gear=2: expected level"):
        task.observation_vector({"level": 0.5, "mode": "auto"})


def test_entries_are_described_with_units_and_words():
    assert MIXED.entries_in_words("actions") == "valve (%), mode (auto, hand)"
    assert MIXED.entries_in_words("observations") is None
    many = Task(observation_names=[f"x{number}" for number in range(30)])
    assert many.entries_in_words("observations", most=2) == "x0, x1, and 28 more"


def test_words_with_other_codes_are_refused():
    ORDERS.check_words(Task(categories={"order": ["buy", "hold", "sell"], "else": ["x"]}))
    with pytest.raises(ValueError, match="holds the words 'buy', 'sell', the agent knows 'buy', 'hold', 'sell'"):
        ORDERS.check_words(Task(categories={"order": ["buy", "sell"]}))
