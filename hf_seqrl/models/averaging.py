"""The average of the weights over the end of a training run, in the place of its last weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_FILE_NAME = "averaged_weights.safetensors"


class WeightAveraging(TrainerCallback):
    """Ends a training with an exponential moving average of the weights (Polyak and Juditsky, 1992).

    Checkpoints hold the weights as they are, and the average beside them, so that a resumed run equals an uninterrupted one.
    With `load_best_model_at_end` the best checkpoint stays what it is.

    Args:
        decay: Of the average, a step.
        start: The share of the steps after which averaging begins.

    Raises:
        ValueError: `decay` is not in [0, 1), or `start` is not in [0, 1].
    """

    def __init__(self, decay: float = 0.998, start: float = 0.5) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of averaged weights is {decay}: expected a number >= 0 and below 1.")
        if not 0 <= start <= 1:
            raise ValueError(f"averaging starts after a share of {start} of the steps: expected one between 0 and 1.")
        self.decay, self.start = decay, start
        self._averages: dict[str, torch.Tensor] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._averages = None
        file = self._file(args, state)
        if state.global_step and file.exists():
            self._averages = load_file(file)

    @torch.no_grad()
    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel,
        **kwargs: Any,
    ) -> None:
        if state.global_step < self.start * state.max_steps:
            return
        weights = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if self._averages is None:
            self._averages = {name: parameter.detach().clone() for name, parameter in weights.items()}
            return
        for name, parameter in weights.items():
            average = self._averages[name] = self._averages[name].to(parameter.device)
            average.lerp_(parameter, 1 - self.decay)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = self._file(args, state).parent
        if self._averages is not None and state.is_world_process_zero and folder.is_dir():
            save_file(
                {name: average.contiguous() for name, average in self._averages.items()}, self._file(args, state)
            )

    @torch.no_grad()
    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: PreTrainedModel,
        **kwargs: Any,
    ) -> None:
        if self._averages is None or args.load_best_model_at_end or state.global_step < state.max_steps:
            return
        for name, parameter in model.named_parameters():
            if name in self._averages:
                parameter.copy_(self._averages[name])

    @staticmethod
    def _file(args: TrainingArguments, state: TrainerState) -> Path:
        return Path(args.output_dir, f"checkpoint-{state.global_step}", _FILE_NAME)
