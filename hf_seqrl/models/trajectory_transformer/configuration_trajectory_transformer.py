"""Configuration of the Trajectory Transformer."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class TrajectoryTransformerConfig(PreTrainedConfig):
    r"""
    The sizes and loss weights of a [`TrajectoryTransformerModel`]. The fields and defaults are those of the class that
    transformers 4 had, so that its checkpoints load; the defaults are the paper's HalfCheetah model
    ([Janner et al. 2021](https://arxiv.org/abs/2106.02039), appendix A).

    A transition is `transition_dim` tokens: the observation's, the action's, one for the reward, one for the value.

    Args:
        vocab_size (`int`, *optional*, defaults to 100):
            Bins of one dimension. A token is a bin in `0..vocab_size - 1`, or `vocab_size`: the stop token that
            follows the end of an episode.
        action_weight (`float`, *optional*, defaults to 5):
            Weight of the action tokens in the loss; observation tokens weigh 1.
        reward_weight (`float`, *optional*, defaults to 1):
            Weight of the reward tokens in the loss.
        value_weight (`float`, *optional*, defaults to 1):
            Weight of the value tokens in the loss.
        block_size (`int`, *optional*, defaults to 249):
            Longest sequence in tokens: the number of learned positions. Ten transitions less the last token.
        action_dim (`int`, *optional*, defaults to 6):
            Tokens of an action.
        observation_dim (`int`, *optional*, defaults to 17):
            Tokens of an observation.
        transition_dim (`int`, *optional*, defaults to 25):
            Tokens of a transition; must be `observation_dim + action_dim + 2`.
        n_layer (`int`, *optional*, defaults to 4):
            Transformer blocks.
        n_head (`int`, *optional*, defaults to 4):
            Attention heads of a block; must divide `n_embd`.
        n_embd (`int`, *optional*, defaults to 128):
            Width of the embeddings and hidden states.
        embd_pdrop (`float`, *optional*, defaults to 0.1):
            Dropout of the embeddings.
        attn_pdrop (`float`, *optional*, defaults to 0.1):
            Dropout of the attention probabilities.
        resid_pdrop (`float`, *optional*, defaults to 0.1):
            Dropout of what each attention and feed-forward layer adds to the residual stream.
        learning_rate (`float`, *optional*, defaults to 6e-4):
            The learning rate that the model was trained with. A record: the `Trainer` takes its own.
        max_position_embeddings (`int`, *optional*, defaults to 512):
            Kept from the old class, which did not read it either; `block_size` is the limit.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights of linear layers and token embeddings.
        layer_norm_eps (`float`, *optional*, defaults to 1e-12):
            Kept from the old class, which did not read it either: every checkpoint was trained with 1e-5.
        kaiming_initializer_range (`float`, *optional*, defaults to 1):
            Divides the slope `sqrt(5)` of the Kaiming initialization of the output layer.
        use_cache (`bool`, *optional*, defaults to `True`):
            Whether a forward pass outside training returns keys and values.

    Example:

    ```python
    >>> from hf_seqrl import TrajectoryTransformerConfig, TrajectoryTransformerModel

    >>> config = TrajectoryTransformerConfig(observation_dim=11, action_dim=3, transition_dim=16, block_size=159)
    >>> model = TrajectoryTransformerModel(config)
    >>> model.tok_emb.num_embeddings  # a row for each bin of each dimension, and one for the stop token
    1601

    ```
    """

    model_type = "trajectory_transformer"
    keys_to_ignore_at_inference = ["cache", "hidden_states", "attentions"]  # noqa: RUF012
    attribute_map = {  # noqa: RUF012
        "hidden_size": "n_embd",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    vocab_size: int = 100
    action_weight: float | int = 5
    reward_weight: float | int = 1
    value_weight: float | int = 1
    block_size: int = 249
    action_dim: int = 6
    observation_dim: int = 17
    transition_dim: int = 25
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    embd_pdrop: float | int = 0.1
    attn_pdrop: float | int = 0.1
    resid_pdrop: float | int = 0.1
    learning_rate: float | int = 6e-4
    max_position_embeddings: int = 512
    initializer_range: float | int = 0.02
    layer_norm_eps: float | int = 1e-12
    kaiming_initializer_range: float | int = 1
    use_cache: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 50256
    eos_token_id: int | None = 50256

    def validate_architecture(self) -> None:
        """Raises `ValueError` where the sizes contradict each other."""
        expected = self.observation_dim + self.action_dim + 2
        if self.transition_dim != expected:
            raise ValueError(
                f"transition_dim is {self.transition_dim}, but an observation of {self.observation_dim} tokens, an "
                f"action of {self.action_dim}, a reward and a value make {expected}: set transition_dim={expected}."
            )
        if self.n_head < 1 or self.n_layer < 1:
            raise ValueError(f"n_head is {self.n_head} and n_layer is {self.n_layer}: expected numbers >= 1.")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd is {self.n_embd}: it must be a multiple of n_head ({self.n_head}).")

    def validate_token_ids(self) -> None:
        """Accepts any id: pad, bos and eos were inherited from GPT-2 and stand for nothing here."""
