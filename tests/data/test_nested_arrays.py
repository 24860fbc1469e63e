"""Observations and actions of several parts, as a loop over an environment collects them."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from gymnasium.spaces.utils import flatten

from hf_seqrl import load_trajectories, metadata_of
from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.nested_arrays import by_part

OBSERVATIONS = Dict(pose=Box(-9, 9, (2,)), mode=Discrete(3))
ACTIONS = Tuple((Discrete(3), Box(-1, 1, (2,))))


def recorded(steps=5):
    """What `env.reset` and `env.step` gave, one entry per step."""
    observations, actions = [], []
    for seed in range(steps):
        OBSERVATIONS.seed(seed), ACTIONS.seed(seed)
        observations.append(OBSERVATIONS.sample())
        actions.append(ACTIONS.sample())
    return {
        "observations": observations,
        "actions": actions,
        "rewards": np.arange(float(steps)),
        "terminations": np.arange(steps) == steps - 1,
    }


@pytest.mark.parametrize("as_episodes", [False, True], ids=["steps", "episodes"])
def test_one_dictionary_per_step_is_flattened_as_gymnasium_does(as_episodes):
    episode = recorded()
    source = [episode] if as_episodes else episode
    dataset = load_trajectories(source, observation_space=OBSERVATIONS, action_space=ACTIONS)
    columns, task = TrajectoryColumns(dataset), metadata_of(dataset)
    expected = [flatten(OBSERVATIONS, one) for one in episode["observations"]]
    np.testing.assert_allclose(columns.observations.take(np.arange(5)), expected, rtol=1e-6)
    codes = [[action[0], *action[1]] for action in episode["actions"]]
    np.testing.assert_allclose(columns.actions.take(np.arange(5)), codes, rtol=1e-6)
    assert task.observation_names == ("pose[0]", "pose[1]", "mode=0", "mode=1", "mode=2")
    assert task.actions == ACTIONS


def test_spaces_of_parts_are_guessed_and_said():
    dataset = load_trajectories([recorded()])
    assert set(metadata_of(dataset).guesses) >= {"observation_space", "action_space"}
    assert metadata_of(dataset).actions == Tuple((Discrete(3), Box(-np.inf, np.inf, (2,))))


def test_vectors_that_are_tuples_stay_vectors():
    assert by_part([(0.0, 1.0), (2.0, 3.0)]) == [(0.0, 1.0), (2.0, 3.0)]


def test_a_step_that_lacks_a_part_is_refused():
    episode = recorded()
    del episode["observations"][3]["mode"]
    with pytest.raises(ValueError, match="'observations' has no 'mode' at step 3"):
        load_trajectories([episode])
