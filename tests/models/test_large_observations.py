"""Observations whose values are large beside their differences, such as times in seconds since 1970, stay different."""

import numpy as np
import pytest

from hf_seqrl import (
    DecisionTransformerProcessor,
    TrajectorySeq2SeqProcessor,
    TrajectoryTransformerProcessor,
    load_trajectories,
)
from hf_seqrl.models.critic.processing_critic import CriticProcessor
from hf_seqrl.models.policy.processing_policy import PolicyProcessor

START, APART = 1.7e9, 10.0


@pytest.fixture(scope="module")
def dataset():
    times = START + APART * np.arange(20.0)
    return load_trajectories(
        [
            {
                "observations": np.stack([times, np.sin(times)], axis=1),
                "actions": np.arange(20) % 2,
                "rewards": np.ones(20),
                "terminations": np.arange(20) == 19,
            }
        ]
    )


ENCODE = {
    DecisionTransformerProcessor: lambda processor, states: processor.normalize_states(states),
    TrajectorySeq2SeqProcessor: lambda processor, states: processor.encode_states(states),
    PolicyProcessor: lambda processor, states: processor.encode_observations(states),
    CriticProcessor: lambda processor, states: processor.encode_observations(states),
}


@pytest.mark.parametrize("processor_class", ENCODE)
def test_times_are_standardized_in_double_precision(dataset, processor_class, tmp_path):
    processor = processor_class.from_dataset(dataset)
    states = np.array([[START, 0.0], [START + APART, 0.0]])
    deviation = APART * np.arange(20).std()
    processor.save_pretrained(tmp_path)
    for one in (processor, processor_class.from_pretrained(tmp_path)):
        encoded = np.asarray(ENCODE[processor_class](one, states))
        assert encoded[1, 0] - encoded[0, 0] == pytest.approx(APART / deviation, rel=1e-4)


def test_bins_tell_times_apart(dataset, tmp_path):
    processor = TrajectoryTransformerProcessor.from_dataset(dataset, num_bins=20, strategy="uniform")
    processor.save_pretrained(tmp_path)
    times = START + APART * np.arange(20.0)
    for one in (processor, TrajectoryTransformerProcessor.from_pretrained(tmp_path)):
        tokens = one.discretizer.encode(times[:, None], slice(0, 1))
        assert len(tokens.unique()) == 20
        decoded = one.discretizer.decode(tokens, slice(0, 1)).numpy()[:, 0]
        np.testing.assert_allclose(decoded - START, times - START, atol=APART)
    assert processor.discretizer.config.shift[1:] == [0.0] * 4
