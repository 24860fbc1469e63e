"""Training with plain `Trainer`: the original's five steps, decay groups, schedule, accumulation, resuming."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments, get_scheduler, set_seed

from hf_seqrl import TrajectoryTransformerDataCollator
from hf_seqrl.models.trajectory_transformer.legacy import convert_original_checkpoint
from hf_seqrl.models.trajectory_transformer.training import (
    TRAINING_DEFAULTS,
    TrajectoryTransformerOptions,
    decay_parameter_names,
    make_optimizer,
    prepare,
)


def load(path):
    with np.load(path) as arrays:
        return dict(arrays)


class Repeated(torch.utils.data.Dataset):
    """The rows of one batch, again and again."""

    def __init__(self, batch, repeats):
        self.batch, self.repeats = batch, repeats

    def __len__(self):
        return self.repeats * len(self.batch["trajectories"])

    def __getitem__(self, index):
        return {name: rows[index % len(rows)] for name, rows in self.batch.items()}


@pytest.fixture
def original_model(shared_fixture):
    path = shared_fixture("trajectory_transformer", "jannerm_tiny_state_dict.pt")
    dropouts = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
    return convert_original_checkpoint(path, observation_dim=3, n_head=2, **dropouts)


@pytest.fixture
def original_batch(shared_fixture):
    arrays = load(shared_fixture("trajectory_transformer", "jannerm_tiny.npz"))
    names = {"trajectories": "idx", "targets": "targets", "attention_mask": "mask"}
    return {name: torch.from_numpy(arrays[peer]) for name, peer in names.items()}


def recipe(tmp_path, **arguments):
    return TrainingArguments(
        **{
            **TRAINING_DEFAULTS,
            "output_dir": str(tmp_path),
            "use_cpu": True,
            "disable_tqdm": True,
            "logging_steps": 1,
            "save_strategy": "no",
            "seed": 3,
            "train_sampling_strategy": "sequential",
            **arguments,
        }
    )


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_five_updates_by_plain_trainer_equal_the_originals(tmp_path, shared_fixture, original_model, original_batch):
    expected = load(shared_fixture("trajectory_transformer", "jannerm_tiny_train5.npz"))
    arguments = recipe(
        tmp_path, per_device_train_batch_size=3, max_steps=5, lr_scheduler_type="constant", warmup_steps=0
    )
    optimizer = make_optimizer(original_model, arguments)
    trainer = Trainer(
        original_model, arguments, train_dataset=Repeated(original_batch, 5), optimizers=(optimizer, None)
    )
    trainer.train()
    np.testing.assert_allclose(logged(trainer, "loss"), expected["losses"], rtol=1e-4)
    np.testing.assert_allclose(logged(trainer, "grad_norm"), expected["grad_norms"], rtol=1e-4)
    for name in ("head.weight", "tok_emb.weight", "pos_emb"):
        actual = original_model.state_dict()[name].numpy()
        np.testing.assert_allclose(actual, expected["final_" + name.removesuffix(".weight")], rtol=1e-4, atol=1e-6)


def test_only_matrices_decay(shared_fixture, original_model, tmp_path):
    expected = load(shared_fixture("trajectory_transformer", "jannerm_tiny_train5.npz"))
    decaying, others = make_optimizer(original_model, recipe(tmp_path)).param_groups
    assert len(decaying["params"]) == expected["n_decay"] and decaying["weight_decay"] == 0.1
    assert len(others["params"]) == expected["n_nodecay"] and others["weight_decay"] == 0.0
    assert decaying["betas"] == (0.9, 0.95) and decaying["lr"] == 6e-4
    assert not {"tok_emb.weight", "pos_emb", "ln_f.weight"} & set(decay_parameter_names(original_model))


def test_the_schedule_is_the_originals_up_to_its_kink_and_ends_where_it_is_lowest(shared_fixture, tmp_path):
    fixture = load(shared_fixture("trajectory_transformer", "lr_schedule.npz"))
    arguments = recipe(tmp_path)
    assert arguments.get_warmup_steps(20_000) == 1_000
    scheduler = get_scheduler(
        arguments.lr_scheduler_type,
        torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=6e-4),
        num_warmup_steps=1_000,
        num_training_steps=20_000,
        scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
    )
    trained = fixture["tokens"] <= 20_000
    tokens, original = fixture["tokens"][trained], fixture["lr_jannerm_w1000_f20000"][trained]
    rates = np.array([6e-4 * scheduler.lr_lambdas[0](int(count)) for count in tokens])
    rising = tokens <= 1_000
    np.testing.assert_allclose(rates[rising], original[rising], rtol=1e-6)
    assert np.abs(rates - original).max() <= 0.09 * 6e-4
    assert (np.diff(rates[~rising]) <= 0).all() and rates[-1] == pytest.approx(0.1 * 6e-4)


def test_accumulated_gradients_give_the_same_loss_and_norm(tmp_path, original_model, original_batch):
    original_batch = {name: rows[[0, 1, 2, 0]] for name, rows in original_batch.items()}
    state, results = original_model.state_dict(), []
    state = {name: tensor.clone() for name, tensor in state.items()}
    for size, accumulation in ((4, 1), (1, 4)):
        original_model.load_state_dict(state)
        arguments = recipe(
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            warmup_steps=0,
        )
        trainer = Trainer(original_model, arguments, train_dataset=Repeated(original_batch, 1))
        trainer.train()
        results.append((logged(trainer, "loss")[0], logged(trainer, "grad_norm")[0]))
    assert results[0] == pytest.approx(results[1], rel=1e-4)


def episodes(num_episodes=6, steps=12):
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(num_episodes):
        states = np.cumsum(generator.standard_normal((steps, 2), dtype=np.float32), axis=0)
        actions = (states[:, :1] > 0).astype(np.int64)[:, 0]
        rows.append({"observations": states, "actions": actions, "rewards": -(states[:, 0] ** 2)})
        rows[-1]["dones"] = np.arange(steps) == steps - 1
    return Dataset.from_list(rows)


OPTIONS = {"num_bins": 8, "n_layer": 1, "n_head": 2, "n_embd": 16, "sequence_transitions": 3}


def train(tmp_path, resume=None, **arguments):
    set_seed(3)
    prepared = prepare(episodes(), TrajectoryTransformerOptions(**OPTIONS, eval_fraction=0.34))
    arguments = {"train_sampling_strategy": "random", "warmup_steps": 0, **arguments}
    arguments = recipe(tmp_path, per_device_train_batch_size=8, **arguments)
    trainer = Trainer(
        prepared.model,
        arguments,
        prepared.data_collator,
        prepared.train_dataset,
        prepared.eval_dataset,
        processing_class=prepared.processor,
        optimizers=(prepared.make_optimizer(arguments), None),
        **prepared.trainer_arguments,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_prepared_training_lowers_the_loss_and_evaluates_on_episodes_that_were_held_out(tmp_path):
    trainer = train(tmp_path, max_steps=30, learning_rate=1e-2)
    losses = logged(trainer, "loss")
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    assert len(trainer.eval_dataset.dataset) == 3 and len(trainer.train_dataset.dataset) == 3
    assert 0 < trainer.evaluate()["eval_loss"] < losses[0]


def test_evaluation_counts_the_tokens_that_the_model_predicts(tmp_path):
    trainer = train(tmp_path, max_steps=1)
    collected = trainer.evaluate()
    trainer.args.batch_eval_metrics = True
    batched = trainer.evaluate()
    dataset, T = trainer.eval_dataset, trainer.model.config.transition_dim
    batch = trainer.data_collator(dataset.__getitems__(list(range(len(dataset)))))
    with torch.no_grad():
        tokens = trainer.model.eval()(batch["trajectories"]).logits.argmax(-1)
    for kind, entries in {"observation": (0, 1), "action": (2,), "reward": (3,), "value": (4,)}.items():
        right = [
            bool(tokens[row, place] == batch["labels"][row, place])
            for row, place in batch["attention_mask"].nonzero().tolist()
            if (place + 1) % T in entries
        ]
        assert collected[f"eval_{kind}_accuracy"] == pytest.approx(np.mean(right))
        assert batched[f"eval_{kind}_accuracy"] == pytest.approx(np.mean(right))


def test_predictions_are_tokens_and_carry_labels_but_no_hidden_states(tmp_path):
    trainer = train(tmp_path, max_steps=1)
    trainer.model.config.output_hidden_states = True
    predicted = trainer.predict(trainer.eval_dataset)
    assert predicted.predictions.shape == predicted.label_ids.shape == (len(trainer.eval_dataset), 14)
    trainer.preprocess_logits_for_metrics = trainer.compute_metrics = None
    assert trainer.predict(trainer.eval_dataset).predictions.shape == (len(trainer.eval_dataset), 14, 9)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = train(tmp_path / "whole", max_steps=4)
    train(tmp_path / "parts", max_steps=4, save_strategy="steps", save_steps=2)
    assert (tmp_path / "parts" / "checkpoint-2" / "discretizer" / "config.json").exists()
    resumed = train(tmp_path / "parts", resume=str(tmp_path / "parts" / "checkpoint-2"), max_steps=4)
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], weight, rtol=0, atol=0, msg=name)


def test_the_options_reach_windows_planner_and_model():
    planning = {"horizon": 4, "beam_width": 6, "max_context_transitions": 2, "plan_every": 3, "discount": 0.5}
    planning["cdf_act"] = 0.4
    windows = {"termination_penalty": -5.0, "step": 2, "bins": "uniform"}
    architecture = {"dropout": 0.3, "action_weight": 2.0, "value_weight": 3.0}
    options = TrajectoryTransformerOptions(**OPTIONS, **planning, **windows, **architecture)
    prepared = prepare(episodes(), options)
    processor, config = prepared.processor, prepared.model.config
    assert (processor.termination_penalty, processor.step, processor.discount) == (-5.0, 2, 0.5)
    assert processor.planner_options == planning
    unlimited = prepare(episodes(), TrajectoryTransformerOptions(**OPTIONS, cdf_act=0.0))
    assert unlimited.processor.planner_options["cdf_act"] is None
    assert processor.discretizer.config.strategy == "uniform"
    assert (config.attn_pdrop, config.n_embd, config.block_size) == (0.3, 16, 3 * 5 - 1)
    assert (config.action_weight, config.value_weight) == (2.0, 3.0)
    assert prepared.eval_dataset is None


def test_the_collator_keeps_up_to_the_batch_sizes_of_windows():
    prepared = prepare(episodes(), TrajectoryTransformerOptions(**OPTIONS))
    batch = TrajectoryTransformerDataCollator(prepared.processor)(prepared.train_dataset.__getitems__([0, 5, 40]))
    assert {name: tuple(rows.shape) for name, rows in batch.items()} == dict.fromkeys(batch, (3, 14))
    counted = batch["labels"][:, :-1] >= 0
    assert torch.equal(counted, batch["attention_mask"][:, :-1] > 0) and counted.any()
    assert torch.equal(batch["trajectories"][:, 1:][counted], batch["labels"][:, :-1][counted])
    assert json.dumps(prepared.processor.to_dict())
