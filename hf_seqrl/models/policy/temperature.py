"""The temperature at which good episodes are cloned more often, checked on held-out episodes.

The lower it is, the better are the episodes that are cloned, and the fewer. Whether too few are left, for instance because all
episodes come from one policy and their returns differ by chance, shows in the action error on good episodes that are held out.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from gymnasium.spaces import Box

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.returns import returns_of_episodes
from hf_seqrl.data.sampling import return_temperature, return_weights
from hf_seqrl.data.windows import TrajectoryWindows
from hf_seqrl.models.policy.modeling_policy import PolicyModel
from hf_seqrl.models.policy.processing_policy import PolicyDataCollator, PolicyProcessor

if TYPE_CHECKING:
    from datasets import Dataset

_FEWEST_HELD_OUT = 12  # episodes: errors on fewer say nothing
_FEWEST_EFFECTIVE = 5  # of them, as they are weighted
_MOST_STEPS = 1 << 16  # that errors are taken of
_HIGHEST_TEMPERATURE = 0.5  # in ranges of the returns
_UPDATES, _BATCH_SIZE, _LEARNING_RATE = 400, 256, 2e-3
_STANDARD_ERRORS = 2.5


def checked_temperature(
    dataset: "Dataset", lowest: float, hidden_size: int = 128, num_hidden_layers: int = 2
) -> tuple[float | None, str]:
    """The lowest temperature for `return_weights` that held-out episodes do not speak against.

    Every fourth episode, by rank of return, is held out. At `lowest`, at its doubles up to 0.5 and with all steps alike, a
    network learns from the other episodes; all begin with the same weights. Errors are means over held-out episodes, the good ones
    weighted up as at `lowest`, or as far as leaves enough of them. See `lowest_without_excess`.

    Args:
        dataset: The trajectories.
        lowest: In ranges of the returns.
        hidden_size, num_hidden_layers: Of the network that is to be trained.

    Returns:
        The temperature, `None` for all steps alike, and what was found, in words. Random generators are left as they are. In a
        distributed run every process gets what the first one found.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    found: list[tuple[float | None, str]] = [(None, "")]
    if not distributed or torch.distributed.get_rank() == 0:
        found = [_checked(dataset, lowest, {"hidden_size": hidden_size, "num_hidden_layers": num_hidden_layers})]
    if distributed:
        torch.distributed.broadcast_object_list(found)
    return found[0]


def _checked(dataset: "Dataset", lowest: float, sizes: dict[str, int]) -> tuple[float | None, str]:
    columns = TrajectoryColumns.of(dataset)
    returns, lengths = returns_of_episodes(columns), np.diff(columns.episode_offsets)
    held_out, others = _every_fourth(returns, lengths)
    if len(held_out) < _FEWEST_HELD_OUT:
        return lowest, "too few episodes to hold some out"
    training = dataset.select(others)
    processor = PolicyProcessor.from_dataset(training)
    judged = TrajectoryWindows(dataset.select(held_out), processor)
    temperatures, errors = _candidates(lowest), []
    for temperature in temperatures:
        weights = None if temperature is None else return_weights(returns[others], lengths[others], temperature)
        windows = TrajectoryWindows(training, processor, episode_weights=weights)
        errors.append(_errors_by_episode(_trained(windows, processor, sizes), judged, processor))
    sharpness = return_temperature(returns[held_out], lengths[held_out], lowest, _FEWEST_EFFECTIVE)
    shares = lengths[held_out] / lengths[held_out].sum()
    if sharpness is not None:
        shares = shares * return_weights(returns[held_out], lengths[held_out], sharpness)
    chosen = lowest_without_excess(np.array(errors), shares)
    means = ", ".join(
        f"{error @ shares:.4g} {'with all alike' if temperature is None else f'at {temperature:.3g}'}"
        for temperature, error in zip(temperatures, errors, strict=True)
    )
    return temperatures[chosen], f"action error on good held-out episodes {means}"


def lowest_without_excess(errors: np.ndarray, weights: np.ndarray) -> int:
    """The first candidate whose mean error exceeds the smallest one by at most 2.5 standard errors of the difference.

    Args:
        errors: `(candidates, episodes)`.
        weights: `(episodes,)`, of each in the means.

    Example:
        >>> lowest_without_excess(np.array([[3.0, 3.1, 2.9], [2.0, 2.1, 2.0], [2.1, 1.9, 2.0]]), np.ones(3))
        1
    """
    shares = weights / weights.sum()
    excess = errors - errors[(errors @ shares).argmin()]  # over the best candidate, by episode
    means = excess @ shares
    standard_errors = np.sqrt(np.square(shares * (excess - means[:, None])).sum(axis=1))
    return int(np.flatnonzero(means <= _STANDARD_ERRORS * standard_errors)[0])


def _every_fourth(returns: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The episodes that are held out, from the best on until they have enough steps, and the others."""
    ranked = np.argsort(-returns, kind="stable")
    held_out = ranked[2::4]
    others = np.setdiff1d(ranked, held_out)
    return held_out[np.cumsum(lengths[held_out]) - lengths[held_out] < _MOST_STEPS], others


def _candidates(lowest: float) -> list[float | None]:
    doublings = int(np.log2(_HIGHEST_TEMPERATURE / lowest)) if lowest < _HIGHEST_TEMPERATURE else 0
    return [*(lowest * 2**k for k in range(doublings + 1)), None]


def _trained(windows: TrajectoryWindows, processor: PolicyProcessor, sizes: dict[str, int]) -> PolicyModel:
    """A network after a short training, always from the same weights and random numbers."""
    collator, generator = PolicyDataCollator(processor), np.random.default_rng(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PolicyModel(processor.model_config(**sizes))
    optimizer = torch.optim.Adam(model.parameters(), _LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, _UPDATES)
    for _ in range(_UPDATES):
        batch = collator(windows.gather(generator.integers(len(windows), size=_BATCH_SIZE)))
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


@torch.no_grad()
def _errors_by_episode(model: PolicyModel, windows: TrajectoryWindows, processor: PolicyProcessor) -> np.ndarray:
    """The mean action error of each episode: squared, of standardized actions, or the negative log-likelihood in nats."""
    collator, errors = PolicyDataCollator(processor), []
    for steps in np.array_split(np.arange(len(windows)), -(-len(windows) // 4096)):
        batch = collator(windows.gather(steps))
        logits = model.logits(batch["observations"])
        if isinstance(processor.task.actions, Box):
            errors.append((logits - batch["actions"]).square().mean(-1))
        else:
            errors.append(-model.log_probs(logits, batch["actions"]))
    offsets = windows.columns.episode_offsets
    return np.add.reduceat(torch.cat(errors).double().numpy(), offsets[:-1]) / np.diff(offsets)
