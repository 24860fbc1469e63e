"""The filters and draws of tokens against the original's outputs."""

import numpy as np
import pytest
import torch

from hf_seqrl.models.trajectory_transformer.sampling_trajectory_transformer import (
    choose_tokens,
    keep_top_k,
    keep_top_mass,
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
