"""Updates a second of a Decision Transformer: ours beside other pipelines, models and training loops.

    python benchmarks/decision_transformer_training.py [DATA] [--steps 15] [--rounds 5] [--device cuda]
    python benchmarks/decision_transformer_training.py [DATA] --corl path/to/dt.py --torchrl --compile

DATA is a folder with a parquet file of one row an episode (hopper-medium for the figures in the documentation). Sizes are those
of the paper: hidden 128, 3 layers, 1 head, 20 steps, batch 64. All run in one process on one core and take their turn in each
round; medians over the rounds are printed, and the bound that the machine's matrix products set.

- "blog pipeline": `Trainer` over the rows of the data set with a collator in Python and the loss of the post.
- "CORL": the function `train` of its script, from its sampler to the update; see `peers_corl.py`.
- "stock, batch ready": the stock model in a bare loop of forward, backward, clip and fused AdamW on one batch that is there
  already.
- "torchrl, batch ready": torchrl's model and loss in the same loop, since its example samples from D4RL's own files alone.
- "Trainer as it is": transformers' `Trainer` on our data set, collator and model.
- "ours": `TrajectoryTrainer` on them (its setting of the memory allocator stays with the process, so the others have it from the
  second round on). "ours, resident" gathers its batches from windows that stay on the device.
- "compiled": by `torch.compile`, the bare loop and ours.

Time is the CPU time of this process, which other work on the machine does not lengthen by itself; on another device it is that
of the wall. The first update of each training is not counted, and compilation is part of it.
"""

import argparse
import importlib.util
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from datasets import Dataset, load_dataset
from devices import add_device_option, clock_of
from machine_bound import gemm_gflops, training_gflop
from peers_blog_collator import BlogCollator
from peers_corl import SOURCE, CorlTraining
from transformers import (
    DecisionTransformerConfig,
    DecisionTransformerModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_seqrl import TrajectoryTrainer, load_trajectories
from hf_seqrl.models.registry import Prepared, family_of

FAMILY = family_of("decision_transformer")


class BlogModel(DecisionTransformerModel):
    """The stock model with the loss of the post."""

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        predictions = super().forward(**inputs).action_preds
        real = inputs["attention_mask"].reshape(-1) > 0
        targets = inputs["actions"].reshape(-1, predictions.shape[-1])
        return {"loss": (predictions.reshape(targets.shape)[real] - targets[real]).square().mean()}


class StepTimer(TrainerCallback):
    """Seconds from one update to the next; the first is not counted."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.ends: list[float] = []

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        self.ends.append(self.clock())

    def seconds_per_step(self) -> float:
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


def by_trainer(
    trainer_class: Callable,
    model: torch.nn.Module,
    data: object,
    collator: Callable,
    steps: int,
    device: str,
    **settings: object,
) -> float:
    """Updates a second of a `Trainer`'s whole loop."""
    timer = StepTimer(clock_of(device))
    settings = FAMILY.training_defaults | {"max_steps": steps + 1, "save_strategy": "no"} | settings
    torch.compiler.reset()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, use_cpu=device == "cpu", report_to="none", disable_tqdm=True, **settings)
        trainer_class(model, arguments, train_dataset=data, data_collator=collator, callbacks=[timer]).train()
    return 1 / timer.seconds_per_step()


