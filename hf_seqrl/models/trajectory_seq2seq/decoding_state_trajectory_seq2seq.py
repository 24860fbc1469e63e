"""What a decoder keeps between two steps."""

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, EncoderDecoderCache


class DecoderState:
    """The memory of a decoder that writes token by token, for both backbones.

    Attributes:
        hidden: `(batch, layers, hidden)`, the GRU decoder's state; `None` for the Transformer.
        cache: Keys and values of the Transformer decoder; `None` for the GRU.
        values: `(batch, length, value_size)`, the vectors written so far; `None` where all targets are discrete.
        length: Number of tokens that the decoder has been fed with.
    """

    is_compileable = False  # asked for by `GenerationMixin`: shapes grow with every step

    def __init__(self, hidden: Tensor | None = None) -> None:
        self.hidden = hidden
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache()) if hidden is None else None
        self.values: Tensor | None = None
        self.length = 0

    def get_seq_length(self) -> int:
        """Number of tokens that the decoder has been fed with."""
        return self.length

    def write_values(self, values: Tensor) -> None:
        """Remember the vectors `(batch, n, value_size)` predicted at the newest `n` tokens."""
        self.values = values if self.values is None else torch.cat([self.values, values], dim=1)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Go on with these rows of the batch `(new_batch,)`: beam search keeps some hypotheses and drops others."""
        if self.hidden is not None:
            self.hidden = self.hidden.index_select(0, beam_idx)
        if self.cache is not None:
            self.cache.reorder_cache(beam_idx)
        if self.values is not None:
            self.values = self.values.index_select(0, beam_idx)
