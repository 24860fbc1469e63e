"""Training with `torch_compile`: the weights of eager training, and no batch that is compiled anew."""

import numpy as np
import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from hf_seqrl.models.registry import family_named
from hf_seqrl.training.trainer import TrajectoryTrainer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

FAMILIES = {  # without dropout, for which compiled code has random numbers of its own
    "decision-transformer": {"context_length": 4, "hidden_size": 16, "n_layer": 1, "dropout": 0.0},
    "trajectory-transformer": {
        **{"sequence_transitions": 3, "n_embd": 16, "n_layer": 1, "n_head": 1, "num_bins": 8, "dropout": 0.0},
    },
    "trajectory-seq2seq, gru": {"backbone": "gru", "context_length": 4, "hidden_size": 16},
    "trajectory-seq2seq, transformer": {"backbone": "transformer", "context_length": 4, "hidden_size": 16},
    "cloning": {"hidden_size": 16},
    "critic": {"hidden_size": 16},
}


class CompiledOnce(TrainerCallback):
    """Makes it an error to compile anything after the first update."""

    def on_step_end(self, args, state, control, **kwargs):
        torch.compiler.set_stance("fail_on_recompile")

    def on_train_end(self, args, state, control, **kwargs):
        torch.compiler.set_stance("default")


@pytest.fixture(autouse=True)
def _nothing_is_compiled():
    torch.compiler.reset()
    yield
    torch.compiler.set_stance("default")
    torch.compiler.reset()


def trained(name, dataset, folder, callbacks=(), watch=None, length=4, **options):
    torch.manual_seed(0)
    family = family_named(name.split(",")[0])
    sizes = {"context_length": length} if "context_length" in FAMILIES[name] else {}
    prepared = family.prepare(dataset, family.options_class(**FAMILIES[name] | sizes))
    collate = prepared.data_collator if watch is None else watch(prepared.data_collator)
    quiet = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no"}
    sizes = {"max_steps": 6, "per_device_train_batch_size": 8, "learning_rate": 1e-2}
    arguments = TrainingArguments(str(folder), remove_unused_columns=False, **quiet | sizes | options)
    settings = dict(prepared.trainer_arguments)
    (prepared.trainer_class or TrajectoryTrainer)(
        prepared.model,
        arguments,
        collate,
        prepared.train_dataset,
        processing_class=prepared.processor,
        **{**settings, "callbacks": [*settings.get("callbacks", []), *callbacks]},
    ).train()
    return {name: values.clone() for name, values in prepared.model.state_dict().items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_compiled_model_learns_what_the_eager_one_does_and_is_compiled_once(name, cartpole_dataset, tmp_path):
    dataset = cartpole_dataset.select(range(8))
    eager = trained(name, dataset, tmp_path / "eager")
    options = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    compiled = trained(name, dataset, tmp_path / "compiled", [CompiledOnce()], **options)
    for part, values in eager.items():
        np.testing.assert_allclose(compiled[part], values, rtol=1e-3, atol=1e-4, err_msg=part)


class CompiledForTwoLengths(TrainerCallback):
    """Makes it an error to compile anything once two lengths of batches have been seen."""

    def __init__(self):
        self.lengths = []

    def watch(self, collate):
        def watched(items):
            batch = collate(items)
            self.lengths.append(batch["attention_mask"].shape[1])
            return batch

        return watched

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= 3 and len(set(self.lengths[: state.global_step])) > 1:
            torch.compiler.set_stance("fail_on_recompile")


@pytest.mark.parametrize("name", ["trajectory-seq2seq, gru", "trajectory-seq2seq, transformer"])
def test_batches_of_many_lengths_are_compiled_for_two(name, cartpole_dataset, tmp_path):
    lengths = CompiledForTwoLengths()
    options = {"torch_compile": True, "torch_compile_backend": "aot_eager", "max_steps": 25}
    one = {"per_device_train_batch_size": 1, "dataloader_num_workers": 0}
    trained(name, cartpole_dataset.select(range(8)), tmp_path, [lengths], lengths.watch, 8, **options | one)
    assert len(set(lengths.lengths)) > 3
