"""Episodes that the model imagines, against open-loop prediction and against data whose rewards are all the same."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from hf_seqrl import Agent, evaluate_offline, load_trajectories, predict_open_loop
from hf_seqrl.models.registry import family_named
from hf_seqrl.models.trajectory_transformer.world_model import ImaginedEpisodes

STEPS = 5


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    columns = {
        "observations": generator.normal(size=(8, STEPS, 2)),
        "actions": generator.uniform(-1, 1, (8, STEPS, 1)),
        "rewards": np.ones((8, STEPS)),
        "terminations": np.zeros((8, STEPS), bool),
    }
    return load_trajectories(columns, action_space=Box(-1, 1, (1,)), max_episode_steps=STEPS)


@pytest.fixture(scope="module")
def world(data):
    """An untrained model with weights that are far from zero."""
    family = family_named("trajectory-transformer")
    options = family.options_class(n_layer=1, n_head=1, n_embd=8, num_bins=6, sequence_transitions=3)
    torch.manual_seed(0)
    prepared = family.prepare(data, options)
    with torch.no_grad():
        for parameter in prepared.model.parameters():
            parameter.normal_(std=0.3)
    return Agent(prepared.model.eval(), prepared.processor)


def test_without_terminations_it_is_open_loop_prediction_with_given_actions(world):
    generator = np.random.default_rng(1)
    firsts, actions = generator.normal(size=(4, 2)), generator.uniform(-1, 1, (4, STEPS, 1))
    seeds = np.arange(4)
    imagined = ImaginedEpisodes(world.model, world.processor, firsts, seeds)
    imagined._possible[0, -1] = False  # open-loop prediction draws no end either
    steps = [imagined.step(actions[:, step]) for step in range(STEPS)]
    bins = world.processor.discretizer
    contexts = bins.encode(firsts, slice(0, 2))
    expected = predict_open_loop(world.model, bins, contexts, STEPS, torch.from_numpy(actions).float(), seeds.tolist())
    for step, (observations, rewards, terminated) in enumerate(steps):
        np.testing.assert_allclose(observations, expected.observations[:, step].numpy(), atol=1e-6)
        np.testing.assert_allclose(rewards, expected.rewards[:, step].numpy(), atol=1e-6)
        assert not terminated.any()


def test_an_episode_ends_where_the_model_draws_its_stop_token(world):
    imagined = ImaginedEpisodes(world.model, world.processor, np.zeros((300, 2)), np.arange(300))
    _, _, terminated = imagined.step(np.zeros((300, 1)))
    scores = world.model.config.vocab_size + 1
    assert 0 < terminated.mean() < 5 / scores  # one token of seven, of about equal scores


def test_a_policy_is_evaluated_in_it_and_its_error_is_reported_by_the_number_of_steps(world, data):
    options = {"critic_steps": 1, "num_critics": 4, "max_unsupported": -1.0, "world_model": world}
    evaluation = evaluate_offline(lambda seen: seen[:, :1].clip(-1, 1), data, **options)
    assert evaluation["fqe"].refused
    assert evaluation.best.method == "model"
    assert 1 <= evaluation.value <= STEPS  # a reward of 1 a step, until the model draws an end
    assert [row["steps"] for row in evaluation.model_errors] == [1, 2, 5]
    first, *_, last = (row["error"] for row in evaluation.model_errors)
    assert abs(first) < 0.2 and last < first - 0.1  # what is missing after the ends that the model draws
    assert "the interval does not count the error of the model" in evaluation.report()


def test_a_family_without_dynamics_is_refused(data):
    family = family_named("cloning")
    prepared = family.prepare(data, family.options_class(hidden_size=4))
    policy = Agent(prepared.model, prepared.processor)
    with pytest.raises(ValueError, match="a cloning does not model what follows an action"):
        evaluate_offline(policy, data, max_unsupported=-1.0, world_model=policy)
