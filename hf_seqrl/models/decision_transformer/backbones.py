"""Any causal model of transformers in the place of the stock encoder: made by its config, checked, adapted, called."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from hf_seqrl.installation import install_command
from hf_seqrl.models.hidden_states import selected_hidden_states

from .blocks import STATE_TOKEN, TOKENS_PER_STEP, EncoderOutput

# Nothing is looked up in the table of words, and no token of a trajectory is a word.
_WITHOUT_WORDS = {"vocab_size": 1, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
# What a config may say of how and by which code it was loaded; the Decision Transformer's own config rules instead.
_LEFT_OUT = ("auto_map", "dtype", "torch_dtype", "quantization_config", "architectures", "transformers_version")
_OF_LABELS = ("id2label", "label2id")
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}  # of what padding changes, in units of the outputs


def backbone_shape(
    model_type: str, hidden_size: int = 128, n_layer: int = 3, n_head: int = 1, **overrides: Any
) -> PreTrainedConfig:
    """A config of this type and size, for a backbone that is trained from nothing.

    Args:
        model_type: Of a causal model of transformers, such as `"llama"`, `"qwen3"` or `"mamba"`.
        hidden_size: Width.
        n_layer: Number of layers.
        n_head: Attention heads, where the type has them.
        overrides: Further fields of the config.

    Raises:
        ValueError: transformers has no such type.
    """
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"transformers has no model_type {model_type!r}: expected for instance 'llama', 'qwen3' or 'mamba'."
        )
    defaults = AutoConfig.for_model(model_type)
    sizes = {
        "hidden_size": hidden_size,
        "num_hidden_layers": n_layer,
        "num_attention_heads": n_head,
        "num_key_value_heads": n_head,
        "head_dim": hidden_size // n_head,
        "intermediate_size": 4 * hidden_size,
    }
    fitting = {name: value for name, value in sizes.items() if hasattr(defaults, name)}
    return AutoConfig.for_model(model_type, **(fitting | _WITHOUT_WORDS | overrides))


def plain_config(backbone_config: PreTrainedConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The config as it is saved in the Decision Transformer's: JSON values, without words and without code to load."""
    values = backbone_config.to_dict() if isinstance(backbone_config, PreTrainedConfig) else dict(backbone_config)
    if values.get("model_type") not in CONFIG_MAPPING:
        raise ValueError(
            f"the model_type of backbone_config is {values.get('model_type')!r}: expected one of transformers, such as 'llama'."
        )
    kept = {name: value for name, value in values.items() if name not in _LEFT_OUT + _OF_LABELS and name[0] != "_"}
    return kept | _WITHOUT_WORDS


def config_of(backbone_config: Mapping[str, Any]) -> PreTrainedConfig:
    """The config object that `plain_config` stands for."""
    return AutoConfig.for_model(**backbone_config)


def make_backbone(backbone_config: Mapping[str, Any]) -> PreTrainedModel:
    """A new model of this config, checked by `check_backbone` unless it has no memory (`meta`) or is about to be loaded."""
    backbone = AutoModel.from_config(config_of(backbone_config))
    _freeze_words(backbone)
    check_backbone(backbone)
    return backbone


def adopt_backbone(backbone: PreTrainedModel) -> PreTrainedModel:
    """Make a model, such as a pretrained one, a backbone: its table of words, which trajectories do not use, is dropped."""
    words = backbone.get_input_embeddings()
    backbone.set_input_embeddings(
        nn.Embedding(1, words.weight.shape[1], device=words.weight.device, dtype=words.weight.dtype)
    )
    for name, value in _WITHOUT_WORDS.items():
        setattr(backbone.config, name, value)
    _freeze_words(backbone)
    check_backbone(backbone)
    return backbone


def _freeze_words(backbone: PreTrainedModel) -> None:
    backbone.get_input_embeddings().requires_grad_(False)  # data-parallel training waits for gradients


