"""A card shows the estimated return beside the measured one where both are of the same quantity."""

from dataclasses import replace

import numpy as np
import pytest

from hf_seqrl import Agent, OfflineEvaluation, RolloutResult
from hf_seqrl.evaluation.offline_results import OverlapReport, ValueEstimate
from hf_seqrl.hub.card import build_card
from hf_seqrl.hub.offline_section import measured_beside

ESTIMATED = "| fitted Q evaluation | 190 | 170 .. 210 |"
MEASURED = "| measured in 2 episodes | 200 | 190 .. 210 |"


@pytest.fixture
def evaluation():
    return RolloutResult(
        returns=np.array([210.0, 190.0, 50.0, 60.0]),
        lengths=np.array([210, 190, 50, 60]),
        seeds=np.array([7, 8, 7, 8]),
        terminated=np.array([True] * 4),
        target_returns=np.array([200.0, 200.0, 50.0, 50.0]),
        env_id="CartPole-v1",
        discounted_returns=np.array([90.0, 80.0, 30.0, 35.0]),
        discount=0.99,
    )


@pytest.fixture
def offline():
    return OfflineEvaluation(
        estimates=(
            ValueEstimate("fqe", 190.0, (170.0, 210.0), 173.0, 207.0, 90.0, (60.0, 120.0), 65.0, 115.0),
            ValueEstimate("wis", None, refused="its weights leave 3.0 effective episodes, and 20 are required."),
        ),
        behavior=ValueEstimate("behavior", 100.0, (95.0, 105.0), 96.0, 104.0),
        overlap=OverlapReport(unsupported=0.1, unsupported_means="never taken in the state"),
        horizon=500,
        discount=1.0,
        confidence=0.95,
        num_episodes=300,
        num_steps=9000,
        target_return=200.0,
    )


def card(agent, evaluation, offline):
    return str(build_card(agent.model, agent.processor, evaluation, offline=offline))


def test_both_are_in_one_table_with_what_was_refused(tiny_agent, evaluation, offline):
    text = card(tiny_agent, evaluation, offline)
    lines = text.splitlines()
    assert lines.index(MEASURED) == lines.index(ESTIMATED) + 1
    assert lines[lines.index(MEASURED) + 1] == "| the policy that recorded the data | 100 | 95 .. 105 |"
    assert "By the estimate it is better than the policy that recorded the data." in text
    assert "- Refused: weighted importance sampling: its weights leave 3.0 effective episodes" in text
    assert "estimated from 300 recorded episodes (9000 steps), beside the measured one." in text
    assert "\n\n\n" not in text and "cannot be compared" not in text


@pytest.mark.parametrize("other", [{"target_return": 120.0}, {"discount": 0.9}, {"horizon": 200}], ids=str)
def test_different_quantities_are_not_set_side_by_side(tiny_agent, evaluation, offline, other):
    other = replace(offline, **other)
    assert measured_beside(other, evaluation) is None
    text = card(tiny_agent, evaluation, other)
    assert ESTIMATED in text and "measured in" not in text and "so the two cannot be compared" in text


def test_a_discounted_estimate_stands_beside_discounted_returns(evaluation, offline):
    measured = measured_beside(replace(offline, discount=0.99), evaluation)
    assert (measured.value, measured.num_episodes) == (85.0, 2)
    assert measured_beside(replace(offline, discount=0.99), replace(evaluation, discount=0.98)) is None


def test_an_estimate_alone_and_a_refusal_are_reported(tiny_agent, offline):
    text = card(tiny_agent, None, offline)
    assert ESTIMATED in text and "have not been evaluated" not in text and "cannot be compared" not in text
    refused = replace(offline, estimates=offline.estimates[1:])
    text = card(tiny_agent, None, refused)
    assert "No number can be given from 300 recorded episodes." in text and "- Refused: weighted" in text
    assert "\n\n\n" not in text


def test_it_is_saved_and_loaded_with_the_agent(tiny_agent, evaluation, offline, tmp_path):
    tiny_agent.offline_evaluation = offline
    tiny_agent.save_pretrained(tmp_path / "agent", evaluation)
    loaded = Agent.from_pretrained(tmp_path / "agent")
    assert loaded.offline_evaluation == offline
    assert MEASURED in (tmp_path / "agent" / "README.md").read_text()
    tiny_agent.evaluation = tiny_agent.offline_evaluation = None
    tiny_agent.save_pretrained(tmp_path / "agent")
    assert not (tmp_path / "agent" / "offline_evaluation.json").exists()
