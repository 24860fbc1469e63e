"""A fast forward pass for search: the weights of a model, fused, over keys and values that many rows share.

No token ever attends to a value token (see the model's mask). So the engine stores no key for it and leaves it out
where its own scores are not needed: that is exact, and no mask remains but causality.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .modeling_trajectory_transformer import TrajectoryTransformerModel

_PORTION = 512  # tokens whose wide hidden states, computed at once, stay in a processor's cache
# A row of a matrix product is rounded in the same way whatever the number of rows, from about this number on; fewer
# are padded, so that an environment's plan does not depend on the number of parallel ones.
_FEWEST_ROWS = 16
_SMALL = 12  # tokens; below, calling one matrix product for each row costs more than the products do


class Segment:
    """Keys and values of consecutive tokens in every layer, for `rows` rows; each may serve a group of queries.

    Attributes:
        cache: `(layers, 2, rows, heads, capacity, head_dim)`: keys, then values.
        length: Tokens stored so far.
    """

    def __init__(self, like: torch.Tensor, layers: int, rows: int, heads: int, capacity: int, head_dim: int):
        self.rows = rows
        self.length = 0
        self._hold(like.new_empty(layers, 2, rows, heads, capacity, head_dim))

    def _hold(self, cache: torch.Tensor) -> None:
        self.cache = cache
        # views that every token needs, made once
        self._slots = [layer.transpose(0, 1) for layer in cache]  # (rows, 2, heads, capacity, head_dim)
        keys, values = cache.flatten(2, 3).unbind(1)  # (layers, rows * heads, capacity, head_dim)
        self._keys, self._values = keys.transpose(2, 3).unbind(), values.unbind()

    def make_room(self, more: int) -> None:
        """If it is full, let `more` tokens fit in."""
        if self.length == self.cache.shape[4]:
            self._hold(F.pad(self.cache, (0, 0, 0, more)))

    def store(self, layer: int, place: int, new: torch.Tensor) -> None:
        """Key and value of one token in one layer, `(rows, 2, heads, head_dim)`."""
        self._slots[layer].select(3, place).copy_(new)

    def keys(self, layer: int) -> torch.Tensor:
        """`(rows * heads, head_dim, length)`."""
        return self._keys[layer].narrow(2, 0, self.length)

    def values(self, layer: int) -> torch.Tensor:
        """`(rows * heads, length, head_dim)`."""
        return self._values[layer].narrow(1, 0, self.length)


def attend(query: torch.Tensor, segments: list[Segment], layer: int) -> torch.Tensor:
    """Attention of `query` `(rows, heads, head_dim)` over all segments; returns `(rows, heads * head_dim)`.

    One product for each segment row and head serves all queries of its group; the scores meet in one softmax.
    """
    filled = [segment for segment in segments if segment.length]
    scores = [_products(query, segment.keys(layer), segment) for segment in filled]
    if len(scores) == 1:
        return _products(scores[0].softmax(-1), filled[0].values(layer), filled[0]).flatten(1)
    probabilities = torch.cat(scores, -1).softmax(-1)  # (rows, heads, all lengths)
    output, start = None, probabilities.shape[2]
    for segment in reversed(filled):  # the last one's products are contiguous
        start -= segment.length
        attended = _products(probabilities.narrow(2, start, segment.length), segment.values(layer), segment)
        output = attended if output is None else output.add_(attended)
    return output.flatten(1)


def _products(left: torch.Tensor, right: torch.Tensor, segment: Segment) -> torch.Tensor:
    """`(rows, heads, k)` times the segment's `(segment.rows * heads, k, n)`, `(rows, heads, n)`."""
    rows, heads, inner = left.shape
    if segment.rows == rows:
        if segment.length < _SMALL:
            return (left.unsqueeze(3) * right.view(rows, heads, inner, -1)).sum(2)
        return torch.bmm(left.reshape(rows * heads, 1, inner), right).view(rows, heads, -1)
    if segment.rows == 1:
        return torch.bmm(left.transpose(0, 1), right).transpose(0, 1)
    grouped = left.view(segment.rows, -1, heads, inner).transpose(1, 2)  # (n, heads, group, k)
    product = torch.bmm(grouped.reshape(segment.rows * heads, -1, inner), right)
    return product.view(segment.rows, heads, -1, right.shape[2]).transpose(1, 2).reshape(rows, heads, -1)


