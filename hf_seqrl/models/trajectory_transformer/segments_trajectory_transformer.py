"""Keys and values that groups of rows share, and attention over several such stretches of a sequence at once."""

import torch
from torch.nn import functional as F

_SMALL = 12  # tokens; below, calling one matrix product for each row costs more than the products do


class Segment:
    """Keys and values of consecutive tokens in every layer, for `rows` rows; each may serve a group of queries.

    Attributes:
        cache: `(layers, 2, rows, heads, capacity, head_dim)`: keys, then values.
        length: Tokens stored so far.
    """

    def __init__(self, like: torch.Tensor, layers: int, rows: int, heads: int, capacity: int, head_dim: int):
        self.cache = like.new_empty(layers, 2, rows, heads, capacity, head_dim)
        self.rows = rows
        self.length = 0

    def make_room(self, more: int) -> None:
        """If it is full, let `more` tokens fit in."""
        if self.length == self.cache.shape[4]:
            self.cache = F.pad(self.cache, (0, 0, 0, more))

    def stored(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of one layer, each `(rows * heads, length, head_dim)`."""
        keys, values = self.cache[layer].flatten(1, 2).narrow(2, 0, self.length).unbind()
        return keys, values


def attend(query: torch.Tensor, segments: list[Segment], layer: int) -> torch.Tensor:
    """Attention of `query` `(rows, heads, head_dim)` over all segments; returns `(rows, heads * head_dim)`.

    One product for each segment row and head serves all queries of its group; the scores meet in one softmax.
    """
    filled = [segment for segment in segments if segment.length]
    stored = [segment.stored(layer) for segment in filled]
    scores = [_products(query, keys.transpose(1, 2), segment) for (keys, _), segment in zip(stored, filled)]
    scores = torch.cat(scores, -1) if len(scores) > 1 else scores[0]  # (rows, heads, all lengths)
    probabilities = scores.softmax(-1).split([segment.length for segment in filled], -1)
    output = None
    for part, (_, values), segment in zip(probabilities, stored, filled):
        attended = _products(part, values, segment)  # (rows, heads, head_dim)
        output = attended if output is None else output + attended
    return output.flatten(1)


def _products(left: torch.Tensor, right: torch.Tensor, segment: Segment) -> torch.Tensor:
    """`(rows, heads, k)` times the segment's `(segment.rows * heads, k, n)`, `(rows, heads, n)`."""
    rows, heads, inner = left.shape
    if segment.rows == rows and segment.length < _SMALL:
        return (left[..., None] * right.unflatten(0, (rows, heads))).sum(2)
    grouped = left.unflatten(0, (segment.rows, -1)).transpose(1, 2)  # (n, heads, group, k)
    product = torch.bmm(grouped.reshape(segment.rows * heads, -1, inner), right)
    return product.unflatten(0, (segment.rows, heads)).transpose(1, 2).reshape(rows, heads, -1)
