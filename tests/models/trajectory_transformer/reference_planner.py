"""The original planner's algorithm, written out plainly: every token is chosen after encoding the whole window anew."""

import torch


def last_scores(model, tokens, window):
    """Scores of the token that follows `tokens` `(rows, time)`, seen through the last `window` transitions."""
    size = model.config.transition_dim
    excess = max(0, tokens.shape[1] - (window * size - 1))
    return model(tokens[:, -(-excess // size) * size :], use_cache=False).logits[:, -1, :-1]


def extend(model, tokens, count, window, choose):
    """`count` more tokens, and the scores each was chosen from."""
    scores = []
    for _ in range(count):
        scores.append(last_scores(model, tokens, window))
        tokens = torch.cat([tokens, choose(scores[-1], tokens)[:, None]], 1)
    return tokens, scores


def plan(model, discretizer, tokens, window, choose_action, *, horizon, beam_width, n_expand, discount=0.99):
    """The best plan `(horizon, transition_dim)` after `tokens` `(time,)`, its return, and all survivors' returns."""
    config = model.config
    start = len(tokens) - config.observation_dim

    def likeliest(scores, tokens):
        return scores.argmax(-1)

    beams, returned = tokens.repeat(beam_width, 1), torch.zeros(beam_width)
    for step in range(horizon):
        beams, returned = beams.repeat_interleave(n_expand, 0), returned.repeat_interleave(n_expand)
        beams, _ = extend(model, beams, config.action_dim, window, choose_action)
        beams, (reward, value) = extend(model, beams, 2, window, likeliest)
        reward = (reward.softmax(-1) * discretizer.values[-2]).sum(-1)
        value = (value.softmax(-1) * discretizer.values[-1]).sum(-1)
        returned = returned + discount**step * reward
        total, best = (returned + discount ** (step + 1) * value).topk(beam_width)
        beams, returned = beams[best], returned[best]
        if step < horizon - 1:
            beams, _ = extend(model, beams, config.observation_dim, window, likeliest)
    return beams[0, start:].view(horizon, -1), total[0], total


def log_likelihood(model, tokens, start):
    """Of the tokens from `start` on, given those before, the stop token excluded."""
    likelihood = model(tokens[None], use_cache=False).logits[0, start - 1 : -1, :-1].log_softmax(-1)
    return likelihood.gather(1, tokens[start:, None]).sum()
