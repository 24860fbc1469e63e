"""A small policy network, its action distributions and the loss of REINFORCE."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_policy import PolicyGradientConfig


@dataclass
class PolicyGradientOutput(ModelOutput):
    """What a [`PolicyGradientModel`] returns.

    Args:
        loss (`()`): REINFORCE's loss; only with `actions`.
        logits (`(batch, action_size)`): Unnormalised log-probabilities of the choices of each component, one component
            after the other; for `Box` actions the means, in half widths of the bounds around their centre.
        log_probs (`(batch,)`): Log-probability (density) of `actions`; only with them.
        entropy (`(batch,)`): Entropy of the policy in nats; only with `actions`.
        values (`(batch,)`): The baseline's expectation of the normalised return; only with `use_baseline`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    log_probs: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    values: torch.Tensor | None = None


class PolicyGradientModel(PreTrainedModel):
    """A multilayer perceptron with a head for `Discrete`, `MultiDiscrete` or `Box` actions (Williams, 1992)."""

    config: PolicyGradientConfig
    base_model_prefix = "policy"
    main_input_name = "observations"
    accepts_loss_kwargs = True  # the loss is divided by num_items_in_batch, so Trainer must not divide it again

    def __init__(self, config: PolicyGradientConfig) -> None:
        super().__init__(config)
        self.policy = _perceptron(config, config.action_size)
        self.baseline = _perceptron(config, 1) if config.use_baseline else None
        self.log_std = None if config.num_choices else nn.Parameter(torch.full((config.action_size,), 0.0))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Orthogonal layers, as is usual for policy gradients; a small last one, so that no action is preferred."""
        if isinstance(module, nn.Linear):
            init.orthogonal_(module.weight, gain=0.01 if module is self.policy[-1] else math.sqrt(2))
            init.zeros_(module.bias)
        elif module is self and self.log_std is not None:
            init.constant_(self.log_std, self.config.initial_log_std)

    @can_return_tuple
    def forward(
        self,
        observations: torch.Tensor,
        actions: torch.Tensor | None = None,
        advantages: torch.Tensor | None = None,
        returns: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_dict: bool | None = None,
        return_loss: bool = True,
    ) -> PolicyGradientOutput:
        r"""
        Args:
            observations (`(batch, observation_size)`): As the processor encodes them.
            actions (`(batch, components)`, *optional*): As `sample` and the processor's `encode_actions` give them.
            advantages (`(batch,)`, *optional*): Weight of each action's log-probability; all 1 when left out, which is
                behaviour cloning.
            returns (`(batch,)`, *optional*): Normalised returns that the baseline learns.
            num_items_in_batch (`int`, *optional*): Steps of the whole update, where `observations` are a part of it;
                the loss is the sum over the steps divided by it. Defaults to `batch`.
            return_dict (`bool`, *optional*): Whether to return a [`PolicyGradientOutput`] rather than a tuple.
            return_loss (`bool`, *optional*, defaults to `True`): Tells `Trainer.evaluate` that there is a loss.
        """
        output = PolicyGradientOutput(logits=self.policy(observations))
        if self.baseline is not None:
            output.values = self.baseline(observations).squeeze(-1)
        if actions is not None:
            output.log_probs = self.log_probs(output.logits, actions)
            output.entropy = self.entropy(output.logits)
            weighted = output.log_probs if advantages is None else output.log_probs * advantages
            losses = -weighted - self.config.entropy_coef * output.entropy
            if returns is not None and output.values is not None:
                losses = losses + self.config.baseline_coef * (output.values - returns) ** 2
            output.loss = losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)
        return output

    def log_probs(self, logits: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Log-probabilities `(batch,)` of `actions` `(batch, components)` under the policy of `logits`."""
        if self.log_std is None:
            chosen = [
                part.log_softmax(-1).gather(-1, actions[:, k : k + 1].long())
                for k, part in enumerate(self._components(logits))
            ]
            return torch.cat(chosen, dim=-1).sum(-1)
        deviations = (actions - logits) / self.log_std.exp()
        return -(0.5 * deviations**2 + self.log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, logits: torch.Tensor) -> torch.Tensor:
        """Entropy `(batch,)` in nats, the components' added up; differential entropy for `Box` actions."""
        if self.log_std is None:
            log_probs = [part.log_softmax(-1) for part in self._components(logits)]
            return -sum((part.exp() * part).sum(-1) for part in log_probs)
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum().expand(len(logits))

    def sample(self, logits: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Actions `(batch, components)` drawn with `noise` `(batch, components)`: uniform in [0, 1) for choices, of
        which it picks by the inverse distribution function, and standard normal for `Box` actions."""
        if self.log_std is not None:
            return logits + self.log_std.exp() * noise
        picks = []
        for k, part in enumerate(self._components(logits)):
            cumulative = part.softmax(-1).cumsum(-1)[:, :-1]  # the last choice takes what rounding left over
            picks.append((noise[:, k : k + 1] >= cumulative).sum(-1))
        return torch.stack(picks, dim=-1)

    def mode(self, logits: torch.Tensor) -> torch.Tensor:
        """The likeliest actions `(batch, components)`."""
        if self.log_std is not None:
            return logits
        return torch.stack([part.argmax(-1) for part in self._components(logits)], dim=-1)

    def _components(self, logits: torch.Tensor) -> Iterator[torch.Tensor]:
        yield from logits.split(self.config.num_choices, dim=-1)  # each (batch, choices)


def _perceptron(config: PolicyGradientConfig, output_size: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    width = config.observation_size
    for _ in range(config.num_hidden_layers):
        layers += [nn.Linear(width, config.hidden_size), ACT2FN[config.hidden_act]]
        width = config.hidden_size
    return nn.Sequential(*layers, nn.Linear(width, output_size))
