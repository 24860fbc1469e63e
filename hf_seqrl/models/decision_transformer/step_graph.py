"""A Decision Transformer's step as a graph: by the window that it was trained on, or by an exact cache.

Tokens carry their time in themselves, so that a memory may be shifted by one step at every step: its last entry is the
newest, whatever the time, and a mask hides what came before the episode.
"""

from typing import cast

import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from hf_seqrl.models.decision_transformer.blocks import TOKENS_PER_STEP, additive, visible_tokens
from hf_seqrl.models.decision_transformer.modeling_decision_transformer import TrainableDT
from hf_seqrl.models.decision_transformer.processing_decision_transformer import (
    DecisionTransformerProcessor,
    channels_last,
)
from hf_seqrl.models.step_graph import ActionCodec, ReturnReader, Standardized, StepGraph, step_inputs


def step_graph(model: TrainableDT, processor: DecisionTransformerProcessor) -> StepGraph:
    """See `ModelFamily.step_graph`.

    Raises:
        ValueError: the model has another backbone than the stock model's encoder.
    """
    if model.config.backbone_config is not None:
        kind = model.config.backbone_config["model_type"]
        raise ValueError(
            f"the backbone is a {kind!r}: only a model with its own encoder is exported or compiled. Let it act as it is."
        )
    inputs = step_inputs(processor, "observation", "last_action", "return_to_go", "timestep")
    reach = model.config.sliding_attention
    if reach is None:
        steps = processor.context_length
        memory = {
            "states": torch.zeros(1, steps - 1, model.config.state_dim),
            "actions": torch.zeros(1, steps - 1, model.config.act_dim),
            "returns_to_go": torch.zeros(1, steps - 1),
        }
        return StepGraph.acting(WindowStep(model, processor), inputs, memory, f"the window of the last {steps} steps")
    names = [f"{part}_{layer}" for layer in range(len(model.encoder.h)) for part in ("keys", "values")]
    # each a tensor of its own: exporters take one tensor in two places for one input
    memory = {name: torch.zeros(1, TOKENS_PER_STEP * reach, model.config.hidden_size) for name in names}
    described = f"an exact cache of keys and values of {reach} steps in each layer"
    return StepGraph.acting(CacheStep(model, processor, reach), inputs, memory, described)


class _Step(nn.Module):
    """What both forms share: how the inputs of a step are read and an action is written."""

    def __init__(self, model: TrainableDT, processor: DecisionTransformerProcessor) -> None:
        super().__init__()
        self.model = model
        self.actions = ActionCodec(processor)
        self.returns = ReturnReader(processor)
        self.standardized = Standardized(processor.state_mean, processor.state_std)
        self.images = None
        if model.image_encoder is not None:
            self.images = _ImageReader(model.image_encoder, processor)
        self.past_actions = processor.past_actions
        self.last_timestep = 0
        if processor.timesteps == "absolute":
            self.last_timestep = min(processor.time_limit, model.config.max_ep_len) - 1

    def read_state(self, observation: Tensor) -> Tensor:
        """`(batch, state_dim)`."""
        return self.standardized(observation) if self.images is None else self.images(observation)

    def read_action(self, last_action: Tensor) -> Tensor:
        """`(batch, act_dim)`."""
        encoded = self.actions.encode(last_action)
        return encoded if self.past_actions else torch.zeros_like(encoded)

    def read_time(self, timesteps: Tensor) -> Tensor:
        """Rows of the model's table of timesteps, of the same shape."""
        return timesteps.clamp(min=0, max=self.last_timestep)


class WindowStep(_Step):
    """Encodes the last `context_length` steps, as the model was trained on them; remembers what it read."""

    def forward(
        self,
        observation: Tensor,
        last_action: Tensor,
        return_to_go: Tensor,
        timestep: Tensor,
        past_states: Tensor,
        past_actions: Tensor,
        past_returns: Tensor,
    ) -> tuple[Tensor, ...]:
        """The step's inputs and what came before them, `(batch, context_length - 1, ...)`: `past_actions` are those of the
        steps before the last one, so that `last_action` follows them."""
        states = torch.cat([past_states, self.read_state(observation)[:, None]], dim=1)  # (B, K, state_dim)
        actions = torch.cat([past_actions, self.read_action(last_action)[:, None]], dim=1)
        returns = torch.cat([past_returns, self.returns(return_to_go, timestep)[:, None]], dim=1)  # (B, K)
        length = states.shape[1]
        ages = torch.arange(length - 1, -1, -1, device=timestep.device)
        times = timestep[:, None] - ages  # (B, K), below 0 before the episode
        chosen = torch.zeros_like(actions[:, :1])  # the action that is to be chosen, which nothing sees
        tokens = self.model._tokens(
            states, torch.cat([actions[:, 1:], chosen], dim=1), returns.unsqueeze(-1), self.read_time(times)
        )
        visible = visible_tokens((times >= 0).to(torch.int64), None)
        hidden = self.model.encoder(tokens, visible, states_only=True).last_hidden_state  # (B, K, D)
        values = self.model.predict_action(hidden[:, -1])
        return self.actions.decode(values), states[:, 1:], actions[:, 1:], returns[:, 1:]


