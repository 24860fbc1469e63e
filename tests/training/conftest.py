"""A Decision Transformer that trains in a second."""

import pytest
import torch
from transformers import Trainer, TrainingArguments

from hf_seqrl.models.decision_transformer import DecisionTransformerOptions
from hf_seqrl.models.registry import family_of


@pytest.fixture(scope="session")
def family():
    return family_of("decision_transformer")


@pytest.fixture
def options():
    return DecisionTransformerOptions(context_length=4, hidden_size=16, n_layer=1, target_returns=[120.0, 50.0])


@pytest.fixture
def arguments(tmp_path):
    """`arguments(max_steps=4)`: quiet `TrainingArguments` whose output folder is `tmp_path / "run"`."""

    def make(output_dir=tmp_path / "run", **changes) -> TrainingArguments:
        quiet = {"use_cpu": True, "disable_tqdm": True, "report_to": "none"}
        small = {"max_steps": 6, "save_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 8, "seed": 3}
        return TrainingArguments(
            output_dir=str(output_dir), **{**quiet, **small, "remove_unused_columns": False, **changes}
        )

    return make


@pytest.fixture
def make_trainer(cartpole_dataset, family, options):
    """`make_trainer(arguments, trainer_class, callbacks=...)`: everything prepared from the tiny options."""

    def make(training_arguments, trainer_class=Trainer, **keywords) -> Trainer:
        torch.manual_seed(0)
        prepared = family.prepare(cartpole_dataset, options)
        return trainer_class(
            prepared.model,
            training_arguments,
            prepared.data_collator,
            prepared.train_dataset,
            processing_class=prepared.processor,
            **keywords,
        )

    return make


@pytest.fixture
def same_weights():
    """Whether two models hold the same values, bit for bit."""

    def compare(one, other) -> bool:
        ours, theirs = one.state_dict(), other.state_dict()
        return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)

    return compare
