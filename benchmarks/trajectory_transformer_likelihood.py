"""How well a Trajectory Transformer predicts held-out episodes: bits a token, beside models that count.

    python benchmarks/trajectory_transformer_likelihood.py --agent tt-hopper --dataset data/hopper-medium --eval_fraction 0.1

The episodes are those that `hf-seqrl train trajectory-transformer --eval_fraction 0.1 --split_seed 0` held out. Every model
predicts the same tokens of the same windows, from their second transition on: the Trajectory Transformer from what stands
before them in the window, a uniform model (one in 100, as there are 100 bins), and one that counted in the episodes trained
on how often a token follows the same entry's token of the step before, with one added to every count. Values are labels
rather than data: they stand apart.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from devices import add_device_option

from hf_seqrl import Agent, load_trajectories
from hf_seqrl.data.sampling import held_out_split
from hf_seqrl.models.trajectory_transformer.processing_trajectory_transformer import TrajectoryTransformerDataCollator
from hf_seqrl.models.trajectory_transformer.windows import TrajectoryTransformerWindows

BATCH = 64


def count_successors(windows: TrajectoryTransformerWindows) -> torch.Tensor:
    """Log probabilities `(transition_dim, before, after)` of each entry's token after its token one step before."""
    transitions, discretizer = windows.transitions, windows.processor.discretizer
    columns, bins, dims = transitions.columns, discretizer.config.num_bins, discretizer.config.transition_dim
    counts = np.ones((dims, bins, bins))
    steps = np.delete(np.arange(columns.num_steps), columns.episode_offsets[1:] - 1)
    for portion in np.array_split(steps, len(steps) // 65_536 + 1):
        before, after = (discretizer.encode(transitions.take(portion + k)).numpy() for k in (0, 1))
        for entry in range(dims):
            np.add.at(counts[entry], (before[:, entry], after[:, entry]), 1)
    return torch.from_numpy(np.log(counts / counts.sum(-1, keepdims=True))).float()


@torch.inference_mode()
def bits_per_token(
    agent: Agent, trained: TrajectoryTransformerWindows, held_out: TrajectoryTransformerWindows, num: int, seed: int
) -> dict[str, np.ndarray]:
    """Of each model, the mean over `num` windows for every entry of a transition, `(transition_dim,)`."""
    config, collator = agent.model.config, TrajectoryTransformerDataCollator(agent.processor)
    size, bins = config.transition_dim, config.vocab_size
    successors = count_successors(trained)
    chosen = np.random.default_rng(seed).permutation(len(held_out))[:num]
    names = ("Trajectory Transformer", "one-step frequencies")
    sums, weights = {name: torch.zeros(size) for name in names}, torch.zeros(size)
    for indices in np.array_split(chosen, len(chosen) // BATCH + 1):
        batch = collator(held_out.__getitems__(indices.tolist()))
        scores = agent.model(batch["trajectories"].to(agent.model.device), use_cache=False).logits.cpu()
        labels = batch["labels"][:, size - 1 :]  # the tokens from the second transition on
        targets = labels.clamp_min(0)
        ours = -scores[:, size - 1 :].log_softmax(-1).gather(-1, targets[..., None])[..., 0]
        tokens = batch["trajectories"][:, : labels.shape[1]]  # one step before
        known = (labels >= 0) & (labels < bins)  # (batch, time - size)
        entries = torch.arange(targets.shape[1]).expand_as(targets) % size
        counted = -successors[entries, tokens.clamp_max(bins - 1), targets.clamp_max(bins - 1)]
        for name, nats in zip(names, (ours, counted)):
            sums[name].index_add_(0, entries[known], nats[known])
        weights.index_add_(0, entries[known], torch.ones(int(known.sum())))
    bits = {name: (sums[name] / weights / np.log(2)).numpy() for name in names}
    return bits | {"uniform": np.full(size, np.log2(bins))}


def table(bits: dict[str, np.ndarray], observation_dim: int) -> dict[str, dict[str, float]]:
    """Bits a token for each kind of token, and bits a transition without its value."""
    return {
        name: {
            "observation": float(values[:observation_dim].mean()),
            "action": float(values[observation_dim:-2].mean()),
            "reward": float(values[-2]),
            "value": float(values[-1]),
            "transition": float(values[:-1].sum()),
        }
        for name, values in bits.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", required=True, help="folder or Hub id of a trained Trajectory Transformer")
    parser.add_argument("--dataset", required=True, help="what it was trained on")
    parser.add_argument("--eval_fraction", type=float, default=0.1)
    parser.add_argument("--split_seed", type=int, default=0)
    parser.add_argument("--num_windows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="draws the windows")
    parser.add_argument("--output", type=Path, help="figures as JSON")
    add_device_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    agent = Agent.from_pretrained(arguments.agent, device=arguments.device)
    agent.model.eval()
    parts = held_out_split(load_trajectories(arguments.dataset), arguments.eval_fraction, arguments.split_seed)
    trained, held_out = (TrajectoryTransformerWindows(part, agent.processor) for part in parts)
    bits = bits_per_token(agent, trained, held_out, arguments.num_windows, arguments.seed)
    figures = table(bits, agent.processor.observation_dim)
    kinds = list(next(iter(figures.values())))
    print(f"{'bits':>24} " + " ".join(f"{kind:>12}" for kind in kinds))
    for name, row in figures.items():
        print(f"{name:>24} " + " ".join(f"{row[kind]:12.2f}" for kind in kinds))
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