@torch.no_grad()
def check_backbone(backbone: PreTrainedModel) -> None:
    """Measure on two short sequences that no output depends on later tokens, nor on padding on the left.

    Raises:
        ValueError: one does.
    """
    if backbone.device.type == "meta":
        return
    size, was_training = config_hidden_size(backbone.config), backbone.training
    backbone.eval()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 8, size, generator=generator).to(backbone.device, backbone.dtype)
    changed = torch.cat([tokens[:, :-1], 5 - tokens[:, -1:]], dim=1)
    padded = torch.cat([tokens.flip(1)[:, :6], tokens], dim=1)
    mask = torch.ones(2, 14, dtype=torch.long, device=backbone.device)
    mask[:, :6] = 0
    outputs = run_backbone(backbone, tokens, torch.ones_like(mask[:, :8])).last_hidden_state
    name = f"a backbone of model_type {backbone.config.model_type!r}"
    later = run_backbone(backbone, changed, torch.ones_like(mask[:, :8])).last_hidden_state
    if not torch.equal(outputs[:, :-1], later[:, :-1]):
        raise ValueError(f"{name} reads tokens that come later: expected a causal model, such as 'llama' or 'mamba'.")
    behind = run_backbone(backbone, padded, mask).last_hidden_state[:, 6:]
    if (outputs - behind).abs().max() > _TOLERANCE.get(backbone.dtype, 5e-2) * outputs.abs().max():
        raise ValueError(
            f"{name} reads padded tokens on the left, with which episodes begin: choose another one, such as 'llama' or 'mamba'."
        )
    backbone.train(was_training)


def config_hidden_size(config: PreTrainedConfig) -> int:
    """The width of the tokens that a model of this config reads."""
    return config.get_text_config().hidden_size


def run_backbone(backbone: PreTrainedModel, tokens: torch.Tensor, mask: torch.Tensor, **recorded: bool) -> Any:
    """Call a backbone on tokens `(batch, tokens, hidden_size)`, real where `mask` `(batch, tokens)` is 1; padding is on the left
    and positions are counted from the first real token."""
    positions = {}
    if "position_ids" in inspect.signature(backbone.forward).parameters:
        positions["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return backbone(
        inputs_embeds=tokens, attention_mask=mask, use_cache=False, return_dict=True, **positions, **recorded
    )


def encode_with(
    backbone: PreTrainedModel,
    tokens: torch.Tensor,
    attention_mask: torch.Tensor,
    states_only: bool,
    output_hidden_states: bool | int | list[int] = False,
    output_attentions: bool = False,
) -> EncoderOutput:
    """What the stock encoder does, by a backbone.

    Args:
        backbone: The model.
        tokens: `(batch, 3 * time, hidden_size)`.
        attention_mask: Of the steps, `(batch, time)`, nonzero for real ones.
        states_only: Only the outputs at the states are wanted.
        output_hidden_states, output_attentions: As for [`~hf_seqrl.models.decision_transformer.blocks.Encoder`].
    """
    mask = (attention_mask > 0).long().repeat_interleave(TOKENS_PER_STEP, dim=1)  # (B, 3T)
    recorded = {"output_hidden_states": output_hidden_states is not False, "output_attentions": output_attentions}
    output = run_backbone(backbone, tokens, mask, **{name: True for name, wanted in recorded.items() if wanted})
    hidden = output.last_hidden_state
    return EncoderOutput(
        last_hidden_state=hidden[:, STATE_TOKEN::TOKENS_PER_STEP] if states_only else hidden,
        hidden_states=selected_hidden_states(list(output.get("hidden_states") or ()), output_hidden_states),
        attentions=output.get("attentions") if output_attentions else None,
    )


def add_adapters(backbone: PreTrainedModel, rank: int) -> None:
    """Low-rank adapters (LoRA, Hu et al., 2022) beside the backbone's linear layers, whose own weights are frozen.

    The layers are those that peft adapts by default in a model of this type, all linear ones where it has no default.

    Raises:
        ImportError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULT_LAYERS
    except ImportError as error:
        raise ImportError(f"lora_rank needs peft: {install_command('lora')}.") from error
    model_type = backbone.config.model_type
    # a state-space model reads the weights of these two without calling them
    left_out = ["out_proj", "dt_proj"] if "mamba" in model_type else None
    layers = list(DEFAULT_LAYERS[model_type]) if model_type in DEFAULT_LAYERS else "all-linear"
    adapters = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers, exclude_modules=left_out)
    inject_adapter_in_model(adapters, backbone)
