"""Training sequences that begin with a goal, and plans under a model that was trained on them."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from gymnasium.spaces import Box, Discrete

from hf_seqrl import TrajectoryTransformerModel
from hf_seqrl.data.spaces import space_to_dict
from hf_seqrl.models.trajectory_transformer import FAMILY
from hf_seqrl.models.trajectory_transformer.beam_search import BeamPlanner
from hf_seqrl.models.trajectory_transformer.processing_trajectory_transformer import (
    GoalConditionedDataCollator,
    TrajectoryTransformerProcessor,
)
from hf_seqrl.models.trajectory_transformer.windows import GoalConditionedWindows, TrajectoryTransformerWindows


def walks(num_episodes=40, steps=5):
    """Walks on a line from 0, one step to the left (action 0) or to the right (action 1), always the same way."""
    ways = np.arange(num_episodes) % 2
    moves = np.where(ways, 1.0, -1.0)
    return Dataset.from_dict(
        {
            "observations": [[[move * step] for step in range(steps)] for move in moves],
            "actions": [[int(way)] * steps for way in ways],
            "rewards": [[0.0] * steps] * num_episodes,
            "terminations": [[False] * (steps - 1) + [True]] * num_episodes,
            "truncations": [[False] * steps] * num_episodes,
        }
    )


@pytest.fixture(scope="module")
def dataset():
    return walks()


@pytest.fixture(scope="module")
def processor(dataset):
    return TrajectoryTransformerProcessor.from_dataset(
        dataset,
        num_bins=9,
        observation_space=space_to_dict(Box(-10, 10, (1,))),
        action_space=space_to_dict(Discrete(2)),
        sequence_transitions=5,
        planner_options={"horizon": 1, "beam_width": 4, "max_context_transitions": 4},
    )


def test_windows_begin_with_the_last_observation_of_their_episode(dataset, processor):
    plain, windows = (kind(dataset, processor) for kind in (TrajectoryTransformerWindows, GoalConditionedWindows))
    steps = [0, 3, 7]
    expected, got = plain.gather(steps), windows.gather(steps)
    assert got["transitions"][:, 0, 0].tolist() == [-4, -4, 4]
    np.testing.assert_array_equal(got["transitions"][:, 1:], expected["transitions"][:, :-1])
    np.testing.assert_array_equal(got["ended"][:, 1:], expected["ended"][:, :-1])
    assert got["attention_mask"].shape == expected["attention_mask"].shape
    assert (got["attention_mask"][:, :3] == 0).all() and (got["attention_mask"][:, 3] == 1).all()
    np.testing.assert_array_equal(got["attention_mask"][:, 4:], expected["attention_mask"][:, :-4])


def test_training_and_planning_write_goals_alike(dataset, processor):
    batch = GoalConditionedDataCollator(processor)(GoalConditionedWindows(dataset, processor).__getitems__([0, 7]))
    planner = BeamPlanner(
        TrajectoryTransformerModel(processor.model_config(n_embd=8)), processor.discretizer, horizon=1
    )
    goals = planner.goal_transition(torch.tensor([[-4.0], [4.0]]))
    assert torch.equal(batch["trajectories"][:, :4], goals)
    counted = batch["labels"][:, :-1] >= 0
    assert torch.equal(batch["labels"][:, :-1][counted], batch["trajectories"][:, 1:][counted])
    assert not counted[:, :3].any()  # the goal is given, not predicted


def test_a_model_trained_with_goals_goes_where_it_is_told(dataset, processor):
    torch.manual_seed(0)
    dropout = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
    model = TrajectoryTransformerModel(processor.model_config(n_layer=1, n_head=2, n_embd=32, **dropout)).train()
    windows, collator = GoalConditionedWindows(dataset, processor), GoalConditionedDataCollator(processor)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(
            **collator(windows.__getitems__(range(0, 200, 5)))
        ).loss.backward()  # all begin at 0: only the goal tells
        optimizer.step()
    model.eval()
    for goal, action in ((-4.0, 0), (4.0, 1)):
        actor = FAMILY.make_actor(model, processor, goal=np.array([goal]))
        actor.reset(1, seed=0)
        assert actor.act(np.zeros((1, 1)))[0] == action
