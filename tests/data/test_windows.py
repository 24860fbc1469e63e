import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from hf_seqrl.data.returns import best_episodes
from hf_seqrl.data.windows import TrajectoryWindows, WindowBatch, gathered_windows


def random_dataset(lengths, seed=0, discrete=False):
    rng = np.random.default_rng(seed)
    return Dataset.from_dict(
        {
            "observations": [rng.normal(size=(length, 3)).astype(np.float32).tolist() for length in lengths],
            "actions": [
                rng.integers(0, 4, length).tolist() if discrete else rng.normal(size=(length, 2)).tolist()
                for length in lengths
            ],
            "rewards": [rng.normal(size=length).tolist() for length in lengths],
            "dones": [[False] * (length - 1) + [bool(length % 2)] for length in lengths],
        }
    )


def plain_window(dataset, index, context_length, discount=1.0):
    """The window of one step, cell by cell from the rows."""
    episode = 0
    while index >= len(dataset[episode]["rewards"]):
        index -= len(dataset[episode]["rewards"])
        episode += 1
    row = dataset[episode]
    steps = range(index, min(index + context_length, len(row["rewards"])))
    padding = context_length - len(steps)

    def padded(values):
        values = np.asarray(values)
        return np.concatenate([np.zeros((padding, *values.shape[1:]), values.dtype), values])

    returns = [sum(discount**k * r for k, r in enumerate(row["rewards"][step:])) for step in steps]
    return {
        "observations": padded([row["observations"][step] for step in steps]),
        "actions": padded([row["actions"][step] for step in steps]),
        "rewards": padded([row["rewards"][step] for step in steps]),
        "terminations": padded([row["dones"][step] for step in steps]),
        "returns_to_go": padded(returns),
        "timesteps": padded(list(steps)),
        "attention_mask": padded([1] * len(steps)),
    }


def assert_same_window(actual, expected):
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        assert actual[name].shape == values.shape, name
        np.testing.assert_allclose(actual[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 8), st.booleans(), st.sampled_from([1.0, 0.9])
)
@settings(max_examples=30, deadline=None)
def test_every_window_equals_a_plain_loop(lengths, context_length, discrete, discount):
    dataset = random_dataset(lengths, discrete=discrete)
    windows = TrajectoryWindows(dataset, context_length=context_length, discount=discount)
    assert len(windows) == sum(lengths)
    batch = windows.gather(range(len(windows)))
    for index in range(len(windows)):
        expected = plain_window(dataset, index, context_length, discount)
        assert_same_window({name: values[index] for name, values in batch.items()}, expected)
        assert_same_window(windows[index], expected)


