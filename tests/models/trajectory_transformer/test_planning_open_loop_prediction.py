"""Open-loop prediction against the model's own forward pass, token by token."""

import pytest
import reference_planner
import torch
from test_planning_trajectory_transformer import OBSERVATION, T, history, random_discretizer, random_model

from hf_seqrl.models.trajectory_transformer.prediction_trajectory_transformer import predict_open_loop


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def discretizer():
    return random_discretizer()


@pytest.fixture
def contexts():
    return torch.stack([history(2, seed=seed) for seed in range(4)])


def test_predictions_are_the_models_likeliest_tokens_beyond_the_block_too(model, discretizer, contexts):
    prediction = predict_open_loop(model, discretizer, contexts, steps=9)
    expected, _ = reference_planner.extend(model, contexts, 9 * T, 8, lambda scores, tokens: scores.argmax(-1))
    assert torch.equal(prediction.tokens, expected)
    following = expected[:, 2 * T :]
    torch.testing.assert_close(prediction.actions, discretizer.decode(following[:, : 9 * T].view(4, 9, T))[..., 3:5])
    observations = discretizer.decode(following[:, T:].unfold(1, OBSERVATION, T), slice(0, 3))
    torch.testing.assert_close(prediction.observations, observations)


def test_given_actions_are_taken(model, discretizer, contexts):
    actions = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    prediction = predict_open_loop(model, discretizer, contexts, steps=3, actions=actions)
    expected = discretizer.decode(discretizer.encode(actions, slice(3, 5)), slice(3, 5))
    assert torch.equal(prediction.actions, expected)
    given = torch.cat([contexts[:, : 2 * T + 3], prediction.tokens[:, 2 * T + 3 : 2 * T + 5]], 1)
    reward = reference_planner.last_scores(model, given, 8).argmax(-1)
    assert torch.equal(prediction.rewards[:, 0], discretizer.decode(reward, 5))


def test_draws_depend_on_their_seed_alone(model, discretizer, contexts):
    together = predict_open_loop(model, discretizer, contexts, steps=2, seeds=[1, 2, 3, 4])
    alone = predict_open_loop(model, discretizer, contexts[2:3], steps=2, seeds=[3])
    assert torch.equal(together.tokens[2:3], alone.tokens)
    assert not torch.equal(
        predict_open_loop(model, discretizer, contexts[2:3], steps=2, seeds=[5]).tokens, alone.tokens
    )
