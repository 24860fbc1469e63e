import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader

from hf_seqrl.data.permutation import Permutation, PermutationSampler


@pytest.mark.parametrize("length", [*range(1, 70), 255, 256, 257, 1000, 65_535, 65_537, 300_001])
def test_every_item_comes_once(length):
    assert np.array_equal(np.sort(Permutation(length, 5)[np.arange(length)]), np.arange(length))


@pytest.mark.parametrize("length", [10**9, 2**40 + 1, 2**62])
def test_places_of_long_orders_are_computed_on_their_own(length):
    order = Permutation(length, 1)
    places = np.random.default_rng(0).integers(0, length, 5000)
    items = order[places]
    assert items.min() >= 0 and items.max() < length
    assert len(np.unique(items)) == len(np.unique(places))
    assert np.array_equal(order[places[:7]], items[:7])


def test_all_orders_of_few_items_are_about_equally_frequent():
    counts = Counter(tuple(Permutation(4, seed)[range(4)].tolist()) for seed in range(4800))
    assert set(counts) == set(itertools.permutations(range(4)))
    chi_squared = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert chi_squared < 49.7  # 0.999 of the chi-squared distribution of 23 degrees of freedom


def test_places_and_items_are_independent():
    """Which tenth an item comes from does not depend on the tenth of its place, nor on the item before it."""
    length = 100_003
    items = Permutation(length, 9)[np.arange(length)]
    tenths = items * 10 // length
    for other in (np.arange(length) * 10 // length, np.roll(tenths, 1)):
        table = np.histogram2d(tenths, other, bins=10)[0]
        expected = table.sum(0) * table.sum(1)[:, None] / length
        assert ((table - expected) ** 2 / expected).sum() < 126  # 0.999 of 81 degrees of freedom


@pytest.mark.parametrize("length", [0, -1, 2**62 + 1])
def test_a_length_that_is_none_is_refused(length):
    with pytest.raises(ValueError, match=f"length is {length}: expected"):
        Permutation(length)


def batches(epoch, process=0, num_processes=1, skipped=0, length=1003):
    loader = DataLoader(torch.arange(length), batch_size=8, sampler=PermutationSampler(length, seed=2))
    loader = prepare_data_loader(
        loader, num_processes=num_processes, process_index=process, put_on_device=False, even_batches=False
    )
    if skipped:
        loader = skip_first_batches(loader, skipped)
    loader.set_epoch(epoch)
    return [batch.tolist() for batch in loader]


def test_epochs_differ_and_are_the_same_again():
    assert batches(0) == batches(0) != batches(1)
    assert sorted(itertools.chain(*batches(1))) == list(range(1003))


def test_processes_share_the_items_out():
    shares = [batches(3, process, 3) for process in range(3)]
    drawn = list(itertools.chain(*itertools.chain(*shares)))
    assert sorted(drawn) == list(range(1003))
    assert shares[1][0] == batches(3)[1]


def test_an_epoch_goes_on_where_it_was_left():
    assert batches(4, skipped=50) == batches(4)[50:]