class CacheStep(_Step):
    """Computes the tokens (a_{t-1}, R_t, s_t) alone: under sliding attention the outputs of older tokens never change.

    The action of the step before sees one step more than the newest state, so that `reach` earlier steps are kept.
    """

    def __init__(self, model: TrainableDT, processor: DecisionTransformerProcessor, reach: int) -> None:
        super().__init__(model, processor)
        steps = torch.arange(reach, -1, -1).repeat_interleave(TOKENS_PER_STEP)  # how long ago R and s of a triple came
        ages = steps + torch.tensor([1, 0, 0]).repeat(reach + 1)  # ... and the action before them one step earlier
        order = torch.arange(len(ages))
        query_ages, query_order = ages[-TOKENS_PER_STEP:, None], order[-TOKENS_PER_STEP:, None]
        self.register_buffer("ages", ages)
        self.register_buffer("visible", (order <= query_order) & (ages - query_ages < reach))  # (3, 3 (reach + 1))

    def forward(
        self, observation: Tensor, last_action: Tensor, return_to_go: Tensor, timestep: Tensor, *memory: Tensor
    ) -> tuple[Tensor, ...]:
        """The step's inputs, and keys and values `(batch, 3 reach, hidden_size)` of each layer in turn."""
        mask = self.visible & (timestep[:, None, None] >= self.ages)  # (B, 3, 3 (reach + 1))
        mask = additive(mask, torch.float32)[:, None]
        hidden = self._tokens(observation, last_action, return_to_go, timestep)
        kept: list[Tensor] = []
        for block, keys, values in zip(self.model.encoder.h, memory[::2], memory[1::2], strict=True):
            attention = block.attn
            query, *new = attention.c_attn(block.ln_1(hidden)).split(attention.split_size, dim=-1)
            both = [torch.cat([past, part], dim=1) for past, part in zip((keys, values), new, strict=True)]
            kept += [part[:, TOKENS_PER_STEP:] for part in both]
            heads = [part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in (query, *both)]
            weights = (heads[0] @ heads[1].transpose(-1, -2) * attention.scaling + mask).softmax(dim=-1)
            context = (weights @ heads[2]).transpose(1, 2).flatten(2)  # (B, 3, D)
            hidden = hidden + attention.c_proj(context)
            hidden = hidden + block.mlp(block.ln_2(hidden))
        values = self.model.predict_action(self.model.encoder.ln_f(hidden[:, -1]))
        return self.actions.decode(values), *kept

    def _tokens(self, observation: Tensor, last_action: Tensor, return_to_go: Tensor, timestep: Tensor) -> Tensor:
        model = self.model
        embedded = [
            model.embed_action(self.read_action(last_action)),
            model.embed_return(self.returns(return_to_go, timestep)[:, None]),
            model.embed_state(self.read_state(observation)),
        ]
        times = self.read_time(torch.stack([timestep - 1, timestep, timestep], dim=1))  # (B, 3)
        tokens = model.embed_ln(torch.stack(embedded, dim=1) + model.embed_timestep(times))
        return tokens + model.encoder.wpe(torch.zeros_like(times[:1, :1]))


class _ImageReader(nn.Module):
    """Image observations `(batch, *observation_shape)` as features `(batch, state_dim)`."""

    def __init__(self, encoder: nn.Module, processor: DecisionTransformerProcessor) -> None:
        super().__init__()
        space = cast(Box, processor.task.observations)
        self.encoder = encoder
        self.scale = 255.0 if space.high.max() == 1 else 1.0  # the encoder reads bytes
        self.channels_last = channels_last(space.shape)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        images = images.to(torch.float32) * self.scale
        images = images.movedim(-1, -3) if self.channels_last else images
        return self.encoder(images.unsqueeze(1)).squeeze(1)