@dataclass(frozen=True)
class Level:
    """Tokens that continue the sequences of the level before.

    Attributes:
        tokens: `(rows, time)`.
        parents: Of each row, the row of the level before that it continues, `(rows,)`; `None` for the first level.
    """

    tokens: torch.LongTensor
    parents: torch.LongTensor | None = None


class _Layer:
    def __init__(self, block: torch.nn.Module, dtype: torch.dtype):
        attention = block.attn
        scale = attention.head_dim**-0.5  # of the scores, folded into the queries
        keys, values = attention.key, attention.value
        self.norm1 = _norm(block.ln1, dtype)
        self.norm2 = _norm(block.ln2, dtype)
        self.qkv = _affine(  # (D, 3 D)
            torch.cat([attention.query.weight * scale, keys.weight, values.weight]),
            torch.cat([attention.query.bias * scale, keys.bias, values.bias]),
            dtype,
        )
        self.proj = _affine(attention.proj.weight, attention.proj.bias, dtype)
        self.up = _affine(block.l1.weight, block.l1.bias, dtype)
        self.down = _affine(block.l2.weight, block.l2.bias, dtype)

    def feed_forward(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        x = _linear(attended, *self.proj).add_(x)
        hidden = F.layer_norm(x, x.shape[-1:], *self.norm2)
        return _linear(F.gelu(_linear(hidden, *self.up)), *self.down).add_(x)


class InferenceEngine:
    """Scores next tokens with the weights that `model` had when the engine was made.

    Args:
        model: A trained model.
        dtype: Of the weights, keys and values; the model's by default. `torch.bfloat16` is faster where the machine
            has instructions for it, and inexact.
    """

    def __init__(self, model: TrajectoryTransformerModel, dtype: torch.dtype | None = None):
        config = model.config
        dtype = model.pos_emb.dtype if dtype is None else dtype
        self.config = config
        self.heads, self.head_dim = config.n_head, config.n_embd // config.n_head
        self.layers = [_Layer(block, dtype) for block in model.blocks]
        self.embedding = model.tok_emb.weight.detach().to(dtype)
        self.positions = model.pos_emb.detach()[0].to(dtype)  # (block_size, D)
        self.norm = _norm(model.ln_f, dtype)
        weight = model.head.weight.detach()  # (T, V + 1, D)
        self.output_heads = [_affine(head, head.new_zeros(len(head)), dtype) for head in weight]

    def segment(self, rows: int, capacity: int) -> Segment:
        return Segment(self.positions, len(self.layers), rows, self.heads, capacity, self.head_dim)

    def is_value(self, position: int) -> bool:
        return position % self.config.transition_dim == self.config.transition_dim - 1

    def scores(self, hidden: torch.Tensor, position: int) -> torch.Tensor:
        """Outputs `(rows, D)` of `decode` at `position` to scores `(rows, vocab_size + 1)` of the next token, float32."""
        head = self.output_heads[position % self.config.transition_dim]
        return _linear(F.layer_norm(hidden, hidden.shape[-1:], *self.norm), *head).float()

    def decode(self, tokens: torch.LongTensor, position: int, segments: list[Segment]) -> torch.Tensor:
        """One more token `(rows,)` for every row; its keys and values go to the end of the last segment.

        Row `i` continues row `i * segment.rows // rows` of each segment. Returns the last hidden states `(rows, D)`.
        """
        x = self._embed(tokens, position)
        target = segments[-1]
        hidden_key = self.is_value(position)
        length = target.length
        if not hidden_key:
            target.make_room(self.config.transition_dim)
            target.length += 1
        for index, layer in enumerate(self.layers):
            qkv = _linear(F.layer_norm(x, x.shape[-1:], *layer.norm1), *layer.qkv)
            qkv = qkv.view(len(x), 3, self.heads, self.head_dim)
            if not hidden_key:
                target.store(index, length, qkv[:, 1:])
            x = layer.feed_forward(x, attend(qkv[:, 0], segments, index))
        return x

    def prefill(self, levels: list[Level], ends: torch.LongTensor) -> tuple[Segment, Segment]:
        """Keys and values of a tree of sequences that start at position 0.

        Each node of the tree is computed once, however many rows pass through it.

        Args:
            levels: The tree, from its roots.
            ends: The node of the last level at which each row ends, `(rows,)`.

        Returns:
            The segment of the first level, and that of all other levels along the path to each row's end.
        """
        columns, start = [], 0
        for level in levels:
            positions = torch.arange(start, start + level.tokens.shape[1], device=level.tokens.device)
            columns.append(positions[positions % self.config.transition_dim != self.config.transition_dim - 1])
            start += level.tokens.shape[1]
        tokens = [level.tokens[:, c - (start_of)] for level, c, start_of in zip(levels, columns, _starts(levels))]
        shapes = [t.shape for t in tokens]
        x = torch.cat([self._embed(t, c).flatten(0, 1) for t, c in zip(tokens, columns)])  # (all tokens, D)
        lengths = [len(c) for c in columns]
        shared = self.segment(shapes[0][0], lengths[0] + self.config.transition_dim)
        own = self.segment(len(ends), sum(lengths[1:]) + self.config.transition_dim)
        shared.length, own.length = lengths[0], sum(lengths[1:])
        for index, layer in enumerate(self.layers):
            hidden = F.layer_norm(x, x.shape[-1:], *layer.norm1)
            qkv = _linear(hidden, *layer.qkv)
            attended, path = [], None
            for level, part, shape in zip(levels, qkv.split([a * b for a, b in shapes]), shapes):
                part = part.view(*shape, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
                query, new = part[0], part[1:]  # (rows, heads, time, head_dim), (2, rows, heads, time, head_dim)
                path = new if path is None else torch.cat([path[:, level.parents], new], dim=3)
                if level is levels[0]:
                    shared.cache[index, :, :, :, : shared.length] = new
                if index < len(self.layers) - 1:
                    out = F.scaled_dot_product_attention(
                        query, path[0], path[1], attn_mask=_causal(shape[1], path.shape[3], x), scale=1.0
                    )
                    attended.append(out.transpose(1, 2).reshape(-1, x.shape[-1]))
            if len(levels) > 1:
                own.cache[index, :, :, :, : own.length] = path[:, ends, :, shared.length :]
            if attended:
                portions = zip(x.split(_PORTION), torch.cat(attended).split(_PORTION))
                x = torch.cat([layer.feed_forward(*portion) for portion in portions])
        return shared, own

    def _embed(self, tokens: torch.LongTensor, position: int | torch.Tensor) -> torch.Tensor:
        config = self.config
        rows = tokens + position % config.transition_dim * config.vocab_size
        rows = rows.masked_fill(tokens == config.vocab_size, config.transition_dim * config.vocab_size)
        return F.embedding(rows, self.embedding) + self.positions[position]


def _affine(weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a linear map as `_linear` takes them: few rows are multiplied faster by a weight `(in, out)`."""
    return weight.detach().t().to(dtype).contiguous(), bias.detach().to(dtype)


def _norm(norm: torch.nn.LayerNorm, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return norm.weight.detach().to(dtype), norm.bias.detach().to(dtype)


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """`(rows, in)` to `(rows, out)`, with `weight` `(in, out)`."""
    rows = len(x)
    if rows >= _FEWEST_ROWS:
        return torch.addmm(bias, x, weight)
    return torch.addmm(bias, F.pad(x, (0, 0, 0, _FEWEST_ROWS - rows)), weight)[:rows]


def _starts(levels: list[Level]) -> list[int]:
    starts = [0]
    for level in levels[:-1]:
        starts.append(starts[-1] + level.tokens.shape[1])
    return starts


def _causal(queries: int, keys: int, like: torch.Tensor) -> torch.Tensor:
    """`(queries, keys)`: the last query is the last key."""
    hidden = torch.ones(queries, keys, dtype=torch.bool, device=like.device).triu(keys - queries + 1)
    return torch.zeros(queries, keys, dtype=like.dtype, device=like.device).masked_fill(hidden, -torch.inf)
