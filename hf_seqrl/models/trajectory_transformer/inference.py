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
        queries = (attention.query.weight * scale, attention.query.bias * scale)
        keys, values = attention.key, attention.value
        self.norm1 = (block.ln1.weight.to(dtype), block.ln1.bias.to(dtype))
        self.norm2 = (block.ln2.weight.to(dtype), block.ln2.bias.to(dtype))
        self.qkv = (
            torch.cat([queries[0], keys.weight, values.weight]).to(dtype),  # (3 D, D)
            torch.cat([queries[1], keys.bias, values.bias]).to(dtype),
        )
        self.proj = (attention.proj.weight.to(dtype), attention.proj.bias.to(dtype))
        self.up = (block.l1.weight.to(dtype), block.l1.bias.to(dtype))
        self.down = (block.l2.weight.to(dtype), block.l2.bias.to(dtype))

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
        self.norm = (model.ln_f.weight.detach().to(dtype), model.ln_f.bias.detach().to(dtype))
        self.head = model.head.weight.detach().to(dtype)  # (T, V + 1, D)

    def segment(self, rows: int, capacity: int) -> Segment:
        return Segment(self.positions, len(self.layers), rows, self.heads, capacity, self.head_dim)

    def is_value(self, position: int) -> bool:
        return position % self.config.transition_dim == self.config.transition_dim - 1

    def scores(self, hidden: torch.Tensor, position: int) -> torch.Tensor:
        """Outputs `(rows, D)` of `decode` at `position` to scores `(rows, vocab_size + 1)` of the next token, float32."""
        weight = self.head[position % self.config.transition_dim]
        return _linear(F.layer_norm(hidden, hidden.shape[-1:], *self.norm), weight).float()

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
            qkv = qkv.view(len(x), 3, self.heads, self.head_dim).transpose(0, 1)  # (3, rows, heads, head_dim)
            if not hidden_key:
                target.cache[index].select(3, length).copy_(qkv[1:])
            x = layer.feed_forward(x, attend(qkv[0], segments, index))
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


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`(rows, in)` to `(rows, out)`."""
    rows = len(x)
    if rows >= _FEWEST_ROWS:
        return F.linear(x, weight, bias)
    return F.linear(F.pad(x, (0, 0, 0, _FEWEST_ROWS - rows)), weight, bias)[:rows]


def _starts(levels: list[Level]) -> list[int]:
    starts = [0]
    for level in levels[:-1]:
        starts.append(starts[-1] + level.tokens.shape[1])
    return starts


def _causal(queries: int, keys: int, like: torch.Tensor) -> torch.Tensor:
    """`(queries, keys)`: the last query is the last key."""
    hidden = torch.ones(queries, keys, dtype=torch.bool, device=like.device).triu(keys - queries + 1)
    return torch.zeros(queries, keys, dtype=like.dtype, device=like.device).masked_fill(hidden, -torch.inf)