def by_bare_loop(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], steps: int, bf16: bool, device: str, compiled: bool = False
) -> float:
    """Updates a second where the batch costs nothing."""
    model.to(device).train()
    batch, clock = {name: values.to(device) for name, values in batch.items()}, clock_of(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4, fused=True)
    torch.compiler.reset()
    run = torch.compile(model) if compiled else model
    for step in range(steps + 1):
        if step == 1:
            began = clock()
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            loss = run(**batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        optimizer.zero_grad()
    return steps / (clock() - began)


def contenders(
    rows: Dataset, prepared: Prepared, options: argparse.Namespace, corl: CorlTraining | None
) -> dict[str, Callable[[], float]]:
    """What runs in each round, by name."""
    config, steps, device = prepared.model.config, options.steps, options.device
    data = prepared.train_dataset, prepared.data_collator
    batch = prepared.data_collator(prepared.train_dataset.__getitems__(range(0, 6400, 100)))
    del batch["labels"]
    blog, few = BlogCollator(rows), max(2, steps // 3)

    def ours(trainer_class: Callable, **settings: object) -> float:
        return by_trainer(trainer_class, FAMILY.model_class(config), *data, steps, device, **settings)

    runs = {"blog pipeline, fp32": lambda: by_trainer(Trainer, BlogModel(config), rows, blog, few, device)}
    if corl is not None:
        runs["CORL, fp32"] = lambda: corl.updates_per_second(steps, device, clock_of(device))
    for name in options.precisions:
        bf16 = name == "bf16"
        ready = partial(by_bare_loop, batch=batch, steps=steps, bf16=bf16, device=device)
        runs[f"stock, batch ready, {name}"] = lambda ready=ready: ready(BlogModel(config))
        if options.torchrl:
            runs[f"torchrl, batch ready, {name}"] = lambda ready=ready: ready(torchrl_model(config, device))
        runs[f"Trainer as it is, {name}"] = partial(ours, Trainer, bf16=bf16)
        runs[f"ours, {name}"] = partial(ours, TrajectoryTrainer, bf16=bf16)
        runs[f"ours, resident, {name}"] = partial(ours, partial(TrajectoryTrainer, resident=True), bf16=bf16)
        if options.compile:
            runs[f"stock, batch ready, compiled, {name}"] = lambda ready=ready: ready(BlogModel(config), compiled=True)
            runs[f"ours, compiled, {name}"] = partial(ours, TrajectoryTrainer, bf16=bf16, torch_compile=True)
    return runs


def torchrl_model(config: DecisionTransformerConfig, device: str) -> torch.nn.Module:
    from peers_torchrl import TorchrlModel

    return TorchrlModel(config.state_dim, config.act_dim, device)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="../shared/data/hopper-medium")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--precisions",
        nargs="+",
        default=["fp32", "bf16"],
        choices=["fp32", "bf16"],
        help="of all but the pipelines; bf16 is slow on a CPU without instructions for it",
    )
    parser.add_argument("--corl", type=Path, metavar="DT.PY", help=f"CORL's script takes part: {SOURCE}")
    parser.add_argument("--torchrl", action="store_true", help="torchrl takes part, which must be installed")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="the stock model and ours compiled take part; on a CPU it needs a C++ compiler",
    )
    add_device_option(parser)
    options = parser.parse_args()
    if options.corl is not None and not options.corl.is_file():
        parser.error(f"--corl {options.corl}: no such file; download {SOURCE}, or leave --corl out")
    if options.torchrl and importlib.util.find_spec("torchrl") is None:
        parser.error("--torchrl: torchrl is not installed; pip install torchrl, or leave --torchrl out")
    return options


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)

    prepared = FAMILY.prepare(load_trajectories(options.data), FAMILY.options_class(recipe="paper"))
    rows = load_dataset("parquet", data_files=f"{options.data}/*.parquet", split="train")
    corl = None if options.corl is None else CorlTraining(options.corl, rows)
    runs = contenders(rows, prepared, options, corl)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    gemm: list[float] = []
    for _ in range(options.rounds):
        gemm.append(gemm_gflops(1920, device=options.device))
        for name, run in runs.items():
            rates[name].append(run())

    blog = rates["blog pipeline, fp32"]
    print(
        f"matrix products: {median(gemm):.0f} GFLOP/s in fp32; an update of the stock model takes {training_gflop():.1f} GFLOP"
    )
    for name, values in rates.items():
        of_blog = median(x / y for x, y in zip(values, blog))
        stock = rates.get(f"stock, batch ready, {name[-4:]}")  # none where only the other precision runs
        of_stock = "" if stock is None else f"{median(x / y for x, y in zip(values, stock)):5.2f} x stock"
        reached = median(value * training_gflop() / bound for value, bound in zip(values, gemm))
        print(
            f"{name:34} {median(values):7.2f} updates/s   {of_blog:5.2f} x blog   {of_stock:13}   "
            f"{reached:5.2f} of the fp32 bound"
        )


if __name__ == "__main__":
    main()
