"""How the planner acts in environments."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from hf_seqrl import Agent, TrajectoryTransformerModel, rollout
from hf_seqrl.data.spaces import space_to_dict
from hf_seqrl.models.trajectory_transformer import FAMILY
from hf_seqrl.models.trajectory_transformer.discretizer import TrajectoryDiscretizer
from hf_seqrl.models.trajectory_transformer.processing_trajectory_transformer import TrajectoryTransformerProcessor

PLANNER = {"horizon": 3, "beam_width": 4, "max_context_transitions": 3}


def untrained(action_space, observation_dim=4, **options):
    """A model with random weights and its processor."""
    processor = TrajectoryTransformerProcessor(
        observation_space=space_to_dict(Box(-np.inf, np.inf, (observation_dim,))),
        action_space=space_to_dict(action_space),
        planner_options=PLANNER,
        **options,
    )
    action_dim = int(np.prod(action_space.shape))
    rows = np.random.default_rng(0).normal(size=(300, observation_dim + action_dim + 2)).astype(np.float32)
    processor._discretizer = TrajectoryDiscretizer.fit(
        rows,
        observation_dim=observation_dim,
        action_dim=action_dim,
        num_bins=9,
        discrete=processor.discrete_entries(),
    )
    torch.manual_seed(0)
    model = TrajectoryTransformerModel(processor.model_config(n_layer=1, n_head=2, n_embd=16)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model, processor


def play(actor, steps, num_envs=2, seed=0):
    """Actions `(steps, num_envs, ...)` for a fixed stream of observations and rewards."""
    observations = np.random.default_rng(seed).normal(size=(steps, num_envs, 4))
    actor.reset(num_envs, seed=np.arange(num_envs))
    actions = []
    for observation in observations:
        actions.append(actor.act(observation))
        actor.observe(observation[:, 0], np.zeros(num_envs, bool))
    return np.stack(actions)


@pytest.mark.parametrize("space", [Discrete(3), Discrete(2, start=1), MultiDiscrete([2, 3]), Box(-0.5, 0.5, (2,))])
def test_actions_are_in_the_action_space(space):
    for actions in play(FAMILY.make_actor(*untrained(space)), 3):
        assert all(space.contains(action) for action in actions)


def test_episodes_do_not_depend_on_how_many_are_played_at_once():
    agent = Agent(*untrained(Discrete(2)))
    one, three = (rollout(agent, "CartPole-v1", num_episodes=5, num_envs=n, seed=0).returns for n in (1, 3))
    np.testing.assert_array_equal(one, three)


def test_a_saved_agent_plans_as_before(tmp_path):
    model, processor = untrained(Discrete(2))
    agent = Agent(model, processor)
    agent.save_pretrained(tmp_path)
    loaded = Agent.from_pretrained(tmp_path)
    np.testing.assert_array_equal(play(agent, 5), play(loaded, 5))


def test_the_plan_starts_from_the_history(monkeypatch):
    model, processor = untrained(Discrete(3), step=1)
    actor = FAMILY.make_actor(model, processor)
    seen = []
    plan = actor.planner.plan
    monkeypatch.setattr(actor.planner, "plan", lambda h, *args, **kw: seen.append(h[0]) or plan(h, *args, **kw))
    actions = play(actor, 5, num_envs=1)[:, 0]
    observations = np.random.default_rng(0).normal(size=(5, 1, 4))[:, 0]
    assert [len(history) for history in seen] == [4, 11, 18, 25, 25]  # at most three transitions of 7
    transitions = processor.encode(observations[1:4], actions[1:4], observations[1:4, 0], np.zeros(3))
    transitions[:, -1] = 0
    assert torch.equal(seen[4][:21].view(3, 7), transitions)
    assert torch.equal(seen[4][21:], processor.discretizer.encode(observations[4], slice(0, 4)))


def test_histories_are_as_far_apart_as_in_training(monkeypatch):
    actor = FAMILY.make_actor(*untrained(Discrete(3), step=2))
    seen = []
    plan = actor.planner.plan
    monkeypatch.setattr(actor.planner, "plan", lambda h, *args, **kw: seen.append(h[0]) or plan(h, *args, **kw))
    play(actor, 6, num_envs=1)
    assert [len(history) for history in seen] == [4, 4, 11, 11, 18, 18]
    assert torch.equal(seen[4][:4], seen[0]) and torch.equal(seen[4][7:11], seen[2][-4:])
    with pytest.raises(ValueError, match="plan_every is 2"):
        FAMILY.make_actor(*untrained(Discrete(3), step=2), plan_every=2)


def test_several_actions_are_taken_from_a_plan(monkeypatch):
    actor = FAMILY.make_actor(*untrained(Discrete(3)), plan_every=3)
    plans = []
    plan = actor.planner.plan
    monkeypatch.setattr(actor.planner, "plan", lambda *args, **kw: plans.append(plan(*args, **kw)) or plans[-1])
    actions = play(actor, 7)
    assert len(plans) == 3
    np.testing.assert_array_equal(actions[3:6].T, plans[1].tokens[:, :3, 4])


def test_a_new_episode_forgets_the_old_one_and_takes_its_own_seed():
    actor = FAMILY.make_actor(*untrained(Discrete(3)), cdf_act=None)
    fresh = play(actor, 4, num_envs=1)
    observations = np.random.default_rng(0).normal(size=(4, 1, 4))
    actor.reset(2, seed=[7, 8])
    actor.act(np.zeros((2, 4)))
    actor.observe(np.zeros(2), np.array([False, True]))
    actor.restart(np.array([1]), seed=0)
    again = []
    for observation in observations:
        again.append(actor.act(np.concatenate([observation + 1, observation]))[1])
        actor.observe(np.concatenate([observation[:, 0] + 1, observation[:, 0]]), np.zeros(2, bool))
    np.testing.assert_array_equal(fresh[:, 0], again)


def test_environments_that_are_selected_go_on_as_they_were():
    actor = FAMILY.make_actor(*untrained(Discrete(3)), cdf_act=None)
    observations = np.random.default_rng(0).normal(size=(4, 3, 4))
    actor.reset(3, seed=[0, 1, 2])
    whole = []
    for observation in observations:
        whole.append(actor.act(observation))
        actor.observe(np.zeros(3), np.zeros(3, bool))
    actor.reset(3, seed=[0, 1, 2])
    actor.act(observations[0])
    actor.observe(np.zeros(3), np.zeros(3, bool))
    actor.select(np.array([2, 0]))
    for observation, expected in zip(observations[1:], whole[1:]):
        np.testing.assert_array_equal(actor.act(observation[[2, 0]]), expected[[2, 0]])
        actor.observe(np.zeros(2), np.zeros(2, bool))


def test_a_goal_is_part_of_every_plan():
    model, processor = untrained(Box(-5, 5, (1,)))
    near, far = (FAMILY.make_actor(model, processor, goal=np.full(4, g), cdf_act=None) for g in (-2.0, 2.0))
    assert not np.array_equal(play(near, 3), play(far, 3))


def test_new_episodes_are_planned_with_the_weights_as_they_are_then():
    model, processor = untrained(Box(-5, 5, (1,)))
    actor = FAMILY.make_actor(model, processor)
    before = play(actor, 3)
    with torch.no_grad():
        model.head.weight.normal_()
    after = play(actor, 3)
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, play(FAMILY.make_actor(model, processor), 3))


def test_a_target_return_is_refused():
    agent = Agent(*untrained(Discrete(2)))
    with pytest.raises(ValueError, match="not conditioned on a return"):
        agent.actor.reset(2, target_return=100)
    with pytest.raises(ValueError, match="not conditioned on a return"):
        rollout(agent, "CartPole-v1", num_episodes=1, target_return=123)


def test_an_int_seed_gives_eight_streams_as_the_list_of_seeds_does():
    sampling = {"cdf_act": None, "horizon": 1, "beam_width": 1, "n_expand": 1}
    actor = FAMILY.make_actor(*untrained(Box(-5, 5, (2,))), **sampling)
    actions = []
    for seed in (0, range(8)):
        actor.reset(8, seed=seed)
        steps = []
        for _ in range(2):
            steps.append(actor.act(np.zeros((8, 4))))
            actor.observe(np.zeros(8), np.zeros(8, bool))
        actions.append(np.concatenate(steps, axis=1))  # (8, 4)
    np.testing.assert_array_equal(actions[0], actions[1])
    assert len({tuple(stream) for stream in actions[0]}) == 8


def test_the_actions_that_were_executed_are_remembered_and_end_a_plan_made_for_others():
    model, processor = untrained(Box(-5, 5, (2,)))
    actor = FAMILY.make_actor(model, processor, plan_every=3)
    actor.reset(2, seed=0)
    chosen = actor.act(np.zeros((2, 4)))
    executed = np.stack([chosen[0], -chosen[1] - 0.5])
    actor.observe(np.zeros(2), np.zeros(2, bool), actions=executed)
    tokens = processor.encode(np.zeros((2, 4)), executed, np.zeros(2), np.zeros(2))[:, :-1]
    assert torch.equal(torch.stack([history[-1][:-1] for history in actor.histories]), tokens)
    assert [len(plan) for plan in actor.plans] == [2, 0]


def lived(length):
    generator = np.random.default_rng(length)
    return {
        "observations": generator.normal(size=(length, 4)),
        "actions": generator.integers(0, 3, size=length),
        "rewards": generator.normal(size=length),
    }


@pytest.mark.parametrize("step", [1, 2])
def test_a_history_that_is_handed_in_equals_one_that_was_lived_and_is_not_planned(step, monkeypatch):
    model, processor = untrained(Discrete(3), step=step)
    histories = [lived(length) for length in (9, 0, 4)]
    actor = FAMILY.make_actor(model, processor, cdf_act=None)
    plans = []
    plan = actor.planner.plan
    monkeypatch.setattr(actor.planner, "plan", lambda *args, **kw: plans.append(1) or plan(*args, **kw))
    actor.reset(3, seed=0, history=histories)
    assert not plans and actor.timesteps.tolist() == [9, 0, 4]
    now = np.random.default_rng(0).normal(size=(3, 4))
    handed = actor.act(now)
    for env, past in enumerate(histories):
        actor.reset(1, seed=env)
        for observation, action, reward in zip(past["observations"], past["actions"], past["rewards"]):
            actor.act(observation[None])
            actor.observe(reward[None], np.zeros(1, bool), actions=action[None])
        np.testing.assert_array_equal(actor.act(now[env : env + 1])[0], handed[env])


def test_missing_observations_can_be_bridged():
    actor = FAMILY.make_actor(*untrained(Discrete(3)), missing_values="last")
    actor.reset(1, seed=0)
    first = actor.act(np.ones((1, 4)))
    actor.observe(np.zeros(1), np.zeros(1, bool))
    actor.act(np.array([[np.nan, 2.0, 1.0, 1.0]]))
    assert first.shape == (1,) and actor._observed.tolist() == [[1.0, 2.0, 1.0, 1.0]]
