"""Open-loop prediction: what the model thinks will happen, many steps ahead, without another look at the world.

Source: [Janner et al. 2021](https://arxiv.org/abs/2106.02039), section 4.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .beams_trajectory_transformer import Beams
from .discretizer_trajectory_transformer import TrajectoryDiscretizer
from .engine_trajectory_transformer import InferenceEngine
from .modeling_trajectory_transformer import TrajectoryTransformerModel
from .sampling_trajectory_transformer import choose_tokens


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
        seeds: One for each context: tokens are drawn from the model's distribution. `None` takes the likeliest.
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