VARIANTS = {
    "shuffled": lambda dataset: dataset.shuffle(seed=3),
    "selected": lambda dataset: dataset.select([4, 0, 2]),
    "sliced": lambda dataset: dataset.select(range(1, 4)),
    "split": lambda dataset: dataset.train_test_split(0.4, seed=0)["train"],
    "chunked": lambda dataset: concatenate_datasets([dataset, dataset.select([2, 1]), random_dataset([5, 2], seed=9)]),
    "sliced chunks": lambda dataset: concatenate_datasets([dataset, random_dataset([5, 2], seed=9)]).select(
        range(3, 6)
    ),
    "shuffled chunks": lambda dataset: concatenate_datasets([dataset, random_dataset([5, 2], 9)]).shuffle(seed=1),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_windows_follow_the_rows_of_the_data_set(name):
    dataset = VARIANTS[name](random_dataset([3, 9, 1, 6, 7]))
    windows = TrajectoryWindows(dataset, context_length=4)
    for index in range(len(windows)):
        assert_same_window(windows[index], plain_window(dataset, index, 4))


def test_a_window_that_does_not_exist_is_refused():
    windows = TrajectoryWindows(random_dataset([3]), context_length=2)
    assert_same_window(windows[-1], windows[2])
    with pytest.raises(IndexError, match="item 3 does not exist"):
        windows[3]
    with pytest.raises(ValueError, match="context_length is 0"):
        TrajectoryWindows(random_dataset([3]), context_length=0)


def test_context_length_and_discount_come_from_the_processor_unless_given():
    class Processor:
        context_length = 7
        discount = 0.5

    dataset = random_dataset([3, 9])
    windows = TrajectoryWindows(dataset, Processor())
    assert_same_window(windows[4], plain_window(dataset, 4, 7, 0.5))
    windows = TrajectoryWindows(dataset, Processor(), context_length=2, discount=1.0)
    assert_same_window(windows[4], plain_window(dataset, 4, 2, 1.0))


def test_a_batch_passes_loader_and_collator_unharmed():
    windows = TrajectoryWindows(random_dataset([5, 8]), context_length=4)
    (batch,) = windows.__getitems__([3, 11, 4])
    assert isinstance(batch, WindowBatch) and not isinstance(batch, dict)
    for features in ([batch], batch, dict(batch), [windows[index] for index in (3, 11, 4)]):
        assert_same_window(gathered_windows(features), windows.gather([3, 11, 4]))


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_give_the_batches_of_the_main_process(start_method, monkeypatch):
    monkeypatch.setattr("hf_seqrl.data.returns._MOST_STEPS_IN_MEMORY", 4)
    windows = TrajectoryWindows(random_dataset([5, 8, 30], seed=2).shuffle(seed=0), context_length=4)

    def batches(**options):
        order = torch.Generator().manual_seed(5)
        return list(
            DataLoader(windows, batch_size=8, shuffle=True, generator=order, collate_fn=gathered_windows, **options)
        )

    context = multiprocessing.get_context(start_method)
    for alone, parallel in zip(batches(), batches(num_workers=2, multiprocessing_context=context), strict=True):
        assert_same_window(parallel, alone)


def test_pickling_keeps_the_options_and_copies_no_views():
    windows = TrajectoryWindows(random_dataset([5, 8]), context_length=4, discount=0.5)
    copy = pickle.loads(pickle.dumps(windows))
    assert_same_window(copy[6], windows[6])
    assert "columns" not in windows.__getstate__()


def test_the_best_fraction_counts_steps_and_keeps_whole_episodes():
    rewards = [[1.0] * 4, [5.0] * 2, [0.0] * 10, [9.0] * 1, [3.0] * 3]
    dataset = random_dataset([4, 2, 10, 1, 3]).remove_columns("rewards").add_column("rewards", rewards)
    # returns 4, 10, 0, 9, 9 over 20 steps; the best first: 2 steps, then 1, then 3, then 4
    assert [len(row) for row in best_episodes(dataset, best_fraction=0.1)["rewards"]] == [2]
    assert [len(row) for row in best_episodes(dataset, best_fraction=0.3)["rewards"]] == [2, 1, 3]
    assert [len(row) for row in best_episodes(dataset, min_return=4.0)["rewards"]] == [4, 2, 1, 3]
    windows = TrajectoryWindows(dataset, context_length=3, best_fraction=0.3)
    assert len(windows) == 6 and windows.gather(range(6))["returns_to_go"].max() == 10.0


def test_filters_that_keep_nothing_are_refused():
    dataset = random_dataset([4, 2])
    with pytest.raises(ValueError, match="no episode has a return of at least min_return=1000"):
        best_episodes(dataset, min_return=1000)
    with pytest.raises(ValueError, match="best_fraction is 10"):
        best_episodes(dataset, best_fraction=10)


def test_windows_come_as_often_as_the_weights_of_their_episodes_say(cartpole_dataset):
    weights = np.zeros(len(cartpole_dataset))
    weights[[2, 5]] = 1.0, 2.0
    windows = TrajectoryWindows(cartpole_dataset, context_length=1, episode_weights=weights)
    offsets = windows.columns.episode_offsets
    batch = windows.gather(np.arange(len(windows)))
    seen = {tuple(row) for row in batch["observations"][:, 0].tolist()}
    steps = np.concatenate([np.arange(offsets[k], offsets[k + 1]) for k in (2, 5)])
    assert seen == {tuple(row) for row in windows.columns.observations.take(steps).tolist()}


def test_weights_of_steps_are_a_column_of_the_batch_and_zero_where_it_is_padded(cartpole_dataset):
    plain = TrajectoryWindows(cartpole_dataset, context_length=3)
    weights = np.arange(1, len(plain) + 1, dtype=np.float32)
    windows = TrajectoryWindows(cartpole_dataset, context_length=3, step_weights=weights)
    last = int(windows.columns.episode_offsets[1]) - 1
    assert windows[0]["weights"].tolist() == [1.0, 2.0, 3.0]
    assert windows[last]["weights"].tolist() == [0.0, 0.0, last + 1.0]
    with pytest.raises(ValueError, match="one a step"):
        TrajectoryWindows(cartpole_dataset, context_length=3, step_weights=weights[1:])
