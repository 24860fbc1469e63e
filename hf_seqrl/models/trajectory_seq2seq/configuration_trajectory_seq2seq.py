"""The configuration of the encoder-decoder over histories."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class TrajectorySeq2SeqConfig(PreTrainedConfig):
    r"""
    An encoder reads a history `s_0 a_0 s_1 a_1 ... s_H`; a decoder writes tokens, values, or both.

    The *source* is made of state and action tokens (indices, one-hot or soft vectors, or continuous vectors), closed by
    a learned EOS. The *target* is a sequence of symbols. Discrete states and actions share the indices
    `0 ... max(state_size, action_size) - 1`; a target with continuous entries has one symbol more, VALUE, which marks
    a vector; then come EOS, PAD and BOS.

    Args:
        state_size (`int`, *optional*, defaults to 3):
            Number of discrete states, or dimension of a state vector.
        action_size (`int`, *optional*, defaults to 3):
            Number of discrete actions, or dimension of an action vector.
        continuous_states (`bool`, *optional*, defaults to `False`):
            Whether states are vectors, embedded by an affine map, instead of indices.
        continuous_actions (`bool`, *optional*, defaults to `False`):
            Whether actions are vectors, embedded by an affine map, instead of indices.
        return_conditioning (`bool`, *optional*, defaults to `False`):
            Whether the first token of the source is the (scaled) return-to-go.
        target_size (`int`, *optional*):
            Number of discrete symbols of a separate target vocabulary. `None`: the target shares the source's
            vocabulary.
        value_size (`int`, *optional*, defaults to 0):
            Dimension of the vectors that the decoder writes at VALUE symbols; 0 for purely discrete targets.
        value_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the squared error of a written vector (mean over its entries) against the cross entropy.
        max_target_length (`int`, *optional*, defaults to 64):
            Default maximum number of tokens in `generate`.
        backbone (`str`, *optional*, defaults to `"transformer"`):
            `"gru"` or `"transformer"`.
        hidden_size (`int`, *optional*, defaults to 64):
            Width of the Transformer (`d_model`), or of the GRU encoder's state.
        decoder_hidden_size (`int`, *optional*):
            Width of the GRU decoder's state; `None`: `hidden_size`.
        embedding_size (`int`, *optional*):
            Width of the source embeddings (GRU only); `None`: `hidden_size`.
        decoder_embedding_size (`int`, *optional*):
            Width of the target embeddings (GRU only); `None`: `hidden_size`.
        num_encoder_layers (`int`, *optional*, defaults to 2):
            Layers of the encoder.
        num_decoder_layers (`int`, *optional*, defaults to 2):
            Layers of the decoder.
        context_feeding (`str`, *optional*, defaults to `"every_step"`):
            Whether the context is only the initial state of the GRU decoder (`"start"`) or also an input of
            `"every_step"`.
        num_attention_heads (`int`, *optional*, defaults to 4):
            Heads of each attention (Transformer).
        intermediate_size (`int`, *optional*):
            Width of the feed-forward sublayers (Transformer); `None`: 4 `hidden_size`.
        attention_scoring (`str`, *optional*, defaults to `"dot_product"`):
            `"dot_product"`, `"gaussian"`, `"boxcar"` or `"epanechnikov"`: see `attention.py`.
        norm_position (`str`, *optional*, defaults to `"pre"`):
            `"post"` normalizes after each residual sum (Vaswani et al. 2017, section 3.1), `"pre"` before each
            sublayer (Xiong et al. 2020), which trains without warm-up.
        position_embedding (`str`, *optional*, defaults to `"sinusoidal"`):
            `"sinusoidal"` (Vaswani et al. 2017, section 3.5) or `"learned"`.
        max_positions (`int`, *optional*, defaults to 512):
            Longest source or target that learned positions allow.
        scale_embedding (`bool`, *optional*, defaults to `True`):
            Whether embeddings are multiplied by the square root of their width (Vaswani et al. 2017, section 3.4).
        dropout (`float`, *optional*, defaults to 0.0):
            Dropout on embeddings, on each sublayer's output and between GRU layers.
        attention_dropout (`float`, *optional*, defaults to 0.0):
            Dropout on attention weights.
        label_smoothing (`float`, *optional*, defaults to 0.0):
            Probability mass that is spread over the vocabulary in the training loss (Vaswani et al. 2017, section 5.4).
        teacher_forcing_ratio (`float`, *optional*, defaults to 1.0):
            Probability that a training step of the decoder gets the true token instead of its own prediction.
        teacher_forcing_unit (`str`, *optional*, defaults to `"step"`):
            Whether this is drawn for each `"step"` of each example or once for each `"sequence"`.

    Example:

    ```python
    >>> config = TrajectorySeq2SeqConfig(state_size=3, action_size=3)
    >>> config.eos_token_id, config.pad_token_id, config.bos_token_id, config.vocab_size
    (3, 4, 5, 6)

    ```
    """

    model_type = "trajectory_seq2seq"
    keys_to_ignore_at_inference = [  # noqa: RUF012
        "logits",
        "value_preds",
        "cache",
        "context",
        "encoder_last_hidden_state",
        "encoder_attentions",
        "decoder_attentions",
        "cross_attentions",
    ]

    state_size: int = 3
    action_size: int = 3
    continuous_states: bool = False
    continuous_actions: bool = False
    return_conditioning: bool = False
    target_size: int | None = None
    value_size: int = 0
    value_loss_weight: float | int = 1.0
    max_target_length: int = 64
    backbone: Literal["gru", "transformer"] = "transformer"
    hidden_size: int = 64
    decoder_hidden_size: int | None = None
    embedding_size: int | None = None
    decoder_embedding_size: int | None = None
    num_encoder_layers: int = 2
    num_decoder_layers: int = 2
    context_feeding: Literal["start", "every_step"] = "every_step"
    num_attention_heads: int = 4
    intermediate_size: int | None = None
    attention_scoring: Literal["dot_product", "gaussian", "boxcar", "epanechnikov"] = "dot_product"
    norm_position: Literal["pre", "post"] = "pre"
    position_embedding: Literal["sinusoidal", "learned"] = "sinusoidal"
    max_positions: int = 512
    scale_embedding: bool = True
    dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    label_smoothing: float | int = 0.0
    teacher_forcing_ratio: float | int = 1.0
    teacher_forcing_unit: Literal["step", "sequence"] = "step"
    use_cache: bool = True
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = False
    vocab_size: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    decoder_start_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.decoder_hidden_size = self.decoder_hidden_size or self.hidden_size
        self.embedding_size = self.embedding_size or self.hidden_size
        self.decoder_embedding_size = self.decoder_embedding_size or self.hidden_size
        self.intermediate_size = self.intermediate_size or 4 * self.hidden_size
        self.eos_token_id = self.num_symbols + (self.value_size > 0)
        self.pad_token_id = self.eos_token_id + 1
        self.bos_token_id = self.decoder_start_token_id = self.eos_token_id + 2
        self.vocab_size = self.eos_token_id + 3
        super().__post_init__(**kwargs)

    @property
    def num_symbols(self) -> int:
        """Number of discrete symbols of the target, before VALUE, EOS, PAD and BOS."""
        if self.target_size is not None:
            return self.target_size
        return max(
            0 if self.continuous_states else self.state_size,
            0 if self.continuous_actions else self.action_size,
        )

    @property
    def value_token_id(self) -> int | None:
        """The symbol at which a vector is written; `None` where all targets are discrete."""
        return self.num_symbols if self.value_size else None

    def validate_sizes(self) -> None:
        """Check that the sizes are consistent."""
        if self.backbone != "transformer":
            return
        if self.num_attention_heads < 1:
            raise ValueError(f"num_attention_heads is {self.num_attention_heads}: expected a number >= 1.")
        if self.hidden_size % self.num_attention_heads or self.hidden_size % 2:
            raise ValueError(
                f"hidden_size={self.hidden_size} with num_attention_heads={self.num_attention_heads}: expected an even "
                "hidden_size that the number of heads divides."
            )
        if {self.embedding_size, self.decoder_embedding_size, self.decoder_hidden_size} != {self.hidden_size}:
            raise ValueError(
                f"embedding_size={self.embedding_size}, decoder_embedding_size={self.decoder_embedding_size}, "
                f"decoder_hidden_size={self.decoder_hidden_size}: the Transformer has one width, "
                f"hidden_size={self.hidden_size}; leave the others out."
            )

    def validate_ranges(self) -> None:
        """Check that ratios are between 0 and 1."""
        for name in ("dropout", "attention_dropout", "label_smoothing", "teacher_forcing_ratio"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: expected a number between 0 and 1.")
