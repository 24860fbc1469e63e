"""The discretizer against the peers' outputs, and what it promises beyond them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import AutoConfig, AutoModel

from hf_seqrl import TrajectoryDiscretizer, TrajectoryDiscretizerConfig
from hf_seqrl.models.trajectory_transformer.discretizer import quantile_bins, sample_rows

SIZES = {"observation_dim": 3, "action_dim": 2}


def fit_column(column, num_bins=20, **options):
    """A discretizer of one observation entry `column`; the other entries are constant."""
    transitions = np.zeros((len(column), 4), np.float32)
    transitions[:, 0] = column
    return TrajectoryDiscretizer.fit(transitions, observation_dim=1, action_dim=1, num_bins=num_bins, **options)


@pytest.fixture(scope="module")
def peer(shared_fixture):
    return np.load(shared_fixture("trajectory_transformer", "jannerm_quantile.npz"))


@pytest.fixture(scope="module")
def quantile(peer):
    return TrajectoryDiscretizer.fit(peer["data"], num_bins=20, **SIZES)


def test_quantile_edges_tokens_and_values_equal_the_original(peer, quantile):
    continuous = [0, 1, 3, 4, 5, 6]  # entry 2 has ties, see the next test
    np.testing.assert_allclose(quantile.edges[continuous], peer["thresholds"].T[continuous], rtol=1e-6)
    tokens = quantile.encode(peer["X"])
    assert np.array_equal(tokens[:, continuous], peer["indices"][:, continuous])
    np.testing.assert_allclose(quantile.decode(tokens)[:, continuous], peer["recon"][:, continuous], rtol=1e-5)


def test_slices_of_a_transition_equal_the_whole(peer, quantile):
    tokens = quantile.encode(peer["X"])
    assert torch.equal(quantile.encode(peer["X"][:, :3], slice(0, 3)), tokens[:, :3])
    assert torch.equal(quantile.encode(peer["X"][:, 5], 5), tokens[:, 5])
    assert torch.equal(quantile.decode(tokens[:, 3:5], slice(3, 5)), quantile.decode(tokens)[:, 3:5])


def test_expectation_equals_the_original_when_the_stop_token_is_dropped(peer, quantile):
    probabilities = torch.from_numpy(peer["probs"])
    expectation = quantile.expectation(probabilities, slice(5, 7), renormalize=False)
    np.testing.assert_allclose(expectation[:, 0], peer["value_mean_r"], rtol=1e-5)
    np.testing.assert_allclose(expectation[:, 1], peer["value_mean_v"], rtol=1e-5)


def test_expectation_conditions_on_not_stopping(quantile):
    probabilities = torch.zeros(21)
    probabilities[[7, 20]] = 0.5
    assert quantile.expectation(probabilities, 6) == quantile.values[6, 7]


def test_percentile_is_one_bin_above_the_originals(peer, quantile):
    probabilities = torch.from_numpy(peer["probs"])[:, 0]
    probabilities = torch.cat([probabilities[:, :20] / probabilities[:, :20].sum(1, True), torch.zeros(16, 1)], 1)
    for fraction in (0.1, 0.5, 0.9):
        bins = (quantile.percentile(probabilities, fraction, 5)[:, None] == quantile.values[5]).int().argmax(1)
        cumulative = np.cumsum(probabilities.numpy().astype(float), axis=1)
        for row, index in enumerate(bins):
            assert cumulative[row, index] >= fraction - 1e-6
            assert index == 0 or cumulative[row, index - 1] < fraction + 1e-6
    peers_bin = np.abs(peer["value_p0.5_r"][:, None] - quantile.values[5].numpy()).argmin(1)
    ours = (torch.from_numpy(peer["probs"])[:, 0].cumsum(1) < 0.5).sum(1).numpy()
    within = (ours > 0) & (ours < 20)  # elsewhere there is no bin before, or the stop token holds the percentile
    np.testing.assert_array_equal(peers_bin[within], ours[within] - 1)


def test_uniform_bins_equal_the_faster_implementation(shared_fixture):
    peer = np.load(shared_fixture("trajectory_transformer", "howuhh_kbins_uniform.npz"))
    uniform = TrajectoryDiscretizer.fit(peer["data"], num_bins=20, strategy="uniform", **SIZES)
    np.testing.assert_allclose(uniform.edges, peer["bin_edges"], atol=1e-5)
    np.testing.assert_array_equal(uniform.encode(peer["X"]), peer["encode"])
    np.testing.assert_allclose(uniform.decode(uniform.encode(peer["X"])), peer["decode"], atol=1e-5)
    expectation = uniform.expectation(torch.from_numpy(peer["probs"]), slice(5, 7), renormalize=False)
    np.testing.assert_allclose(expectation, peer["expectation"], rtol=1e-5)


columns = arrays(
    np.float32, st.integers(1, 300), elements=st.floats(-1e6, 1e6, width=32) | st.sampled_from([-1.0, 0.0, 1.0])
)


@settings(max_examples=60, deadline=None)
@given(columns, st.sampled_from([2, 5, 20]), st.sampled_from(["quantile", "uniform"]))
def test_any_data_gives_as_many_usable_bins_as_asked_for(column, num_bins, strategy):
    discretizer = fit_column(column, num_bins, strategy=strategy)
    edges = discretizer.edges[0]
    assert (edges[1:-1] > edges[:-2]).all() and edges[-1] >= edges[-2]
    assert torch.equal(discretizer.encode(edges[:-1], 0), torch.arange(num_bins))  # each bin can be entered
    assert torch.equal(discretizer.encode(discretizer.values[0], 0), torch.arange(num_bins))
    tokens = discretizer.encode(column, 0)
    assert (edges[tokens] <= torch.from_numpy(column)).all() and (torch.from_numpy(column) <= edges[tokens + 1]).all()
    assert discretizer.clipped_counts[0] == 0


def test_a_repeated_value_gets_a_bin_that_decodes_to_it():
    column = np.concatenate([np.full(500, -1.0), np.linspace(-0.9, 0.9, 300), np.full(200, 1.0)])
    discretizer = fit_column(column)
    tokens = discretizer.encode(column, 0)
    assert torch.equal(discretizer.decode(tokens, 0)[[0, -1]], torch.tensor([-1.0, 1.0]))
    counts = torch.bincount(tokens, minlength=20)[1:-1]
    assert counts.min() >= 10 and counts.max() <= 20  # the 300 others share the 18 other bins


def test_small_data_decodes_to_itself():
    column = np.array([0.5, 3.0, -2.0, 7.0])
    discretizer = fit_column(column, num_bins=4)
    np.testing.assert_array_equal(discretizer.decode(discretizer.encode(column, 0), 0), column.astype(np.float32))


def test_bins_hold_equal_shares():
    column = np.random.default_rng(0).exponential(size=10_000)
    counts = torch.bincount(fit_column(column, 50).encode(column, 0), minlength=50)
    assert counts.min() >= 199 and counts.max() <= 201


def test_discrete_entries_are_taken_as_they_are():
    transitions = np.array([[0.3, 2, 1.0, 5.0], [0.1, 0, 1.0, 6.0]], np.float32)
    discretizer = TrajectoryDiscretizer.fit(
        transitions, observation_dim=1, action_dim=1, num_bins=10, discrete={1: [0, 1, 2]}
    )
    assert torch.equal(discretizer.encode(np.array([0, 1, 2]), 1), torch.tensor([0, 1, 2]))
    assert torch.equal(discretizer.decode(torch.arange(3), 1), torch.tensor([0.0, 1.0, 2.0]))
    assert discretizer.possible[1].tolist() == [True] * 3 + [False] * 7
    assert discretizer.encode(np.array([9.0]), 1).item() == 2 and discretizer.clipped_counts[1] == 1


def test_too_many_discrete_values_are_refused():
    with pytest.raises(ValueError, match="raise num_bins"):
        fit_column(np.arange(4), num_bins=2, discrete={0: range(4)})


def test_values_outside_the_bins_are_clipped_and_counted(quantile):
    far = np.zeros((3, 7))
    far[0, 0], far[1, 0], far[2, 6] = -1e9, np.inf, 1e9
    before = quantile.clipped_counts.copy()
    tokens = quantile.encode(far)
    assert tokens[0, 0] == 0 and tokens[1, 0] == 19 and tokens[2, 6] == 19
    np.testing.assert_array_equal((quantile.clipped_counts - before)[[0, 1, 6]] > 0, [True, False, True])


def test_nan_is_refused(quantile):
    with pytest.raises(ValueError, match="NaN"):
        quantile.encode(np.full((1, 7), np.nan))
    with pytest.raises(ValueError, match=r"Transition 0 holds nan in entry 0"):
        fit_column(np.array([np.nan, 1.0]))


def test_the_stop_token_decodes_to_nan(quantile):
    decoded = quantile.decode(torch.tensor([[20, 3, 3, 3, 3, 3, 20]]))
    assert torch.isnan(decoded)[0].tolist() == [True, False, False, False, False, False, True]


def test_saved_bins_load_through_the_auto_classes(quantile, peer, tmp_path):
    quantile.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, TrajectoryDiscretizer)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), TrajectoryDiscretizerConfig)
    for name, buffer in quantile.named_buffers():
        assert torch.equal(dict(loaded.named_buffers())[name], buffer)
    assert torch.equal(loaded(torch.from_numpy(peer["X"])), quantile(torch.from_numpy(peer["X"])))


def test_fitting_to_blocks_equals_fitting_to_the_whole(peer, quantile):
    blocks = TrajectoryDiscretizer.fit(iter(np.array_split(peer["data"], 7)), num_bins=20, **SIZES)
    assert torch.equal(blocks.edges, quantile.edges)


def test_a_sample_of_large_data_keeps_the_extremes_and_is_uniform():
    data = np.arange(100_000, dtype=np.float32)[:, None]
    rows = sample_rows(np.array_split(data, 30), 5_000, seed=0)
    assert rows.min() == 0 and rows.max() == 99_999 and len(rows) == 5_002
    np.testing.assert_allclose(quantile_bins(rows[:, 0], 10).edges, np.linspace(0, 1e5, 11), atol=2_500)


@pytest.mark.parametrize("options", [{"num_bins": 1}, {"strategy": "kmeans"}])
def test_impossible_configurations_are_refused(options):
    with pytest.raises(Exception, match=str(next(iter(options.values())))):
        TrajectoryDiscretizerConfig(**options)
