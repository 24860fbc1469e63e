"""The encoder of the stock model: its modules, parameters and names, with a mask over steps and less to compute.

`adopt_encoder` gives the stock modules the classes below. Every module is called, so that hooks, adapters, offloading and
sharding see what they see in other models.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.decision_transformer import modeling_decision_transformer as stock
from transformers.utils import ModelOutput

from hf_seqrl.models.hidden_states import selected_hidden_states
from hf_seqrl.private_api import attention_implementation

TOKENS_PER_STEP = 3  # return-to-go, state, action
STATE_TOKEN = 1  # the place of the state within its step: its output predicts the action


def adopt_encoder(encoder: stock.DecisionTransformerGPT2Model) -> None:
    """Turn a stock encoder, as it stands, into an `Encoder`: the parameters, their names and their values stay."""
    encoder.__class__ = Encoder
    for block in encoder.h:
        block.__class__, block.attn.__class__ = Block, Attention
    for module in encoder.modules():
        if type(module) is nn.Dropout:
            module.__class__ = Dropout


@dataclass
class EncoderOutput(ModelOutput):
    """What `Encoder` returns.

    Args:
        last_hidden_state (`torch.Tensor`): `(batch, 3 * time, hidden_size)`, or `(batch, time, hidden_size)` of the states.
        hidden_states (`tuple`): The input of every block and `last_hidden_state`; `None` unless requested.
        attentions (`tuple`): The attention weights `(batch, heads, 3 * time, 3 * time)` of every block.
    """

    last_hidden_state: torch.Tensor
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class Encoder(stock.DecisionTransformerGPT2Model):
    """The stock encoder for tokens that carry their time, under a mask that is given."""

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        visible: torch.Tensor,
        states_only: bool = False,
        output_hidden_states: bool | int | list[int] = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        """Encode tokens.

        Args:
            inputs_embeds: `(batch, 3 * time, hidden_size)`.
            visible: Booleans `(batch, 1, 3 * time, 3 * time)`, query by key.
            states_only: Only the outputs at the states are wanted.
            output_hidden_states: Whether the hidden states are returned, or the indices of those that are.
            output_attentions: Whether the attention weights are returned; needs `attn_implementation="eager"`.
        """
        # every token has position 0: time is embedded already
        position = self.wpe(torch.zeros(1, 1, dtype=torch.long, device=inputs_embeds.device))
        hidden = self.drop(inputs_embeds + position)
        mask = self._mask(visible)
        hidden_states, attentions = [hidden], []
        handles = [block.attn.register_forward_hook(_recorder(attentions)) for block in self.h if output_attentions]
        try:
            for index, block in enumerate(self.h):
                hidden = block(hidden, attention_mask=mask, states_only=states_only and index == len(self.h) - 1)
                hidden_states.append(hidden)
        finally:
            for handle in handles:
                handle.remove()
        hidden_states[-1] = hidden = self.ln_f(hidden)
        return EncoderOutput(
            last_hidden_state=hidden,
            hidden_states=selected_hidden_states(hidden_states, output_hidden_states),
            attentions=tuple(attentions) if output_attentions else None,
        )

    def _mask(self, visible: torch.Tensor) -> torch.Tensor:
        """The form of the mask that the attention takes on this device."""
        fused = attention_implementation(self.config) == "sdpa" and visible.device.type != "cpu"
        return visible if fused else additive(visible, torch.float32)


class Block(stock.DecisionTransformerGPT2Block):
    """One pre-norm block of the stock encoder."""

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor, states_only: bool = False
    ) -> torch.Tensor:
        """Run the block.

        Args:
            hidden_states: `(batch, 3 * time, hidden_size)`.
            attention_mask: As `Encoder` makes it.
            states_only: The block is the last one and only actions are wanted: attention is computed, and projection
                and MLP too, for the state tokens alone. Every number that is computed is the same.

        Returns:
            `(batch, 3 * time, hidden_size)`, or `(batch, time, hidden_size)` if `states_only`.
        """
        attended, _ = self.attn(self.ln_1(hidden_states), attention_mask, states_only)
        if states_only:
            hidden_states = hidden_states[:, STATE_TOKEN::TOKENS_PER_STEP]
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.ln_2(hidden_states))


class Attention(stock.DecisionTransformerGPT2Attention):
    """The stock attention; on CPU two matrix products beat the fused kernel for the short sequences here."""

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor, states_only: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend, and project.

        Returns:
            `(batch, queries, hidden_size)`, and the weights `(batch, heads, queries, 3 * time)` where they are computed.
        """
        query, key, value = self.c_attn(hidden_states).split(self.split_size, dim=-1)  # (B, 3T, D) each
        if states_only:
            query = query[:, STATE_TOKEN::TOKENS_PER_STEP]
            attention_mask = attention_mask[:, :, STATE_TOKEN::TOKENS_PER_STEP]
        heads = [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value)]
        context, weights = self._attend(*heads, attention_mask)  # (B, Tq, nh, hd)
        return self.resid_dropout(self.c_proj(context.flatten(2))), weights

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Softmax attention over `(batch, heads, tokens, head_dim)`."""
        implementation = attention_implementation(self.config)
        if implementation == "eager" or (implementation == "sdpa" and query.device.type == "cpu"):
            upcast = implementation == "eager" and self.reorder_and_upcast_attn
            with torch.autocast(query.device.type, enabled=False) if upcast else nullcontext():
                query, key = (query.float(), key.float()) if upcast else (query, key)
                scores = torch.add(mask, query @ key.transpose(-1, -2), alpha=self.scaling)
            weights = self.attn_dropout(scores.softmax(dim=-1)).to(value.dtype)
            return (weights @ value).transpose(1, 2), weights
        probability = self.attn_dropout.p if self.training else 0.0
        if implementation == "sdpa":
            context = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, dropout_p=probability, scale=self.scaling
            )
            return context.transpose(1, 2), None
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, stock.eager_attention_forward)
        return attend(self, query, key, value, mask, dropout=probability, scaling=self.scaling)


class Dropout(nn.Dropout):
    """Dropout from a quarter of the random numbers on CPU, by the same generator.

    PyTorch draws a number for each value there, which takes a tenth of the time of an update; 16 bits of one are enough to
    tell probabilities apart.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Values of any shape."""
        dropped = round(self.p * 2**16)  # of all 65,536 numbers
        plain = not self.training or not 0 < dropped < 2**16
        if (
            plain or values.device.type != "cpu" or torch.compiler.is_compiling()
        ):  # a compiler has cheap numbers of its own
            return super().forward(values)
        numbers = torch.empty((values.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        kept = numbers[: values.numel()].view(values.shape) >= dropped - 2**15
        return values * kept.to(values.dtype).mul_(2**16 / (2**16 - dropped))


def visible_tokens(attention_mask: torch.Tensor, sliding_attention: int | None) -> torch.Tensor:
    """Which tokens each token attends to.

    Causal in the order (return, state, action) of every step; padded steps are visible only to themselves (a row
    must see something, or its softmax is undefined). With `sliding_attention` = K a token sees the tokens of its own
    step and of the K - 1 steps before it.

    Args:
        attention_mask: `(batch, time)`, nonzero for real steps, padding on the left.
        sliding_attention: The number of steps, or `None` for all.

    Returns:
        Booleans `(batch, 1, 3 * time, 3 * time)`, query by key.
    """
    time = attention_mask.shape[1]
    place = torch.arange(TOKENS_PER_STEP * time, device=attention_mask.device)
    visible = place[:, None] >= place[None, :]  # (3T, 3T)
    if sliding_attention is not None:
        step = place // TOKENS_PER_STEP
        visible = visible & (step[:, None] - step[None, :] < sliding_attention)
    real = attention_mask.to(torch.bool).repeat_interleave(TOKENS_PER_STEP, dim=1)  # (B, 3T)
    itself = place[:, None] == place[None, :]
    return ((visible & real[:, None, :]) | itself)[:, None]


def additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The boolean mask as the number that is added to the scores: 0 where visible, the lowest number elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)


def _recorder(attentions: list[torch.Tensor]) -> object:
    return lambda module, inputs, output: attentions.append(output[1]) if output[1] is not None else None
