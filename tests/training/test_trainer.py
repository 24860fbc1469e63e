import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import DecisionTransformerModel, TrainingArguments

from hf_seqrl import Agent, RolloutCallback
from hf_seqrl.data.permutation import PermutationSampler
from hf_seqrl.training.trainer import TrajectoryTrainer


def test_every_checkpoint_of_a_plain_trainer_is_an_agent(make_trainer, arguments, same_weights):
    trainer = make_trainer(arguments(max_steps=2))
    trainer.train()
    agent = Agent.from_pretrained(f"{trainer.args.output_dir}/checkpoint-2")
    assert agent.target_returns == [120.0, 50.0]
    assert same_weights(agent.model, trainer.model)


def test_both_trainers_end_in_the_same_weights(make_trainer, arguments, same_weights, tmp_path):
    ours = make_trainer(arguments(), TrajectoryTrainer)
    ours.train()
    plain = make_trainer(arguments(tmp_path / "plain"))
    plain.train()
    assert same_weights(ours.model, plain.model)


def test_the_card_it_writes_is_the_agents(make_trainer, arguments):
    trainer = make_trainer(
        arguments(max_steps=2, eval_strategy="steps", eval_steps=1),
        TrajectoryTrainer,
        callbacks=[RolloutCallback(num_episodes=2, num_envs=2)],
        dataset_name="me/cartpole",
    )
    trainer.train()
    trainer.create_model_card(model_name="my-agent", license="mit", tags="mine")
    folder = trainer.args.output_dir
    card = ModelCard.load(f"{folder}/README.md")
    assert card.data.license == "mit"
    assert {"mine", "reinforcement-learning"} <= set(card.data.tags)
    assert 'Agent.from_pretrained("my-agent")' in card.text
    assert "2 updates" in card.text
    assert card.data.datasets == ["me/cartpole"]
    with open(f"{folder}/results.json") as file:
        assert json.load(file)["n_eval_episodes"] == 2
    with open(f"{folder}/training_run.json") as file:
        assert json.load(file)["data"]["episodes"] == 30


def test_results_of_other_weights_are_left_out(make_trainer, arguments):
    trainer = make_trainer(arguments(), TrajectoryTrainer, callbacks=[RolloutCallback(num_episodes=2, num_envs=2)])
    trainer.evaluate()
    with torch.no_grad():
        next(trainer.model.parameters()).add_(1.0)  # as training does
    with pytest.warns(UserWarning, match=r"judged other weights than these.*trainer.evaluate\(\) first"):
        trainer.create_model_card()
    assert not Path(trainer.args.output_dir, "results.json").exists()
    trainer.evaluate()
    trainer.create_model_card()
    assert Path(trainer.args.output_dir, "results.json").exists()


def test_the_card_needs_the_processor(make_trainer, arguments):
    trainer = make_trainer(arguments(), TrajectoryTrainer)
    trainer.processing_class = None
    with pytest.raises(ValueError, match="processing_class=processor"):
        trainer.create_model_card()


def test_evaluation_by_rollouts_needs_no_data(make_trainer, arguments):
    callback = RolloutCallback(num_episodes=2, num_envs=2)
    trainer = make_trainer(arguments(eval_strategy="steps", eval_steps=2), TrajectoryTrainer, callbacks=[callback])
    assert trainer.evaluation is None
    assert set(trainer.evaluate()) == {"eval_return", "eval_return_std", "eval_episode_length"}
    assert trainer.evaluation is callback.result


def test_trackers_hear_of_the_rollouts(make_trainer, arguments, monkeypatch):
    from transformers import TrainerCallback

    from hf_seqrl.training import trainer as trainer_module

    class Tracker(TrainerCallback):
        heard: ClassVar = []

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.heard.append(logs)

    monkeypatch.setattr(trainer_module, "get_reporting_integration_callbacks", lambda names: [Tracker])
    callbacks = [Tracker(), RolloutCallback(num_episodes=2, num_envs=2)]
    make_trainer(arguments(), TrajectoryTrainer, callbacks=callbacks).evaluate()
    assert [set(logs) for logs in Tracker.heard] == [{"eval_return", "eval_return_std", "eval_episode_length"}]


def test_plain_transformers_loads_what_it_saves(make_trainer, arguments, tmp_path):
    trainer = make_trainer(arguments(), TrajectoryTrainer)
    trainer.save_model(str(tmp_path / "saved"))
    assert DecisionTransformerModel.from_pretrained(tmp_path / "saved").config.act_dim == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is 0.1"),
        ({"train_sampling_strategy": "group_by_length"}, "windows are all of one length"),
        ({"use_liger_kernel": True}, "kernels for language models only"),
    ],
)
def test_options_that_are_made_for_text_are_refused_before_training(tmp_path, options, message):
    arguments = TrainingArguments(str(tmp_path), use_cpu=True)
    for name, value in options.items():  # some check for a package of their own when they are built
        setattr(arguments, name, value)
    with pytest.raises(ValueError, match=message):
        TrajectoryTrainer(torch.nn.Linear(1, 1), arguments)


def test_a_loader_without_a_batch_is_an_error_and_not_a_trained_agent(make_trainer, arguments):
    trainer = make_trainer(
        arguments(per_device_train_batch_size=100_000, dataloader_drop_last=True), TrajectoryTrainer
    )
    with pytest.raises(ValueError, match="examples fill no batch of 100000"):
        trainer.train()


def test_a_long_order_is_computed_and_a_run_goes_on_within_it(
    make_trainer, arguments, same_weights, tmp_path, monkeypatch
):
    monkeypatch.setattr("hf_seqrl.training.trainer._LONG_ORDER", 1)
    whole = make_trainer(arguments(max_steps=6), TrajectoryTrainer)
    loader = whole.get_train_dataloader()
    assert isinstance(loader.batch_sampler.sampler, PermutationSampler)
    assert len(loader) > 6, "the run below stops within the first epoch"
    whole.train()
    part = make_trainer(arguments(tmp_path / "part", max_steps=6), TrajectoryTrainer)
    part.train()
    resumed = make_trainer(arguments(tmp_path / "part", max_steps=6), TrajectoryTrainer)
    resumed.train(resume_from_checkpoint=str(tmp_path / "part" / "checkpoint-2"))
    assert same_weights(whole.model, resumed.model)
    other = make_trainer(arguments(tmp_path / "other", max_steps=6, data_seed=8), TrajectoryTrainer)
    other.train()
    assert not same_weights(whole.model, other.model)


def test_noise_is_refused_for_a_model_without_embeddings(tmp_path):
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, neftune_noise_alpha=5.0)
    with pytest.raises(ValueError, match="a Linear has no embeddings that noise could be added to"):
        TrajectoryTrainer(torch.nn.Linear(1, 1), arguments)
