"""A fast forward pass for search: the weights of a model, fused, over keys and values that many rows share.

No token ever attends to a value token (see the model's mask). So the engine stores no key for it and leaves it out
where its own scores are not needed: that is exact, and no mask remains but causality.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .modeling_trajectory_transformer import TrajectoryTransformerModel

_PORTION = 512  # tokens whose wide hidden states, computed at once, stay in a processor's cache


class Segment:
    """Keys and values of consecutive tokens in every layer, for `rows` rows; each may serve a group of queries.

    Attributes:
        keys, values: `(layers, rows, heads, capacity, head_dim)`.
        length: Tokens stored so far.
    """

    def __init__(self, like: torch.Tensor, layers: int, rows: int, heads: int, capacity: int, head_dim: int):
        self.keys = like.new_empty(layers, rows, heads, capacity, head_dim)
        self.values = torch.empty_like(self.keys)
        self.length = 0

    @property
    def rows(self) -> int:
        return self.keys.shape[1]

    def make_room(self, more: int) -> None:
        """If it is full, let `more` tokens fit in."""
        if self.length == self.keys.shape[3]:
            self.keys = F.pad(self.keys, (0, 0, 0, more))
            self.values = F.pad(self.values, (0, 0, 0, more))


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
        x = x + F.linear(attended, *self.proj)
        hidden = F.layer_norm(x, x.shape[-1:], *self.norm2)
        return x + F.linear(F.gelu(F.linear(hidden, *self.up)), *self.down)


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
        return F.linear(F.layer_norm(hidden, hidden.shape[-1:], *self.norm), weight).float()

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
            qkv = F.linear(F.layer_norm(x, x.shape[-1:], *layer.norm1), *layer.qkv)
            query, key, value = qkv.view(len(x), 3, self.heads, self.head_dim).unbind(1)  # (rows, heads, head_dim)
            if not hidden_key:
                target.keys[index, :, :, length] = key
                target.values[index, :, :, length] = value
            x = layer.feed_forward(x, attend(query, segments, index))
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
            qkv = F.linear(hidden, *layer.qkv)
            attended, path = [], None
            for level, part, shape in zip(levels, qkv.split([a * b for a, b in shapes]), shapes):
                part = part.view(*shape, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
                query, new = part[0], part[1:]  # (rows, heads, time, head_dim), (2, rows, heads, time, head_dim)
                path = new if path is None else torch.cat([path[:, level.parents], new], dim=3)
                if level is levels[0]:
                    shared.keys[index, :, :, : shared.length], shared.values[index, :, :, : shared.length] = new
                if index < len(self.layers) - 1:
                    out = F.scaled_dot_product_attention(
                        query, path[0], path[1], attn_mask=_causal(shape[1], path.shape[3], x), scale=1.0
                    )
                    attended.append(out.transpose(1, 2).reshape(-1, x.shape[-1]))
            if len(levels) > 1:
                own.keys[index, :, :, : own.length] = path[0, ends, :, shared.length :]
                own.values[index, :, :, : own.length] = path[1, ends, :, shared.length :]
            if attended:
                portions = zip(x.split(_PORTION), torch.cat(attended).split(_PORTION))
                x = torch.cat([layer.feed_forward(*portion) for portion in portions])
        return shared, own

    def _embed(self, tokens: torch.LongTensor, position: int | torch.Tensor) -> torch.Tensor:
        config = self.config
        rows = tokens + position % config.transition_dim * config.vocab_size
        rows = rows.masked_fill(tokens == config.vocab_size, config.transition_dim * config.vocab_size)
        return F.embedding(rows, self.embedding) + self.positions[position]


def attend(query: torch.Tensor, segments: list[Segment], layer: int) -> torch.Tensor:
    """Attention of `query` `(rows, heads, head_dim)` over all segments; returns `(rows, heads * head_dim)`.

    One product for each segment row and head serves all queries of its group; the scores meet in one softmax.
    """
    rows, heads, head_dim = query.shape
    filled = [segment for segment in segments if segment.length]
    scores = [_segment_scores(query, segment, layer) for segment in filled]
    lengths = [segment.length for segment in filled]
    probabilities = torch.cat(scores, -1).softmax(-1).split(lengths, -1)  # (rows, heads, length) each
    outputs = [_segment_output(part, segment, layer) for segment, part in zip(filled, probabilities)]
    return sum(outputs[1:], outputs[0]).reshape(rows, heads * head_dim)


def _segment_scores(query: torch.Tensor, segment: Segment, layer: int) -> torch.Tensor:
    """`(rows, heads, head_dim)` to `(rows, heads, length)`."""
    rows, heads, head_dim = query.shape
    keys = segment.keys[layer, :, :, : segment.length]
    if _is_small(segment, rows):
        return (query[:, :, None] * keys).sum(-1)
    grouped = query.view(segment.rows, -1, heads, head_dim).transpose(1, 2)  # (n, heads, group, head_dim)
    return (grouped @ keys.transpose(-1, -2)).transpose(1, 2).reshape(rows, heads, -1)


def _segment_output(probabilities: torch.Tensor, segment: Segment, layer: int) -> torch.Tensor:
    """`(rows, heads, length)` to `(rows, heads, head_dim)`."""
    rows, heads, length = probabilities.shape
    values = segment.values[layer, :, :, :length]
    if _is_small(segment, rows):
        return (probabilities[..., None] * values).sum(2)
    grouped = probabilities.view(segment.rows, -1, heads, length).transpose(1, 2)
    return (grouped @ values).transpose(1, 2).reshape(rows, heads, -1)


def _is_small(segment: Segment, rows: int) -> bool:
    """Whether its matrix products, one for each row, are so small that calling them would cost more than they do."""
    return segment.rows == rows and segment.length < 12


def _starts(levels: list[Level]) -> list[int]:
    starts = [0]
    for level in levels[:-1]:
        starts.append(starts[-1] + level.tokens.shape[1])
    return starts


def _causal(queries: int, keys: int, like: torch.Tensor) -> torch.Tensor:
    """`(queries, keys)`: the last query is the last key."""
    hidden = torch.ones(queries, keys, dtype=torch.bool, device=like.device).triu(keys - queries + 1)
    return torch.zeros(queries, keys, dtype=like.dtype, device=like.device).masked_fill(hidden, -torch.inf)
