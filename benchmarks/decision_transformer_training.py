"""Updates a second of a Decision Transformer: the blog post's pipeline, the stock model on a ready batch, and ours.

    python benchmarks/decision_transformer_training.py [DATA] [--steps 15] [--rounds 5] [--device cuda]

DATA is a folder with a parquet file of one row an episode (hopper-medium for the figures in the README). Sizes are those
of the paper: hidden 128, 3 layers, 1 head, 20 steps, batch 64. "blog pipeline" is `Trainer` over the rows of the data
set with a collator in Python and the loss of the post; "stock, batch ready" is a bare loop of forward, backward, clip
and AdamW on one batch that is there already; "ours" is `TrajectoryTrainer` from the data to the update (its setting of
the memory allocator stays with the process, so the others have it from the second round on). All run in one process on
one core and take their turn in each round; medians over the rounds are printed, and the bound that the machine's matrix
products set. Time is the CPU time of this process, which other work on the machine does not lengthen by itself; on another
device it is that of the wall. "ours, resident" gathers its batches from windows that stay on the device.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from datasets import Dataset, load_dataset
from devices import add_device_option, clock_of
from machine_bound import gemm_gflops, training_gflop
from peers_blog_collator import BlogCollator
from transformers import DecisionTransformerModel, Trainer, TrainerCallback, TrainingArguments

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
    bf16: bool,
    device: str,
) -> float:
    """Updates a second of a `Trainer`'s whole loop."""
    timer = StepTimer(clock_of(device))
    with tempfile.TemporaryDirectory() as folder:
        settings = FAMILY.training_defaults | {"max_steps": steps + 1, "bf16": bf16, "save_strategy": "no"}
        arguments = TrainingArguments(folder, use_cpu=device == "cpu", report_to="none", disable_tqdm=True, **settings)
        trainer_class(model, arguments, train_dataset=data, data_collator=collator, callbacks=[timer]).train()
    return 1 / timer.seconds_per_step()


def by_bare_loop(model: torch.nn.Module, batch: dict[str, torch.Tensor], steps: int, bf16: bool, device: str) -> float:
    """Updates a second where the batch costs nothing."""
    model.to(device).train()
    batch, clock = {name: values.to(device) for name, values in batch.items()}, clock_of(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4, fused=True)
    for step in range(steps + 1):
        if step == 1:
            began = clock()
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            loss = model(**batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        optimizer.zero_grad()
    return steps / (clock() - began)


def contenders(rows: Dataset, prepared: Prepared, steps: int, device: str) -> dict[str, Callable[[], float]]:
    """What runs in each round, by name."""
    config = prepared.model.config
    batch = prepared.data_collator(prepared.train_dataset.__getitems__(range(0, 6400, 100)))
    del batch["labels"]
    blog = BlogCollator(rows)
    few = max(2, steps // 3)
    runs = {"blog pipeline, fp32": lambda: by_trainer(Trainer, BlogModel(config), rows, blog, few, False, device)}
    for bf16, name in ((False, "fp32"), (True, "bf16")):
        runs[f"stock, batch ready, {name}"] = lambda bf16=bf16: by_bare_loop(
            BlogModel(config), batch, steps, bf16, device
        )
        data = (prepared.train_dataset, prepared.data_collator)
        runs[f"ours, {name}"] = lambda bf16=bf16, data=data: by_trainer(
            TrajectoryTrainer, FAMILY.model_class(config), *data, steps, bf16, device
        )
        runs[f"ours, resident, {name}"] = lambda bf16=bf16, data=data: by_trainer(
            partial(TrajectoryTrainer, resident=True), FAMILY.model_class(config), *data, steps, bf16, device
        )
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="../shared/data/hopper-medium")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=5)
    add_device_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)

    prepared = FAMILY.prepare(load_trajectories(options.data), FAMILY.options_class(recipe="paper"))
    rows = load_dataset("parquet", data_files=f"{options.data}/*.parquet", split="train")
    runs = contenders(rows, prepared, options.steps, options.device)
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
        stock = rates[f"stock, batch ready, {name[-4:]}"]
        of_blog, of_stock = (median(x / y for x, y in zip(values, other)) for other in (blog, stock))
        reached = median(value * training_gflop() / bound for value, bound in zip(values, gemm))
        print(
            f"{name:26} {median(values):7.2f} updates/s   {of_blog:5.2f} x blog   {of_stock:5.2f} x stock   "
            f"{reached:5.2f} of the fp32 bound"
        )


if __name__ == "__main__":
    main()
