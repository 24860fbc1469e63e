"""What a `Trainer` reports beside the loss: how far predicted actions are from the recorded ones."""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import EvalPrediction

_IGNORED = -100


class ActionMetrics:
    """`compute_metrics` for models whose `labels` are actions.

    It gives `action_accuracy`, the share of steps whose discrete components are all right, and `action_error`, the mean absolute
    difference of the continuous entries, each where the action has such a part. It takes all predictions at once or, with
    `batch_eval_metrics=True` in the `TrainingArguments`, batch by batch, in constant memory.

    Args:
        groups: The number of choices of each discrete component; empty for `Box`.
        scale: By which an encoded continuous entry is multiplied for its own units, a number or one for each entry.
        position: Of the action predictions, where the model predicts more than actions.
    """

    def __init__(self, groups: list[int], scale: object = 1.0, position: int = 0) -> None:
        self.groups, self.position = list(groups), position
        self.scale = torch.as_tensor(scale, dtype=torch.float64)
        self._sums: dict[str, tuple[float, int]] = {}

    def __call__(self, prediction: "EvalPrediction", compute_result: bool = True) -> dict[str, float]:
        """Take in predictions `(batch, ..., act_dim)` and labels as `TrainableDT` takes them; the result where it is asked
        for."""
        predicted = prediction.predictions
        predicted = torch.as_tensor(predicted[self.position] if isinstance(predicted, tuple) else predicted).cpu()
        labels = torch.as_tensor(prediction.label_ids).cpu()
        first = sum(self.groups)
        if self.groups:
            self._add("action_accuracy", self._right(predicted[..., :first], labels))
        if predicted.shape[-1] > first:
            self._add("action_error", self._errors(predicted[..., first:], labels[..., first:]))
        if not compute_result:
            return {}
        result = {name: total / max(count, 1) for name, (total, count) in self._sums.items()}
        self._sums = {}
        return result

    def _add(self, name: str, values: torch.Tensor) -> None:
        total, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = total + float(values.sum()), count + values.numel()

    def _right(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if labels.is_floating_point():  # one-hot, beside continuous entries
            real = labels[..., 0] != _IGNORED
            labels = self._choices(labels[..., : sum(self.groups)])
        else:
            labels = labels.reshape(*logits.shape[:-1], len(self.groups))
            real = (labels != _IGNORED).all(-1)
        return (self._choices(logits) == labels).all(-1)[real].double()

    def _choices(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack([part.argmax(-1) for part in values.split(self.groups, dim=-1)], dim=-1)

    def _errors(self, predicted: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        real = labels != _IGNORED
        return ((predicted.double() - labels.double()).abs() * self.scale)[real]
