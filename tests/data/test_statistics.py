import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_seqrl.data.statistics import ColumnStatistics


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
