"""The stock Decision Transformer with a loss, discrete actions, images and sliding attention."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import DecisionTransformerConfig, DecisionTransformerModel, PreTrainedModel
from transformers.utils import ModelOutput

from hf_seqrl.private_api import modules_kept_whole

from .backbones import (
    add_adapters,
    adopt_backbone,
    config_hidden_size,
    config_of,
    encode_with,
    make_backbone,
    plain_config,
)
from .blocks import STATE_TOKEN, TOKENS_PER_STEP, EncoderOutput, adopt_encoder, visible_tokens
from .image_encoder import ImageEncoder, image_features

# Keys of the config that `TrainableDT` reads beside the stock model's; plain transformers keeps and ignores them.
CONFIG_DEFAULTS = {
    # sizes of the one-hot groups: [n] for Discrete, nvec for MultiDiscrete, None for Box; continuous entries may follow them
    "action_groups": None,
    "sliding_attention": None,  # steps that a token sees at every layer; None: the whole window
    "state_loss_weight": 0.0,  # of the mean squared error of the next (normalized) state
    "return_loss_weight": 0.0,  # of the mean squared error of the next (scaled) return-to-go
    "image_shape": None,  # [channels, height, width] of image observations, None for vectors
    "backbone_config": None,  # of a causal model of transformers in the place of the stock encoder
    "freeze_backbone": False,  # whether its weights are left as they are
    "lora_rank": 0,  # of adapters beside its linear layers, which are then frozen; 0 for none
}


@dataclass
class TrainableDTOutput(ModelOutput):
    """What `TrainableDT` returns.

    Args:
        loss (`torch.Tensor` of shape `()`): Mean over the valid steps.
        state_preds (`torch.Tensor` of shape `(batch, time, state_dim)`): The next state, given state and action.
        action_preds (`torch.Tensor` of shape `(batch, time, act_dim)`): Actions, or logits of one-hot groups.
        return_preds (`torch.Tensor` of shape `(batch, time, 1)`): The next return-to-go, given state and action.
        hidden_states (`tuple`): The input of every block and the last output, `(batch, 3 * time, hidden_size)`.
        attentions (`tuple`): The attention weights `(batch, heads, 3 * time, 3 * time)` of every block.
        last_hidden_state (`torch.Tensor` of shape `(batch, 3 * time, hidden_size)`): The encoder's output.
    """

    loss: torch.Tensor | None = None
    state_preds: torch.Tensor | None = None
    action_preds: torch.Tensor | None = None
    return_preds: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    last_hidden_state: torch.Tensor | None = None


class TrainableDT(DecisionTransformerModel):
    """`DecisionTransformerModel` that `Trainer` can train.

    Its weights and `model_type` are the stock model's: a checkpoint loads in plain transformers as
    `DecisionTransformerModel` and gives the same outputs there (image observations: given the encoder's features as
    states; sliding attention: for windows no longer than it reaches). With another backbone it loads here alone.

    Args:
        config ([`DecisionTransformerConfig`]): `DecisionTransformerProcessor.model_config` builds one. Beside the
            stock keys: `action_groups`, `sliding_attention`, `state_loss_weight`, `return_loss_weight`,
            `image_shape`, `backbone_config`, `freeze_backbone`, `lora_rank` (see `CONFIG_DEFAULTS`).
        backbone (`PreTrainedModel`, *optional*): A causal model, such as a pretrained one, in the place of the stock encoder;
            it becomes part of this model and loses its table of words. Without it, a `backbone_config` makes a new one.

    Raises:
        ValueError: keys of the config disagree, or the backbone is not causal or reads padding.

    Example:

    ```python
    >>> import torch
    >>> from transformers import DecisionTransformerConfig
    >>> from hf_seqrl import TrainableDT
    >>> model = TrainableDT(DecisionTransformerConfig(state_dim=4, act_dim=2, action_groups=[2], action_tanh=False))
    >>> actions = torch.eye(2)[torch.tensor([[0, 1, 1]])]
    >>> timesteps = torch.arange(3)[None]
    >>> output = model(torch.zeros(1, 3, 4), actions, returns_to_go=torch.ones(1, 3, 1), timesteps=timesteps)
    >>> output.action_preds.shape, output.loss.shape
    (torch.Size([1, 3, 2]), torch.Size([]))

    ```
    """

    config: DecisionTransformerConfig
    supports_gradient_checkpointing = True  # the stock encoder does, the stock model around it does not say so
    _no_split_modules = ("Block",)
    _input_embed_layer = "embed_ln"  # whose outputs enter the encoder: there are no rows of a table to look up
    accepts_loss_kwargs = True  # `num_items_in_batch` is used
    _keys_to_ignore_on_load_unexpected = [r"\.attn\.bias$", r"\.attn\.masked_bias$"]  # noqa: RUF012  # old GPT-2 buffers

    def __init__(self, config: DecisionTransformerConfig, backbone: PreTrainedModel | None = None) -> None:
        for name, default in CONFIG_DEFAULTS.items():
            setattr(config, name, getattr(config, name, default))
        if backbone is not None:
            config.backbone_config = backbone.config
        if config.backbone_config is not None:
            config.backbone_config, config.n_layer = plain_config(config.backbone_config), 0
        _check(config)
        super().__init__(config)
        if config.backbone_config is None:
            adopt_encoder(self.encoder)
        else:
            self._take_backbone(backbone)
        self.image_encoder = None
        if config.image_shape is not None:
            self.image_encoder = ImageEncoder(config.image_shape)
            self.post_init()
        self._freeze_what_has_no_loss()

    def forward(
        self,
        states: torch.Tensor,
        actions: torch.Tensor,
        rewards: torch.Tensor | None = None,
        returns_to_go: torch.Tensor | None = None,
        timesteps: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_loss: bool = True,
        actions_only: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: object,
    ) -> TrainableDTOutput | tuple[torch.Tensor, ...]:
        """Predict the actions of a batch of windows, and measure the prediction.

        Args:
            states: Normalized states `(batch, time, state_dim)`, or bytes `(batch, time, *image_shape)`.
            actions: `(batch, time, act_dim)`, one-hot for discrete actions.
            rewards: Not used; taken so that a batch can be handed over as it is.
            returns_to_go: Scaled returns `(batch, time, 1)`.
            timesteps: Steps since the beginning of the episode `(batch, time)`.
            attention_mask: `(batch, time)`, nonzero for real steps; `None`: all are real.
            labels: The actions to predict, where they are not `actions`: `(batch, time, act_dim)` for `Box`, the numbers of
                the choices `(batch, time)` or `(batch, time, components)` for discrete ones; -100 in padded steps.
                `Trainer` counts the real steps by them.
            weights: Of the action loss of each step, `(batch, time)`; 1 by default.
            num_items_in_batch: Entries of `labels` that are not -100 in all the batches whose losses are summed into one
                gradient; `Trainer` gives it. `None`: those of this batch.
            return_loss: Whether `loss` is computed.
            actions_only: Leave out `state_preds` and `return_preds`, and of the last layer what only they need.
                `None`: in training mode and where `labels` are given, unless a state or return loss needs them.
            output_hidden_states: As in transformers; one index or several return those alone.
            output_attentions: As in transformers; needs `attn_implementation="eager"`.
            return_dict: As in transformers. As a tuple: `(loss, state_preds, action_preds, return_preds)` without
                those that were not computed.
            kwargs: Ignored.

        Returns:
            The predictions and the loss. With `labels` the encoder's output is left out unless it is asked for, so that
            `Trainer.predict` gathers predictions alone.
        """
        if attention_mask is None:
            attention_mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        recorded = self._recorded(output_hidden_states, output_attentions)
        if actions_only is None:
            actions_only = (self.training or labels is not None) and not self._has_auxiliary_loss()
        actions_only = actions_only and not recorded

        if self.image_encoder is not None:
            states = self.image_encoder(states)
        tokens = self._tokens(states, actions, returns_to_go, timesteps)  # (B, 3T, D)
        if self.config.backbone_config is None:
            visible = visible_tokens(attention_mask, self.config.sliding_attention)
            encoded: EncoderOutput = self.encoder(tokens, visible, actions_only, **recorded)
        else:
            encoded = encode_with(self.encoder, tokens, attention_mask, actions_only, **recorded)
        predictions = self._predict(encoded.last_hidden_state, actions_only)
        loss = None
        if return_loss:
            targets = {"states": states, "actions": actions, "returns_to_go": returns_to_go}
            targets |= {"labels": labels, "weights": weights}
            loss = self._loss(predictions, targets, attention_mask, num_items_in_batch)
        kept = {} if actions_only or (labels is not None and not recorded) else encoded
        result = TrainableDTOutput(loss=loss, **predictions, **kept)
        if return_dict or (return_dict is None and self.config.return_dict):
            return result
        return result.to_tuple()[: (loss is not None) + len(predictions)]

    def original_forward(self, **kwargs: object) -> TrainableDTOutput | tuple[torch.Tensor, ...]:
        """`forward` with the stock model's outputs and no loss; the name that published scripts call to act."""
        return self(**kwargs, return_loss=False, actions_only=False)

    def _recorded(
        self, output_hidden_states: bool | int | list[int] | None, output_attentions: bool | None
    ) -> dict[str, bool | int | list[int]]:
        """Which records of the encoder are asked for, by the call or by the config."""
        asked = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        asked = {name: getattr(self.config, name) if value is None else value for name, value in asked.items()}
        return {name: value for name, value in asked.items() if value is not False and value is not None}

    def _take_backbone(self, backbone: PreTrainedModel | None) -> None:
        """Put a backbone, a new one by default, in the place of the stock encoder."""
        config = self.config
        self.encoder = make_backbone(config.backbone_config) if backbone is None else adopt_backbone(backbone)
        self._no_split_modules = modules_kept_whole(self.encoder)
        if config.freeze_backbone:
            self.encoder.requires_grad_(False)
        if config.lora_rank:
            add_adapters(self.encoder, config.lora_rank)

    def _freeze_what_has_no_loss(self) -> None:
        """Parameters of the stock model that no loss reaches: data-parallel training waits for their gradients."""
        unused = [self.encoder.wte] if self.config.backbone_config is None else []
        unused += [self.predict_state] if self.config.state_loss_weight == 0 else []
        unused += [self.predict_return] if self.config.return_loss_weight == 0 else []
        for module in unused:
            module.requires_grad_(False)

    def _has_auxiliary_loss(self) -> bool:
        return self.config.state_loss_weight > 0 or self.config.return_loss_weight > 0

    def _tokens(
        self, states: torch.Tensor, actions: torch.Tensor, returns_to_go: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """The sequence (R_1, s_1, a_1, R_2, s_2, a_2, ...) `(batch, 3 * time, hidden_size)` (paper, section 3)."""
        # a collator gives float32, whatever the weights are
        returns_to_go, states, actions = (values.to(self.dtype) for values in (returns_to_go, states, actions))
        embedded = [self.embed_return(returns_to_go), self.embed_state(states), self.embed_action(actions)]
        embedded = torch.stack(embedded, dim=2) + self.embed_timestep(timesteps).unsqueeze(2)  # (B, T, 3, D)
        return self.embed_ln(embedded.flatten(1, 2))

    def _predict(self, hidden: torch.Tensor, actions_only: bool) -> dict[str, torch.Tensor]:
        if actions_only:  # `hidden` are the states' alone
            return {"action_preds": self.predict_action(hidden)}
        after_action = hidden[:, TOKENS_PER_STEP - 1 :: TOKENS_PER_STEP]  # (B, T, D)
        return {
            "state_preds": self.predict_state(after_action),
            "action_preds": self.predict_action(hidden[:, STATE_TOKEN::TOKENS_PER_STEP]),
            "return_preds": self.predict_return(after_action),
        }

    def _loss(
        self,
        predictions: dict[str, torch.Tensor],
        targets: dict[str, torch.Tensor],
        attention_mask: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """The sum of the losses of the valid steps over the number of valid steps.

        Actions: squared error, mean over the dimensions of a Box; negative log-likelihood of one-hot groups; their
        sum for hybrid actions. The next
        state and return of step t count where step t + 1 is in the window.
        """
        real = attention_mask > 0  # (B, T)
        actions, labels = targets["actions"], targets["labels"]
        if labels is not None and (labels.dim() == 3 or self.config.action_groups is not None):
            actions = labels
        losses = action_loss(predictions["action_preds"], actions, self.config.action_groups) * real
        total = (losses if targets["weights"] is None else losses * targets["weights"]).sum()
        followed = real[:, :-1] & real[:, 1:]
        for name, weight in (("state", self.config.state_loss_weight), ("return", self.config.return_loss_weight)):
            if weight > 0:
                target = targets["states" if name == "state" else "returns_to_go"][:, 1:]
                error = (predictions[f"{name}_preds"][:, :-1].float() - target.float()).square().mean(dim=-1)
                total = total + weight * (error * followed).sum()
        if num_items_in_batch is None:
            return total / real.sum()
        entries_a_step = labels.shape[2] if labels is not None and labels.dim() == 3 else 1
        return total * entries_a_step / num_items_in_batch


def action_loss(action_preds: torch.Tensor, actions: torch.Tensor, groups: list[int] | None) -> torch.Tensor:
    """The loss of every step `(batch, time)`; `actions` are as the model reads them, or `labels` of `TrainableDT`."""
    action_preds = action_preds.float()
    if groups is None:
        return (action_preds - actions.float()).square().mean(dim=-1)
    log_probs = [F.log_softmax(logits, dim=-1) for logits in action_preds[..., : sum(groups)].split(groups, dim=-1)]
    if not actions.is_floating_point():
        choices = actions.reshape(*action_preds.shape[:2], len(groups)).clamp(
            min=0
        )  # (B, T, components); -100 is no choice
        chosen = [part.gather(-1, choices[..., index : index + 1]) for index, part in enumerate(log_probs)]
        return -torch.cat(chosen, dim=-1).sum(dim=-1)
    one_hot, numbers = actions.float().tensor_split([sum(groups)], dim=-1)
    loss = -(one_hot * torch.cat(log_probs, dim=-1)).sum(dim=-1)
    if numbers.shape[-1]:  # hybrid actions
        loss = loss + (action_preds[..., sum(groups) :] - numbers).square().mean(dim=-1)
    return loss


def _check(config: DecisionTransformerConfig) -> None:
    """Raise where the keys of `CONFIG_DEFAULTS` and the stock keys disagree."""
    groups, image_shape = config.action_groups, config.image_shape
    if groups is not None and sum(groups) > config.act_dim:
        raise ValueError(
            f"action_groups {groups} sum to {sum(groups)}, act_dim is {config.act_dim}: expected at most act_dim, the rest are "
            "continuous entries."
        )
    if groups is not None and config.action_tanh:
        raise ValueError(f"action_groups {groups} are logits and action_tanh bounds them to 1: set action_tanh=False.")
    reach = config.sliding_attention
    if reach is not None and (not isinstance(reach, int) or reach < 1):
        raise ValueError(f"sliding_attention is {reach!r}: expected a number of steps >= 1, or None.")
    _check_backbone_keys(config)
    if image_shape is not None and config.state_dim != image_features(image_shape):
        raise ValueError(
            f"state_dim is {config.state_dim}: images of shape {image_shape} give {image_features(image_shape)} features."
        )
    if image_shape is not None and config.state_loss_weight > 0:
        raise ValueError("state_loss_weight is for vector observations: set it to 0 with images.")


def _check_backbone_keys(config: DecisionTransformerConfig) -> None:
    if config.backbone_config is None:
        for name in ("n_layer", "n_head"):
            if getattr(config, name) < 1:
                raise ValueError(f"{name} is {getattr(config, name)}: expected a number >= 1.")
        if config.freeze_backbone or config.lora_rank:
            raise ValueError(
                f"freeze_backbone is {config.freeze_backbone} and lora_rank is {config.lora_rank}: both need a backbone_config."
            )
        return
    width = config_hidden_size(config_of(config.backbone_config))
    if config.hidden_size != width:
        raise ValueError(f"hidden_size is {config.hidden_size}: expected {width}, as wide as the backbone.")
    if config.sliding_attention is not None:
        raise ValueError("sliding_attention is for the stock encoder: leave it out with a backbone_config.")
    if config.lora_rank < 0:
        raise ValueError(f"lora_rank is {config.lora_rank}: expected a number >= 0.")
