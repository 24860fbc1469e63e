"""How the policy network acts: by its mode, or by draws that belong to the episode."""

import numpy as np
import pytest
import torch

from hf_seqrl.models.policy import PolicyGradientModel, PolicyGradientProcessor
from hf_seqrl.models.registry import family_of

ENVIRONMENTS = {"CartPole-v1": {}, "hf_seqrl/BicycleGrid-v0": {}, "Pendulum-v1": {}}
OBSERVATIONS = {
    "CartPole-v1": np.array([0.01, -0.2, 0.03, 0.3], np.float32),
    "hf_seqrl/BicycleGrid-v0": np.array([1, 2, 1, 1], np.float32),
    "Pendulum-v1": np.array([0.6, 0.8, -1.0], np.float32),
}


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def policy(request):
    processor = PolicyGradientProcessor.from_env(request.param, num_steps=100)
    torch.manual_seed(0)
    return PolicyGradientModel(processor.model_config()).eval(), processor, OBSERVATIONS[request.param]


def act_often(policy, seeds, steps=20, **options):
    """Actions `(steps, episodes, ...)` of episodes that see the same observation again and again."""
    model, processor, observation = policy
    actor = family_of("policy_gradient").make_actor(model, processor, **options)
    actor.reset(len(seeds), seed=np.asarray(seeds))
    return act(actor, observation, steps)


def act(actor, observation, steps):
    actions = []
    for _ in range(steps):
        actions.append(actor.act(np.repeat(observation[None], actor.num_envs, axis=0)))
        actor.observe(np.zeros(actor.num_envs), np.zeros(actor.num_envs, bool))
    return np.stack(actions)


def test_by_default_it_takes_the_mode(policy):
    model, processor, observation = policy
    logits = model(processor(observation[None])["observations"]).logits
    expected = processor.decode_actions(logits.detach().numpy())
    actions = act_often(policy, [0, 1])
    np.testing.assert_array_equal(actions, np.broadcast_to(expected[0], actions.shape))


def test_draws_depend_on_the_seed_of_the_episode_and_not_on_its_neighbors(policy):
    together = act_often(policy, [5, 6, 7], deterministic=False)
    alone = act_often(policy, [6], deterministic=False)
    np.testing.assert_allclose(together[:, 1], alone[:, 0], atol=1e-6)
    assert not np.array_equal(together[:, 0], together[:, 1])


def test_one_seed_counts_up_over_the_episodes(policy):
    model, processor, observation = policy
    actor = family_of("policy_gradient").make_actor(model, processor, deterministic=False)
    actor.reset(3, seed=5)
    np.testing.assert_array_equal(act(actor, observation, 20), act_often(policy, [5, 6, 7], deterministic=False))


def test_selected_episodes_go_on_and_restarted_ones_begin_anew(policy):
    model, processor, observation = policy
    expected = act_often(policy, [5, 6, 7], deterministic=False)
    actor = family_of("policy_gradient").make_actor(model, processor, deterministic=False)
    actor.reset(3, seed=np.array([5, 6, 7]))
    actor.act(np.repeat(observation[None], 3, axis=0))
    actor.observe(np.zeros(3), np.zeros(3, bool))
    actor.select(np.array([2, 0]))
    actor.restart(np.array([1]), seed=np.array([6]))
    actions = act(actor, observation, 10)
    np.testing.assert_allclose(actions[:, 0], expected[1:11, 2], atol=1e-6)
    np.testing.assert_allclose(actions[:, 1], expected[:10, 1], atol=1e-6)


def test_actions_lie_in_the_action_space(policy):
    import gymnasium

    space = gymnasium.make(policy[1].env_id).action_space
    for action in act_often(policy, range(10), deterministic=False).reshape(200, *space.shape):
        assert space.contains(action) or space.contains(int(action))
