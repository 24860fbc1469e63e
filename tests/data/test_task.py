import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

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
