import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from hf_seqrl.data.spaces import space_to_dict
from hf_seqrl.models.trajectory_seq2seq.acting import TrajectorySeq2SeqActor
from hf_seqrl.models.trajectory_seq2seq.modeling_trajectory_seq2seq import TrajectorySeq2SeqModel
from hf_seqrl.models.trajectory_seq2seq.processing_trajectory_seq2seq import TrajectorySeq2SeqProcessor

ACTION_SPACES = (Discrete(3, start=2), MultiDiscrete([2, 3]), Box(-0.1, 0.1, (2,)))


def _actor(backbone="gru", action_space=None, conditioning="return", **options):
    processor = TrajectorySeq2SeqProcessor(
        observation_space=space_to_dict(Box(-1, 1, (2,))),
        action_space=space_to_dict(action_space or MultiDiscrete([2, 3])),
        context_length=3,
        conditioning=conditioning,
        target_returns=[5.0],
    )
    torch.manual_seed(0)
    model = TrajectorySeq2SeqModel(processor.model_config(backbone=backbone, hidden_size=16, num_attention_heads=2))
    return TrajectorySeq2SeqActor(model.double(), processor, **options)


def _observations(num_steps, num_envs, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (num_steps, num_envs, 2)).astype(np.float32)


@pytest.mark.parametrize("action_space", ACTION_SPACES)
def test_actions_are_those_of_the_space(backbone, action_space):
    actor = _actor(backbone, action_space, do_sample=True)
    actor.reset(4, seed=0)
    for observations in _observations(6, 4):
        actions = actor.act(observations)
        assert all(action_space.contains(action if action_space.shape else np.int64(action)) for action in actions)
        actor.observe(np.ones(4), np.zeros(4, dtype=bool))


@pytest.mark.parametrize("do_sample", [False, True])
def test_an_episode_does_not_depend_on_those_beside_it(backbone, do_sample):
    observations = 30 * _observations(7, 3)  # far apart, so that an untrained model chooses differently
    rewards = np.array([1.0, 0.5, -1.0])

    def ride(columns):
        actor = _actor(backbone, do_sample=do_sample)
        actor.reset(len(columns), target_return=np.array([1.0, 5.0, 9.0])[columns], seed=np.array([7, 8, 9])[columns])
        steps = []
        for step in observations:
            steps.append(actor.act(step[columns]))
            actor.observe(rewards[columns], np.zeros(len(columns), dtype=bool))
        return np.stack(steps)

    together = ride([0, 1, 2])
    for column in range(3):
        np.testing.assert_array_equal(together[:, [column]], ride([column]))
    assert len(np.unique(together.reshape(-1, 2), axis=0)) > 1


def test_the_context_slides_and_the_return_is_counted_down():
    actor = _actor()
    actor.reset(1, target_return=10.0)
    for step, observations in enumerate(_observations(5, 1)):
        actor.act(observations)
        actor.observe(np.array([2.0]), np.array([False]))
        assert actor.lengths[0] == min(step + 1, 3)
        assert actor.returns_to_go[0] == 10.0 - 2.0 * (step + 1)
    np.testing.assert_array_equal(actor.states[0], _observations(5, 1)[2:, 0])


def test_acting_equals_the_model_on_the_same_history(backbone):
    actor = _actor(backbone, action_space=Discrete(3, start=2))
    actor.reset(2, target_return=4.0)
    history = []
    for observations in _observations(5, 2):
        actions = actor.act(observations)
        actor.observe(np.ones(2), np.zeros(2, dtype=bool))
        history.append((observations, actions))
        recent = history[-3:]
        states = torch.from_numpy(np.stack([step[0] for step in recent], axis=1))
        past = torch.from_numpy(np.stack([step[1] for step in recent], axis=1)[:, :-1] - 2)
        to_go = torch.full((2,), 4.0 - (len(history) - 1))
        logits = actor.model(states, past, returns_to_go=to_go).logits[:, 0, :3]
        np.testing.assert_array_equal(actions, logits.argmax(-1).numpy() + 2)


def test_ended_episodes_are_forgotten_and_selected_ones_go_on():
    observations = _observations(4, 3)
    actor, fresh = _actor(), _actor()
    actor.reset(3, target_return=3.0)
    actor.act(observations[0])
    actor.observe(np.zeros(3), np.array([False, True, False]))
    assert actor.lengths.tolist() == [1, 0, 1]
    actor.restart(np.array([1]), target_return=8.0)
    fresh.reset(1, target_return=8.0)
    expected = fresh.act(observations[1, 1:2])
    np.testing.assert_array_equal(actor.act(observations[1])[1:2], expected)
    actor.select(np.array([2, 1]))
    assert actor.lengths.tolist() == [2, 1] and actor.returns_to_go.tolist() == [3.0, 8.0]
    assert actor.act(observations[2, [2, 1]]).shape == (2, 2)


def test_later_components_depend_on_earlier_ones():
    actor = _actor(action_space=MultiDiscrete([2, 2]), conditioning="none")
    encoded = actor.model.encode(torch.zeros(1, 1, 2), torch.zeros(1, 0, 4))
    bos = actor.model.start_symbols(1)
    second = [
        actor.model(encoder_outputs=encoded, decoder_input_ids=torch.cat([bos, torch.tensor([[first]])], dim=1)).logits
        for first in (0, 1)
    ]
    assert not torch.allclose(second[0][:, 1], second[1][:, 1])


def test_a_model_of_another_task_cannot_act():
    processor = TrajectorySeq2SeqProcessor(
        observation_space=space_to_dict(Discrete(3)), action_space=space_to_dict(Discrete(3)), target="history"
    )
    actor = TrajectorySeq2SeqActor(TrajectorySeq2SeqModel(processor.model_config()), processor)
    with pytest.raises(ValueError, match="next_action"):
        actor.reset(1)


def test_choosing_twice_for_one_step_changes_nothing():
    actor, other = _actor(), _actor()
    actor.reset(2)
    other.reset(2)
    for observations in _observations(5, 2):
        actor.act(observations + 1)
        np.testing.assert_array_equal(actor.act(observations), other.act(observations))
        for one in (actor, other):
            one.observe(np.ones(2), np.zeros(2, dtype=bool))


def test_a_processor_of_an_earlier_version_calls_its_target_task():
    spaces = {"observation_space": space_to_dict(Discrete(3)), "action_space": space_to_dict(Discrete(2))}
    processor = TrajectorySeq2SeqProcessor(task="history", **spaces)
    assert processor.target == "history"
    assert processor.task.actions == Discrete(2)
