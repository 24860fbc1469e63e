"""What a decoder keeps between two steps, in transformers' own cache classes."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, EncoderDecoderCache


class RecurrentLayer(CacheLayerMixin):
    """The state of one GRU layer.

    Attributes:
        keys: `(batch, hidden)`, the state after the last token; `values` is the same tensor. `None` before the first.
        length: Number of tokens that the layer has read.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        """Take note of the device and the precision of the states."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keep the last of the states `(batch, n, hidden)` that `n` new tokens led to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states)
        self.length += key_states.shape[1]
        self.keys = self.values = key_states[:, -1]
        return self.keys, self.values

    def get_seq_length(self, *args: Any) -> int:
        """Number of tokens that the layer has read."""
        return self.length

    def get_max_length(self) -> int:
        """A state has no sequence axis: there is no limit."""
        return -1

    get_max_cache_shape = get_max_length  # its name before transformers 5.20

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """A recurrent layer has no mask; what attention over all tokens would have."""
        return self.length + int(query_length), 0

    def reset(self) -> None:
        """Forget everything."""
        self.keys = self.values = None
        self.length, self.is_initialized = 0, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Go on with these rows of the batch."""
        if self.keys is not None:
            self.keys = self.values = self.keys.index_select(0, beam_idx.to(self.keys.device))


class DecoderCache(EncoderDecoderCache):
    """The memory of a decoder that writes token by token: keys and values of the Transformer, states of the GRU.

    Args:
        num_recurrent_layers: Layers of a GRU; 0 for the Transformer.

    Attributes:
        value_preds: `(batch, length, value_size)`, the vectors written so far; `None` where all targets are discrete.
    """

    def __init__(self, num_recurrent_layers: int = 0) -> None:
        layers = [RecurrentLayer() for _ in range(num_recurrent_layers)]
        super().__init__(Cache(layers=layers) if layers else DynamicCache(), DynamicCache())
        self.value_preds: Tensor | None = None

    def write_values(self, values: Tensor) -> None:
        """Remember the vectors `(batch, n, value_size)` predicted at the newest `n` tokens."""
        self.value_preds = values if self.value_preds is None else torch.cat([self.value_preds, values], dim=1)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Go on with these rows of the batch `(new_batch,)`: beam search keeps some hypotheses and drops others."""
        super().reorder_cache(beam_idx)
        if self.value_preds is not None:
            self.value_preds = self.value_preds.index_select(0, beam_idx)

    def crop(self, *arguments: Any) -> None:
        """As `DynamicCache.crop`: assisted decoding takes back the tokens that it does not accept.

        Raises:
            TypeError: the decoder is a GRU, whose state cannot go back.
        """
        if not isinstance(self.self_attention_cache, DynamicCache):
            raise TypeError("the state of a GRU cannot go back: use backbone='transformer' for assisted decoding.")
        super().crop(*arguments)
        if self.value_preds is not None:
            self.value_preds = self.value_preds[:, : self.get_seq_length()]
