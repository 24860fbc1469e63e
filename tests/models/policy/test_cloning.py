"""Behavior cloning by a multilayer perceptron: all, filtered, weighted and return-conditioned, trained by `Trainer`."""

from functools import partial

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from transformers import AutoModel, Trainer, TrainingArguments, set_seed

from hf_seqrl import Agent, judge_offline, load_trajectories
from hf_seqrl.data.windows import TrajectoryWindows
from hf_seqrl.models import critic
from hf_seqrl.models.policy import CLONING, CloningOptions, PolicyConfig, PolicyModel, PolicyProcessor
from hf_seqrl.models.policy.processing_policy import PolicyDataCollator

one_member = partial(CloningOptions, num_members=1)
SPACES = {
    "Discrete": Discrete(3, start=-1),
    "MultiDiscrete": MultiDiscrete([2, 3]),
    "Box": Box(-np.inf, np.inf, (2,)),
}
OBSERVATIONS = {"Box": Box(-np.inf, np.inf, (2,)), "Discrete": Discrete(4)}


def rule(head, observation):
    """What the episodes do: an action for every observation `(2,)`."""
    up, right = observation > 0
    if head == "Box":
        return [2.0 + observation[0], 100.0 * observation[1]]
    return int(up) + int(right) - 1 if head == "Discrete" else [int(up), 2 * int(right)]


def episodes(head, num_episodes=40, length=25, wrong_share=0.0):
    """Episodes that follow the rule, and a share of worse ones that do the opposite."""
    generator = np.random.default_rng(0)
    observations = generator.normal(size=(num_episodes, length, 2)).astype(np.float32)
    wrong = np.arange(num_episodes) < wrong_share * num_episodes
    actions = [[rule(head, -step if wrong[k] else step) for step in observations[k]] for k in range(num_episodes)]
    rewards = np.where(wrong, 0.0, 1.0)[:, None].repeat(length, 1)
    columns = {"observations": observations, "actions": actions, "rewards": rewards}
    columns["terminations"] = np.zeros((num_episodes, length), bool)
    return load_trajectories({name: list(values) for name, values in columns.items()}, action_space=SPACES[head])


def train(dataset, folder, options=None, trainer_class=Trainer, **arguments):
    settings = {"max_steps": 150, "learning_rate": 3e-3, "save_strategy": "no", "logging_strategy": "no"}
    settings |= {"use_cpu": True, "disable_tqdm": True, "report_to": "none"}
    set_seed(0)
    prepared = CLONING.prepare(dataset, options or one_member())
    training_arguments = TrainingArguments(str(folder), **{**CLONING.training_defaults, **settings, **arguments})
    trainer = trainer_class(
        prepared.model,
        training_arguments,
        prepared.data_collator,
        prepared.train_dataset,
        processing_class=prepared.processor,
        **prepared.trainer_arguments,
    )
    trainer.train()
    return trainer


def agreement(trainer, head, target_return=None, sign=1):
    """Share of new observations in which the agent follows the rule (its opposite for `sign=-1`); for `Box` 1 - the
    unexplained variance."""
    observations = np.random.default_rng(1).normal(size=(400, 2)).astype(np.float32)
    agent = Agent(trainer.model, trainer.processing_class)
    agent.reset(400, target_return=target_return)
    actions, expected = agent.act(observations), np.array([rule(head, sign * one) for one in observations])
    if head == "Box":
        return 1 - (((actions - expected) ** 2).mean(0) / expected.var(0)).max()
    return (actions == expected).reshape(400, -1).all(1).mean()


@pytest.mark.parametrize("head", SPACES)
def test_it_learns_to_do_what_the_data_do(head, tmp_path):
    assert agreement(train(episodes(head), tmp_path), head) > 0.9


@pytest.mark.parametrize(
    "options",
    [one_member(best_fraction=0.4), one_member(min_return=20.0), one_member()],
)
def test_filtered_and_weighted_cloning_do_what_the_good_episodes_do(options, tmp_path):
    assert agreement(train(episodes("Discrete", wrong_share=0.6), tmp_path, options), "Discrete") > 0.9


