"""REINFORCE by `Trainer`: every update learns from episodes of the very weights that it updates."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import torch
from transformers import Trainer

from hf_seqrl.data.returns import discounted_returns, episode_returns
from hf_seqrl.models.policy.modeling_policy import PolicyGradientModel
from hf_seqrl.models.policy.processing_policy import PolicyGradientProcessor


@dataclass(frozen=True)
class Episodes:
    """Whole episodes, one after the other; `steps` counts those of all.

    Attributes:
        observations: `(steps, observation_size)`, as the processor encodes them.
        actions: `(steps, action_size)`, as the processor encodes them.
        log_probs: `(steps,)`, of the actions under the policy that chose them.
        state_values: `(steps,)`, what the baseline expected; zeros without one.
        rewards: `(steps,)`, raw.
        offsets: `(episodes + 1,)`, where each episode begins; the last entry is `steps`.
    """

    observations: torch.Tensor
    actions: torch.Tensor
    log_probs: torch.Tensor
    state_values: torch.Tensor
    rewards: np.ndarray
    offsets: np.ndarray


class PolicyGradientTrainer(Trainer):
    """Trains a [`PolicyGradientModel`] by REINFORCE (Williams, 1992) with a baseline and an entropy bonus.

    The data set only counts episodes ([`~hf_seqrl.models.policy.training.EpisodePlaces`]). When an update begins, as many as its batches have places are
    collected with the current weights, all at once also under gradient accumulation; the loader, which fetches ahead, never
    holds an observation. Returns are discounted and normalized over the update, the baseline learns the normalized returns,
    and what remains of them after the baseline is subtracted is normalized again and weights the log-probabilities.

    The episodes of an update follow from `args.seed`, the number of the update and the weights alone, so that a resumed
    run equals an uninterrupted one.

    Args:
        discount (`float`, *optional*, defaults to `0.99`): Weight of a reward one step later.
        env_kwargs (`dict`, *optional*): Passed to `gymnasium.make_vec` with the processor's `env_id`.
        arguments, keywords: Those of `Trainer`; `processing_class` must be given, a [`PolicyGradientProcessor`].
    """

    def __init__(
        self, *arguments: Any, discount: float = 0.99, env_kwargs: dict[str, Any] | None = None, **keywords: Any
    ) -> None:
        super().__init__(*arguments, **keywords)
        self.discount = discount
        self.env_kwargs = env_kwargs or {}
        self._envs: dict[int, gymnasium.vector.VectorEnv] = {}
        self._finished_returns: list[float] = []

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, torch.Tensor]], torch.Tensor]:
        """The batches of one update, collected now, and the number of steps in all of them."""
        places, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        sizes = [len(batch["places"]) for batch in places]
        if not sizes:
            return [], None
        episodes = self.collect_episodes(sum(sizes))
        self._finished_returns += episode_returns(episodes.rewards, episodes.offsets).tolist()
        columns = self.learning_signal(episodes)
        bounds = episodes.offsets[np.cumsum([0, *sizes])]
        batches = [{name: column[first:last] for name, column in columns.items()} for first, last in pairwise(bounds)]
        num_steps = torch.tensor(len(episodes.rewards), device=device)
        if self.args.average_tokens_across_devices:  # Trainer then multiplies the loss by the number of processes
            num_steps = self.accelerator.gather(num_steps).sum()
        return batches, num_steps

    def collect_episodes(self, num_episodes: int) -> Episodes:
        """`num_episodes` episodes with the current weights."""
        if num_episodes not in self._envs:
            self._envs[num_episodes] = gymnasium.make_vec(
                self.processing_class.env_id, num_envs=num_episodes, **self.env_kwargs
            )
        seed = np.random.SeedSequence([self.args.seed, self.state.global_step, self.args.process_index])
        model = self.accelerator.unwrap_model(self.model)
        return collect_episodes(model, self.processing_class, self._envs[num_episodes], seed)

    def learning_signal(self, episodes: Episodes) -> dict[str, torch.Tensor]:
        """What the model's loss takes: the columns of `Episodes`, normalized returns and advantages, all `(steps, ...)`."""
        device = episodes.observations.device
        returns = discounted_returns(episodes.rewards, episodes.offsets, self.discount)
        returns = self._normalized(torch.as_tensor(returns, device=device))
        return {
            "observations": episodes.observations,
            "actions": episodes.actions,
            "advantages": self._normalized(returns - episodes.state_values),
            "returns": returns,
        }

    def log(self, logs: dict[str, float], *arguments: Any, **keywords: Any) -> None:
        """Adds the mean return of the training episodes since the last entry, in raw units."""
        if "loss" in logs and self._finished_returns:
            logs["train_return"] = float(np.mean(self._finished_returns))
            self._finished_returns.clear()
        super().log(logs, *arguments, **keywords)

    def _normalized(self, values: torch.Tensor) -> torch.Tensor:
        """`values` `(steps,)` with mean 0 and standard deviation 1 over the steps of all processes."""
        moments = torch.stack([torch.ones_like(values), values, values**2]).double().sum(-1)
        count, total, squares = self.accelerator.reduce(moments, "sum")
        mean = total / count
        deviation = (squares / count - mean**2).clamp(min=0).sqrt()
        return ((values - mean) / (deviation + 1e-6)).float()


@torch.no_grad()
def collect_episodes(
    model: PolicyGradientModel,
    processor: PolicyGradientProcessor,
    env: gymnasium.vector.VectorEnv,
    seed: np.random.SeedSequence,
) -> Episodes:
    """One episode of each environment in `env`, with actions drawn from the policy; `seed` decides all of them."""
    env_seed, generator_seed = seed.generate_state(2)
    generator = np.random.default_rng(generator_seed)
    raw_observations, _ = env.reset(seed=int(env_seed))
    alive = np.ones(env.num_envs, dtype=bool)
    steps: list[tuple[Any, ...]] = []
    while alive.any():
        observations = processor(raw_observations)["observations"].to(model.device)
        logits = model.logits(observations)
        noise = torch.from_numpy(generator.random((env.num_envs, model.noise_size))).to(model.device)
        actions = model.sample(logits, noise)
        decoded = processor.decode_actions(actions.float().cpu().numpy())
        raw_observations, rewards, terminations, truncations, _ = env.step(decoded)
        steps.append((observations, logits, actions, rewards, alive))
        alive = alive & ~(terminations | truncations)
    return _episode_by_episode(model, steps)


def _episode_by_episode(model: PolicyGradientModel, steps: list[tuple[Any, ...]]) -> Episodes:
    """Columns of steps `(episodes, ...)` in the order of whole episodes, without the steps after an episode's end."""
    *columns, rewards, alive = zip(*steps, strict=True)
    kept = np.stack(alive, axis=1)  # (episodes, time)
    mask = torch.as_tensor(kept, device=columns[0][0].device)
    observations, logits, actions = (torch.stack(column, dim=1)[mask] for column in columns)  # (steps, ...)
    log_probs = model.log_probs(logits, actions)
    state_values = torch.zeros_like(log_probs) if model.baseline is None else model.state_values(observations)
    offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    return Episodes(observations, actions, log_probs, state_values, np.stack(rewards, axis=1)[kept], offsets)
