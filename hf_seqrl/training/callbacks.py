"""Callback for rollouts during training."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn
from tqdm.auto import tqdm
from transformers import (
    PreTrainedModel,
    ProcessorMixin,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from hf_seqrl.data.environment_ids import trusted_env_id
from hf_seqrl.evaluation.results import RolloutResult
from hf_seqrl.evaluation.rollout import rollout
from hf_seqrl.hub.agent import Agent


class RolloutCallback(TrainerCallback):
    """Rolls out the model at every evaluation of a `Trainer` and adds the returns to the metrics.

    `eval_return` (mean raw return) and, where the reference returns of the data are known, `eval_normalized_score`
    (0: random, 100: expert) are logged with `eval_loss`: in what `evaluate()` returns, in `trainer.state.log_history`, and
    for `load_best_model_at_end` with `metric_for_best_model="eval_return"` and `greater_is_better=True`. The weights at
    the end of training are the same with the callback as without it.

    In a distributed run each process runs its share of the episodes.

    Args:
        env (`str`, *optional*): A gymnasium id; defaults to the one that the processor names.
        num_episodes (`int`, *optional*, defaults to `20`): Episodes at each evaluation (and for each target).
        target_return (`float` or list of `float`, *optional*): Raw return units; defaults to the processor's first
            target. With several, `eval_return` is that of the first and `eval_return_<target>` that of each.
        num_envs (`int`, *optional*, defaults to `20`): Environments that run side by side.
        seed (`int`, *optional*, defaults to `0`): The same episodes at every evaluation.
        processor (`ProcessorMixin`, *optional*): Defaults to the `processing_class` of the trainer.
        acting_options: Options of the family's actor, as `Agent` takes them.

    Attributes:
        result: The `RolloutResult` of the last evaluation.
    """

    def __init__(
        self,
        env: str | None = None,
        *,
        num_episodes: int = 20,
        target_return: float | Sequence[float] | None = None,
        num_envs: int = 20,
        seed: int = 0,
        processor: ProcessorMixin | None = None,
        **acting_options: Any,
    ) -> None:
        self.env = env
        self.num_episodes = num_episodes
        self.target_return = target_return
        self.num_envs = num_envs
        self.seed = seed
        self.processor = processor
        self.acting_options = acting_options
        self.result: RolloutResult | None = None

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        model: PreTrainedModel,
        processing_class: ProcessorMixin | None = None,
        **kwargs: Any,
    ) -> None:
        processor = self.processor or processing_class
        if processor is None:
            raise ValueError(
                "RolloutCallback has no processor to encode observations with: pass it to the callback (processor=...) "
                "or to the Trainer (processing_class=...), which then also saves it with every checkpoint."
            )
        self.result = self._rollout(model, processor, args)
        measured = rollout_metrics(self.result)
        metrics.update(measured)
        state.log_history.append({**measured, "epoch": state.epoch, "step": state.global_step})
        if state.is_world_process_zero and not args.disable_tqdm:
            tqdm.write(f"step {state.global_step}:\n{self.result.table()}")

    def _rollout(self, model: PreTrainedModel, processor: ProcessorMixin, args: TrainingArguments) -> RolloutResult:
        first, last = (
            self.num_episodes * rank // args.world_size for rank in (args.process_index, args.process_index + 1)
        )
        part = None
        if last > first:
            with undisturbed(model):
                part = rollout(
                    Agent(model, processor, **self.acting_options),
                    self.env or trusted_env_id(processor.env_id, "the processor"),
                    num_episodes=last - first,
                    target_return=self.target_return,
                    num_envs=self.num_envs,
                    seed=self.seed + first,
                )
        parts = gather_object([part]) if args.world_size > 1 else [part]
        return RolloutResult.merged([part for part in parts if part is not None])


def rollout_metrics(result: RolloutResult) -> dict[str, float]:
    """The metrics of a rollout by the names that `Trainer` logs: those of the first target return, and of several
    targets the mean return of each, all in raw units but `eval_normalized_score`."""
    parts = result.by_target()
    first = next(iter(parts.values()))
    metrics = {
        "eval_return": first.mean_return,
        "eval_return_std": float(first.returns.std()),
        "eval_episode_length": float(first.lengths.mean()),
    }
    if first.normalized_score is not None:
        metrics["eval_normalized_score"] = first.normalized_score
    if len(parts) > 1:
        metrics |= {f"eval_return_{target:g}": part.mean_return for target, part in parts.items()}
    return metrics


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode and computes no gradients; after, everything is as it was before.

    Restored are the mode of every submodule (some may be frozen in eval mode) and the states of Python's, NumPy's and
    torch's random number generators, those of the model's accelerators too, so that a run with evaluations ends in the
    same weights as one without.
    """
    accelerators = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    modes = [(module, module.training) for module in model.modules()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=list(accelerators)), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        random.setstate(python_state)
        np.random.set_state(numpy_state)
