"""The filters and draws of tokens against the original's outputs, and open-loop prediction against the model's own forward
pass, token by token."""

import numpy as np
import pytest
import reference_planner
import torch
from test_tt_beam_search import OBSERVATION, T, history, random_discretizer, random_model

from hf_seqrl.models.trajectory_transformer.generation import (
    choose_tokens,
    keep_top_k,
    keep_top_mass,
    predict_open_loop,
)


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


@pytest.fixture(scope="module")
def peer(shared_fixture):
    return np.load(shared_fixture("trajectory_transformer", "jannerm_sampling.npz"))


def probabilities(logits):
    return torch.as_tensor(logits).softmax(-1).numpy()


@pytest.mark.parametrize("k", [1, 3, 21])
def test_top_k_equals_the_original(peer, k):
    np.testing.assert_array_equal(keep_top_k(torch.from_numpy(peer["logits"]), k), peer[f"topk{k}"])


@pytest.mark.parametrize("cdf", [0.0, 0.3, 0.6, 0.9, 0.99])
def test_top_mass_equals_the_original(peer, cdf):
    kept = keep_top_mass(torch.from_numpy(peer["logits"]), cdf)
    np.testing.assert_allclose(probabilities(kept), probabilities(peer[f"cdf{cdf}"]), atol=1e-7)


def test_draws_of_one_environment_do_not_depend_on_the_others():
    logits = torch.randn(12, 21, generator=torch.Generator().manual_seed(0))
    together = choose_tokens(logits, [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)])
    alone = choose_tokens(logits[4:8], [torch.Generator().manual_seed(6)])
    assert torch.equal(together[4:8], alone)


def test_the_likeliest_token_is_taken_without_a_draw():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    logits = torch.tensor([[0.0, 2.0, 1.0]])
    assert choose_tokens(logits, [generator], k=1).tolist() == [1]
    assert torch.equal(generator.get_state(), before)


def test_draws_follow_the_probabilities():
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(20_000, 3)
    drawn = choose_tokens(logits, [torch.Generator().manual_seed(0)])
    shares = torch.bincount(drawn, minlength=3) / len(drawn)
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.02)
