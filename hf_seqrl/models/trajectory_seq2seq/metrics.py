"""How well histories are written when the decoder runs freely."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_seqrl.models.trajectory_seq2seq.outputs import IGNORED_LABEL

_TICK, _CROSS = "\N{CHECK MARK}", "\N{BALLOT X}"


def exact_match(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether every symbol of a target is right, its EOS included: boolean `(examples,)`.

    Args:
        predictions: `(examples, n)`, symbols of the free-running decoder.
        labels: `(examples, n)`, target symbols; -100 where there is none.
    """
    return ((predictions == labels) | (labels == IGNORED_LABEL)).all(axis=1)


def token_accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The share of target symbols that are right, over all examples."""
    counts = labels != IGNORED_LABEL
    return float((predictions == labels)[counts].mean())


class HistoryMetrics:
    """`compute_metrics` for `Trainer`: scores of the free-running decoder, and what running freely costs.

    It takes all predictions at once or, with `batch_eval_metrics=True` in the `TrainingArguments`, batch by batch, in constant
    memory. Its result: `exact_match` and `token_accuracy` between 0 and 1; `free_running_loss` and `teacher_forced_loss`,
    means over target tokens; `exposure_bias`, their difference.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._examples = self._exact = self._tokens = self._right = 0
        self._free_running = self._teacher_forced = 0.0

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """Take in predictions, free-running and teacher-forced losses `(examples, n)` and labels; the result where it is asked
        for."""
        predictions, free_running, teacher_forced = (
            torch.as_tensor(values).cpu().float().numpy() for values in prediction.predictions[:3]
        )
        labels = _padded(torch.as_tensor(prediction.label_ids).cpu().numpy(), predictions.shape[1])
        counts = labels != IGNORED_LABEL
        self._examples += len(labels)
        self._exact += int(exact_match(predictions, labels).sum())
        self._tokens += int(counts.sum())
        self._right += int((predictions == labels)[counts].sum())
        self._free_running += float(free_running[counts].sum(dtype=np.float64))
        self._teacher_forced += float(teacher_forced[counts].sum(dtype=np.float64))
        if not compute_result:
            return {}
        free, forced = self._free_running / self._tokens, self._teacher_forced / self._tokens
        result = {
            "exact_match": self._exact / self._examples,
            "token_accuracy": self._right / self._tokens,
            "free_running_loss": free,
            "teacher_forced_loss": forced,
            "exposure_bias": free - forced,
        }
        self._forget()
        return result


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """The result of [`HistoryMetrics`] for all predictions at once."""
    return HistoryMetrics()(prediction)


def format_examples(
    predictions: np.ndarray, labels: np.ndarray, eos_token_id: int, num_examples: int = 10, wanted: str = "fed"
) -> Sequence[str]:
    """One line an example: what should be written (under the name `wanted`: a history that is written back is what was
    fed), what was written, and a tick or a cross.

    Example:
        >>> print(*format_examples(np.array([[0, 2, 3], [1, 3, 3]]), np.array([[0, 2, 3], [0, 3, -100]]), 3), sep="\\n")
        1. fed 0 2 | predicted 0 2 ✓
        2. fed 0 | predicted 1 ✗
    """
    matches = exact_match(predictions, labels)
    return [
        f"{index + 1}. {wanted} {_until(labels[index], eos_token_id)} | predicted {_until(predictions[index], eos_token_id)} "
        f"{_TICK if matches[index] else _CROSS}"
        for index in range(min(num_examples, len(labels)))
    ]


class PrintExamplesCallback(TrainerCallback):
    """Prints, after every evaluation, what the free-running decoder writes for the first held-out examples.

    Args:
        num_examples (`int`, *optional*, defaults to 5): How many.
        wanted (`str`, *optional*, defaults to `"fed"`): See `format_examples`.
    """

    def __init__(self, num_examples: int = 5, wanted: str = "fed") -> None:
        self.num_examples = num_examples
        self.wanted = wanted

    @torch.no_grad()
    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        model = kwargs["model"].eval()  # Trainer turns training mode on again
        batch = {name: values.to(model.device) for name, values in next(iter(kwargs["eval_dataloader"])).items()}
        predictions = model(**batch).predictions.cpu().numpy()
        labels = batch["labels"].cpu().numpy()
        lines = format_examples(predictions, labels, model.config.eos_token_id, self.num_examples, self.wanted)
        print(*lines, sep="\n")


def _until(symbols: np.ndarray, eos_token_id: int) -> str:
    ends = np.flatnonzero(symbols == eos_token_id)
    return " ".join(str(symbol) for symbol in symbols[: ends[0] if len(ends) else None])


def _padded(labels: np.ndarray, width: int) -> np.ndarray:
    return np.pad(labels, ((0, 0), (0, width - labels.shape[1])), constant_values=IGNORED_LABEL)