@pytest.mark.parametrize("return_form", ["pace", "to_go"])
def test_a_conditioned_policy_does_what_episodes_of_that_return_do(return_form, tmp_path):
    dataset = episodes("Discrete", wrong_share=0.5, length=10)
    options = one_member(conditioning="return", return_form=return_form, weighting="none")
    trainer = train(dataset, tmp_path, options, max_steps=250)
    assert trainer.processing_class.target_returns == [10.0, 0.0]
    assert agreement(trainer, "Discrete", 10.0) > 0.9
    assert agreement(trainer, "Discrete", 0.0, sign=-1) > 0.9


def test_the_pace_is_the_return_to_go_at_the_rate_of_a_whole_episode():
    processor = PolicyProcessor(max_episode_steps=100, conditioning="return", return_bounds=[0.0, 120.0])
    read = processor.read_returns(np.array([100.0, 50.0, 90.0, 1.0]), np.array([0, 50, 50, 99]))
    assert read.tolist() == [100.0, 100.0, 120.0, 50.0]


def test_an_acting_policy_reads_what_the_collator_gave_it_in_training(tmp_path):
    dataset = episodes("Discrete", num_episodes=4, length=6)
    processor = PolicyProcessor.from_dataset(dataset, conditioning="return")
    batch = PolicyDataCollator(processor)([TrajectoryWindows(dataset, processor)[step] for step in range(6)])
    model, seen = PolicyModel(processor.model_config(hidden_size=8)), []
    model.logits, logits = lambda **inputs: seen.append(inputs) or logits(**inputs), model.logits
    agent = Agent(model, processor)
    agent.reset(1, target_return=6.0)
    for observation in dataset[0]["observations"]:
        agent.act(np.array([observation], np.float32))
        agent.observe(np.ones(1), np.zeros(1, bool))
    for name in ("observations", "target_returns"):
        torch.testing.assert_close(torch.cat([inputs[name] for inputs in seen]), batch[name])


def test_discrete_observations_are_learned_from_one_hot_vectors(tmp_path):
    generator = np.random.default_rng(0)
    states = generator.integers(4, size=(20, 10))
    columns = {"observations": states, "actions": states % 2, "rewards": np.ones((20, 10))}
    columns["terminations"] = np.zeros((20, 10), bool)
    dataset = load_trajectories(
        {name: list(values) for name, values in columns.items()}, observation_space=Discrete(4)
    )
    trainer = train(dataset, tmp_path, per_device_train_batch_size=64)
    agent = Agent(trainer.model, trainer.processing_class)
    agent.reset(4)
    assert agent.act(np.arange(4)).tolist() == [0, 1, 0, 1]


def test_weights_of_steps_scale_their_losses():
    torch.manual_seed(0)
    model = PolicyModel(
        PolicyProcessor(observation_space=OBSERVATIONS["Box"], action_space=SPACES["Box"]).model_config()
    )
    observations, actions = torch.randn(4, 2), torch.randn(4, 2)
    weights = torch.tensor([0.0, 2.0, 0.0, 2.0])
    expected = model(observations[1::2], actions[1::2]).loss
    torch.testing.assert_close(model(observations, actions, weights=weights).loss, expected)


def test_the_deviation_of_box_actions_is_that_of_the_data_around_the_policy(tmp_path):
    generator = np.random.default_rng(0)
    actions = generator.normal(scale=[3.0, 0.5], size=(20, 100, 2))
    columns = {"observations": np.zeros((20, 100, 2)), "actions": actions, "rewards": np.ones((20, 100))}
    columns["terminations"] = np.zeros((20, 100), bool)
    trainer = train(
        load_trajectories({name: list(values) for name, values in columns.items()}), tmp_path, max_steps=300
    )
    agent = Agent(trainer.model, trainer.processing_class, deterministic=False)
    agent.reset(4000, seed=0)
    np.testing.assert_allclose(agent.act(np.zeros((4000, 2))).std(0), [3.0, 0.5], rtol=0.1)


def test_a_conditioned_policy_refuses_to_act_without_a_return():
    processor = PolicyProcessor(
        observation_space=OBSERVATIONS["Box"], action_space=SPACES["Box"], conditioning="return", max_episode_steps=9
    )
    with pytest.raises(ValueError, match="target_returns are missing"):
        PolicyModel(processor.model_config())(torch.zeros(1, 2))


