"""The attention functions against the textbook, and the dropout's distribution."""

import pytest
import torch

from hf_seqrl.models.trajectory_transformer.attention import (
    blockwise_causal_attention,
    dropout,
    trajectory_mask,
)


def test_the_mask_hides_the_future_and_every_value_column():
    visible = trajectory_mask(0, 4, 3, torch.zeros(()))[0, 0] == 0
    assert visible.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 1]]
    continued = trajectory_mask(2, 2, 3, torch.zeros(()))[0, 0] == 0
    assert torch.equal(continued, visible[2:])


@pytest.mark.parametrize(("past", "time"), [(0, 150), (0, 64), (0, 3), (70, 80)])
def test_blocks_of_queries_give_what_the_whole_matrix_gives(past, time):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 3, time, 4, generator=generator).requires_grad_()
    key = torch.randn(2, 3, past + time, 4, generator=generator).requires_grad_()
    value = torch.randn(2, 3, past + time, 4, generator=generator).requires_grad_()
    mask = trajectory_mask(past, time, 7, query)
    expected = ((query @ key.transpose(-2, -1)) / 2 + mask).softmax(-1) @ value
    actual = blockwise_causal_attention(query, key, value, mask, scaling=0.5, dropout_probability=0.0)
    torch.testing.assert_close(actual.transpose(1, 2), expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn(expected.shape, generator=generator)
    wanted = torch.autograd.grad((expected * weights).sum(), (query, key, value))
    found = torch.autograd.grad((actual.transpose(1, 2) * weights).sum(), (query, key, value))
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_attention_with_dropout_has_the_plain_attention_as_its_mean():
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 1, 5, 4).expand(4000, 2, 5, 4) for _ in range(3))
    mask = trajectory_mask(0, 5, 3, query)
    plain = blockwise_causal_attention(query, key, value, mask, 0.5, 0.0)
    dropped = blockwise_causal_attention(query, key, value, mask, 0.5, 0.3)
    assert dropped[0].ne(plain[0]).any()
    torch.testing.assert_close(dropped.mean(0), plain[0], atol=0.1, rtol=0.0)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_dropout_zeroes_the_asked_share_and_keeps_the_mean(probability):
    torch.manual_seed(0)
    dropped = dropout(torch.ones(101, 999), probability)
    kept = dropped != 0
    share = kept.float().mean().item()
    assert share == pytest.approx(1 - probability, abs=4 * (probability * (1 - probability) / kept.numel()) ** 0.5)
    assert torch.allclose(dropped[kept], torch.tensor(1 / (1 - probability)))
    neighbors = (kept[:, 1:] & kept[:, :-1]).float().mean().item()  # entries are independent
    assert neighbors == pytest.approx((1 - probability) ** 2, abs=0.005)


def test_dropout_follows_the_seed_and_spares_evaluation():
    values = torch.ones(64)
    torch.manual_seed(5)
    first, second = dropout(values, 0.5), dropout(values, 0.5)
    torch.manual_seed(5)
    assert torch.equal(dropout(values, 0.5), first) and not torch.equal(first, second)
    assert torch.equal(dropout(values, 0.5, training=False), values)
    assert not dropout(values, 1.0).any()
