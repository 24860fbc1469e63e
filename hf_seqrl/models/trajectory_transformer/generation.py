"""Continues token sequences: the rows of a search that grow under a sliding window, the choice of their next tokens, and
open-loop prediction.

Sources: [Janner et al. 2021](https://arxiv.org/abs/2106.02039), sections 3.2 (sampling) and 4.1 (prediction).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .discretizer import TrajectoryDiscretizer
from .inference import InferenceEngine, Level, Segment
from .modeling_trajectory_transformer import TrajectoryTransformerModel


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


def keep_top_k(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Scores `(..., num_tokens)` with all but the `k` highest at minus infinity; ties with the k-th highest stay."""
    if k >= logits.shape[-1]:
        return logits
    threshold = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < threshold, -torch.inf)


def keep_top_mass(logits: torch.Tensor, cdf: float) -> torch.Tensor:
    """Scores `(..., num_tokens)` without the least likely tokens, which together hold less than `cdf` (0 to 1).

    As in the original, the least likely token falls away even if it holds more, ties with a token that falls away fall
    with it, and where nothing would be left, as when all are equally likely, everything stays.
    """
    probabilities = logits.softmax(-1)
    ascending = probabilities.sort(-1).values
    last = (ascending.cumsum(-1) < cdf).sum(-1, keepdim=True).sub(1).clamp_min(0)
    unlikely = probabilities <= ascending.gather(-1, last)
    return logits.masked_fill(unlikely & ~unlikely.all(-1, keepdim=True), -torch.inf)


def choose_tokens(
    logits: torch.Tensor,
    generators: Sequence[torch.Generator],
    k: int | None = None,
    cdf: float | None = None,
) -> torch.LongTensor:
    """One token for each row of scores.

    Args:
        logits: `(rows, num_tokens)`; the rows of one environment stand together, equally many for each.
        generators: One for each environment, on the CPU: what one draws does not depend on the others.
        k: Only the `k` most likely tokens; 1 is greedy.
        cdf: Without the least likely tokens that hold this much probability; applied before `k`.

    Returns:
        `(rows,)`.
    """
    if k == 1:
        return logits.argmax(-1)
    kept = logits.cpu()  # where the draws are made, and where so few numbers are filtered as fast
    if cdf is not None:
        kept = keep_top_mass(kept, cdf)
    if k is not None:
        kept = keep_top_k(kept, k)
    cumulative = kept.double().softmax(-1).cumsum(-1)  # (rows, num_tokens)
    rows = len(kept) // len(generators)
    draws = [torch.rand(rows, 1, generator=generator, dtype=torch.float64) for generator in generators]
    below = torch.cat(draws) * cumulative[:, -1:] * (1 - 1e-12)  # never the whole: a token with room left is taken
    return (cumulative <= below).sum(-1).to(logits.device)


@dataclass(frozen=True)
class Prediction:
    """Transitions that are predicted to follow, in raw units.

    Attributes:
        observations: `(n, steps, observation_dim)`; the first one follows the context's last observation.
        actions: `(n, steps, action_dim)`; the first one is taken in the context's last observation.
        rewards: `(n, steps)`.
        tokens: `(n, time)`, the context and all that follows it.
    """

    observations: torch.FloatTensor
    actions: torch.FloatTensor
    rewards: torch.FloatTensor
    tokens: torch.LongTensor


@torch.inference_mode()
def predict_open_loop(
    model: TrajectoryTransformerModel,
    discretizer: TrajectoryDiscretizer,
    contexts: torch.LongTensor,
    steps: int,
    actions: torch.Tensor | None = None,
    seeds: Sequence[int] | None = None,
) -> Prediction:
    """Let the model continue trajectories.

    Args:
        model: A trained model. It sees as many of the last transitions as fit its `block_size`.
        discretizer: The bins of its tokens.
        contexts: Tokens `(n, time)`: whole transitions, then an observation.
        steps: Transitions to predict.
        actions: Those that are taken, raw units, `(n, steps, action_dim)`; `None` lets the model predict them too.
        seeds: One for each context: tokens are drawn from the model's distribution. `None` takes the most likely.
    """
    config, num = model.config, len(contexts)
    size, start = config.transition_dim, contexts.shape[1] - config.observation_dim
    generators = None if seeds is None else [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    taken = None
    if actions is not None:
        entries = slice(config.observation_dim, config.observation_dim + config.action_dim)
        taken = discretizer.encode(actions, entries)  # (n, steps, action_dim)
    possible = torch.nn.functional.pad(discretizer.possible, (0, 1), value=False)  # the stop token is none
    beams = Beams(InferenceEngine(model), contexts.to(model.device), (config.block_size + 1) // size)
    for position in range(contexts.shape[1], start + steps * size + config.observation_dim):
        step, entry = divmod(position - start, size)
        if taken is not None and config.observation_dim <= entry < size - 2:
            beams.append(taken[:, step, entry - config.observation_dim])
            continue
        scores = beams.next_scores().masked_fill(~possible[entry], -torch.inf)
        beams.append(scores.argmax(-1) if generators is None else choose_tokens(scores, generators))
    following = beams.tokens[:, start : start + steps * size].view(num, steps, size)
    raw = discretizer.decode(following)
    last = discretizer.decode(beams.tokens[:, -config.observation_dim :], slice(0, config.observation_dim))
    return Prediction(
        observations=torch.cat([raw[:, 1:, : config.observation_dim], last[:, None]], 1),
        actions=raw[..., config.observation_dim : -2],
        rewards=raw[..., -2],
        tokens=beams.tokens,
    )
