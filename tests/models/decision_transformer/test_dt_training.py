"""`prepare`, and plain `Trainer` on what it gives."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import DecisionTransformerConfig, HfArgumentParser, Trainer, TrainingArguments

from hf_seqrl import DecisionTransformerGymDataCollator, TrainableDT
from hf_seqrl.models.averaging import WeightAveraging
from hf_seqrl.models.decision_transformer.training import DecisionTransformerOptions, prepare
from hf_seqrl.models.registry import family_of

SMALL = {"context_length": 6, "hidden_size": 16, "n_layer": 2, "dropout": 0.0}


def arguments(folder, **changes):
    settings = family_of("decision_transformer").training_defaults | {"per_device_train_batch_size": 8, "max_steps": 4}
    settings |= {"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "seed": 1}
    return TrainingArguments(str(folder), **(settings | changes))


def trained(prepared, folder, **changes):
    trainer = Trainer(
        prepared.model,
        arguments(folder, **changes),
        train_dataset=prepared.train_dataset,
        eval_dataset=prepared.eval_dataset,
        data_collator=prepared.data_collator,
        processing_class=prepared.processor,
    )
    trainer.train()
    return trainer


def weights_after(dataset, folder, **changes):
    torch.manual_seed(0)
    return trained(prepare(dataset, DecisionTransformerOptions(**SMALL)), folder, **changes).model.state_dict()


def test_accumulated_batches_give_the_weights_of_whole_ones(episodes, tmp_path):
    dataset = episodes(lengths=(30, 4, 11, 3, 2))  # many windows are padded: means of means would differ
    whole = weights_after(dataset, tmp_path, learning_rate=1e-2)
    parts = weights_after(
        dataset, tmp_path, learning_rate=1e-2, per_device_train_batch_size=2, gradient_accumulation_steps=4
    )
    start = weights_after(dataset, tmp_path, learning_rate=0.0)
    name = "encoder.h.0.mlp.c_fc.weight"
    moved = (whole[name] - start[name]).abs().mean()
    assert moved > 1e-3
    assert (whole[name] - parts[name]).abs().mean() < 1e-3 * moved


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["", "checkpointing"])
def test_two_processes_give_the_weights_of_one(episodes, tmp_path, checkpointing):
    episodes(lengths=(30, 4, 11, 3, 2)).save_to_disk(str(tmp_path / "data"))
    weights = []
    for processes, batch_size in ((1, 8), (2, 4)):
        target = tmp_path / f"weights-{processes}.pt"
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            f"--nproc_per_node={processes}",
            "--master_port=29517",
        ]
        script = Path(__file__).with_name("train_in_parallel.py")
        subprocess.run(
            [*command, script, tmp_path / "data", target, str(batch_size), checkpointing],
            check=True,
            capture_output=True,
        )
        weights.append(torch.load(target, weights_only=True))
    for name, one in weights[0].items():
        torch.testing.assert_close(weights[1][name], one, rtol=1e-3, atol=1e-5, msg=name)


def test_held_out_episodes_give_an_eval_loss(episodes, tmp_path):
    options = DecisionTransformerOptions(**SMALL, eval_fraction=0.4)
    prepared = prepare(episodes(lengths=(9, 9, 9, 9, 9)), options)
    assert (len(prepared.train_dataset), len(prepared.eval_dataset)) == (27, 18)
    metrics = trained(prepared, tmp_path, max_steps=1).evaluate()
    batch = prepared.data_collator(prepared.eval_dataset.__getitems__(range(18)))
    with torch.no_grad():
        assert metrics["eval_loss"] == pytest.approx(prepared.model.eval()(**batch).loss.item(), rel=1e-4)


def test_evaluation_in_half_precision_takes_the_batches_of_the_collator(episodes, tmp_path):
    prepared = prepare(episodes(lengths=(9, 9, 9)), DecisionTransformerOptions(**SMALL, eval_fraction=0.4))
    trainer = Trainer(prepared.model, arguments(tmp_path, bf16_full_eval=True), prepared.data_collator)
    exact = prepared.model.eval()(
        **prepared.data_collator(prepared.eval_dataset.__getitems__(range(len(prepared.eval_dataset))))
    ).loss.item()
    assert trainer.evaluate(prepared.eval_dataset)["eval_loss"] == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("auxiliary", [{}, {"state_loss_weight": 0.1}])
@pytest.mark.parametrize(("actions", "metric"), [(None, "action_error"), (3, "action_accuracy")])
def test_evaluation_reports_how_far_actions_are_off(episodes, tmp_path, actions, metric, auxiliary):
    options = DecisionTransformerOptions(**SMALL, eval_fraction=0.4, **auxiliary)
    prepared = prepare(episodes(lengths=(9, 9, 9, 9), actions=actions), options)
    settings = arguments(tmp_path, per_device_eval_batch_size=5)
    trainer = Trainer(
        prepared.model,
        settings,
        prepared.data_collator,
        eval_dataset=prepared.eval_dataset,
        **prepared.trainer_arguments,
    )
    metrics = trainer.evaluate()
    batch = prepared.data_collator(prepared.eval_dataset.__getitems__(range(len(prepared.eval_dataset))))
    with torch.no_grad():
        predicted = prepared.model.eval()(**batch).action_preds
    real = batch["attention_mask"] > 0
    if actions:
        expected = (predicted.argmax(-1) == batch["labels"])[real].float().mean().item()
    else:
        scale = torch.as_tensor(prepared.processor.action_scale)
        expected = ((predicted - batch["labels"]).abs() * scale)[real].mean().item()
    assert metrics[f"eval_{metric}"] == pytest.approx(expected, rel=1e-4)
    assert metrics["eval_loss"] > 0


def test_predictions_are_the_actions_and_labels_come_along(episodes, tmp_path):
    prepared = prepare(episodes(), DecisionTransformerOptions(**SMALL))
    trainer = Trainer(prepared.model, arguments(tmp_path, batch_eval_metrics=False), prepared.data_collator)
    output = trainer.predict(prepared.train_dataset)
    assert output.predictions.shape == output.label_ids.shape == (45, 6, 3)


def test_noise_on_the_embeddings_is_an_option_of_trainer(episodes, tmp_path):
    plain = weights_after(episodes(), tmp_path)
    noisy = weights_after(episodes(), tmp_path, neftune_noise_alpha=5.0)
    assert any((plain[name] != noisy[name]).any() for name in plain)


def test_bfloat16_and_activation_checkpointing_are_options_of_trainer(episodes, tmp_path, checkpointing_argument):
    prepared = prepare(episodes(), DecisionTransformerOptions(**SMALL))
    trainer = trained(prepared, tmp_path, bf16=True, logging_steps=1, **{checkpointing_argument: True})
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 4 and np.isfinite(losses).all()


@pytest.mark.parametrize("actions", [None, 3])
def test_the_published_script_works_on_rows_of_the_data_set(episodes, tmp_path, actions):
    dataset = episodes(lengths=(40, 50, 60), actions=actions)
    collator = DecisionTransformerGymDataCollator(dataset)
    config = DecisionTransformerConfig(state_dim=collator.state_dim, act_dim=collator.act_dim)
    torch.manual_seed(0)
    model = TrainableDT(config)
    settings = arguments(tmp_path, max_steps=-1, num_train_epochs=3, per_device_train_batch_size=2, logging_steps=1)
    Trainer(model=model, args=settings, train_dataset=dataset, data_collator=collator).train()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_training_learns_what_the_data_show(tmp_path):
    from datasets import Dataset

    rng = np.random.default_rng(0)
    states = rng.normal(size=(20, 30, 3)).astype(np.float32)
    dataset = Dataset.from_dict(
        {
            "observations": states.tolist(),
            "actions": (states[..., 0] > 0).astype(int).tolist(),
            "rewards": np.ones((20, 30)).tolist(),
            "dones": [[False] * 30] * 20,
        }
    )
    torch.manual_seed(0)
    prepared = prepare(dataset, DecisionTransformerOptions(**SMALL, eval_fraction=0.2))
    trainer = trained(prepared, tmp_path, max_steps=60, learning_rate=3e-3, per_device_train_batch_size=16)
    assert trainer.evaluate()["eval_loss"] < 0.3 < np.log(2)


def test_sliding_attention_trains_on_windows_of_twice_its_reach(episodes):
    prepared = prepare(episodes(), DecisionTransformerOptions(**SMALL, sliding=True))
    assert prepared.model.config.sliding_attention == prepared.processor.context_length == 6
    batch = prepared.data_collator(prepared.train_dataset.__getitems__([0]))
    assert batch["states"].shape[1] == 12
    prepared = prepare(episodes(), DecisionTransformerOptions(**SMALL, sliding=True, window_length=9))
    assert prepared.data_collator(prepared.train_dataset.__getitems__([0]))["states"].shape[1] == 9


def test_filtered_behaviour_cloning_is_a_choice_of_data_and_conditioning(episodes):
    dataset = episodes()
    returns = [sum(row) for row in dataset["rewards"]]
    best = int(np.argmax(returns))
    prepared = prepare(dataset, DecisionTransformerOptions(**SMALL, best_fraction=0.01, conditioning="none"))
    assert len(prepared.train_dataset) == len(dataset[best]["rewards"])
    assert (prepared.data_collator(prepared.train_dataset.__getitems__([0, 1]))["returns_to_go"] == 0).all()
    np.testing.assert_allclose(
        prepared.processor.state_mean, np.mean(dataset[best]["observations"], axis=0), rtol=1e-4, atol=1e-5
    )


def test_the_discount_reaches_windows_processor_and_batches(episodes):
    prepared = prepare(
        episodes(lengths=(3,)),
        DecisionTransformerOptions(**SMALL, discount=0.5, return_scale=2.0, return_form="to_go"),
    )
    rewards = episodes(lengths=(3,))[0]["rewards"]
    returns = prepared.data_collator(prepared.train_dataset.__getitems__([0]))["returns_to_go"][0, -3:, 0]
    expected = [rewards[0] + rewards[1] / 2 + rewards[2] / 4, rewards[1] + rewards[2] / 2, rewards[2]]
    np.testing.assert_allclose(returns, np.array(expected) / 2, rtol=1e-5)
    assert prepared.processor.target_returns[0] == pytest.approx(expected[0], rel=1e-5)


def test_options_and_defaults_are_arguments_of_a_command(tmp_path):
    parser = HfArgumentParser(DecisionTransformerOptions)
    (options,) = parser.parse_args_into_dataclasses(
        ["--n_layer", "4", "--sliding", "--target_returns", "3600", "1800"]
    )
    assert options == DecisionTransformerOptions(n_layer=4, sliding=True, target_returns=[3600.0, 1800.0])
    assert "10 %" in parser.format_help()
    assert arguments(tmp_path).get_warmup_steps(1000) == 100


def episodes_of(rewards, seed=0):
    """A data set of one-dimensional episodes with these rewards, a list of floats for each."""
    from datasets import Dataset

    rng = np.random.default_rng(seed)
    rows = {"observations": [], "actions": [], "rewards": rewards, "dones": []}
    for row in rewards:
        rows["observations"].append(rng.normal(size=(len(row), 1)).tolist())
        rows["actions"].append(rng.uniform(-1, 1, (len(row), 1)).tolist())
        rows["dones"].append([False] * (len(row) - 1) + [True])
    return Dataset.from_dict(rows)


def test_by_default_the_pace_is_read_without_time_and_good_episodes_are_drawn_more_often():
    returns = np.linspace(1, 100, 60)
    prepared = prepare(episodes_of([[value / 5] * 5 for value in returns]), DecisionTransformerOptions())
    processor = prepared.processor
    assert (processor.return_form, processor.timesteps, processor.past_actions) == ("pace", "none", False)
    assert prepared.model.config.max_ep_len == 1 and processor.target_returns[0] == pytest.approx(100, rel=1e-5)
    batch = prepared.data_collator(prepared.train_dataset.__getitems__(range(300)))
    assert (batch["timesteps"] == 0).all() and (batch["actions"] == 0).all() and (batch["labels"] != 0).any()
    read = batch["returns_to_go"][batch["attention_mask"] > 0]
    assert abs(read.mean().item()) < 0.5 and 0.5 < read.std().item() < 1.5
    steps = prepared.train_dataset.draw.steps(np.arange(300))
    assert returns[prepared.train_dataset.columns.episode_of(steps)].mean() > 1.3 * returns.mean()
    assert "return_form pace" in prepared.notes[0] and "return_temperature 0.1" in prepared.notes[1]
    assert [type(callback) for callback in prepared.trainer_arguments["callbacks"]] == [WeightAveraging]


def test_by_default_the_model_counts_down_where_every_step_has_the_same_reward():
    prepared = prepare(episodes_of([[1.0] * n for n in range(1, 60)]), DecisionTransformerOptions())
    processor = prepared.processor
    assert (processor.return_form, processor.timesteps, processor.past_actions) == ("to_go", "absolute", True)
    assert prepared.model.config.max_ep_len == 59
    assert "every step has the same reward" in prepared.notes[0]


def test_what_is_given_stays_as_it_is():
    given = {"return_form": "to_go", "timesteps": "absolute", "past_actions": True, "uniform_share": 0.0}
    options = DecisionTransformerOptions(**given, return_temperature=0.0)
    prepared = prepare(episodes_of([[float(n)] * 5 for n in range(60)]), options)
    assert prepared.train_dataset.draw is None
    assert {name: getattr(prepared.processor, name) for name in ("return_form", "timesteps", "past_actions")} == {
        name: given[name] for name in ("return_form", "timesteps", "past_actions")
    }


def test_half_of_the_drawn_steps_show_what_is_done_when_the_best_is_asked_for():
    returns = np.random.default_rng(0).uniform(0, 100, 300)
    prepared = prepare(episodes_of([[value / 5] * 5 for value in returns]), DecisionTransformerOptions())
    processor = prepared.processor
    low, high = processor.return_bounds
    assert low == 0 and 0.5 * returns.max() < high < returns.max()
    batch = prepared.data_collator(prepared.train_dataset.__getitems__(range(1500)))
    read = batch["returns_to_go"][:, -1, 0].numpy()
    at_the_bound = np.isclose(read, processor.encode_targets(np.array([returns.max()]), np.zeros(1, int)))
    assert 0.4 < at_the_bound.mean() < 0.6


def test_a_clone_reads_neither_time_nor_past_actions():
    dataset = episodes_of([[1.0] * (n % 7 + 1) for n in range(40)])
    processor = prepare(dataset, DecisionTransformerOptions(conditioning="none")).processor
    assert (processor.return_form, processor.timesteps, processor.past_actions) == ("to_go", "none", False)


def test_the_recipe_of_the_paper():
    prepared = prepare(episodes_of([[float(n)] * 5 for n in range(60)]), DecisionTransformerOptions(recipe="paper"))
    processor, config = prepared.processor, prepared.model.config
    read = (processor.return_form, processor.timesteps, processor.past_actions, processor.context_length)
    assert read == ("to_go", "absolute", True, 20) and (config.hidden_size, config.attn_pdrop) == (128, 0.1)
    assert prepared.train_dataset.draw is None and prepared.notes == () == tuple(
        prepared.trainer_arguments["callbacks"]
    )


def test_weights_of_steps_reach_the_loss(episodes):
    from hf_seqrl import TrajectoryWindows

    dataset = episodes(lengths=(8,))
    prepared = prepare(dataset, DecisionTransformerOptions(**SMALL))
    weights = np.array([0, 0, 1, 0, 0, 0, 0, 0], np.float32)
    windows = TrajectoryWindows(dataset, prepared.processor, step_weights=weights)
    batch = prepared.data_collator(windows.__getitems__([0]))
    output = prepared.model.eval()(**batch)
    expected = (output.action_preds[0, 2] - batch["labels"][0, 2]).square().mean() / 6
    torch.testing.assert_close(output.loss, expected)


def test_a_model_without_time_is_the_stock_model_given_zeros(episodes, tmp_path):
    from transformers import DecisionTransformerModel

    prepared = prepare(episodes(), DecisionTransformerOptions(**SMALL, timesteps="none", past_actions=False))
    prepared.model.save_pretrained(tmp_path)
    batch = prepared.data_collator(prepared.train_dataset.__getitems__([0, 3]))
    with torch.no_grad():
        ours = prepared.model.eval()(**batch).action_preds
        stock = DecisionTransformerModel.from_pretrained(tmp_path).eval()(**batch).action_preds
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-5)
