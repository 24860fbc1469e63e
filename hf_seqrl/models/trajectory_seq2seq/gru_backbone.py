"""The recurrent backbone: a GRU reads the history into a context, a GRU writes from it (Cho et al. 2014)."""

import torch
from torch import Tensor, nn

from .configuration_trajectory_seq2seq import TrajectorySeq2SeqConfig
from .decoder_cache import DecoderCache
from .outputs import EncodedHistory, last_valid
from .recurrence import GRULayer


class StackedGRU(nn.Module):
    """GRU layers one after the other, each a single call over the whole sequence.

    The layers are modules of their own, not `nn.GRU(num_layers=...)`, because the state *after the last valid token* of
    every layer is wanted: it is picked from the layer's outputs, which padding on the right cannot reach. That gives what
    packed sequences give, without their sorting and their shrinking batches.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            GRULayer(input_size if layer == 0 else hidden_size, hidden_size) for layer in range(num_layers)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor, initial: Tensor | None = None) -> list[Tensor]:
        """Inputs `(batch, n, input)` and initial states `(batch, layers, hidden)` to the outputs of each layer, each
        `(batch, n, hidden)`."""
        outputs = []
        for index, layer in enumerate(self.layers):
            inputs = layer(self.dropout(inputs), None if initial is None else initial[:, index])
            outputs.append(inputs)
        return outputs


class GRUEncoder(nn.Module):
    """Reads the embedded history; the context is the top layer's state after the closing EOS."""

    def __init__(self, config: TrajectorySeq2SeqConfig) -> None:
        super().__init__()
        self.gru = StackedGRU(config.embedding_size, config.hidden_size, config.num_encoder_layers, config.dropout)

    def forward(self, embeddings: Tensor, attention_mask: Tensor) -> EncodedHistory:
        """Embeddings `(batch, n, embedding)`, attention_mask `(batch, n)`, right-padded."""
        outputs = self.gru(embeddings)
        final_states = [last_valid(output, attention_mask) for output in outputs]
        return EncodedHistory(
            last_hidden_state=outputs[-1],
            context=final_states[-1],
            final_states=torch.stack(final_states, dim=1),
            attention_mask=attention_mask,
        )


class GRUDecoder(nn.Module):
    """Writes from the context, which is its initial state and, with `context_feeding="every_step"`, part of every input."""

    runs_layers_twice = False  # gradient checkpointing is for the Transformer's layers

    def __init__(self, config: TrajectorySeq2SeqConfig) -> None:
        super().__init__()
        self.shape = (config.num_decoder_layers, config.decoder_hidden_size)
        self.feeds_context = config.context_feeding == "every_step"
        input_size = config.decoder_embedding_size + self.feeds_context * config.hidden_size
        self.gru = StackedGRU(input_size, config.decoder_hidden_size, config.num_decoder_layers, config.dropout)
        source_shape = (config.num_encoder_layers, config.hidden_size)
        # decoders of another shape start from a learned map of the encoder's states (Cho et al. 2014, appendix A.1.2)
        self.bridge = (
            None
            if source_shape == self.shape
            else nn.Linear(source_shape[0] * source_shape[1], self.shape[0] * self.shape[1])
        )

    def new_cache(self) -> DecoderCache:
        """An empty cache; the first tokens start from the encoder's states."""
        return DecoderCache(num_recurrent_layers=len(self.gru.layers))

    def _initial_hidden(self, encoded: EncodedHistory) -> Tensor:
        if self.bridge is None:
            return encoded.final_states
        return self.bridge(encoded.final_states.flatten(1)).tanh().unflatten(1, self.shape)

    def forward(self, embeddings: Tensor, encoded: EncodedHistory, cache: DecoderCache | None = None) -> Tensor:
        """Embedded target tokens `(batch, n, embedding)` to hidden states `(batch, n, hidden)`; moves `cache` on."""
        if self.feeds_context:
            context = encoded.context.unsqueeze(1).expand(-1, embeddings.shape[1], -1)
            embeddings = torch.cat([embeddings, context], dim=-1)
        outputs = self.gru(embeddings, self._hidden(encoded, cache))
        if cache is not None:
            for index, output in enumerate(outputs):
                cache.self_attention_cache.update(output, output, index)
        return outputs[-1]

    def _hidden(self, encoded: EncodedHistory, cache: DecoderCache | None) -> Tensor:
        """The states `(batch, layers, hidden)` to go on from."""
        if cache is None or not cache.get_seq_length():
            return self._initial_hidden(encoded)
        return torch.stack([layer.keys for layer in cache.self_attention_cache.layers], dim=1)
