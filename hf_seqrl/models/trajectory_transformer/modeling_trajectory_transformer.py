"""The Trajectory Transformer: a GPT over the discretized dimensions of observations, actions, rewards and values.

Source: [Offline Reinforcement Learning as One Big Sequence Modeling Problem](https://arxiv.org/abs/2106.02039).
Parameters have their names in transformers 4, so that its checkpoints load unchanged.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_seqrl.models.caching import CachedOutput, chosen_cache
from hf_seqrl.models.hidden_states import selected_hidden_states
from hf_seqrl.private_api import attention_implementation

from .attention import Dropout, blockwise_causal_attention, eager_attention_forward, trajectory_mask
from .configuration_trajectory_transformer import TrajectoryTransformerConfig


@dataclass
class TrajectoryTransformerOutput(CachedOutput):
    """What a [`TrajectoryTransformerModel`] returns.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*): weighted cross entropy; present when labels are given.
        logits (`torch.FloatTensor` of shape `(batch, time, vocab_size + 1)`): scores of the next token at every
            position; the last is the stop token's.
        cache (`Cache`, *optional*): keys and values of all tokens so far.
        hidden_states (`tuple(torch.FloatTensor)`, *optional*): the embeddings and every block's output
            `(batch, time, n_embd)`; the last one before normalization.
        attentions (`tuple(torch.FloatTensor)`, *optional*): probabilities of every block
            `(batch, n_head, time, past + time)`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    cache: Cache | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class TrajectoryTransformerAttention(nn.Module):
    """Multi-head self-attention, with a matrix each for queries, keys and values as in the old checkpoints."""

    def __init__(self, config: TrajectoryTransformerConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.n_embd // config.n_head
        self.is_causal = True
        self.query = nn.Linear(config.n_embd, config.n_embd)
        self.key = nn.Linear(config.n_embd, config.n_embd)
        self.value = nn.Linear(config.n_embd, config.n_embd)
        self.proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_drop = Dropout(config.resid_pdrop)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
        cache: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        heads = (*hidden_states.shape[:-1], self.config.n_head, self.head_dim)
        query = self.query(hidden_states).view(heads).transpose(1, 2)  # (batch, heads, time, head_dim)
        key = self.key(hidden_states).view(heads).transpose(1, 2)
        value = self.value(hidden_states).view(heads).transpose(1, 2)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)

        output, probabilities = self.attend(query, key, value, attention_mask, output_attentions)
        output = self.proj(output.reshape(hidden_states.shape))  # (batch, time, heads, head_dim) -> (batch, time, D)
        return self.resid_drop(output), probabilities

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor,
        output_attentions: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(batch, heads, time, head_dim)` to `(batch, time, heads, head_dim)` and, from the eager function, probabilities."""
        scaling, dropout = self.head_dim**-0.5, self.config.attn_pdrop if self.training else 0.0
        implementation = "eager" if output_attentions else attention_implementation(self.config)
        if implementation == "sdpa" and dropout > 0 and query.device.type == "cpu":
            return blockwise_causal_attention(query, key, value, attention_mask, scaling, dropout), None
        function = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        return function(self, query, key, value, attention_mask, scaling=scaling, dropout=dropout)


class TrajectoryTransformerBlock(GradientCheckpointingLayer):
    """Attention and a feed-forward layer, each with a layer norm before it and added to the residual stream."""

    def __init__(self, config: TrajectoryTransformerConfig, layer_idx: int):
        super().__init__()
        self.ln1 = nn.LayerNorm(config.n_embd)
        self.attn = TrajectoryTransformerAttention(config, layer_idx)
        self.ln2 = nn.LayerNorm(config.n_embd)
        self.l1 = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.act = nn.GELU()
        self.l2 = nn.Linear(4 * config.n_embd, config.n_embd)
        self.drop = Dropout(config.resid_pdrop)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
        cache: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attended, probabilities = self.attn(self.ln1(hidden_states), attention_mask, cache, output_attentions)
        hidden_states = hidden_states + attended
        hidden_states = hidden_states + self.drop(self.l2(self.act(self.l1(self.ln2(hidden_states)))))
        return hidden_states, probabilities


class TrajectoryTransformerHead(nn.Module):
    """One matrix without bias for each dimension of a transition, chosen by a token's absolute position."""

    def __init__(self, num_dimensions: int, num_outputs: int, n_embd: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_dimensions, num_outputs, n_embd))

    def forward(self, hidden_states: torch.Tensor, start: int = 0) -> torch.Tensor:
        """`hidden_states` `(batch, time, n_embd)` of positions `start..` to scores `(batch, time, num_outputs)`."""
        batch, time, width = hidden_states.shape
        num_dimensions = len(self.weight)
        if (
            torch.compiler.is_exporting()
        ):  # a graph for all lengths: a matrix for each position, however many there are
            positions = torch.arange(start, start + time, device=self.weight.device)
            weight = self.weight[positions % num_dimensions]  # (time, V + 1, D)
            return (hidden_states.transpose(0, 1) @ weight.transpose(1, 2)).transpose(0, 1)
        first = start % num_dimensions
        weight = self.weight.roll(-first, dims=0) if first else self.weight  # weight[i] belongs to position start + i
        weight = weight[:time]  # (T, V + 1, D), where T may be cut to a short sequence
        padded = nn.functional.pad(hidden_states, (0, 0, 0, -time % len(weight)))
        by_dimension = padded.view(-1, len(weight), width).transpose(0, 1)  # (T, batch * transitions, D)
        scores = by_dimension @ weight.transpose(1, 2)  # (T, batch * transitions, V + 1)
        return scores.transpose(0, 1).reshape(batch, padded.shape[1], -1)[:, :time]


class TrajectoryTransformerPreTrainedModel(PreTrainedModel):
    """The supported features and the initialization of weights."""

    config: TrajectoryTransformerConfig
    base_model_prefix = "trajectory_transformer"
    main_input_name = "trajectories"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a mean over this batch; the Trainer has to divide by accumulation steps
    _input_embed_layer = "tok_emb"
    _no_split_modules = ["TrajectoryTransformerBlock"]  # noqa: RUF012
    _skip_keys_device_placement = ["cache", "past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_attention_backend = True
    _keys_to_ignore_on_load_unexpected = [r"blocks\.\d+\.attn\.mask"]  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
            if isinstance(module, nn.Linear):
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, TrajectoryTransformerHead):
            slope = math.sqrt(5) / self.config.kaiming_initializer_range
            bound = math.sqrt(
                6 / (1 + slope**2) / module.weight.shape[-1]
            )  # Kaiming uniform of each (V + 1, D) matrix
            init.uniform_(module.weight, -bound, bound)
        elif isinstance(module, TrajectoryTransformerModel):
            init.zeros_(module.pos_emb)


class TrajectoryTransformerModel(TrajectoryTransformerPreTrainedModel):
    """Predicts each token of a discretized trajectory from those before it.

    The token at position `p` is dimension `p % transition_dim` of a transition; a sequence starts with the first
    dimension of an observation and may end anywhere.
    """

    def __init__(self, config: TrajectoryTransformerConfig):
        super().__init__(config)
        stop_row = config.vocab_size * config.transition_dim
        self.tok_emb = nn.Embedding(stop_row + 1, config.n_embd)
        self.pos_emb = nn.Parameter(torch.zeros(1, config.block_size, config.n_embd))
        self.drop = Dropout(config.embd_pdrop)
        self.blocks = nn.ModuleList(TrajectoryTransformerBlock(config, i) for i in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.head = TrajectoryTransformerHead(config.transition_dim, config.vocab_size + 1, config.n_embd)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        trajectories: torch.LongTensor,
        cache: Cache | None = None,
        targets: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        return_dict: bool | None = None,
        return_loss: bool = True,
        past_key_values: Cache | None = None,
        labels: torch.LongTensor | None = None,
    ) -> TrajectoryTransformerOutput | tuple:
        r"""
        Args:
            trajectories (`torch.LongTensor` of shape `(batch, time)`):
                Tokens in `0..vocab_size`, without those in `cache`.
            cache (`Cache`, *optional*):
                The cache of an earlier call. Positions continue at its end.
            targets (`torch.LongTensor` of shape `(batch, time)`, *optional*):
                The name of `labels` in transformers 4, still accepted.
            attention_mask (`torch.Tensor` of shape `(batch, time)`, *optional*):
                Weight of each label in the loss. As in the original, attention does not read it: pad on the right,
                where the causal mask hides the padding. Padding on the left would shift positions.
            use_cache (`bool`, *optional*, defaults to `config.use_cache`):
                Whether to return `cache`; never in training.
            output_attentions (`bool`, *optional*):
                Whether to return the attention probabilities (computed eagerly, whatever the implementation).
            output_hidden_states (`bool`, `int` or `list[int]`, *optional*):
                Whether to return the embeddings and the output of every block, or the indices of those to return.
            return_dict (`bool`, *optional*):
                Whether to return a [`TrajectoryTransformerOutput`] instead of a tuple.
            return_loss (`bool`, *optional*, defaults to `True`):
                Tells the `Trainer` that evaluation has a loss. `False` leaves it out.
            past_key_values (`Cache`, *optional*):
                The name of `cache` before transformers 5.24, still accepted.
            labels (`torch.LongTensor` of shape `(batch, time)`, *optional*):
                The token that follows each of `trajectories`; -100 where it does not count. Gives the loss.

        Raises:
            `ValueError`: the sequence, with what the cache holds, is longer than `block_size`, or both names of
                the cache or of the labels are given.
        """
        config, cache = self.config, chosen_cache(cache, past_key_values)
        if labels is not None and targets is not None:
            raise ValueError("both labels and targets are given, which name the same argument: pass labels alone.")
        labels = targets if labels is None else labels
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        use_cache = config.use_cache if use_cache is None else use_cache
        if cache is None and use_cache and not self.training:
            cache = DynamicCache(config=config)

        start = 0 if cache is None else cache.get_seq_length()
        hidden_states = self.embed(trajectories, start)
        mask = trajectory_mask(start, trajectories.shape[1], config.transition_dim, hidden_states)
        all_hidden_states, attentions = (hidden_states,), ()
        for block in self.blocks:
            hidden_states, probabilities = block(hidden_states, mask, cache, output_attentions)
            all_hidden_states += (hidden_states,)
            attentions += (probabilities,)
        logits = self.head(self.ln_f(hidden_states), start)

        output = TrajectoryTransformerOutput(
            loss=self.loss(logits, labels, attention_mask, start) if labels is not None and return_loss else None,
            logits=logits,
            cache=cache,
            hidden_states=selected_hidden_states(all_hidden_states, output_hidden_states),
            attentions=attentions if output_attentions else None,
        )
        return_dict = config.return_dict if return_dict is None else return_dict
        return output if return_dict else output.to_tuple()

    def embed(self, trajectories: torch.LongTensor, start: int = 0) -> torch.Tensor:
        """Tokens `(batch, time)` at positions `start..` to the first hidden states `(batch, time, n_embd)`.

        Raises:
            ValueError: there are fewer than `start + time` positions.
        """
        config = self.config
        end = start + trajectories.shape[1]
        if end > config.block_size:
            raise ValueError(
                f"The sequence is {end} tokens long ({start} of them in the cache), but the model has "
                f"block_size={config.block_size} positions: drop the oldest transitions."
            )
        dimensions = torch.arange(start, end, device=trajectories.device) % config.transition_dim
        rows = trajectories + dimensions * config.vocab_size
        rows = rows.masked_fill(trajectories == config.vocab_size, config.transition_dim * config.vocab_size)
        return self.drop(self.tok_emb(rows) + self.pos_emb[:, start:end])

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor | None, start: int = 0
    ) -> torch.Tensor:
        """Cross entropy, weighted by the kind of token and by the mask, averaged over *all* tokens, masked or not."""
        config = self.config
        entropy = nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
        weights = logits.new_ones(config.transition_dim)
        weights[config.observation_dim : -2] = config.action_weight
        weights[-2], weights[-1] = config.reward_weight, config.value_weight
        predicted = torch.arange(start + 1, start + 1 + labels.shape[1], device=logits.device)  # positions of labels
        weights = weights[predicted % config.transition_dim]
        if attention_mask is not None:
            weights = weights * attention_mask
        return (entropy.view_as(labels) * weights).mean()

    @torch.no_grad()
    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Change the bins of every dimension from `config.vocab_size` to `new_num_tokens`, in embeddings and head.

        The first bins and the stop token keep their weights; a new bin starts as the mean of its dimension's bins, or,
        without `mean_resizing`, as a fresh model's would. Discretize the data again: the id of the stop token changes.

        Raises:
            ValueError: `pad_to_multiple_of` is given. There are `transition_dim` tables in one, so that it would pad
                in the middle.
        """
        if pad_to_multiple_of is not None:
            raise ValueError(f"pad_to_multiple_of={pad_to_multiple_of} has no meaning here: leave it out.")
        if new_num_tokens is None or new_num_tokens == self.config.vocab_size:
            return self.tok_emb
        fresh = type(self)(type(self.config)(**{**self.config.to_dict(), "vocab_size": new_num_tokens})).to(
            self.head.weight
        )
        kept = min(new_num_tokens, self.config.vocab_size)
        by_dimension = (self.config.transition_dim, -1, self.config.n_embd)
        pairs = [
            (self.tok_emb.weight[:-1].view(by_dimension), fresh.tok_emb.weight[:-1].view(by_dimension)),
            (self.head.weight[:, :-1], fresh.head.weight[:, :-1]),
        ]
        for old, new in pairs:  # (T, V, D)
            if mean_resizing:
                new.copy_(old.mean(dim=1, keepdim=True).expand_as(new))
            new[:, :kept] = old[:, :kept]
        fresh.tok_emb.weight[-1] = self.tok_emb.weight[-1]
        fresh.head.weight[:, -1] = self.head.weight[:, -1]
        self.tok_emb, self.head = fresh.tok_emb, fresh.head
        self.config.vocab_size = new_num_tokens
        return self.tok_emb