@pytest.mark.parametrize("options", [one_member(), one_member(conditioning="return")])
def test_a_saved_agent_is_the_trained_one(options, tmp_path):
    trainer = train(episodes("MultiDiscrete"), tmp_path / "run", options, max_steps=20)
    agent = Agent(trainer.model, trainer.processing_class)
    agent.save_pretrained(tmp_path / "agent")
    loaded = Agent.from_pretrained(tmp_path / "agent")
    assert isinstance(AutoModel.from_pretrained(tmp_path / "agent"), PolicyModel)
    held_out = episodes("MultiDiscrete", num_episodes=5)
    np.testing.assert_array_equal(judge_offline(loaded, held_out).losses, judge_offline(agent, held_out).losses)
    assert loaded.processor.to_dict() == agent.processor.to_dict()


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    options = one_member(weighting="return")
    arguments = {"max_steps": 12, "save_strategy": "steps", "save_steps": 6}
    whole = train(episodes("Box"), tmp_path / "whole", options, **arguments)

    class Resumed(Trainer):
        def train(self):
            return super().train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))

    resumed = train(episodes("Box"), tmp_path / "parts", options, Resumed, **arguments)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_accumulated_batches_make_the_update_of_one_large_batch(tmp_path):
    runs = [
        train(
            episodes("Box"),
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=100 // size,
            max_steps=3,
        )
        for size in (100, 25)
    ]
    for name, value in runs[0].model.state_dict().items():
        torch.testing.assert_close(value, runs[1].model.state_dict()[name], atol=1e-5, rtol=1e-4)


def test_advantages_of_a_critic_weight_what_is_cloned(tmp_path):
    """Where good and bad actions of the same states are as frequent, it does the good ones."""
    generator = np.random.default_rng(0)
    actions = generator.integers(2, size=(60, 20))
    columns = {"observations": generator.normal(size=(60, 20, 1)), "actions": actions, "rewards": 1.0 * actions}
    columns["terminations"] = np.zeros((60, 20), bool)
    dataset = load_trajectories({name: list(values) for name, values in columns.items()})
    set_seed(0)
    prepared = critic.prepare(dataset, critic.CriticOptions(discount=0.5, hidden_size=16, target_update=0.1))
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=150,
        per_device_train_batch_size=256,
        learning_rate=5e-3,
        save_strategy="no",
        use_cpu=True,
    )
    trainer = Trainer(
        prepared.model, arguments, prepared.data_collator, prepared.train_dataset, **prepared.trainer_arguments
    )
    trainer.train()
    for part in (prepared.model, prepared.processor):
        part.save_pretrained(tmp_path / "critic")
    options = one_member(critic=str(tmp_path / "critic"), advantage_beta=1.5, hidden_size=16)
    trainer = train(dataset, tmp_path, options, per_device_train_batch_size=256)
    agent = Agent(trainer.model.eval(), trainer.processing_class)
    agent.reset(100)
    assert agent.act(generator.normal(size=(100, 1)).astype(np.float32)).mean() > 0.95


def test_the_policy_is_the_mean_of_its_members_and_each_learns_from_its_own_error():
    torch.manual_seed(0)
    sizes = {"observation_size": 2, "action_size": 2, "num_choices": [], "hidden_size": 8}
    model = PolicyModel(PolicyConfig(**sizes, num_members=3))
    observations, actions = torch.randn(5, 2), torch.randn(5, 2)
    output = model(observations, actions)
    alone = []
    for member in (model.policy, *model.further_members):
        single = PolicyModel(PolicyConfig(**sizes))
        single.policy.load_state_dict(member.state_dict())
        alone.append(single(observations, actions))
    torch.testing.assert_close(output.logits, torch.stack([one.logits for one in alone]).mean(0))
    torch.testing.assert_close(output.loss, torch.stack([one.loss for one in alone]).mean())
    assert (alone[0].logits - alone[1].logits).abs().max() > 1e-4
    torch.testing.assert_close(model.logits(observations), output.logits)


def test_no_member_is_too_few():
    with pytest.raises(Exception, match="num_members is 0"):
        PolicyConfig(num_members=0)


def test_averaged_weights_are_an_option(tmp_path):
    prepared = CLONING.prepare(episodes("Box"), one_member(average_decay=0.9))
    assert [callback.decay for callback in prepared.trainer_arguments["callbacks"]] == [0.9]
