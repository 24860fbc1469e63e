"""A small policy network, its action distributions, and the losses of cloning and of REINFORCE."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput, can_return_tuple

from hf_seqrl.models.renamed_values import OutputWithRenamedValues

from .configuration_policy import PolicyConfig, PolicyGradientConfig


@dataclass
class PolicyOutput(ModelOutput):
    """What a [`PolicyModel`] returns.

    Args:
        loss (`()`): Only with `actions`.
        logits (`(batch, action_size)`): Unnormalized log-probabilities of the choices of each component, one component after
            the other; for `Box` the mean of the encoded action.
        log_probs (`(batch,)`): Log-probability (density) of `actions`; only with them.
        entropy (`(batch,)`): Entropy of the policy in nats; only with `actions`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    log_probs: torch.Tensor | None = None
    entropy: torch.Tensor | None = None


@dataclass
class PolicyGradientOutput(PolicyOutput, OutputWithRenamedValues):
    """What a [`PolicyGradientModel`] returns.

    Args:
        loss (`()`): REINFORCE's loss; only with `actions`.
        logits, log_probs, entropy: As for [`PolicyOutput`].
        state_values (`(batch,)`): The normalized return that the baseline expects; only with `use_baseline`.
    """

    state_values: torch.Tensor | None = None

    _values_name: ClassVar[str] = "state_values"


