import pytest
from datasets import Dataset
from gymnasium.spaces import Box, Discrete

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.task import Task
from hf_seqrl.data.task_inference import task_of


def columns_of(actions, observations=((0.0, 0.0), (1.0, 1.0), (2.0, 2.0))):
    return TrajectoryColumns(
        Dataset.from_dict(
            {
                "observations": [[list(row) for row in observations]],
                "actions": [list(actions)],
                "rewards": [[1.0] * len(actions)],
                "dones": [[False] * len(actions)],
            }
        )
    )


@pytest.mark.parametrize(
    ("space", "actions"),
    [(Discrete(10), [0, 1, 2]), (Discrete(3, start=-1), [-1, 0, 1]), (Box(0, 500, (1,)), [[100.0], [0.0], [500.0]])],
)
def test_a_stated_action_space_stays_though_the_observation_space_is_not_stated(space, actions):
    task, guesses = task_of(Task(action_space=space), columns_of(actions))
    assert task.actions == space
    assert set(guesses) == {"observation_space", "max_episode_steps"}


def test_what_is_stated_counts_more_than_the_environment():
    observations = ((0.0,) * 4,) * 3
    task, guesses = task_of(
        Task(env_id="CartPole-v1", action_space=Discrete(5), max_episode_steps=7), columns_of([0, 1, 2], observations)
    )
    assert task.actions == Discrete(5)
    assert task.observations.shape == (4,)
    assert task.max_episode_steps == 7
    assert guesses == {}


def test_guesses_are_told_with_their_reason():
    task, guesses = task_of(Task(), columns_of([0, 2, 1]))
    assert task.actions == Discrete(3)
    assert "largest integers" in guesses["action_space"]
    assert guesses["max_episode_steps"].startswith("3,")


def test_a_module_in_an_environment_id_is_not_imported():
    task, _ = task_of(Task(env_id="no_such_module_here:Env-v0"), columns_of([0, 1, 1]))
    assert task.observations.shape == (2,)


def test_spaces_of_another_shape_than_the_data_are_refused():
    with pytest.raises(ValueError, match=r"steps of shape \(2,\), the space of CartPole-v1 is Box"):
        task_of(Task(env_id="CartPole-v1"), columns_of([0, 1, 1]))
