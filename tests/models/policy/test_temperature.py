"""The temperature of weighted cloning follows what held-out episodes show."""

import numpy as np
import pytest
import torch
import torch.distributed

from hf_seqrl import load_trajectories
from hf_seqrl.models.policy import CloningOptions, prepare_cloning, temperature
from hf_seqrl.models.policy.temperature import checked_temperature, lowest_without_excess

NUM_EPISODES, LENGTH = 200, 20
GENERATOR = np.random.default_rng(0)
RETURNS = GENERATOR.normal(size=NUM_EPISODES)


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    monkeypatch.setattr(temperature, "_UPDATES", 50)


def episodes(returns_show_skill=True):
    """Noisy actions with the sign of the state; where returns show skill, the worse half of the episodes does the opposite."""
    observations = GENERATOR.normal(size=(NUM_EPISODES, LENGTH, 1))
    signs = np.where((RETURNS > 0) | (not returns_show_skill), 1, -1)[:, None, None]
    columns = {
        "observations": observations,
        "actions": signs * np.sin(3 * observations) + GENERATOR.normal(size=observations.shape),
        "rewards": np.repeat(RETURNS[:, None] / LENGTH, LENGTH, axis=1),
        "terminations": np.zeros((NUM_EPISODES, LENGTH), bool),
    }
    return load_trajectories({name: list(values) for name, values in columns.items()})


def test_the_lowest_candidate_is_taken_whose_error_may_be_as_small_as_the_best():
    best = np.array([1.0, 2.0, 3.0, 4.0])
    surely_worse, maybe_worse = best + np.array([0.5, 0.4, 0.5, 0.6]), best + np.array([0.9, -0.8, 0.4, -0.3])
    assert lowest_without_excess(np.array([surely_worse, maybe_worse, best]), np.ones(4)) == 1
    assert lowest_without_excess(np.array([surely_worse, best, maybe_worse]), np.ones(4)) == 1
    # episodes that do not count do not speak against a candidate
    assert (
        lowest_without_excess(np.array([best + np.array([9.0, 9.1, 0.0, 0.0]), best]), np.array([0.0, 0.0, 1.0, 1.0]))
        == 0
    )


def test_where_returns_are_luck_more_episodes_are_cloned_than_where_they_are_skill():
    from_luck, found = checked_temperature(episodes(returns_show_skill=False), 0.04)
    from_skill, _ = checked_temperature(episodes(), 0.04)
    assert from_luck is None or from_luck > 0.04, found
    assert from_skill is not None and from_skill < (from_luck or np.inf)


def test_the_check_is_reproducible_and_leaves_random_numbers_alone():
    dataset = episodes()
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    assert checked_temperature(dataset, 0.4) == checked_temperature(dataset, 0.4)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_every_process_gets_what_the_first_one_found(monkeypatch):
    sent = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", lambda found: found.__setitem__(0, (0.3, "found")))
    monkeypatch.setattr(temperature, "_checked", lambda *arguments: sent.append(arguments))
    assert checked_temperature(episodes(), 0.1) == (0.3, "found") and not sent


def test_a_training_says_what_was_found_and_a_given_temperature_is_not_checked():
    notes = " ".join(prepare_cloning(episodes(), CloningOptions(num_members=1)).notes)
    assert "held-out episodes" in notes and "at 0.4" in notes
    given = " ".join(prepare_cloning(episodes(), CloningOptions(return_temperature=0.3)).notes)
    assert given.startswith("return_temperature 0.3: as given") and "held-out" not in given


def test_few_episodes_are_not_held_out():
    few = episodes().select(range(30))
    assert checked_temperature(few, 0.1) == (0.1, "too few episodes to hold some out")