class PolicyModel(PreTrainedModel):
    """A multilayer perceptron with a head for `Discrete`, `MultiDiscrete` or `Box` actions."""

    config: PolicyConfig
    base_model_prefix = "model"  # of no submodule: the network has no base below its head
    main_input_name = "observations"
    accepts_loss_kwargs = True  # the loss is divided by num_items_in_batch, so Trainer must not divide it again

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        self.policy = _perceptron(config, config.action_size)
        self.further_members = nn.ModuleList(
            _perceptron(config, config.action_size) for _ in range(config.num_members - 1)
        )
        self.log_std = None if config.num_choices else nn.Parameter(torch.zeros(config.action_size))
        self._add_modules()
        self.post_init()

    def _add_modules(self) -> None:
        """Make what a subclass has beside the policy, before the weights are initialized."""

    def _init_weights(self, module: nn.Module) -> None:
        """Orthogonal layers, as is usual for policy networks; a small last one, so that no action is preferred."""
        if isinstance(module, nn.Linear):
            is_last = any(module is member[-1] for member in self._members())
            init.orthogonal_(module.weight, gain=0.01 if is_last else math.sqrt(2))
            init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif module is self and self.log_std is not None:
            init.constant_(self.log_std, self.config.initial_log_std)

    @can_return_tuple
    def forward(
        self,
        observations: torch.Tensor,
        actions: torch.Tensor | None = None,
        target_returns: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_dict: bool | None = None,
        return_loss: bool = True,
    ) -> PolicyOutput:
        r"""
        Args:
            observations (`(batch, observation_size)`): As the processor encodes them.
            actions (`(batch, action_size)`, *optional*): As the processor encodes them; choices may also be given as integers
                `(batch, components)`.
            target_returns (`(batch,)`, *optional*): Scaled returns that the actions are conditioned on, with
                `config.conditioned`.
            weights (`(batch,)`, *optional*): Weight of each action in the loss, 1 when left out.
            num_items_in_batch (`int`, *optional*): Steps of the whole update, where `observations` are a part of it; the loss
                is the sum over the steps divided by it. Defaults to `batch`.
            return_dict (`bool`, *optional*): Whether to return a [`PolicyOutput`] rather than a tuple.
            return_loss (`bool`, *optional*, defaults to `True`): Tells `Trainer.evaluate` that there is a loss.
        """
        members = self.member_logits(observations, target_returns)
        output = PolicyOutput(logits=members.mean(0))
        if actions is not None:
            losses = self._policy_losses(output, members, actions, weights)
            output.loss = losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)
        return output

    def logits(self, observations: torch.Tensor, target_returns: torch.Tensor | None = None) -> torch.Tensor:
        """The parameters `(batch, action_size)` of the policy, the mean of its members; arguments as for `forward`."""
        return self.member_logits(observations, target_returns).mean(0)

    def member_logits(self, observations: torch.Tensor, target_returns: torch.Tensor | None = None) -> torch.Tensor:
        """What each member says, `(num_members, batch, action_size)`; arguments as for `forward`."""
        if self.config.conditioned:
            if target_returns is None:
                raise ValueError("target_returns are missing: this policy is conditioned on a return, one a row.")
            observations = torch.cat([observations, target_returns[:, None].to(observations.dtype)], dim=-1)
        observations = observations.to(self.policy[0].weight.dtype)
        return torch.stack([member(observations) for member in self._members()])

    def _members(self) -> list[nn.Module]:
        return [self.policy, *self.further_members]

    def _policy_losses(
        self, output: PolicyOutput, members: torch.Tensor, actions: torch.Tensor, weights: torch.Tensor | None
    ) -> torch.Tensor:
        """Weighted negative log-likelihood less the entropy bonus, `(batch,)`, the members' mean; fills in `log_probs` and
        `entropy` of the policy."""
        output.log_probs = self.log_probs(output.logits, actions)
        output.entropy = self.entropy(output.logits)
        if len(members) == 1:
            log_probs, entropy = output.log_probs, output.entropy
        else:
            log_probs, entropy = self.log_probs(members, actions).mean(0), self.entropy(members).mean(0)
        weighted = log_probs if weights is None else log_probs * weights
        return -weighted - self.config.entropy_coef * entropy

    def log_probs(self, logits: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Log-probabilities `(..., batch)` float32 of `actions`, as `forward` takes them, under the policy of `logits`
        `(..., batch, action_size)`."""
        logits = logits.float()
        if self.log_std is None:
            return (self._log_softmax(logits) * self._one_hot(actions)).sum(-1)
        log_std = self.log_std.float()
        deviations = (actions - logits) / log_std.exp()
        return -(0.5 * deviations**2 + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Probabilities `(batch, action_size)` float64 of the choices of each component, one component after the other."""
        return self._log_softmax(logits.double()).exp()

    def entropy(self, logits: torch.Tensor) -> torch.Tensor:
        """Entropy `(..., batch)` in nats, the components' added up; differential entropy for `Box` actions."""
        if self.log_std is None:
            log_probs = self._log_softmax(logits.float())
            return -(log_probs.exp() * log_probs).sum(-1)
        return (self.log_std.float() + 0.5 * math.log(2 * math.pi * math.e)).sum().expand(logits.shape[:-1])

    def sample(self, logits: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Encoded actions `(batch, action_size)` drawn with uniform `noise` in (0, 1) `(batch, noise_size)`, by the inverse
        distribution function of each component."""
        noise = noise.double()
        if self.log_std is not None:
            return (logits + self.log_std.exp() * torch.special.ndtri(noise)).to(logits.dtype)
        picks = []
        for k, part in enumerate(logits.double().split(self.config.num_choices, dim=-1)):  # each (batch, choices)
            cumulative = part.softmax(-1).cumsum(-1)[:, :-1]  # the last choice takes what rounding left over
            picks.append((noise[:, k : k + 1] >= cumulative).sum(-1))
        return self._one_hot(torch.stack(picks, dim=-1))

    @property
    def noise_size(self) -> int:
        """The random numbers that `sample` needs for one action."""
        return len(self.config.num_choices) or self.config.action_size

    def _log_softmax(self, logits: torch.Tensor) -> torch.Tensor:
        parts = logits.split(self.config.num_choices, dim=-1)  # each (batch, choices)
        return torch.cat([part.log_softmax(-1) for part in parts], dim=-1)

    def _one_hot(self, actions: torch.Tensor) -> torch.Tensor:
        """Choices `(batch, components)` as vectors `(batch, action_size)`; vectors are returned unchanged."""
        if actions.is_floating_point():
            return actions
        parts = [
            nn.functional.one_hot(actions[:, k].long(), size).float() for k, size in enumerate(self.config.num_choices)
        ]
        return torch.cat(parts, dim=-1)


class PolicyGradientModel(PolicyModel):
    """A policy network with a baseline beside it, for REINFORCE (Williams, 1992)."""

    config: PolicyGradientConfig

    def _add_modules(self) -> None:
        self.baseline = _perceptron(self.config, 1) if self.config.use_baseline else None

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
            observations, actions, num_items_in_batch, return_loss: As for [`PolicyModel`].
            advantages (`(batch,)`, *optional*): Weight of each action's log-probability, 1 when left out.
            returns (`(batch,)`, *optional*): Normalized returns that the baseline learns.
            return_dict (`bool`, *optional*): Whether to return a [`PolicyGradientOutput`] rather than a tuple.
        """
        members = self.member_logits(observations)
        output = PolicyGradientOutput(logits=members.mean(0))
        if self.baseline is not None:
            output.state_values = self.state_values(observations)
        if actions is not None:
            losses = self._policy_losses(output, members, actions, advantages)
            if returns is not None and output.state_values is not None:
                losses = losses + self.config.baseline_coef * (output.state_values - returns) ** 2
            output.loss = losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)
        return output

    def state_values(self, observations: torch.Tensor) -> torch.Tensor:
        """The normalized return `(batch,)` float32 that the baseline expects."""
        return self.baseline(observations.to(self.baseline[0].weight.dtype)).squeeze(-1).float()


def _perceptron(config: PolicyConfig, output_size: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    width = config.observation_size + config.conditioned
    for _ in range(config.num_hidden_layers):
        layers.append(nn.Linear(width, config.hidden_size))
        if config.layer_norm:
            layers.append(nn.LayerNorm(config.hidden_size))
        layers.append(ACT2FN[config.hidden_act])
        width = config.hidden_size
    return nn.Sequential(*layers, nn.Linear(width, output_size))
