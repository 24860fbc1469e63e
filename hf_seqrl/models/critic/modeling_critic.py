"""Values of states and of actions: implicit Q-learning and fitted Q evaluation."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_critic import CriticConfig


@dataclass
class CriticOutput(ModelOutput):
    """What a [`CriticModel`] returns, in discounted raw returns.

    Args:
        loss (`()`): Only with `rewards`.
        q_values (`(batch, num_critics)`): What each Q-network expects after the actions; only with `actions`.
        state_values (`(batch,)`): What is expected from the states on; only for implicit Q-learning.
        return_values (`(batch,)`): A high expectile of what episodes of the data achieve from the states on, discounted by
            `config.return_discount`; only with `times`.
    """

    loss: torch.Tensor | None = None
    q_values: torch.Tensor | None = None
    state_values: torch.Tensor | None = None
    return_values: torch.Tensor | None = None


class CriticModel(PreTrainedModel):
    """Q-networks with slowly moving targets and a state value, all multilayer perceptrons.

    In training, [`~hf_seqrl.models.critic.target_updates.TargetUpdateCallback`] must move the target networks.
    """

    config: CriticConfig
    base_model_prefix = "model"
    main_input_name = "observations"
    accepts_loss_kwargs = False  # the loss is the mean over one batch

    def __init__(self, config: CriticConfig) -> None:
        super().__init__(config)
        size = config.observation_size + config.action_size
        self.q = _perceptron(config, size, config.num_critics)
        self.target_q = copy.deepcopy(self.q).requires_grad_(False)
        self.v = _perceptron(config, config.observation_size) if config.method == "iql" else None
        self.returns = _perceptron(config, config.observation_size + 1) if config.return_expectile else None
        self.post_init()
        if not any(parameter.is_meta for parameter in self.q.parameters()):
            self.update_targets(1.0)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | EnsembleLinear):
            gain = 0.01 if module.out_features == 1 else math.sqrt(2)
            drawn = torch.empty_like(module.weight)
            for weight in drawn if isinstance(module, EnsembleLinear) else [drawn]:
                nn.init.orthogonal_(weight, gain=gain)
            init.copy_(module.weight, drawn)
            init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | EnsembleLayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    @can_return_tuple
    def forward(
        self,
        observations: torch.Tensor,
        actions: torch.Tensor | None = None,
        rewards: torch.Tensor | None = None,
        next_observations: torch.Tensor | None = None,
        next_actions: torch.Tensor | None = None,
        terminations: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
        times: torch.Tensor | None = None,
        returns_to_go: torch.Tensor | None = None,
        return_dict: bool | None = None,
        return_loss: bool = True,
    ) -> CriticOutput:
        r"""
        Args:
            observations (`(batch, observation_size)`): As the processor encodes them.
            actions (`(batch, action_size)`, *optional*): The actions that were taken, as the processor encodes them.
            rewards (`(batch,)`, *optional*): Raw rewards of these actions; with them there is a loss.
            next_observations (`(batch, observation_size)`, *optional*): The observations that followed.
            next_actions (`(batch, action_size)` or `(batch, samples, action_size)`, *optional*): What the evaluated policy does
                there, or several draws of it (`"fqe"` only).
            terminations (`(batch,)` bool, *optional*): Whether the episode terminated, so that nothing followed.
            weights (`(batch,)`, *optional*): Weight of each transition in the loss, 1 when left out; 0 for a step whose successor
                is not known. `(batch, num_critics)` for fitted Q evaluation whose Q-networks learn from different episodes.
            times (`(batch,)`, *optional*): Steps since the beginning of the episode, as shares of the time limit; for
                `config.return_expectile`.
            returns_to_go (`(batch,)`, *optional*): What the episodes achieved from here on, raw; with them and `rewards` the
                network of `config.return_expectile` is trained.
            return_dict (`bool`, *optional*): Whether to return a [`CriticOutput`] rather than a tuple.
            return_loss (`bool`, *optional*, defaults to `True`): Tells `Trainer.evaluate` that there is a loss.
        """
        output = CriticOutput()
        if self.v is not None:
            output.state_values = self.state_values(observations)
        if actions is not None:
            output.q_values = self.q_values(observations, actions)
        if self.returns is not None and times is not None:
            output.return_values = self.return_values(observations, times)
        if rewards is not None:
            if self.v is not None:
                targets = self.bellman_targets(rewards, self.state_values(next_observations), terminations)[:, None]
            else:
                targets = self.fqe_targets(rewards, next_observations, next_actions, terminations)
            losses = self._squared_errors(output.q_values - targets)  # (batch, num_critics)
            if self.v is not None:
                values = self._expectile_losses(output.state_values, observations, actions)
                losses = torch.cat([losses, values[:, None]], dim=-1)
            output.loss = self._weighted_mean(losses, weights)
            if output.return_values is not None and returns_to_go is not None:
                shortfall = (returns_to_go - output.return_values) / self.config.return_scale
                output.loss = output.loss + _asymmetric(shortfall, self.config.return_expectile).mean()
        return output

    @staticmethod
    def _weighted_mean(losses: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """The mean over the batch of each network's losses `(batch, networks)`, added up."""
        if weights is None:
            return losses.mean(0).sum()
        weights = weights[:, None] if weights.ndim == 1 else weights
        return ((losses * weights).sum(0) / weights.sum(0).clamp(min=1e-9)).sum()

    def q_values(self, observations: torch.Tensor, actions: torch.Tensor, target: bool = False) -> torch.Tensor:
        """What each Q-network, or each target network, expects: `(batch, num_critics)` float32 discounted raw returns."""
        inputs = torch.cat([observations, actions], dim=-1).to(self.dtype)
        networks = self.target_q if target else self.q
        return self._in_raw_units(networks(inputs).squeeze(-1).transpose(0, 1))  # of (num_critics, batch, 1)

    def state_values(self, observations: torch.Tensor) -> torch.Tensor:
        """What is expected from the states on, `(batch,)` float32 discounted raw returns.

        Raises:
            ValueError: the critic was made for fitted Q evaluation, which has no state value.
        """
        if self.v is None:
            raise ValueError("a critic of method 'fqe' has no state values: ask for q_values of the policy's actions.")
        return self._in_raw_units(self.v(observations.to(self.dtype)).squeeze(-1))

    def return_values(self, observations: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """A high expectile of what episodes of the data achieve from the states on, `(batch,)` float32, raw returns discounted by
        `config.return_discount`; arguments as for `forward`.

        Raises:
            ValueError: the critic was trained without `return_expectile`.
        """
        if self.returns is None:
            raise ValueError("this critic has no returns: train one with a return_expectile above 0.")
        inputs = torch.cat([observations, times[:, None].to(observations.dtype)], dim=-1)
        outputs = self.returns(inputs.to(self.dtype)).squeeze(-1)
        return self.config.return_shift + self.config.return_scale * outputs.float()

    def advantages(self, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """`min_i Q_i(s, a) - V(s)` with the target networks, `(batch,)` discounted raw returns."""
        return self.q_values(observations, actions, target=True).amin(-1) - self.state_values(observations)

    @torch.no_grad()
    def bellman_targets(
        self, rewards: torch.Tensor, next_values: torch.Tensor, terminations: torch.Tensor
    ) -> torch.Tensor:
        """`r + discount * next_value`, without the second term where the episode terminated; of the shape of `next_values`. A
        truncated episode goes on."""
        return rewards + self.config.discount * torch.where(terminations.bool(), 0.0, next_values)

    @torch.no_grad()
    def fqe_targets(
        self,
        rewards: torch.Tensor,
        next_observations: torch.Tensor,
        next_actions: torch.Tensor,
        terminations: torch.Tensor,
    ) -> torch.Tensor:
        """Targets of fitted Q evaluation (Le et al., 2019, algorithm 3), `(batch, num_critics)`: each network's own target
        network at the evaluated policy's `next_actions`, so that the networks stay independent estimates."""
        if next_actions.ndim == 3:
            samples = next_actions.shape[1]
            repeated = next_observations.repeat_interleave(samples, 0)
            next_values = self.q_values(repeated, next_actions.flatten(0, 1), target=True)
            next_values = next_values.unflatten(0, (-1, samples)).mean(1)
        else:
            next_values = self.q_values(next_observations, next_actions, target=True)
        return self.bellman_targets(rewards[:, None], next_values, terminations[:, None])

    @torch.no_grad()
    def update_targets(self, share: float | None = None) -> None:
        """Move the target networks towards the Q-networks by `share`, `config.target_update` by default."""
        share = self.config.target_update if share is None else share
        for target, trained in zip(self.target_q.parameters(), self.q.parameters()):
            target.lerp_(trained, share)

    def _expectile_losses(
        self, state_values: torch.Tensor, observations: torch.Tensor, actions: torch.Tensor
    ) -> torch.Tensor:
        """Implicit Q-learning's loss of the state value `(batch,)` (Kostrikov et al., 2022, equation 5)."""
        with torch.no_grad():
            achieved = self.q_values(observations, actions, target=True).amin(-1)
        return _asymmetric((achieved - state_values) / self.config.value_scale, self.config.expectile)

    def _squared_errors(self, errors: torch.Tensor) -> torch.Tensor:
        return (errors / self.config.value_scale) ** 2

    def _in_raw_units(self, outputs: torch.Tensor) -> torch.Tensor:
        return self.config.value_shift + self.config.value_scale * outputs.float()


def _asymmetric(shortfall: torch.Tensor, expectile: float) -> torch.Tensor:
    """The squares whose weighted mean is least at an expectile (Newey and Powell, 1987)."""
    return torch.where(shortfall > 0, expectile, 1 - expectile) * shortfall**2


class EnsembleLinear(nn.Module):
    """Linear layers of several networks as one product: `(batch, in)` or `(networks, batch, in)` to `(networks, batch, out)`."""

    def __init__(self, num_networks: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features
        self.weight = nn.Parameter(torch.zeros(num_networks, in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(num_networks, 1, out_features))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ self.weight + self.bias


class EnsembleLayerNorm(nn.Module):
    """Layer normalization of `(networks, batch, size)`, each network with its own scales and shifts."""

    def __init__(self, num_networks: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_networks, 1, size))
        self.bias = nn.Parameter(torch.zeros(num_networks, 1, size))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(inputs, inputs.shape[-1:]) * self.weight + self.bias


def _perceptron(config: CriticConfig, input_size: int, num_networks: int | None = None) -> nn.Sequential:
    """One network, `(batch, input_size)` to `(batch, 1)`, or several, to `(num_networks, batch, 1)`."""
    linear: Callable[[int, int], nn.Module] = nn.Linear
    norm: Callable[[int], nn.Module] = nn.LayerNorm
    if num_networks is not None:
        linear, norm = partial(EnsembleLinear, num_networks), partial(EnsembleLayerNorm, num_networks)
    layers: list[nn.Module] = []
    width = input_size
    for _ in range(config.num_hidden_layers):
        layers.append(linear(width, config.hidden_size))
        if config.layer_norm:
            layers.append(norm(config.hidden_size))
        layers.append(ACT2FN[config.hidden_act])
        width = config.hidden_size
    return nn.Sequential(*layers, linear(width, 1))
