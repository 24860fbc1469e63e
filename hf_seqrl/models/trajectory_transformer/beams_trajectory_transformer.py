"""Sequences that grow token by token, are copied and dropped, under a window that slides over them."""

import torch

from .engine_trajectory_transformer import InferenceEngine, Level
from .segments_trajectory_transformer import Segment


class Beams:
    """The token sequences of a search, and scores of the token that follows each.

    All rows have the same length; the rows of one environment stand together, equally many for each.

    Window semantics are those of the original planner: the model sees the last `window` transitions, the one that
    grows included, and the first of them stands at position 0. So the window slides when a transition begins, and
    everything in it is encoded anew.

    Args:
        engine: Encodes.
        tokens: What is known of each environment, `(num_envs, time)`: transitions, the last one maybe incomplete.
        window: Transitions that the model sees.
        pinned: Whole transitions that stay at the front of the window, `(num_envs, k * transition_dim)`.
        alone: Whether environments are always searched one by one. Then what all rows have in common is shared like
            what is known; with others beside it, an environment's results would come to depend on them by a rounding.
    """

    def __init__(
        self,
        engine: InferenceEngine,
        tokens: torch.LongTensor,
        window: int,
        pinned: torch.LongTensor | None = None,
        alone: bool = False,
    ):
        self.engine = engine
        self.tokens = tokens
        self.alone = alone
        self.pinned = tokens[:, :0] if pinned is None else pinned
        self.transition_dim = engine.config.transition_dim
        self.window = window - self.pinned.shape[1] // self.transition_dim
        self.num_envs, self.known = tokens.shape
        self.first = 0  # the transition at the window's start
        self.encoded = 0  # tokens whose keys and values the segments hold
        self.segments: list[Segment] = []

    def next_scores(self) -> torch.Tensor:
        """Scores `(rows, vocab_size + 1)` of the token that follows each row."""
        length, size = self.tokens.shape[1], self.transition_dim
        first = max(0, length // size - self.window + 1)
        if first > self.first or not self.segments:
            self.first = first
            self._encode_window()
        for position in range(self.encoded, length):
            hidden = self.engine.decode(self.tokens[:, position], self._at(position), self.segments)
        self.encoded = length
        return self.engine.scores(hidden, length - 1)

    def append(self, tokens: torch.LongTensor) -> None:
        """One more token `(rows,)` for each row."""
        self.tokens = torch.cat([self.tokens, tokens[:, None]], 1)

    def expand(self, copies: int) -> None:
        """Each row becomes `copies` rows, which stand together."""
        self.tokens = self.tokens.repeat_interleave(copies, 0)
        self.segments.append(self.engine.segment(len(self.tokens), self.engine.config.action_dim + 1))

    def select(self, rows: torch.LongTensor) -> None:
        """Go on with these rows `(n,)`, equally many of each environment, in this order."""
        before = len(self.tokens)
        self.tokens = self.tokens[rows]
        if self.tokens.shape[1] // self.transition_dim - self.window + 1 > self.first:
            self.segments = []  # the window slides next, and encodes all of it anew
            return
        shared, *own = self.segments
        merged = self.engine.segment(len(rows), sum(segment.length for segment in own) + self.transition_dim)
        for segment in own:
            index = rows // (before // segment.rows)
            start, end = merged.length, merged.length + segment.length
            merged.cache[..., start:end, :] = segment.cache[:, :, index, :, : segment.length]
            merged.length = end
        self.segments = [shared, merged]

    def _at(self, position: int) -> int:
        return position - self.first * self.transition_dim + self.pinned.shape[1]

    def _encode_window(self) -> None:
        """Encode all but the last token, which is left to be decoded."""
        levels, node = self._tree(self.first * self.transition_dim, self.tokens.shape[1] - 1)
        self.encoded = self.tokens.shape[1] - 1
        shared, own = self.engine.prefill(levels, node)
        self.segments = [shared, own] if own.length or own.rows > shared.rows else [shared]

    def _tree(self, start: int, end: int) -> tuple[list[Level], torch.LongTensor]:
        """The rows' tokens from `start` to `end` as a tree, in which equal beginnings are one node.

        Returns its levels (the first: what is known of each environment, one node for each) and the
        node of each row in the last one.
        """
        size, per_env = self.transition_dim, len(self.tokens) // self.num_envs
        known = max(start, min(self.known, end))
        levels = [Level(torch.cat([self.pinned, self.tokens[::per_env, start:known]], 1))]
        node = torch.arange(self.num_envs, device=self.tokens.device).repeat_interleave(per_env)
        for begin in [known, *range(known + size - known % size, end, size)]:
            tokens = self.tokens[:, begin : min(begin + size - begin % size, end)]
            nodes, node = torch.cat([node[:, None], tokens], 1).unique(dim=0, return_inverse=True)
            if self.alone and len(levels) == 1 and len(nodes) == 1:
                levels[0] = Level(torch.cat([levels[0].tokens, nodes[:, 1:]], 1))
            else:
                levels.append(Level(nodes[:, 1:], parents=nodes[:, 0]))
        return levels, node
