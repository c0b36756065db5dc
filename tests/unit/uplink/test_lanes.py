"""Positions of one partition on its way: where it begins, what it misses, what is under way."""

from __future__ import annotations

import pytest

from zfabric import errors
from zfabric.uplink.lanes import Lane


@pytest.fixture
def lane():
    return Lane("t", 3)


@pytest.mark.parametrize(
    ("stored", "start", "end", "position", "gap"),
    [
        (-1, 0, 0, 0, None),
        (-1, 0, 9, 0, None),
        (-1, 4, 9, 4, (0, 4)),
        (5, 0, 9, 6, None),
        (5, 6, 9, 6, None),
        (5, 8, 9, 8, (6, 8)),
        (5, 9, 9, 9, (6, 9)),
        (8, 0, 9, 9, None),
    ],
)
def test_a_lane_begins_behind_what_the_hub_has(lane, stored, start, end, position, gap):
    assert lane.begin(stored, start, end) == gap
    assert (lane.position, lane.sent, lane.lag) == (position, stored, end - position)
    assert lane.skipped == (0 if gap is None else gap[1] - gap[0])


def test_a_source_that_has_less_than_the_hub_was_set_back(lane):
    with pytest.raises(errors.SourceRewound) as caught:
        lane.begin(9, 0, 9)
    assert (caught.value.topic, caught.value.partition, caught.value.end, caught.value.stored) == ("t", 3, 9, 9)


def test_what_is_under_way_is_freed_as_the_hub_acknowledges_it(lane):
    lane.begin(-1, 0, 30)
    for first in (0, 10, 20):
        assert lane.read(first, first + 10) is None
        lane.gave(first + 9, 10, 100)
    assert (lane.in_flight, lane.done, lane.lag, lane.caught_up) == (300, 0, 30, False)
    lane.stored(19)
    assert (lane.in_flight, lane.records, lane.done, lane.lag) == (100, 20, 20, 10)
    lane.stored(9)  # Heard before, told late.
    assert (lane.in_flight, lane.done) == (100, 20)
    lane.stored(29)
    assert (lane.in_flight, lane.records, lane.lag, lane.caught_up) == (0, 30, 0, True)


def test_a_batch_that_begins_later_shows_a_gap(lane):
    lane.begin(-1, 0, 30)
    lane.read(0, 10)
    assert lane.read(15, 20) == (10, 15)
    assert lane.read(20, 20) is None
    assert (lane.skipped, lane.position) == (5, 20)


def test_what_was_skipped_at_the_end_does_not_keep_a_lane_from_having_caught_up(lane):
    lane.begin(-1, 0, 30)
    lane.read(0, 10)
    lane.gave(9, 10, 100)
    lane.read(30, 30)
    assert (lane.done, lane.caught_up) == (0, False)
    lane.stored(9)
    assert (lane.done, lane.lag, lane.caught_up) == (30, 0, True)


def test_what_was_read_and_could_not_be_sent_has_not_arrived(lane):
    lane.begin(-1, 0, 20)
    lane.read(0, 10)
    lane.read(10, 20)
    lane.gave(9, 10, 100)
    lane.stored(9)
    assert (lane.done, lane.lag, lane.caught_up) == (10, 10, False)
    lane.gave(19, 0, 100)  # The hub had them.
    assert (lane.done, lane.in_flight, lane.caught_up) == (20, 0, True)


def test_a_lane_that_begins_again_forgets_what_was_under_way_and_keeps_its_count_and_goal(lane):
    lane.begin(-1, 0, 20)
    lane.read(0, 10)
    lane.gave(9, 10, 100)
    lane.stored(9)
    lane.read(10, 20)
    lane.gave(19, 10, 100)
    lane.begin(9, 0, 50)
    assert (lane.in_flight, lane.position, lane.records, lane.goal) == (0, 10, 10, 20)
