"""Chooses tokens from scores: impossible ones masked, the unlikely ones filtered, the rest drawn or maximised."""

from collections.abc import Sequence

import torch


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
        k: Only the `k` likeliest tokens; 1 takes the likeliest and draws nothing.
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
