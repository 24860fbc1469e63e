"""Windows of transitions against the original implementation's, and against values that are worked out by hand."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from datasets import Dataset
from gymnasium.spaces import Box
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from hf_seqrl import TrajectoryTransformerDataCollator
from hf_seqrl.data.spaces import space_to_dict
from hf_seqrl.models.trajectory_transformer.processing_trajectory_transformer import TrajectoryTransformerProcessor
from hf_seqrl.models.trajectory_transformer.transitions import Transitions
from hf_seqrl.models.trajectory_transformer.windows import TrajectoryTransformerWindows

VARIANTS = {"step1": {}, "step1_pen": {"termination_penalty": -100.0}, "step2": {"step": 2}}


def cut(arrays, bounds, terminations):
    """A data set of the episodes between `bounds`."""
    rows = {name: [values[a:b] for a, b in pairwise(bounds)] for name, values in arrays.items()}
    rows["terminations"] = [terminations[a:b] for a, b in pairwise(bounds)]
    ends = [np.arange(b - a) == b - a - 1 for a, b in pairwise(bounds)]
    rows["truncations"] = [end & ~term for end, term in zip(ends, rows["terminations"])]
    return Dataset.from_list([{name: column[i] for name, column in rows.items()} for i in range(len(ends))])


@pytest.fixture(scope="module")
def original(shared_fixture):
    with np.load(shared_fixture("trajectory_transformer", "jannerm_dataset.npz")) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def original_dataset(original):
    arrays = {name: original[f"raw_{name}"] for name in ("observations", "actions", "rewards")}
    return cut(arrays, [0, 18, 38, 53, 59], original["raw_terminals"])  # the original drops the file's last step


@pytest.mark.parametrize("variant", VARIANTS)
def test_transitions_equal_the_originals(original, original_dataset, variant):
    options = {name: value for name, value in VARIANTS[variant].items() if name != "step"}
    transitions = Transitions(original_dataset, discount=0.9, **options)
    rows = np.concatenate(list(transitions.blocks()))
    np.testing.assert_allclose(rows, original[f"{variant}_joined_raw"], atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_tokens_labels_and_masks_equal_the_originals(original, original_dataset, variant):
    processor = TrajectoryTransformerProcessor.from_dataset(
        original_dataset,
        num_bins=10,
        sequence_transitions=6,
        discount=0.9,
        truncation="stop",
        max_episode_steps=20,
        **VARIANTS[variant],
    )
    np.testing.assert_allclose(processor.discretizer.edges.T, original[f"{variant}_thresholds"], atol=1e-5, rtol=1e-6)
    windows = TrajectoryTransformerWindows(original_dataset, processor)
    first_steps = np.array([0, 18, 38, 53])
    path, place = original[f"{variant}_indices"][:, :2].T  # the original has no window for an episode's last step
    batch = TrajectoryTransformerDataCollator(processor)(windows.__getitems__(first_steps[path] + place))
    np.testing.assert_array_equal(batch["trajectories"], original[f"{variant}_X"])
    counted = original[f"{variant}_mask"] > 0
    np.testing.assert_array_equal(batch["attention_mask"], counted)
    np.testing.assert_array_equal(batch["labels"], np.where(counted, original[f"{variant}_Y"], -100))


def toy(lengths, terminated, seed=0):
    generator, steps = np.random.default_rng(seed), sum(lengths)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    terminations = np.zeros(steps, bool)
    terminations[bounds[1:] - 1] = terminated
    arrays = {
        "observations": generator.standard_normal((steps, 2), dtype=np.float32),
        "actions": generator.standard_normal((steps, 1), dtype=np.float32),
        "rewards": generator.standard_normal(steps, dtype=np.float32),
    }
    return cut(arrays, bounds, terminations), arrays, bounds


@settings(max_examples=25, deadline=None)
@given(
    episodes=st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=4),
    discount=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    penalty=st.sampled_from([None, -100.0]),
)
def test_values_are_the_discounted_sums_of_what_follows(episodes, discount, penalty):
    lengths, terminated = zip(*episodes)
    dataset, arrays, bounds = toy(lengths, terminated)
    rows = np.concatenate(list(Transitions(dataset, discount, penalty).blocks()))
    for begin, end, ended in zip(bounds, bounds[1:], terminated):
        rewards = arrays["rewards"][begin:end].astype(float)
        if ended and penalty is not None:
            rewards[-1] = penalty
        np.testing.assert_allclose(rows[begin:end, -2], rewards, rtol=1e-6)
        expected = [sum(discount**k * r for k, r in enumerate(rewards[t + 1 :])) for t in range(end - begin)]
        np.testing.assert_allclose(rows[begin:end, -1], expected, atol=2e-5, rtol=1e-5)


def windows_of(dataset, **options):
    arguments = {"num_bins": 4, "sequence_transitions": 3, **options}
    processor = TrajectoryTransformerProcessor.from_dataset(dataset, **arguments)
    return TrajectoryTransformerWindows(dataset, processor), TrajectoryTransformerDataCollator(processor)


def test_what_lies_behind_a_truncation_does_not_count_and_behind_a_termination_does():
    dataset, *_ = toy([2, 2], [True, False])
    windows, collate = windows_of(dataset)
    batch = collate([windows[0], windows[2]])
    assert (batch["trajectories"][:, 10:] == 4).all() and (batch["trajectories"][:, :10] < 4).all()
    terminated, truncated = batch["attention_mask"]
    assert terminated.tolist() == [1] * 14
    assert truncated.tolist() == [1] * 9 + [0] * 5  # the target of position 9 is the first stop token


def test_values_that_a_truncation_cuts_short_need_not_count():
    dataset, *_ = toy([3, 3], [True, False])
    windows, collate = windows_of(dataset, discount=0.5, max_truncation_bias=0.3)
    terminated, truncated = collate([windows[0], windows[3]])["attention_mask"]
    assert terminated.all()
    assert truncated[[3, 8, 13]].tolist() == [1, 0, 0]  # shares cut off: 1/4, 1/2, 1
    assert truncated[[2, 7, 12]].all()


def test_steps_between_transitions_reach_further():
    dataset, arrays, _ = toy([5], [True])
    windows, _ = windows_of(dataset, step=2)
    np.testing.assert_array_equal(windows[0]["transitions"][:, :2], arrays["observations"][[0, 2, 4]])
    assert windows[1]["ended"].tolist() == [False, False, True]


def test_a_batch_equals_its_windows_one_by_one_also_through_a_data_loader():
    dataset, *_ = toy([4, 1, 6], [True, False, False])
    windows, collate = windows_of(dataset)
    single = collate([windows[i] for i in range(11)])
    loaded = list(DataLoader(windows, batch_size=11, collate_fn=collate))
    assert len(windows) == 11 and len(loaded) == 1
    for name, expected in single.items():
        torch.testing.assert_close(loaded[0][name], expected)
    with pytest.raises(IndexError, match="item 11"):
        windows[11]


def test_a_copy_for_a_worker_gives_the_same_windows():
    dataset, *_ = toy([4, 3], [True, False])
    windows, _ = windows_of(dataset)
    copy = pickle.loads(pickle.dumps(windows))
    for name, values in windows.gather(range(7)).items():
        np.testing.assert_array_equal(copy.gather(range(7))[name], values)


def test_discrete_actions_are_one_token_each_as_they_are():
    rows = [{"observations": [[0.0], [1.0], [2.0]], "actions": [2, 0, 1], "rewards": [1.0] * 3, "dones": [False] * 3}]
    windows, collate = windows_of(Dataset.from_list(rows), num_bins=5)
    assert collate([windows[0]])["trajectories"][0, [1, 5, 9]].tolist() == [2, 0, 1]


def test_a_space_with_more_choices_than_bins_is_refused():
    rows = [{"observations": [[0.0]] * 9, "actions": list(range(9)), "rewards": [1.0] * 9, "dones": [False] * 9}]
    with pytest.raises(ValueError, match="9 values for 4 bins"):
        windows_of(Dataset.from_list(rows))


def test_observations_of_several_axes_are_flattened():
    rows = [{"observations": [[[0.0, 1.0], [2.0, 3.0]]] * 4, "actions": [[0.5]] * 4, "rewards": [1.0] * 4}]
    rows[0]["dones"] = [False] * 4
    space = space_to_dict(Box(-1, 5, (2, 2), np.float32))
    windows, _ = windows_of(Dataset.from_list(rows), observation_space=space)
    assert windows.processor.transition_dim == 7
    assert windows[0]["transitions"][0, :4].tolist() == [0, 1, 2, 3]
