"""Training speed of the Trajectory Transformer at the paper's HalfCheetah size: ours and transformers 4.30's.

    python benchmarks/trajectory_transformer_training.py [--rounds 9] [--transformers4 /path/to/python]

A step is forward, backward, clipping and AdamW on 32 x 249 tokens with dropout 0.1, on one core in single precision.
All contenders take their turn in each round; medians over the rounds are printed, and ratios round by round. Seconds
are those of the one thread that computes, which other programs on the machine disturb least; with --device, those of the wall.
"ours, by Trainer" is the time that `Trainer` takes for the same, data included: windows are gathered and discretized.

The peer is computed by `peers_trajectory_transformer.py`. With --transformers4, an interpreter that has
transformers==4.30.0 and torch, its own model takes part as well, in a process of its own.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from devices import add_device_option, clock_of

BATCH_SIZE, TIME = 32, 249
TOKENS = BATCH_SIZE * TIME


def training_step(
    model: torch.nn.Module, loss_of: Callable[..., torch.Tensor], device: str = "cpu"
) -> Callable[[], float]:
    """A function that trains the model by one step and returns the seconds that it took."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 100, (BATCH_SIZE, TIME + 1), generator=generator)
    batch = {"trajectories": tokens[:, :-1].contiguous(), "targets": tokens[:, 1:].contiguous()}
    batch["attention_mask"] = torch.ones(BATCH_SIZE, TIME)
    batch, clock = {name: values.to(device) for name, values in batch.items()}, clock_of(device)
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1)
    model.train()

    def step() -> float:
        began = clock()
        loss_of(model, batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return clock() - began

    return step


def serve_transformers4() -> None:
    """The process that trains transformers 4.30's model: a step for every line that it reads."""
    from transformers import TrajectoryTransformerConfig, TrajectoryTransformerModel

    model = TrajectoryTransformerModel(TrajectoryTransformerConfig())
    step = training_step(model, lambda model, batch: model(**batch, use_cache=False)[0])
    for _ in sys.stdin:
        print(step(), flush=True)


def ask(process: subprocess.Popen) -> float:
    process.stdin.write("step\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def contenders(transformers4: str | None, device: str) -> dict[str, Callable[[], float]]:
    from peers_trajectory_transformer import PlainTrajectoryTransformer

    from hf_seqrl import TrajectoryTransformerConfig, TrajectoryTransformerModel

    config = TrajectoryTransformerConfig()
    found = {
        "ours": training_step(TrajectoryTransformerModel(config), lambda model, batch: model(**batch).loss, device),
        "peer, written anew": training_step(
            PlainTrajectoryTransformer(config), lambda model, batch: model(**batch), device
        ),
        "ours, by Trainer": by_trainer(config, device),
    }
    if transformers4 and device == "cpu":
        command = [transformers4, str(Path(__file__)), "--serve"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        found["transformers 4.30"] = lambda: ask(process)
    return found


def by_trainer(config, device: str) -> Callable[[], float]:
    """Steps of `Trainer` on windows of random episodes."""
    import numpy as np
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    from hf_seqrl.models.trajectory_transformer.training import (
        TrajectoryTransformerOptions,
        prepare,
    )

    generator, steps = np.random.default_rng(0), 1000
    episode = {
        "observations": generator.standard_normal((steps, config.observation_dim), dtype=np.float32),
        "actions": generator.standard_normal((steps, config.action_dim), dtype=np.float32),
        "rewards": generator.standard_normal(steps, dtype=np.float32),
        "dones": np.zeros(steps, bool),
    }
    prepared = prepare(Dataset.from_list([episode] * 5), TrajectoryTransformerOptions())
    count = 3

    def step() -> float:
        arguments = TrainingArguments(
            max_steps=count,
            per_device_train_batch_size=BATCH_SIZE,
            use_cpu=device == "cpu",
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
        )
        optimizers = (prepared.make_optimizer(arguments), None)
        trainer = Trainer(
            prepared.model, arguments, prepared.data_collator, prepared.train_dataset, optimizers=optimizers
        )
        clock = clock_of(device)
        began = clock()
        trainer.train()
        return (clock() - began) / count

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--transformers4", help="an interpreter with transformers==4.30.0; on the CPU")
    add_device_option(parser)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if arguments.serve:
        serve_transformers4()
        return
    steps = contenders(arguments.transformers4, arguments.device)
    for step in steps.values():
        step()  # warm up
    rounds = [{name: step() for name, step in steps.items()} for _ in range(arguments.rounds)]
    for name in steps:
        seconds = median(times[name] for times in rounds)
        ratio = median(times[name] / times["ours"] for times in rounds)
        print(f"{name:20} {seconds:7.3f} s a step  {TOKENS / seconds:8.0f} tokens/s   ours is {ratio:.2f} x as fast")


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
