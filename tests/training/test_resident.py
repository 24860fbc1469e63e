"""Windows that stay on the training device: the batches and the weights are those of the collator's path, bit for bit."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_trainer_options import FAMILIES

from hf_seqrl.data.windows import GatheredDataset
from hf_seqrl.models.registry import family_named
from hf_seqrl.training import resident
from hf_seqrl.training.resident import ResidentWindows
from hf_seqrl.training.trainer import TrajectoryTrainer


@pytest.fixture(scope="module")
def prepare(cartpole_dataset):
    """`prepare(name)`: a family's data and model, by its name in `FAMILIES`."""

    def prepared(name, **changes):
        torch.manual_seed(0)
        family = family_named(name.split(",")[0])
        return family.prepare(cartpole_dataset.select(range(6)), family.options_class(**{**FAMILIES[name], **changes}))

    return prepared


OF_ANY_LENGTH = [
    name for name in FAMILIES if name.startswith("trajectory-seq2seq")
]  # as long as the longest of a batch


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in OF_ANY_LENGTH])
def test_batches_are_those_of_the_collator(prepare, name):
    prepared = prepare(name)
    items, collator = prepared.train_dataset, prepared.data_collator
    kept = ResidentWindows(items, collator, "cpu")
    order = np.random.default_rng(0).permutation(len(items))
    assert len(kept) == len(items)
    for indices in (order, order[:3], [len(items) - 1, 0]):
        expected, found = collator(items.__getitems__(indices)), kept.gather(indices)
        assert found.keys() == expected.keys()
        for key, values in expected.items():
            assert values.dtype == found[key].dtype and torch.equal(values, found[key]), key


@pytest.mark.parametrize("name", OF_ANY_LENGTH)
def test_batches_of_other_shapes_are_refused(prepare, name):
    prepared = prepare(name)
    with pytest.raises(ValueError, match="batches of one shape are expected, so leave resident out"):
        ResidentWindows(prepared.train_dataset, prepared.data_collator, "cpu")


def test_windows_share_the_encoded_steps(prepare):
    prepared = prepare("decision-transformer", context_length=20)
    kept = ResidentWindows(prepared.train_dataset, prepared.data_collator, "cpu")
    whole = prepared.data_collator(prepared.train_dataset.__getitems__(range(len(kept))))
    assert kept.nbytes < sum(values.nbytes for values in whole.values()) / 15


@pytest.mark.parametrize("changes", [{}, {"return_temperature": 0.3}, {"recipe": "auto", "state_loss_weight": 0.1}])
def test_training_gives_the_same_weights(prepare, arguments, tmp_path, same_weights, changes):
    models = []
    for kept in (False, True):
        prepared = prepare("decision-transformer", **changes)
        trainer = TrajectoryTrainer(
            prepared.model, arguments(tmp_path / str(kept), save_strategy="no"), prepared.data_collator, prepared.train_dataset,
            processing_class=prepared.processor, resident=kept,
        )  # fmt: skip
        trainer.train()
        assert isinstance(trainer.train_dataset, ResidentWindows) == kept
        models.append(prepared.model)
    assert same_weights(*models)
    assert trainer.run_record().data["episodes"] == 6


def test_held_out_episodes_still_reach_the_collator(prepare, arguments):
    prepared = prepare("decision-transformer", eval_fraction=0.4)
    parts = (prepared.data_collator, prepared.train_dataset, prepared.eval_dataset)
    plain, kept = (TrajectoryTrainer(prepared.model, arguments(), *parts, resident=one) for one in (False, True))
    assert kept.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]


class _Items(GatheredDataset):
    def __len__(self):
        return 5

    def gather(self, indices):
        return {"values": np.asarray(indices, np.float32)}


def _collate(change):
    return lambda features: {"values": change(torch.from_numpy(features[0]["values"]))}


def test_a_collator_that_draws_is_refused():
    with pytest.raises(ValueError, match="does not make the same 'values' of the same items"):
        ResidentWindows(_Items(), _collate(lambda values: values + torch.rand(len(values))), "cpu")


def test_a_collator_that_looks_at_the_whole_batch_is_refused():
    with pytest.raises(ValueError, match="does not make the same 'values' of the same items"):
        ResidentWindows(_Items(), _collate(lambda values: values - values.mean()), "cpu")


def test_data_that_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setattr(resident, "os", SimpleNamespace(sysconf=lambda name: 1, sysconf_names=["SC_AVPHYS_PAGES"]))
    with pytest.raises(
        ValueError, match=r"the encoded data take 0\.0 GB and cpu has 0\.0 GB left: leave resident out"
    ):
        ResidentWindows(_Items(), _collate(lambda values: values), "cpu")


def test_what_cannot_stay_on_a_device_is_refused(prepare, arguments):
    with pytest.raises(TypeError, match="the training data are a list"):
        ResidentWindows([1, 2], lambda features: {}, "cpu")
    prepared = prepare("decision-transformer")
    with pytest.raises(ValueError, match="dataloader_num_workers is 2"):
        TrajectoryTrainer(
            prepared.model, arguments(dataloader_num_workers=2), prepared.data_collator, prepared.train_dataset, resident=True
        )  # fmt: skip
