"""Evaluation without a simulator: how well an agent predicts the actions of held-out episodes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_seqrl.data.durable import write_whole
from hf_seqrl.data.metadata import metadata_of
from hf_seqrl.data.returns import returns_of_episodes
from hf_seqrl.data.spaces import encode_actions, group_sizes
from hf_seqrl.data.windows import StepHistories
from hf_seqrl.evaluation.results import aligned_text, bootstrap_interval
from hf_seqrl.models.registry import family_of

_RESAMPLES = 2000
_SHIFTS = (-2.0, -1.0, 0.0, 1.0, 2.0)  # in standard deviations of the returns


@dataclass(frozen=True, eq=False)
class OfflineJudgement:
    """How well an agent predicts the actions of held-out episodes, at the true returns and at others.

    A low loss means that the agent acts like the policies that recorded the data, not that it reaches high returns. Held-out
    episodes cannot show how it acts in states that only its own actions lead to.

    Attributes:
        losses: `(shifts, steps)`; for discrete actions the negative log-likelihood in nats, for `Box` actions the squared
            error in the action's units, mean over its entries.
        return_shifts: `(shifts,)` raw, added to the true return of each episode; one is 0.
        episodes: `(steps,)`, the episode that each step belongs to.
        episode_returns: `(steps,)`, the raw return of that episode.
        uninformed_loss: The loss of the best constant prediction: the frequency of each action at these steps, or their
            mean.
        unit: `"nats"` or `"squared error"`.
    """

    losses: np.ndarray
    return_shifts: np.ndarray
    episodes: np.ndarray
    episode_returns: np.ndarray
    uninformed_loss: float
    unit: str

    @property
    def loss(self) -> float:
        """The mean loss over the steps, at the true returns."""
        return float(self._own.mean())

    def by_return_quantile(self, num_quantiles: int = 4) -> list[dict[str, Any]]:
        """The loss by quantiles of the episodes' returns, at the true returns.

        Returns:
            One entry per quantile that has episodes: `lowest_return` and `highest_return` (raw), `num_episodes`, `num_steps`,
            `loss`, and its 95 % `interval`, a bootstrap over episodes (`None` for a single one).
        """
        _, first = np.unique(self.episodes, return_index=True)
        returns = self.episode_returns[first]
        bounds = np.quantile(returns, np.linspace(0, 1, num_quantiles + 1)[1:-1])
        quantiles = np.searchsorted(bounds, self.episode_returns)
        return [self._row(quantiles == quantile) for quantile in np.unique(quantiles)]

    def by_return_shift(self) -> list[dict[str, Any]]:
        """The loss at other returns than the true one.

        Returns:
            One entry per shift: `return_shift` (raw), `loss`, `difference` to the loss without shift, and its 95 % `interval`,
            a bootstrap over episodes. Differences above 0 on both sides of 0 mean that the agent has learned which
            actions belong to which return; differences near 0 that it hardly depends on the return.
        """
        rows = []
        for shift, losses in zip(self.return_shifts.tolist(), self.losses):
            difference = losses - self._own
            rows.append(
                {
                    "return_shift": shift,
                    "loss": float(losses.mean()),
                    "difference": float(difference.mean()),
                    "interval": _interval(difference, self.episodes),
                }
            )
        return rows

    def table(self, num_quantiles: int = 4) -> str:
        """Both tables as text."""
        quantiles = [["return of the episode", "episodes", "steps", f"loss ({self.unit})", "95 % interval"]]
        for row in self.by_return_quantile(num_quantiles):
            returns = f"{row['lowest_return']:.4g} .. {row['highest_return']:.4g}"
            counts = str(row["num_episodes"]), str(row["num_steps"])
            quantiles.append([returns, *counts, f"{row['loss']:.4g}", _in_words(row["interval"])])
        shifts = [["asked for", "loss", "more than the own return's", "95 % interval"]]
        for row in self.by_return_shift():
            asked = f"own return {row['return_shift']:+.4g}" if row["return_shift"] else "own return"
            shifts.append([asked, f"{row['loss']:.4g}", f"{row['difference']:+.4g}", _in_words(row["interval"])])
        guess = f"A guess that looks at nothing: {self.uninformed_loss:.4g}"
        if self.loss >= self.uninformed_loss:
            guess += "\nWARNING: the agent predicts these actions no better than that guess."
        return "\n".join([aligned_text(quantiles), guess, "", aligned_text(shifts)])

    def save(self, path: str | Path) -> Path:
        """Write both tables as JSON."""
        report = {
            "loss": self.loss,
            "uninformed_loss": self.uninformed_loss,
            "unit": self.unit,
            "by_return_quantile": self.by_return_quantile(),
            "by_return_shift": self.by_return_shift(),
        }
        return write_whole(path, json.dumps(report, indent=2) + "\n")

    def plot(self, path: str | Path, num_quantiles: int = 4) -> Path:
        """Plot both tables; the suffix sets the format."""
        from hf_seqrl.evaluation.plots import plot_losses  # matplotlib takes a second to import

        rows = self.by_return_quantile(num_quantiles), self.by_return_shift()
        return plot_losses(*rows, self.uninformed_loss, self.unit, path)

    @property
    def _own(self) -> np.ndarray:
        return self.losses[int(np.flatnonzero(self.return_shifts == 0)[0])]

    def _row(self, chosen: np.ndarray) -> dict[str, Any]:
        losses, episodes, returns = self._own[chosen], self.episodes[chosen], self.episode_returns[chosen]
        return {
            "lowest_return": float(returns.min()),
            "highest_return": float(returns.max()),
            "num_episodes": len(np.unique(episodes)),
            "num_steps": len(losses),
            "loss": float(losses.mean()),
            "interval": _interval(losses, episodes),
        }


def judge_offline(
    agent: Any,
    dataset: Dataset,
    *,
    return_shifts: Sequence[float] | None = None,
    num_steps: int | None = 2000,
    batch_size: int = 256,
    seed: int = 0,
) -> OfflineJudgement:
    """Compare the actions of an agent with those of recorded episodes, step by step.

    At each step the input of the agent is the history, as when it acts, and the true return-to-go plus each of
    `return_shifts`.

    Args:
        agent (`Agent`): Of a family that predicts actions.
        dataset (`datasets.Dataset`): Episodes that it was not trained on, one row each.
        return_shifts (list of `float`, *optional*): Raw; defaults to -2, -1, 0, 1 and 2 standard deviations of the
            episodes' returns. 0 is added where it is missing.
        num_steps (`int`, *optional*, defaults to 2000): Number of steps to sample; all with `None`.
        batch_size (`int`, *optional*, defaults to 256): Histories per batch.
        seed (`int`, *optional*, defaults to 0): Seed of the sample.

    Raises:
        ValueError: the agent's family does not predict actions, or the data hold other words than the agent knows.

    Example:

    ```python
    >>> from hf_seqrl import Agent, DecisionTransformerProcessor, TrainableDT, collect
    >>> dataset = collect("random", "CartPole-v1", num_episodes=8)
    >>> processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=4)
    >>> agent = Agent(TrainableDT(processor.model_config(hidden_size=16, n_layer=1)), processor)
    >>> judgement = judge_offline(agent, dataset, return_shifts=[-5.0, 5.0])
    >>> judgement.return_shifts, judgement.unit
    (array([-5.,  0.,  5.]), 'nats')

    ```
    """
    family = family_of(agent.model.config.model_type)
    if family.action_losses is None:
        raise ValueError(f"a {family.name} does not predict actions step by step: evaluate it with a rollout.")
    agent.processor.task.check_words(metadata_of(dataset))
    histories = StepHistories(dataset, agent.processor)
    returns = returns_of_episodes(histories.columns)
    shifts = np.unique([0.0, *(np.multiply(_SHIFTS, returns.std()) if return_shifts is None else return_shifts)])
    steps = _drawn(len(histories), num_steps, seed)
    losses = [
        _losses(agent, family.action_losses, histories.gather(batch), shifts)
        for batch in np.array_split(steps, -(-len(steps) // batch_size))
    ]
    episodes = histories.columns.episode_of(steps)
    actions = histories.columns.actions.take(steps)
    return OfflineJudgement(
        losses=np.concatenate(losses, axis=1),
        return_shifts=shifts,
        episodes=episodes,
        episode_returns=returns[episodes],
        uninformed_loss=_uninformed_loss(agent.processor.action_space, actions),
        unit="nats" if group_sizes(agent.processor.action_space) else "squared error",
    )


def _drawn(available: int, wanted: int | None, seed: int) -> np.ndarray:
    if wanted is None or wanted >= available:
        return np.arange(available)
    return np.sort(np.random.default_rng(seed).choice(available, wanted, replace=False))


def _losses(agent: Any, action_losses: Any, histories: dict[str, np.ndarray], shifts: np.ndarray) -> np.ndarray:
    """`(shifts, batch)`."""
    returns_to_go = histories["returns_to_go"]
    real = histories["attention_mask"]
    shifted = [{**histories, "returns_to_go": returns_to_go + np.float32(shift) * real} for shift in shifts]
    return np.stack([action_losses(agent.model, agent.processor, one) for one in shifted])


def _uninformed_loss(action_space: dict[str, Any], actions: np.ndarray) -> float:
    """The entropy of the actions, or the mean variance of their entries."""
    encoded, sizes = encode_actions(action_space, actions), group_sizes(action_space)
    if not sizes:
        return float(encoded.var(axis=0).mean())
    frequencies = [group.mean(axis=0) for group in np.split(encoded.astype(np.float64), np.cumsum(sizes)[:-1], axis=1)]
    return float(-sum((share[share > 0] * np.log(share[share > 0])).sum() for share in frequencies))


def _interval(values: np.ndarray, episodes: np.ndarray) -> tuple[float, float] | None:
    """The 95 % bootstrap interval of the mean over steps; whole episodes are resampled, as their steps are correlated."""
    return bootstrap_interval(values, resamples=_RESAMPLES, groups=episodes)


def _in_words(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:.4g} .. {interval[1]:.4g}" if interval else "-"
