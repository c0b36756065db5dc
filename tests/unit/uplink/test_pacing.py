"""How fast an uplink sends, and when it tries again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zfabric import errors
from zfabric.uplink.pacing import PAUSE_MAX_NS, PAUSE_NS, PIECE_MIN, SECOND, STUCK_PAUSE_MAX_NS, Backoff, Bucket


def test_without_a_rate_nothing_waits():
    bucket = Bucket(None)
    bucket.spend(1 << 60)
    assert (bucket.wait_ns(0), bucket.window(100)) == (0, 100)


def test_what_may_be_sent_now_is_what_the_rate_has_left_and_goes_in_quarters_of_a_second():
    bucket = Bucket(100_000.0)
    bucket.wait_ns(0)
    assert (bucket.room(1 << 30), bucket.room(7), bucket.piece()) == (100_000, 7, 25_000)
    bucket.spend(60_000)
    assert bucket.room(1 << 30) == 40_000
    assert Bucket(1.0).piece() == PIECE_MIN
    assert (Bucket(None).room(1 << 30), Bucket(None).piece()) == (1 << 30, None)


def test_debt_is_paid_before_more_is_sent():
    bucket = Bucket(1_000.0)
    assert bucket.wait_ns(0) == 0
    bucket.spend(3_000)
    assert bucket.wait_ns(0) == 2 * SECOND + 1
    assert bucket.wait_ns(SECOND) == SECOND + 1
    assert bucket.wait_ns(2 * SECOND + 1) == 0


def test_a_rest_earns_a_second_and_no_more():
    bucket = Bucket(1_000.0)
    bucket.wait_ns(0)
    assert bucket.wait_ns(3_600 * SECOND) == 0
    bucket.spend(1_001)
    assert bucket.wait_ns(3_600 * SECOND) > 0


@given(
    rate=st.floats(1.0, 1e9),
    steps=st.lists(st.tuples(st.integers(0, 10 * SECOND), st.integers(0, 1 << 24)), max_size=50),
)
def test_over_any_time_no_more_is_sent_than_the_rate_a_burst_and_one_piece(rate, steps):
    bucket, now, sent, largest = Bucket(rate), 0, 0, 0
    for pause, size in steps:
        now += pause
        if bucket.wait_ns(now) == 0:
            bucket.spend(size)
            sent, largest = sent + size, max(largest, size)
        assert sent <= rate * (now / SECOND + 1.0) * 1.000001 + largest + 1


@pytest.mark.parametrize(
    ("error", "longest"),
    [
        (errors.Unreachable(url="u", seconds=1.0), PAUSE_MAX_NS),
        (errors.DeliveryTimeout(records=1, topic="t", partition=0, seconds=1.0), PAUSE_MAX_NS),
        (errors.RecordTooLarge(size=9, topic="t", limit=1), STUCK_PAUSE_MAX_NS),
    ],
)
def test_pauses_double_up_to_a_bound_that_is_longer_where_somebody_has_to_help(error, longest):
    backoff = Backoff()
    pauses = []
    for _ in range(12):
        backoff.failed(error, 0)
        pauses.append(backoff.at_ns)
    assert pauses[:3] == [PAUSE_NS, 2 * PAUSE_NS, 4 * PAUSE_NS]
    assert pauses[-1] == longest
    backoff.succeeded()
    backoff.failed(error, 0)
    assert backoff.at_ns == PAUSE_NS
