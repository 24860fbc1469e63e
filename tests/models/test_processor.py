import numpy as np
import pytest
from gymnasium.spaces import Box

from hf_seqrl import load_trajectories
from hf_seqrl.models.registry import family_named


@pytest.fixture(scope="module")
def episodes():
    rng = np.random.default_rng(0)
    return load_trajectories(
        {
            "observations": [rng.normal(size=(steps, 3)) for steps in (4, 9, 6)],
            "actions": [rng.uniform(-0.9, 0.9, (steps, 2)) for steps in (4, 9, 6)],
            "rewards": [rng.normal(size=steps) for steps in (4, 9, 6)],
            "terminations": [np.arange(steps) == steps - 1 for steps in (4, 9, 6)],
        }
    )


@pytest.mark.parametrize(
    "name", ["decision-transformer", "trajectory-transformer", "trajectory-seq2seq", "cloning", "critic"]
)
def test_what_is_stated_for_a_processor_is_held_against_the_data(episodes, name):
    family = family_named(name)
    processor_class = type(family.prepare(episodes, family.options_class()).processor)
    with pytest.raises(ValueError, match=r"episode 1 has 9 steps, more than max_episode_steps=8"):
        processor_class.from_dataset(episodes, max_episode_steps=8)
    assert processor_class.from_dataset(episodes, max_episode_steps=9).max_episode_steps == 9
    with pytest.raises(ValueError, match="actions"):
        processor_class.from_dataset(episodes, action_space=Box(-1, 1, (3,)))
    stated = processor_class.from_dataset(episodes, action_space=Box(-1, 1, (2,)))
    assert stated.task.actions == Box(-1, 1, (2,))
