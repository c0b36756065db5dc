"""The arithmetic of ``zfabric bench``."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zfabric.cli.bench import quantile, rate_of


@given(values=st.lists(st.integers(), min_size=1), q=st.floats(0, 1))
def test_a_quantile_is_an_entry_that_the_share_does_not_exceed(values, q):
    ordered = sorted(values)
    found = quantile(ordered, q)
    assert found in ordered
    assert sum(value <= found for value in ordered) >= q * len(ordered)
    assert sum(value < found for value in ordered) < max(q * len(ordered), 1)


def test_quantiles_of_a_thousand():
    assert [quantile(range(1, 1001), q) for q in (0.5, 0.99, 0.999, 1.0)] == [500, 990, 999, 1000]


def test_a_throughput_counts_records_and_their_bytes():
    assert rate_of(1000, 100, 0.5) == {"records": 1000, "seconds": 0.5, "records_per_s": 2e3, "bytes_per_s": 2e5}
