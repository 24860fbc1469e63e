"""REINFORCE by `Trainer`: on policy, seeded, resumable, and it learns."""

import json

import numpy as np
import pytest
import torch
from transformers import TrainerCallback, TrainingArguments, set_seed

from hf_seqrl import rollout
from hf_seqrl.data.returns import discounted_returns
from hf_seqrl.envs.bicycle_optimum import optimal_return
from hf_seqrl.envs.bicycle_rules import BicycleConfig
from hf_seqrl.models.policy.policy_gradient import PolicyGradientTrainer
from hf_seqrl.models.registry import family_of

BICYCLE = "hf_seqrl/BicycleGrid-v0"


class Watched(PolicyGradientTrainer):
    """Remembers the episodes and the learning signal of every update, and the weights when each loss is computed."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.collected, self.signals, self.recomputed = [], [], []

    def learning_signal(self, episodes):
        self.collected.append(episodes)
        self.signals.append(super().learning_signal(episodes))
        self.recomputed.append([])
        return self.signals[-1]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        with torch.no_grad():
            self.recomputed[-1].append(model(inputs["observations"], inputs["actions"]).log_probs)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


def make_trainer(
    folder, num_episodes=48, env_id=BICYCLE, env_kwargs=None, trainer_class=Watched, hidden_size=16, **arguments
):
    family = family_of("policy_gradient")
    options = family.options_class(
        env_id=env_id, env_kwargs=json.dumps(env_kwargs or {}), num_episodes=num_episodes, hidden_size=hidden_size
    )
    defaults = {
        **family.training_defaults,
        "per_device_train_batch_size": 8,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
    }
    training_arguments = TrainingArguments(str(folder), **{**defaults, **arguments})
    set_seed(training_arguments.seed)
    prepared = family.prepare(None, options)
    return trainer_class(
        prepared.model,
        training_arguments,
        prepared.data_collator,
        prepared.train_dataset,
        processing_class=prepared.processor,
        **prepared.trainer_arguments,
    )


def weights_of(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_same_weights(left, right, **tolerance):
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], **tolerance)


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("env_kwargs", [{}, {"continuous_actions": True, "random_starts": True}])
def test_the_episodes_of_an_update_come_from_the_weights_that_it_updates(tmp_path, accumulation, env_kwargs):
    trainer = make_trainer(
        tmp_path, gradient_accumulation_steps=accumulation, env_kwargs=env_kwargs, learning_rate=0.05
    )
    trainer.train()
    assert len(trainer.collected) == trainer.state.global_step == 6 // accumulation
    for episodes, recomputed in zip(trainer.collected, trainer.recomputed, strict=True):
        assert len(recomputed) == accumulation
        torch.testing.assert_close(torch.cat(recomputed), episodes.log_probs, atol=1e-5, rtol=0)
    stale = trainer.model(trainer.collected[0].observations, trainer.collected[0].actions).log_probs
    assert (stale - trainer.collected[0].log_probs).abs().max() > 0.01  # the weights have moved since


def test_whole_episodes_are_collected_one_for_each_place(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    for episodes in trainer.collected:
        assert len(episodes.offsets) == 9 and episodes.offsets[-1] == len(episodes.rewards)
        last = episodes.rewards[episodes.offsets[1:] - 1]
        lengths = np.diff(episodes.offsets)
        assert ((last == 100) | (lengths == 200)).all()
        assert (np.delete(episodes.rewards, episodes.offsets[1:] - 1) == -1).all()


def test_returns_are_discounted_and_normalized_over_the_update(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.train()
    for episodes, signal in zip(trainer.collected, trainer.signals, strict=True):
        returns = discounted_returns(episodes.rewards, episodes.offsets, 0.99)
        expected = (returns - returns.mean()) / returns.std()
        np.testing.assert_allclose(signal["returns"], expected, atol=1e-4)
        advantages = expected - episodes.state_values.numpy()
        np.testing.assert_allclose(
            signal["advantages"], (advantages - advantages.mean()) / advantages.std(), atol=1e-3
        )


def test_accumulated_batches_make_the_same_update_as_one_large_batch(tmp_path):
    trainers = [
        make_trainer(tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=16 // size)
        for size in (16, 4)
    ]
    for trainer in trainers:
        trainer.train()
    whole, parts = trainers
    assert whole.state.global_step == parts.state.global_step == 3
    assert_same_weights(weights_of(whole), weights_of(parts), atol=1e-4, rtol=0)
    losses = [[entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in trainers]
    np.testing.assert_allclose(*losses, atol=1e-4)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    runs = []
    for seed in (0, 0, 1):
        trainer = make_trainer(tmp_path, seed=seed)
        trainer.train()
        runs.append(weights_of(trainer))
    assert_same_weights(runs[0], runs[1], rtol=0, atol=0)
    assert not torch.equal(runs[0]["policy.0.weight"], runs[2]["policy.0.weight"])


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


@pytest.mark.parametrize("stop", [4, 6])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, stop):
    arguments = {
        "save_strategy": "steps",
        "save_steps": 2,
        "num_train_epochs": 2,
        "env_kwargs": {"random_starts": True},
    }
    whole = make_trainer(tmp_path / "whole", num_episodes=40, **arguments)
    whole.train()
    first = make_trainer(tmp_path / "parts", num_episodes=40, **arguments)
    first.add_callback(StopAt(stop))
    first.train()
    second = make_trainer(tmp_path / "parts", num_episodes=40, **arguments)
    second.train(resume_from_checkpoint=str(tmp_path / "parts" / f"checkpoint-{stop}"))
    assert whole.state.global_step == second.state.global_step == 10
    assert_same_weights(weights_of(whole), weights_of(second), rtol=0, atol=0)


def test_the_log_tells_the_mean_return_of_the_training_episodes(tmp_path):
    trainer = make_trainer(tmp_path, logging_steps=2)
    trainer.train()
    logged = [entry["train_return"] for entry in trainer.state.log_history if "train_return" in entry]
    per_update = [episodes.rewards.sum() / 8 for episodes in trainer.collected]
    np.testing.assert_allclose(logged, np.reshape(per_update, (3, 2)).mean(1), rtol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_solves_the_bicycle_within_one_step_of_the_optimum(tmp_path, seed):
    trainer = make_trainer(
        tmp_path,
        num_episodes=64 * 100,  # the default options, as they are
        hidden_size=64,
        per_device_train_batch_size=64,
        seed=seed,
        trainer_class=PolicyGradientTrainer,
        logging_steps=50,
    )
    trainer.train()
    actor = family_of("policy_gradient").make_actor(trainer.model.eval(), trainer.processing_class)
    result = rollout(actor, BICYCLE, num_episodes=100, num_envs=100, seed=1000)
    assert result.returns.min() >= optimal_return(BicycleConfig(5)) - 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_balances_the_pole_with_the_default_options(tmp_path, seed):
    from hf_seqrl.training.run import Judgement, train_agent

    family = family_of("policy_gradient")
    arguments = TrainingArguments(str(tmp_path), **family.training_defaults, seed=seed, use_cpu=True)
    agent = train_agent(
        family, None, family.options_class(env_id="CartPole-v1"), arguments, judgement=Judgement(num_episodes=100)
    )
    assert agent.evaluation.mean_return >= 475


def test_a_data_set_is_refused():
    family = family_of("policy_gradient")
    with pytest.raises(ValueError, match="leave it out and name the environment"):
        family.prepare(object(), family.options_class())
