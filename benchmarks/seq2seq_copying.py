"""Histories written back by both backbones: exact match against horizon and against the teacher forcing ratio.

    python benchmarks/seq2seq_copying.py --output results            # the main figure: horizon 20
    python benchmarks/seq2seq_copying.py --output results --sweeps   # and both plots

Every figure is the exact match of free-running greedy decodes of 1,000 fresh histories with 5 states and 4 actions.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from devices import add_device_option
from transformers import Trainer, TrainingArguments, set_seed

from hf_seqrl import TrajectorySeq2SeqDataCollator, TrajectorySeq2SeqModel
from hf_seqrl.models.trajectory_seq2seq.histories import EpisodeHistories, random_histories
from hf_seqrl.models.trajectory_seq2seq.metrics import compute_metrics
from hf_seqrl.models.trajectory_seq2seq.processing_trajectory_seq2seq import TrajectorySeq2SeqProcessor

SIZES = {
    "transformer": {"hidden_size": 64, "num_encoder_layers": 2, "num_decoder_layers": 2, "intermediate_size": 128},
    "gru": {"hidden_size": 256, "embedding_size": 32, "decoder_embedding_size": 32, "num_encoder_layers": 1,
            "num_decoder_layers": 1},
}  # fmt: skip
LEARNING_RATES = {"transformer": 2e-3, "gru": 2e-3}


@dataclass
class Score:
    """What one training reached, and how long it took."""

    backbone: str
    horizon: int
    teacher_forcing_ratio: float
    updates: int
    train_seconds: float
    train_cpu_seconds: float
    exact_match: float
    token_accuracy: float
    free_running_loss: float
    teacher_forced_loss: float


def train_and_score(
    backbone: str,
    horizon: int,
    updates: int,
    batch_size: int = 64,
    ratio: float = 1.0,
    seed: int = 0,
    device: str = "cpu",
) -> Score:
    """Train on fresh histories (each seen once) and score 1,000 others."""
    set_seed(seed)
    train = random_histories(updates * batch_size, horizon, state_size=5, action_size=4, seed=seed + 1)
    test = random_histories(1000, horizon, state_size=5, action_size=4, seed=seed + 2)
    processor = TrajectorySeq2SeqProcessor.from_dataset(train, target="history", context_length=horizon + 1)
    model = TrajectorySeq2SeqModel(
        processor.model_config(backbone=backbone, teacher_forcing_ratio=ratio, **SIZES[backbone])
    )
    arguments = TrainingArguments(
        output_dir="unused",
        max_steps=updates,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=500,
        learning_rate=LEARNING_RATES[backbone],
        lr_scheduler_type="cosine",
        warmup_steps=updates // 20,
        max_grad_norm=1.0,
        logging_steps=max(updates // 10, 1),
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=device == "cpu",
        seed=seed,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=EpisodeHistories(train, processor),
        eval_dataset=EpisodeHistories(test, processor),
        data_collator=TrajectorySeq2SeqDataCollator(processor=processor),
        compute_metrics=compute_metrics,
    )
    started = time.perf_counter(), time.process_time()
    trainer.train()
    seconds = round(time.perf_counter() - started[0], 1), round(time.process_time() - started[1], 1)
    metrics = trainer.evaluate()
    names = ("exact_match", "token_accuracy", "free_running_loss", "teacher_forced_loss")
    return Score(backbone, horizon, ratio, updates, *seconds, *(round(metrics[f"eval_{name}"], 5) for name in names))


def plot(scores: list[Score], by: str, label: str, path: Path) -> None:
    """Exact match of both backbones against a field of their scores."""
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for backbone, marker in (("transformer", "o-"), ("gru", "s--")):
        points = sorted((getattr(score, by), score.exact_match) for score in scores if score.backbone == backbone)
        if points:
            axes.plot(*zip(*points), marker, label={"transformer": "Transformer", "gru": "GRU"}[backbone])
    axes.set(xlabel=label, ylabel="exact match, free-running", ylim=(-0.03, 1.03))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def report(score: Score) -> Score:
    """Print a score as it comes."""
    print(json.dumps(asdict(score)), flush=True)
    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/seq2seq"), help="folder for scores and plots")
    parser.add_argument("--updates", type=int, default=1000, help="updates at horizon 20; 0: leave that out")
    parser.add_argument("--sweeps", action="store_true", help="train for both plots as well")
    parser.add_argument("--sweep-updates", type=int, default=300, help="updates of each training of a sweep")
    parser.add_argument("--horizons", type=int, nargs="+", default=[2, 5, 10, 20])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    parser.add_argument("--backbones", nargs="+", default=["transformer", "gru"])
    parser.add_argument("--threads", type=int, default=2)
    add_device_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    scores = [
        report(train_and_score(backbone, 20, arguments.updates, device=arguments.device))
        for backbone in arguments.backbones
        if arguments.updates
    ]
    if arguments.sweeps:
        updates = arguments.sweep_updates
        horizons = [
            report(train_and_score(backbone, horizon, updates, device=arguments.device))
            for backbone in arguments.backbones
            for horizon in arguments.horizons
        ]
        ratios = [
            report(train_and_score(backbone, 5, updates, ratio=ratio, device=arguments.device))
            for backbone in arguments.backbones
            for ratio in arguments.ratios
        ]
        plot(horizons, "horizon", f"horizon ({updates} updates)", arguments.output / "seq2seq_horizon.png")
        plot(
            ratios,
            "teacher_forcing_ratio",
            f"teacher forcing ratio (horizon 5, {updates} updates)",
            arguments.output / "seq2seq_teacher_forcing.png",
        )
        scores += horizons + ratios
    (arguments.output / "seq2seq_copying.json").write_text(json.dumps([asdict(score) for score in scores], indent=1))


if __name__ == "__main__":
    main()
