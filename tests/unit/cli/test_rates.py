"""Rates from two readings of counters, whatever happened between them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zfabric.cli.rates import Sample, rates

COUNTERS = st.dictionaries(st.sampled_from(["in", "out"]), st.integers(0, 1 << 60), min_size=1)
SAMPLES = st.builds(Sample, st.integers(1, 3), st.floats(0, 1e6), COUNTERS)


def test_a_rate_is_the_difference_over_the_time_of_whoever_counts():
    assert rates(Sample(1, 10.0, {"in": 100}), Sample(1, 12.0, {"in": 150})) == {"in": 25.0}


def test_without_an_earlier_reading_it_is_the_average_since_the_start():
    assert rates(None, Sample(1, 4.0, {"in": 100})) == {"in": 25.0}


def test_another_process_began_at_zero():
    assert rates(Sample(1, 100.0, {"in": 50}), Sample(2, 2.0, {"in": 60})) == {"in": 30.0}


def test_a_counter_that_went_back_began_at_zero_with_all_others():
    before, after = Sample(1, 1.0, {"in": 50, "out": 0}), Sample(1, 2.0, {"in": 10, "out": 4})
    assert rates(before, after) == {"in": 5.0, "out": 2.0}


def test_a_clock_that_went_back_is_a_restart_though_the_process_id_came_again():
    assert rates(Sample(7, 100.0, {"in": 5}), Sample(7, 2.0, {"in": 10})) == {"in": 5.0}


def test_the_same_instant_twice_has_no_rate():
    assert rates(Sample(1, 3.0, {"in": 5}), Sample(1, 3.0, {"in": 9})) == {"in": 0.0}
    assert rates(None, Sample(1, 0.0, {"in": 9})) == {"in": 0.0}


def test_a_counter_that_was_not_there_began_at_zero():
    assert rates(Sample(1, 1.0, {}), Sample(1, 3.0, {"in": 8})) == {"in": 4.0}


@given(before=st.none() | SAMPLES, after=SAMPLES)
def test_no_rate_is_ever_negative(before, after):
    found = rates(before, after)
    assert set(found) == set(after.counters)
    assert all(rate >= 0 for rate in found.values())
