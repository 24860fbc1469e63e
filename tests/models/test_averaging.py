"""`WeightAveraging` against the average written out, in one run and in a resumed one."""

import pytest
import torch
from torch.utils.data import TensorDataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_seqrl.models.averaging import WeightAveraging


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def forward(self, x):
        return {"loss": (self.weight * x).square().sum()}


class Diary(TrainerCallback):
    def __init__(self):
        self.weights = []

    def on_step_end(self, args, state, control, model, **kwargs):
        self.weights.append(model.weight.detach().clone())


def train(folder, callbacks, resume=False, **changes):
    torch.manual_seed(0)
    model = Line()
    data = TensorDataset(torch.arange(30.0).reshape(10, 3) / 30)
    settings = {"max_steps": 8, "learning_rate": 0.1, "save_steps": 6, "per_device_train_batch_size": 2} | changes
    arguments = TrainingArguments(str(folder), use_cpu=True, report_to="none", disable_tqdm=True, **settings)
    collate = lambda rows: {"x": torch.stack([row[0] for row in rows])}  # noqa: E731
    trainer = Trainer(model, arguments, collate, data, callbacks=callbacks)
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-6") if resume else None)
    return model.weight.detach().clone()


def test_the_last_weights_are_the_average_of_the_second_half(tmp_path):
    diary = Diary()
    ended = train(tmp_path, [diary, WeightAveraging(decay=0.75)])
    average = diary.weights[3]
    for weights in diary.weights[4:]:
        average = 0.75 * average + 0.25 * weights
    torch.testing.assert_close(ended, average)
    assert not torch.allclose(ended, diary.weights[-1])


def test_a_resumed_run_ends_in_the_same_average(tmp_path):
    whole = train(tmp_path, [WeightAveraging(decay=0.75)])
    assert torch.equal(train(tmp_path, [WeightAveraging(decay=0.75)], resume=True), whole)


@pytest.mark.parametrize("options", [{"decay": 1.0}, {"decay": -0.1}, {"start": 2.0}])
def test_shares_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        WeightAveraging(**options)
