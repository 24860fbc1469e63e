"""What a `Trainer` reports beside the loss: how far predicted actions are from the recorded ones."""

import torch
from transformers import EvalPrediction

_IGNORED = -100


class ActionMetrics:
    """`compute_metrics` for models whose `labels` are actions.

    It gives `action_accuracy`, the share of steps whose discrete action is right in every component, or `action_error`, the
    mean absolute difference of `Box` actions. It takes all predictions at once or, with `batch_eval_metrics=True` in the
    `TrainingArguments`, batch by batch, in constant memory.

    Args:
        groups: The number of choices of each discrete component; empty for `Box`.
        scale: By which an encoded `Box` action is multiplied for its own units, a number or one for each entry.
        position: Of the action predictions, where the model predicts more than actions.
    """

    def __init__(self, groups: list[int], scale: object = 1.0, position: int = 0) -> None:
        self.groups, self.position = list(groups), position
        self.scale = torch.as_tensor(scale, dtype=torch.float64)
        self._total, self._count = 0.0, 0

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """Take in predictions `(batch, ..., act_dim)` and labels as `TrainableDT` takes them; the result where it is asked
        for."""
        predicted = prediction.predictions
        predicted = torch.as_tensor(predicted[self.position] if isinstance(predicted, tuple) else predicted).cpu()
        labels = torch.as_tensor(prediction.label_ids).cpu()
        values = self._right(predicted, labels) if self.groups else self._errors(predicted, labels)
        self._total, self._count = self._total + float(values.sum()), self._count + values.numel()
        if not compute_result:
            return {}
        result = self._total / max(self._count, 1)
        self._total, self._count = 0.0, 0
        return {"action_accuracy" if self.groups else "action_error": result}

    def _right(self, predicted: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        choices = torch.stack([logits.argmax(-1) for logits in predicted.split(self.groups, dim=-1)], dim=-1)
        labels = labels.reshape(choices.shape)
        real = (labels != _IGNORED).all(-1)
        return (choices == labels).all(-1)[real].double()

    def _errors(self, predicted: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        real = labels != _IGNORED
        return ((predicted.double() - labels.double()).abs() * self.scale)[real]
