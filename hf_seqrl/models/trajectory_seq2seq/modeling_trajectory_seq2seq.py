"""The encoder-decoder over histories: one model, two backbones."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from hf_seqrl.models.caching import cache_keyword, cache_of, chosen_cache
from hf_seqrl.models.hidden_states import selected_hidden_states
from hf_seqrl.private_api import attention_implementation

from .attention import MultiHeadAttention
from .configuration_trajectory_seq2seq import TrajectorySeq2SeqConfig
from .decoder_cache import DecoderCache
from .embeddings import InputEmbedding, SourceEmbedding, TargetEmbedding
from .gru_backbone import GRUDecoder, GRUEncoder
from .outputs import (
    IGNORED_LABEL,
    EncodedHistory,
    GeneratedTrajectories,
    TrajectorySeq2SeqEncoderOutput,
    TrajectorySeq2SeqOutput,
    mean_loss,
    token_losses,
    value_losses,
)
from .recurrence import GRULayer
from .teacher_forcing import draw_forced_steps
from .transformer_backbone import DecoderLayer, EncoderLayer, TransformerDecoder, TransformerEncoder


@dataclass
class _Written:
    """Scores and vectors of a decoder's run, and the symbols that it was led to."""

    logits: Tensor
    values: Tensor | None
    predictions: Tensor | None


def _with_all_parts(forward: Callable) -> Callable:
    """Let `output_attentions` and `output_hidden_states` mean encoder and decoder both."""

    @wraps(forward)
    def wrapper(self: "TrajectorySeq2SeqModel", *args: Any, **kwargs: Any) -> Any:
        wanted = {
            name: kwargs.get(f"output_{name}", getattr(self.config, f"output_{name}", False))
            for name in ("attentions", "hidden_states")
        }
        if wanted["attentions"]:
            self._require_attention_weights()
        for name, asked in wanted.items():
            if asked is not None and asked is not False:
                kwargs |= {f"output_encoder_{name}": True, f"output_decoder_{name}": True}
        output, asked = forward(self, *args, **kwargs), wanted["hidden_states"]
        if asked is None or isinstance(asked, bool):
            return output
        for name in ("encoder_hidden_states", "decoder_hidden_states"):  # those with the indices that are asked for
            if getattr(output, name, None) is not None:
                output[name] = selected_hidden_states(output[name], asked)
        return output

    return wrapper


