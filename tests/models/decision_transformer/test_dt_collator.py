"""The collator against a plain loop over windows, steps and rewards."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from hf_seqrl import DecisionTransformerGymDataCollator, DecisionTransformerProcessor, TrajectoryWindows
from hf_seqrl.data.spaces import space_to_dict

KEYS = {"states", "actions", "rewards", "returns_to_go", "timesteps", "attention_mask", "labels"}


def looped_window(row, start, context_length, processor):
    """One window, step by step, as the paper describes it; `row` is an episode of Python lists."""
    window = {name: [] for name in ("states", "actions", "rewards", "returns_to_go", "timesteps", "attention_mask")}
    stop = min(start + context_length, len(row["rewards"]))
    for _ in range(context_length - (stop - start)):
        window["states"].append([(0 - m) / s for m, s in zip(processor.state_mean, processor.state_std)])
        window["actions"].append([0.0] * 3)
        for name in ("rewards", "returns_to_go", "timesteps", "attention_mask"):
            window[name].append(0)
    for step in range(start, stop):
        state = zip(row["observations"][step], processor.state_mean, processor.state_std)
        window["states"].append([(x - m) / s for x, m, s in state])
        action = row["actions"][step]
        if isinstance(action, list):
            scaled = zip(action, processor.action_shift, processor.action_scale)
            window["actions"].append([(x - shift) / scale for x, shift, scale in scaled])
        else:
            window["actions"].append([float(action == i) for i in range(3)])
        window["rewards"].append(row["rewards"][step])
        togo = sum(processor.discount**k * r for k, r in enumerate(row["rewards"][step:]))
        window["returns_to_go"].append((togo - processor.return_shift) / processor.return_scale)
        window["timesteps"].append(min(step, processor.max_episode_steps - 1))
        window["attention_mask"].append(1)
    return window


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    context_length=st.integers(1, 8),
    discount=st.sampled_from([1.0, 0.9]),
    discrete=st.booleans(),
    seed=st.integers(0, 10),
)
def test_batches_equal_a_plain_loop(lengths, context_length, discount, discrete, seed):
    from datasets import Dataset

    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32).tolist()  # noqa: E731
    rows = [
        {
            "observations": draw(length, 2),
            "actions": rng.integers(0, 3, length).tolist() if discrete else draw(length, 3),
            "rewards": draw(length),
            "dones": [False] * length,
        }
        for length in lengths
    ]
    dataset = Dataset.from_list(rows)
    processor = DecisionTransformerProcessor.from_dataset(
        dataset,
        context_length=context_length,
        discount=discount,
        **({"action_space": space_to_dict(Discrete(3))} if discrete else {}),
    )
    windows = TrajectoryWindows(dataset, processor, discount=discount)
    picked = rng.integers(0, sum(lengths), 5).tolist()
    collated = DecisionTransformerGymDataCollator(dataset, processor)(windows.__getitems__(picked))
    starts = [(episode, step) for episode, length in enumerate(lengths) for step in range(length)]
    expected = [looped_window(rows[e], s, context_length, processor) for e, s in (starts[i] for i in picked)]
    assert set(collated) == KEYS
    for name in expected[0]:
        values = np.array([window[name] for window in expected], dtype=np.float64)
        if collated[name].dim() == 3 and values.ndim == 2:
            values = values[..., None]
        assert collated[name].dtype == (torch.int64 if name == "timesteps" else torch.float32)
        np.testing.assert_allclose(collated[name].numpy(), values, rtol=1e-4, atol=1e-5, err_msg=name)
    real = collated["attention_mask"] == 1
    assert (collated["labels"][~real] == -100).all()
    labels = collated["actions"].argmax(-1) if discrete else collated["actions"]
    assert torch.equal(collated["labels"][real], labels[real])


def test_single_windows_in_a_list_make_the_same_batch(episodes):
    dataset = episodes()
    processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=6)
    windows, collator = TrajectoryWindows(dataset, processor), DecisionTransformerGymDataCollator(dataset, processor)
    gathered, listed = collator(windows.__getitems__([3, 33])), collator([windows[3], windows[33]])
    assert all(torch.equal(gathered[name], listed[name]) for name in KEYS)


def test_discrete_spaces_that_do_not_start_at_zero_are_one_hot_and_blank_where_padded(episodes):
    dataset = episodes(lengths=(3,), actions=2).map(lambda row: {"actions": [action + 5 for action in row["actions"]]})
    processor = DecisionTransformerProcessor.from_dataset(
        dataset, context_length=5, action_space=space_to_dict(Discrete(2, start=5))
    )
    batch = DecisionTransformerGymDataCollator(dataset, processor)(
        TrajectoryWindows(dataset, processor).__getitems__([0])
    )
    assert (batch["actions"][0, :2] == 0).all()
    assert batch["actions"][0, 2:].argmax(-1).tolist() == [action - 5 for action in dataset[0]["actions"]]


def test_components_of_multidiscrete_actions_stand_side_by_side(episodes):
    pairs = [[0, 2], [1, 0], [1, 1]]
    dataset = episodes(lengths=(3,)).map(lambda row: {"actions": pairs})
    from datasets import List, Value

    dataset = dataset.cast_column("actions", List(List(Value("int64"))))
    processor = DecisionTransformerProcessor.from_dataset(
        dataset, context_length=3, action_space=space_to_dict(MultiDiscrete([2, 3]))
    )
    batch = DecisionTransformerGymDataCollator(dataset, processor)(
        TrajectoryWindows(dataset, processor).__getitems__([0])
    )
    assert batch["actions"][0].tolist() == [[1, 0, 0, 0, 1], [0, 1, 1, 0, 0], [0, 1, 0, 1, 0]]
    assert batch["labels"][0].tolist() == pairs
    assert processor.model_config().action_groups == [2, 3]


def test_an_action_that_looks_like_padding_is_still_counted(episodes):
    dataset = episodes(lengths=(2,)).map(lambda row: {"actions": [[-100.0, 1.0, 2.0], [-100.0, -100.0, 0.0]]})
    processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=3)
    batch = DecisionTransformerGymDataCollator(dataset, processor)(
        TrajectoryWindows(dataset, processor).__getitems__([0])
    )
    assert (batch["labels"] != -100).sum() == 6
    torch.testing.assert_close(batch["labels"][0, 1:], batch["actions"][0, 1:])


def test_images_keep_their_bytes(episodes):
    from datasets import Array3D, Dataset, Features, List, Value

    images = np.random.default_rng(0).integers(0, 256, (4, 6, 7, 3), dtype=np.uint8)
    dataset = Dataset.from_dict(
        {"observations": [images.tolist()], "actions": [[0, 1, 0, 1]], "rewards": [[1.0] * 4], "dones": [[False] * 4]},
        features=Features(
            observations=List(List(List(List(Value("uint8"))))),
            actions=List(Value("int64")),
            rewards=List(Value("float32")),
            dones=List(Value("bool")),
        ),
    )
    assert Array3D  # images may also come as extension arrays; the columns take care of both
    processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=2)
    batch = DecisionTransformerGymDataCollator(dataset, processor)(
        TrajectoryWindows(dataset, processor).__getitems__([1])
    )
    assert batch["states"].dtype == torch.uint8
    np.testing.assert_array_equal(batch["states"][0].numpy(), images[1:3].transpose(0, 3, 1, 2))


class TestStandInForThePublishedClass:
    """Made from the data set alone, given its raw rows."""

    def test_attributes_that_scripts_read(self, episodes):
        dataset = episodes()
        collator = DecisionTransformerGymDataCollator(dataset)
        assert (collator.state_dim, collator.act_dim, collator.max_len, collator.n_traj) == (5, 3, 20, 3)
        assert collator.state_mean.shape == collator.state_std.shape == (5,)
        np.testing.assert_allclose(collator.p_sample, [30 / 45, 4 / 45, 11 / 45])

    def test_draws_every_step_equally_often(self, episodes):
        dataset = episodes()
        collator = DecisionTransformerGymDataCollator(dataset)
        torch.manual_seed(0)
        batch = collator([dataset[0]] * 9000)
        first = batch["attention_mask"].argmax(1)
        lengths = batch["attention_mask"].sum(1)
        assert batch["states"].shape == (9000, 20, 5)
        # windows that begin at the first step of the episode of 4: one step of 45, and the only full 4-step one
        begins_short = (batch["timesteps"].gather(1, first[:, None])[:, 0] == 0) & (lengths == 4)
        assert begins_short.float().mean().item() == pytest.approx(1 / 45, abs=0.006)
        full = (lengths == 20).float().mean().item()
        assert full == pytest.approx(11 / 45, abs=0.02)

    def test_follows_torch_s_seed(self, episodes):
        dataset = episodes()
        collator = DecisionTransformerGymDataCollator(dataset)
        batches = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            batches.append(next(iter(DataLoader(dataset, batch_size=3, collate_fn=collator)))["states"])
        assert torch.equal(batches[0], batches[1]) and not torch.equal(batches[0], batches[2])
