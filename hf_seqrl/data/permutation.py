"""Random orders of any length that are computed and not stored."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

_ROUNDS = 6  # four make a permutation pseudorandom (Luby and Rackoff, 1988); small halves want some more
_BLOCK = 8192  # items at once: what is computed ahead of the first batch


class Permutation:
    """A pseudorandom permutation of `range(length)` of which every place is computed on its own, in constant memory.

    A balanced Feistel network permutes the numbers of twice `half_bits` bits (Luby and Rackoff, 1988, "How to construct
    pseudorandom permutations from pseudorandom functions"); where a result is not below `length`, the network is applied to it
    again until one is ("cycle walking": Black and Rogaway, 2002, "Ciphers with arbitrary finite domains"), at most 4 times on
    average. It is random enough for sampling and not made to keep secrets.

    Args:
        length (`int`): The number of items, from 1 to 2**62.
        seed (`int` or a sequence of `int`): Chooses the permutation.

    Example:
        >>> order = Permutation(10, seed=3)
        >>> sorted(order[range(10)].tolist()) == list(range(10))
        True
    """

    def __init__(self, length: int, seed: int | tuple[int, ...] = 0) -> None:
        if not 1 <= length <= 2**62:
            raise ValueError(f"length is {length}: expected a number of items from 1 to 2**62.")
        self.length = length
        self._half_bits = np.uint64(max(1, -(-(length - 1).bit_length() // 2)))
        self._mask = np.uint64((1 << int(self._half_bits)) - 1)
        self._keys = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, places: "int | range | np.ndarray") -> np.ndarray:
        """The items at these places, of the same shape (`int64`)."""
        items = self._network(np.asarray(places, np.uint64))
        while (outside := items >= self.length).any():
            items = np.where(outside, self._network(items), items)
        return items.astype(np.int64)

    def _network(self, numbers: np.ndarray) -> np.ndarray:
        left, right = numbers >> self._half_bits, numbers & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right + key) & self._mask)
        return (left << self._half_bits) | right


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): every bit of the result depends on every bit of the number."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


class PermutationSampler(Sampler[int]):
    """Draws every item once an epoch in a random order, as `torch.utils.data.RandomSampler` does, without storing the order.

    `RandomSampler` makes a list of all items before the first batch: some 36 bytes an item, and minutes for 1e9 of them. This one
    takes the same memory and time for any length. `accelerate` shares its batches out over processes, and tells it the epoch.

    Args:
        length (`int`): The number of items.
        seed (`int`): Together with the epoch, chooses the order.

    Example:
        >>> sampler = PermutationSampler(1_000_000_000, seed=0)
        >>> len(sampler), len({item for item, _ in zip(sampler, range(100))})
        (1000000000, 100)
    """

    def __init__(self, length: int, seed: int = 0) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        order = Permutation(self.length, (self.seed, self.epoch))
        for first in range(0, self.length, _BLOCK):
            yield from order[np.arange(first, min(first + _BLOCK, self.length))].tolist()
