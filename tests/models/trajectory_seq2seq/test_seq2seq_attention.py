import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from hf_seqrl.models.trajectory_seq2seq.attention import attention_weights

SCORINGS = ("dot_product", "gaussian", "boxcar", "epanechnikov")


def _random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.sampled_from(SCORINGS), st.integers(0, 10_000), st.floats(0.01, 30.0))
@settings(max_examples=60, deadline=None)
def test_every_row_is_a_convex_combination_of_the_visible_keys(scoring, seed, spread):
    query, key = _random(seed, 5, 4) * spread, _random(seed + 1, 7, 4) * spread
    visible = torch.rand(5, 7, generator=torch.Generator().manual_seed(seed)) < 0.6
    visible[:, 0] = True
    weights = attention_weights(query, key, scoring, 0.5, visible)
    assert (weights >= 0).all()
    assert (weights[~visible] == 0).all()
    assert_close(weights.sum(-1), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("scoring", SCORINGS)
def test_a_row_that_sees_no_key_is_zero_and_its_gradient_finite(scoring):
    query = _random(0, 2, 4).requires_grad_()
    weights = attention_weights(query, _random(1, 3, 4), scoring, 0.5, torch.tensor([[False] * 3, [True] * 3]))
    assert (weights[0] == 0).all()
    weights.square().sum().backward()
    assert query.grad.isfinite().all()


def test_gaussian_equals_dot_product_for_keys_of_equal_norm():
    query, key = _random(0, 6, 8), torch.nn.functional.normalize(_random(1, 9, 8), dim=-1) * 1.7
    scaling = 8**-0.5
    assert_close(
        attention_weights(query, key, "gaussian", scaling), attention_weights(query, key, "dot_product", scaling)
    )
    assert not torch.allclose(
        attention_weights(query, _random(1, 9, 8), "gaussian", scaling),
        attention_weights(query, _random(1, 9, 8), "dot_product", scaling),
    )


@pytest.mark.parametrize("scoring", ["boxcar", "epanechnikov"])
def test_a_single_neighbor_makes_attention_a_dictionary_look_up(scoring):
    dictionary = {1.0: "one", 4.0: "four", 7.0: "seven"}
    keys = torch.tensor([[key] for key in dictionary], dtype=torch.float64)
    weights = attention_weights(torch.tensor([[4.3]], dtype=torch.float64), keys, scoring, 1.0)
    assert weights.tolist() == [[0.0, 1.0, 0.0]]
    values = torch.tensor([[10.0], [20.0], [30.0]], dtype=torch.float64)
    assert (weights @ values).item() == 20.0


def test_kernels_take_the_values_of_their_formulas():
    # distances 0.5, 1, 2 from the query 0
    keys = torch.tensor([[0.5], [-1.0], [2.0]], dtype=torch.float64)
    query = torch.zeros(1, 1, dtype=torch.float64)
    gaussian = torch.exp(-torch.tensor([0.125, 0.5, 2.0], dtype=torch.float64))
    assert_close(attention_weights(query, keys, "gaussian", 1.0)[0], gaussian / gaussian.sum())
    assert_close(attention_weights(query, keys, "boxcar", 1.0)[0], torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
    assert_close(attention_weights(query, keys[:2] * 0.5, "epanechnikov", 1.0)[0],
                 torch.tensor([0.75, 0.5], dtype=torch.float64) / 1.25)  # fmt: skip


@pytest.mark.parametrize("scoring", ["boxcar", "epanechnikov"])
def test_a_query_without_neighbors_falls_back_to_gaussian_weights_and_is_pulled_towards_the_keys(scoring):
    query = torch.tensor([[50.0]], dtype=torch.float64, requires_grad=True)
    keys = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    weights = attention_weights(query, keys, scoring, 1.0)
    assert_close(weights, attention_weights(query, keys, "gaussian", 1.0))
    near = attention_weights(torch.tensor([[1.5]], dtype=torch.float64), keys, scoring, 1.0)
    assert not torch.allclose(
        near, attention_weights(torch.tensor([[1.5]], dtype=torch.float64), keys, "gaussian", 1.0)
    )


@pytest.mark.parametrize("scoring", ["dot_product", "gaussian", "epanechnikov"])
def test_gradients_are_those_of_finite_differences(scoring):
    query, key = (_random(3, 3, 4) * 0.3).requires_grad_(), (_random(4, 5, 4) * 0.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda q, k: attention_weights(q, k, scoring, 0.5), (query, key))


def test_an_unknown_scoring_is_named():
    with pytest.raises(ValueError, match="'cosine'"):
        attention_weights(torch.zeros(1, 1), torch.zeros(1, 1), "cosine", 1.0)
