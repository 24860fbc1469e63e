import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, Tuple
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_seqrl.data.statistics import (
    ColumnStatistics,
    action_scaling,
    narrowed,
    needs_scaling,
    return_scaling,
    standardization,
    standardize,
)


def test_blocks_give_the_statistics_of_all_rows():
    rows = np.random.default_rng(0).normal(size=(1000, 3)) * [1, 100, 1e-5] + [0, 1e6, 1]
    found = ColumnStatistics.of([rows[:1], rows[1:700], rows[700:]])
    np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.std, rows.std(0), rtol=1e-9)
    assert (found.low == rows.min(0)).all() and (found.high == rows.max(0)).all()


def test_a_clock_in_unix_time_keeps_its_deviation():
    clock = 1.7e9 + 10.0 * np.arange(6)
    np.testing.assert_allclose(ColumnStatistics.of([clock[:, None]]).scale, clock.std())


def test_a_constant_entry_is_not_scaled_though_rounding_gave_it_a_deviation():
    constant = np.full(1000, 0.1, np.float32) + np.where(np.arange(1000) % 2, np.float32(7e-9), 0)
    varying = np.arange(1000, dtype=np.float32) * np.float32(1e-9)
    found = ColumnStatistics.of([np.stack([constant, varying, np.full(1000, 5.0, np.float32)], 1)])
    assert found.scale[[0, 2]].tolist() == [1.0, 1.0]
    np.testing.assert_allclose(found.scale[1], varying.std(dtype=np.float64))


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=5),
    offset=st.floats(-1e6, 1e6),
    spread=st.floats(1e-3, 1e3),
)
def test_statistics_survive_any_split_into_blocks_and_any_offset(sizes, offset, spread):
    values = offset + spread * np.random.default_rng(0).normal(size=(sum(sizes), 2))
    found = ColumnStatistics.of(np.split(values, np.cumsum(sizes)[:-1]))
    np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-9, atol=1e-9 * spread)
    np.testing.assert_allclose(found.std, values.std(0), rtol=1e-6, atol=1e-9 * spread)


@pytest.mark.parametrize(
    ("space", "actions", "shift", "scale"),
    [
        (Box(-1, 1, (2,)), [[0.1, 0.2], [0.2, 0.1]], [0, 0], [1, 1]),
        (Box(0, 500, (1,)), [[0.0], [400.0]], [250], [250]),
        (Box(0, 500, (1,)), [[10.0], [12.0]], [11], [1]),
        (Box(-np.inf, np.inf, (1,)), [[3.0], [5.0]], [4], [1]),
        (Box(0, np.inf, (1,)), [[7.0], [7.0]], [7], [1]),
        (Tuple((Discrete(3), Box(0, 10, (1,)))), [[2.0, 0.0], [0.0, 10.0]], [5], [5]),
    ],
    ids=["unit bounds", "used bounds", "unused bounds", "no bounds", "constant", "hybrid"],
)
def test_actions_are_scaled_by_their_bounds_where_the_data_use_them_else_by_the_data(space, actions, shift, scale):
    found = action_scaling(space, ColumnStatistics.of([np.array(actions)]))
    np.testing.assert_allclose(found, [shift, scale])
    assert needs_scaling(space) == (space != Box(-1, 1, (2,)))


@pytest.mark.parametrize(
    ("returns", "shift", "scale"),
    [
        ([0.0, 3234.3], 0, 1000),
        ([0.0, 1.0], 0, 1),
        ([-200.0, -90.0], 0, 100),
        ([1000.0, 1020.0], 1010, 10),
        ([-10_000.0, -9900.0], -9950, 50),
        ([1e6, 2e6], 1.5e6, 0.5e6),
        ([500.0, 500.0], 0, 100),
        ([0.0, 0.0], 0, 1),
        ([40_000.0, 40_000.0], 0, 40_000),
    ],
    ids=str,
)
def test_returns_are_scaled_so_that_episodes_differ_visibly(returns, shift, scale):
    """The paper's power of ten where it shows the differences, as for the Gym tasks; else the data's own spread."""
    assert return_scaling(np.array(returns), np.arange(len(returns) + 1)) == pytest.approx((shift, scale))


def test_returns_to_go_of_dense_rewards_stay_of_a_size_that_can_be_learned():
    dense = np.concatenate([np.linspace(total, 0, 1000, endpoint=False) for total in (9_990.0, 10_010.0)])
    shift, scale = return_scaling(dense, np.array([0, 1000, 2000]))
    assert np.abs((dense - shift) / scale).max() <= 20.1


def test_returns_that_no_model_can_tell_apart_are_warned_of():
    with pytest.warns(UserWarning, match="differ by a millionth of their size"):
        return_scaling(np.array([1e9, 1e9 + 1]), np.arange(3))


def test_a_shift_that_float32_would_round_visibly_is_kept_in_double():
    clock = 1.7e9 + 10.0 * np.arange(6)
    shift, scale = narrowed(np.array([clock.mean()]), np.array([clock.std()]))
    np.testing.assert_allclose(
        standardize(clock[:, None], shift, scale)[:, 0], (clock - clock.mean()) / clock.std(), rtol=1e-6
    )
    assert standardize(np.ones((2, 1), np.float32), *narrowed(np.array([0.5]), np.array([2.0]))).dtype == np.float32


@pytest.mark.parametrize(
    ("shift", "scale", "message"),
    [
        (np.zeros((4, 4)), np.ones(4), r"state_mean has the shape \(4, 4\): expected \(4,\)"),
        (np.zeros(4), np.ones(3), r"state_std has the shape \(3,\): expected \(4,\)"),
        ([0.0, np.nan, 0.0, 0.0], np.ones(4), "state_mean holds infinite values or NaN"),
        (np.zeros(4), [1.0, np.inf, 1.0, 1.0], "state_std holds infinite values or NaN"),
    ],
)
def test_a_standardization_of_another_size_is_refused(shift, scale, message):
    with pytest.raises(ValueError, match=message):
        standardization(shift, scale, 4, "state")
    mean, std = standardization(np.arange(4), np.ones(4), 4, "state")
    assert mean.tolist() == [0, 1, 2, 3] and std.dtype == np.float32
