"""Who waits for a reply finds out by itself whether to sleep or to watch."""

from __future__ import annotations

import pytest

from zfabric.net.watching import FIRST, LONGEST_NS, TRIES, Watching


def waits(watching, asleep_ns, awake_ns, replies):
    """Take so many replies; return of how many of them one watched."""
    watched = 0
    for _ in range(replies):
        watched += bool(watching.limit_ns)
        watching.took(awake_ns if watching.limit_ns else asleep_ns)
    return watched


def test_replies_that_come_sooner_to_who_watches_are_watched_for():
    watching = Watching()
    assert watching.limit_ns == 0  # Nobody knows yet.
    waits(watching, 150_000, 80_000, 2_000)
    assert waits(watching, 150_000, 80_000, TRIES * 10) == (TRIES - 1) * 10


@pytest.mark.parametrize("awake_ns", [95_000, 100_000, 3_000_000])
def test_nobody_watches_where_it_brings_little_or_takes_time_from_others(awake_ns):
    watching = Watching()
    waits(watching, 100_000, awake_ns, 2_000)
    assert waits(watching, 100_000, awake_ns, TRIES * 10) == 10


def test_a_hundred_replies_are_enough_to_find_out():
    watching = Watching()
    waits(watching, 150_000, 95_000, FIRST)
    assert waits(watching, 150_000, 95_000, TRIES) >= TRIES - 2


def test_nobody_ever_watches_for_replies_that_take_long():
    watching = Watching()
    waits(watching, 5_000_000, 4_000_000, 100)
    assert waits(watching, 5_000_000, 4_000_000, 2_000) == 0


def test_who_watched_sleeps_once_that_is_better_and_the_other_way_round():
    watching = Watching()
    for _ in range(3):
        waits(watching, 150_000, 80_000, 2_000)
        assert waits(watching, 150_000, 80_000, TRIES) > TRIES // 2
        waits(watching, 60_000, LONGEST_NS, 2_000)
        assert waits(watching, 60_000, LONGEST_NS, TRIES) == 1


def test_a_few_replies_that_wait_for_a_processor_change_nothing():
    watching = Watching()
    waits(watching, 150_000, 80_000, 2_000)
    for _ in range(20):
        waits(watching, 150_000, 80_000, TRIES - 1)
        watching.took(50_000_000)
    assert waits(watching, 150_000, 80_000, TRIES) >= TRIES - 2