class TrajectorySeq2SeqModel(PreTrainedModel, GenerationMixin):
    """Encodes a history and reconstructs it, or predicts its actions.

    ```python
    >>> model = TrajectorySeq2SeqModel(TrajectorySeq2SeqConfig(backbone="gru", state_size=3, action_size=3))
    >>> states, actions = torch.tensor([[0, 2, 1]]), torch.tensor([[1, 1]])
    >>> model.encode(states, actions).context.shape
    torch.Size([1, 64])

    ```
    """

    config: TrajectorySeq2SeqConfig
    config_class = TrajectorySeq2SeqConfig
    base_model_prefix = "model"
    main_input_name = "states"
    accepts_loss_kwargs = True  # `forward` divides by `num_items_in_batch` where `Trainer` passes it
    supports_gradient_checkpointing = True
    _no_split_modules = ["EncoderLayer", "DecoderLayer", "StackedGRU"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {  # noqa: RUF012
        "encoder_attentions": OutputRecorder(MultiHeadAttention, index=1, layer_name="history_encoder"),
        "decoder_attentions": OutputRecorder(MultiHeadAttention, index=1, layer_name="causal_attention"),
        "cross_attentions": OutputRecorder(MultiHeadAttention, index=1, layer_name="cross_attention"),
        "encoder_hidden_states": [
            OutputRecorder(EncoderLayer, index=0),
            OutputRecorder(GRULayer, index=0, layer_name="history_encoder"),
        ],
        "decoder_hidden_states": [
            OutputRecorder(DecoderLayer, index=0),
            OutputRecorder(GRULayer, index=0, layer_name="target_decoder"),
        ],
    }

    def __init__(self, config: TrajectorySeq2SeqConfig) -> None:
        super().__init__(config)
        is_gru = config.backbone == "gru"
        self.supports_gradient_checkpointing = not is_gru
        self.source_embedding = SourceEmbedding(config)
        self.target_embedding = TargetEmbedding(config)
        self.history_encoder = GRUEncoder(config) if is_gru else TransformerEncoder(config)
        self.target_decoder = GRUDecoder(config) if is_gru else TransformerDecoder(config)
        self.head = nn.Linear(config.decoder_hidden_size, config.vocab_size)
        self.value_head = nn.Linear(config.decoder_hidden_size, config.value_size) if config.value_size else None
        self.teacher_forcing_ratio = config.teacher_forcing_ratio  # a callback may change it during training
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.GRU):
            for parameter in module.parameters():
                init.uniform_(parameter, -(module.hidden_size**-0.5), module.hidden_size**-0.5)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=module.embedding_dim**-0.5)
        elif isinstance(module, InputEmbedding):
            # with sqrt(width) as scale a token has entries of variance one, whether looked up or summed over a vector
            spread = module.weight.shape[1] * (1 if module.bias is None else module.size)
            init.normal_(module.weight, std=spread**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, SourceEmbedding):
            init.normal_(module.eos, std=len(module.eos) ** -0.5)
        else:
            super()._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        return self.target_embedding.symbols

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def encode(
        self,
        states: Tensor,
        actions: Tensor | None = None,
        attention_mask: Tensor | None = None,
        returns_to_go: Tensor | None = None,
    ) -> TrajectorySeq2SeqEncoderOutput:
        """Encode histories.

        Args:
            states: Indices `(batch, T)`, or float vectors `(batch, T, state_size)`: one-hot, soft or continuous.
                Gradients reach float inputs.
            actions: Indices `(batch, T')` or float vectors `(batch, T', action_size)` with `T'` equal to `T` or to
                `T - 1`; `None` for sources of states alone.
            attention_mask: `(batch, T + T' + 1)`: 1 on the tokens `s_0 a_0 s_1 ...` of each history and on the EOS that
                follows them, 0 on the padding behind it. With `return_conditioning` one column more, in front.
                `None`: all histories have full length.
            returns_to_go: `(batch,)`, scaled returns, for models with `return_conditioning`.

        Returns:
            The context `(batch, hidden)`, the encoder's states `(batch, source_length, hidden)` and the mask.
        """
        return TrajectorySeq2SeqEncoderOutput(**vars(self._encode(states, actions, attention_mask, returns_to_go)))

    def _encode(
        self, states: Tensor, actions: Tensor | None, attention_mask: Tensor | None, returns_to_go: Tensor | None
    ) -> EncodedHistory:
        attention_mask = self._checked_mask(states, actions, attention_mask)
        embeddings = self.source_embedding(states, actions, returns_to_go, attention_mask)
        return self.history_encoder(embeddings, attention_mask)

    def _checked_mask(self, states: Tensor, actions: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        expected = (states.shape[0], self.source_embedding.source_length(states, actions))
        if attention_mask is None:
            return torch.ones(expected, dtype=torch.bool, device=states.device)
        if tuple(attention_mask.shape) != expected:
            raise ValueError(
                f"attention_mask of shape {tuple(attention_mask.shape)}: expected {expected}, one entry for each state, "
                "action and return token and one for the closing EOS."
            )
        attention_mask = attention_mask.bool()
        places = torch.arange(expected[1], device=attention_mask.device)
        if not torch.equal(attention_mask, places < attention_mask.sum(-1, keepdim=True).clamp(min=1)):
            raise ValueError("attention_mask must be right-padded: ones, at least one in each row, then zeros.")
        return attention_mask

    @_with_all_parts
    @capture_outputs
    def forward(
        self,
        states: Tensor | None = None,
        actions: Tensor | None = None,
        attention_mask: Tensor | None = None,
        returns_to_go: Tensor | None = None,
        labels: Tensor | None = None,
        target_values: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: TrajectorySeq2SeqEncoderOutput | None = None,
        cache: DecoderCache | None = None,
        use_cache: bool | None = None,
        teacher_forcing_ratio: float | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_loss: bool = True,
        past_key_values: DecoderCache | None = None,
        **kwargs: Any,
    ) -> TrajectorySeq2SeqOutput:
        """Training (labels, `train()` mode), evaluation (labels, `eval()` mode) or a decoding step (no labels).

        In training the decoder uses teacher forcing with probability `teacher_forcing_ratio`, in one call if it is 1. In
        evaluation it runs freely, and once with teacher forcing: `loss` is the free-running one, the output has both.

        Args:
            states, actions, attention_mask, returns_to_go: See [`TrajectorySeq2SeqModel.encode`].
            labels: `(batch, n)`, target symbols with their EOS; -100 or PAD where there is no target.
            target_values: `(batch, n, value_size)`, vectors at VALUE symbols; NaN where there is none.
            decoder_input_ids: `(batch, n)`, inputs of the decoder without labels; default BOS.
            encoder_outputs: The result of `encode`, instead of states and actions.
            cache: The decoder's cache of earlier steps.
            use_cache: Whether to return a cache, without labels; default: `config.use_cache`.
            teacher_forcing_ratio: Replaces the model's own; in evaluation it also decides which decoder `loss` and
                `logits` belong to.
            num_items_in_batch: See [`mean_loss`].
            return_loss: Tells `Trainer` that the model computes its loss.
            past_key_values: The name of `cache` before transformers 5.24, still accepted.
        """
        if encoder_outputs is None:
            encoder_outputs = self._encode(states, actions, attention_mask, returns_to_go)
        if labels is None:
            return self._step(encoder_outputs, decoder_input_ids, chosen_cache(cache, past_key_values), use_cache)
        labels = labels.masked_fill(labels == self.config.pad_token_id, IGNORED_LABEL)
        if self.training:
            ratio = self.teacher_forcing_ratio if teacher_forcing_ratio is None else teacher_forcing_ratio
            written = self._write(encoder_outputs, labels, target_values, ratio)
            losses = self._losses(written, labels, target_values, self.config.label_smoothing)
            return self._output(encoder_outputs, written, mean_loss(losses, labels, num_items_in_batch))
        return self._evaluate(encoder_outputs, labels, target_values, teacher_forcing_ratio or 0.0)

    def _require_attention_weights(self) -> None:
        if self.config.backbone == "gru":
            raise ValueError("output_attentions=True, but a GRU has no attention: use backbone='transformer'.")
        implementation = attention_implementation(self.config)
        if self.config.attention_scoring == "dot_product" and implementation != "eager":
            raise ValueError(
                f"output_attentions=True, but attn_implementation={implementation!r} computes no attention weights: load the "
                "model with attn_implementation='eager'."
            )

    def _output(
        self, encoded: EncodedHistory, written: _Written, loss: Tensor | None = None, **fields: Any
    ) -> TrajectorySeq2SeqOutput:
        return TrajectorySeq2SeqOutput(
            loss=loss,
            logits=written.logits,
            value_preds=written.values,
            context=encoded.context,
            encoder_last_hidden_state=encoded.last_hidden_state,
            **fields,
        )

    def _evaluate(
        self,
        encoded: EncodedHistory,
        labels: Tensor,
        target_values: Tensor | None,
        ratio: float,
    ) -> TrajectorySeq2SeqOutput:
        forced = self._write(encoded, labels, target_values, 1.0)
        free = self._write(encoded, labels, target_values, 0.0)
        forced_losses = self._losses(forced, labels, target_values)
        free_losses = self._losses(free, labels, target_values)
        chosen, losses = {1.0: (forced, forced_losses), 0.0: (free, free_losses)}.get(ratio, (None, None))
        if chosen is None:
            chosen = self._write(encoded, labels, target_values, ratio)
            losses = self._losses(chosen, labels, target_values)
        return self._output(
            encoded,
            chosen,
            mean_loss(losses, labels),
            predictions=free.predictions,
            free_running_losses=free_losses,
            teacher_forced_losses=forced_losses,
        )

    def _losses(
        self, written: _Written, labels: Tensor, target_values: Tensor | None, label_smoothing: float = 0.0
    ) -> Tensor:
        losses = token_losses(written.logits, labels, label_smoothing)
        if self.value_head is None:
            return losses
        if target_values is None:
            raise ValueError("this model writes vectors (value_size > 0): pass target_values with labels.")
        target_values = target_values.to(written.values.dtype)
        return losses + self.config.value_loss_weight * value_losses(written.values, target_values, labels)

    def _heads(self, hidden_states: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.head(hidden_states), None if self.value_head is None else self.value_head(hidden_states)

    def _write(
        self,
        encoded: EncodedHistory,
        labels: Tensor,
        target_values: Tensor | None,
        ratio: float,
    ) -> _Written:
        """Run the decoder along the labels, forced at a share `ratio` of the steps."""
        symbols = labels.masked_fill(labels == IGNORED_LABEL, self.config.pad_token_id)
        if target_values is not None:
            target_values = target_values.to(encoded.context.dtype)
        if ratio == 1:
            return self._write_at_once(encoded, symbols, target_values)
        forced = draw_forced_steps(ratio, self.config.teacher_forcing_unit, tuple(labels.shape), labels.device)
        if forced[:, :-1].all():
            return self._write_at_once(encoded, symbols, target_values)
        return self._write_step_by_step(encoded, symbols, target_values, forced)

    def _write_at_once(self, encoded: EncodedHistory, symbols: Tensor, target_values: Tensor | None) -> _Written:
        inputs = torch.cat([torch.full_like(symbols[:, :1], self.config.bos_token_id), symbols[:, :-1]], dim=1)
        values = None
        if target_values is not None:
            values = torch.cat([torch.zeros_like(target_values[:, :1]), target_values[:, :-1]], dim=1)
        logits, values = self._heads(self.target_decoder(self.target_embedding(inputs, values), encoded))
        return _Written(logits, values, None if self.training else logits.argmax(-1))

    def _write_step_by_step(
        self,
        encoded: EncodedHistory,
        symbols: Tensor,
        target_values: Tensor | None,
        forced: Tensor,
    ) -> _Written:
        """One call a step; no gradient flows through the choice of what is fed back (Bengio et al. 2015, section 2.2)."""
        if self.training and self.target_decoder.runs_layers_twice:
            raise ValueError(
                "gradient checkpointing runs layers twice, which a decoder that is fed with its own predictions cannot "
                "do: train with teacher_forcing_ratio=1, or turn gradient checkpointing off."
            )
        cache = self.target_decoder.new_cache()
        inputs, values = torch.full_like(symbols[:, :1], self.config.bos_token_id), None
        all_logits, all_values, all_predictions = [], [], []
        for step in range(symbols.shape[1]):
            logits, written = self._heads(self.target_decoder(self.target_embedding(inputs, values), encoded, cache))
            inputs = logits.detach().argmax(-1)
            all_logits.append(logits)
            all_predictions.append(inputs)
            now, is_forced = slice(step, step + 1), forced[:, step : step + 1]
            inputs = torch.where(is_forced, symbols[:, now], inputs)
            if written is not None:
                all_values.append(written)
                values = torch.where(is_forced.unsqueeze(-1), target_values[:, now].nan_to_num(), written.detach())
        return _Written(
            torch.cat(all_logits, dim=1),
            torch.cat(all_values, dim=1) if all_values else None,
            torch.cat(all_predictions, dim=1),
        )

    def _step(
        self,
        encoded: EncodedHistory,
        decoder_input_ids: Tensor | None,
        cache: DecoderCache | None,
        use_cache: bool | None,
    ) -> TrajectorySeq2SeqOutput:
        """Continue from a memory; at VALUE symbols the decoder is fed with the vector that it wrote there."""
        if decoder_input_ids is None:
            decoder_input_ids = self.start_symbols(len(encoded.context)).to(encoded.context.device)
        if cache is None and (self.config.use_cache if use_cache is None else use_cache):
            cache = self.target_decoder.new_cache()
        last_values = None if cache is None or cache.value_preds is None else cache.value_preds[:, -1:]
        hidden_states = self.target_decoder(self.target_embedding(decoder_input_ids, last_values), encoded, cache)
        logits, values = self._heads(hidden_states)
        if cache is not None and values is not None:
            cache.write_values(values)
        return self._output(encoded, _Written(logits, values, None), cache=cache)

    def start_symbols(self, batch_size: int) -> Tensor:
        """BOS `(batch, 1)`, what every decoder is fed with first."""
        device = self.device if self.device.type != "meta" else None  # weights that are offloaded are on no device
        return torch.full((batch_size, 1), self.config.bos_token_id, dtype=torch.long, device=device)

    @torch.no_grad()
    def generate(
        self,
        states: Tensor | None = None,
        actions: Tensor | None = None,
        attention_mask: Tensor | None = None,
        returns_to_go: Tensor | None = None,
        encoder_outputs: TrajectorySeq2SeqEncoderOutput | None = None,
        **generate_kwargs: Any,
    ) -> Tensor | ModelOutput:
        """Decode from histories: greedily, by sampling or by beam search, until EOS.

        Args:
            states, actions, attention_mask, returns_to_go: See [`TrajectorySeq2SeqModel.encode`].
            encoder_outputs: The result of `encode`, in place of these.
            generate_kwargs: Arguments of `transformers.GenerationMixin.generate`: `do_sample`, `temperature`,
                `num_beams`, `length_penalty`, `num_return_sequences`, `max_new_tokens` (default:
                `config.max_target_length`), ...

        Returns:
            Symbols `(batch, length)`, BOS first, PAD after the EOS of each row, or a dictionary with
            `return_dict_in_generate=True`. Models with vector outputs return a [`GeneratedTrajectories`].
        """
        if encoder_outputs is None:
            encoder_outputs = self.encode(states, actions, attention_mask, returns_to_go)
            wanted = {
                name: generate_kwargs[name]
                for name in ("output_attentions", "output_hidden_states")
                if generate_kwargs.get(name)
            }
            if wanted:  # `generate` looks for what the encoder did in its output
                recorded = self(states, actions, attention_mask, returns_to_go, use_cache=False, **wanted)
                encoder_outputs.attentions = recorded.encoder_attentions
                encoder_outputs.hidden_states = recorded.encoder_hidden_states
        if not {"max_new_tokens", "max_length", "generation_config"} & generate_kwargs.keys():
            generate_kwargs["max_new_tokens"] = self.config.max_target_length
        if generate_kwargs.get("use_cache", True):
            generate_kwargs.setdefault(cache_keyword(), self.target_decoder.new_cache())
        if self.value_head is None:
            return super().generate(encoder_outputs=encoder_outputs, attention_mask=None, **generate_kwargs)
        if generate_kwargs.get("num_beams", 1) > 1 or not generate_kwargs.get("use_cache", True):
            raise ValueError(
                "a model that writes vectors has no beams, because vectors have no probability, and keeps its vectors in "
                "the cache: use num_beams=1 and use_cache=True."
            )
        generate_kwargs["return_dict_in_generate"] = True
        result = super().generate(encoder_outputs=encoder_outputs, attention_mask=None, **generate_kwargs)
        return GeneratedTrajectories(sequences=result.sequences, value_preds=cache_of(result).value_preds)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # `forward` makes the memory that fits the backbone
