"""Rows of ``zfabric top`` and ``zfabric status`` from two readings."""

from __future__ import annotations

from zfabric.cli.reading import Reading, Topic, leader_rows, topic_rows
from zfabric.model import LeaderInfo


def leader(pid=1, uptime_s=10.0, **counters):
    fields = dict.fromkeys(LeaderInfo.__struct_fields__, 0)
    return LeaderInfo(**{**fields, "pid": pid, "uptime_s": uptime_s, "endpoint": "", "publish": "", **counters})


def reading(at_s, leaders=(), topics=()):
    return Reading(at_s, dict(enumerate(leaders)), {topic.id: topic for topic in topics})


def topic(number, name, end_offset):
    return Topic(number, name, 1, end_offset, end_offset, end_offset)


def test_each_leader_has_its_own_rates():
    before = reading(0.0, [leader(1, 10.0, records_in=5), leader(2, 20.0, bytes_out=100)])
    after = reading(2.0, [leader(1, 12.0, records_in=9), leader(2, 22.0, bytes_out=300)])
    rows = leader_rows(before, after)
    assert [row["records_in_per_s"] for row in rows] == [2.0, 0.0]
    assert [row["bytes_out_per_s"] for row in rows] == [0.0, 100.0]


def test_a_leader_that_does_not_answer_has_a_row_without_values():
    rows = leader_rows(reading(0.0, [leader()]), reading(1.0, [None]))
    assert rows[0]["id"] == 0
    assert {value for name, value in rows[0].items() if name != "id"} == {None}
    assert set(rows[0]) == set(leader_rows(None, reading(0.0, [leader()]))[0])


def test_a_leader_that_is_back_counts_from_its_start():
    rows = leader_rows(reading(0.0, [None]), reading(1.0, [leader(3, 0.5, records_in=100)]))
    assert rows[0]["records_in_per_s"] == 200.0


def test_topics_are_sorted_by_what_they_take_and_a_new_one_began_at_zero():
    before = reading(10.0, topics=[topic(1, "a", 100), topic(2, "b", 100)])
    after = reading(12.0, topics=[topic(1, "a", 110), topic(2, "b", 180), topic(3, "c", 40)])
    rows = topic_rows(before, after)
    assert [(row["topic"], row["records_per_s"]) for row in rows] == [("b", 40.0), ("c", 20.0), ("a", 5.0)]


def test_a_topic_that_was_deleted_and_made_again_began_at_zero():
    rows = topic_rows(reading(0.0, topics=[topic(1, "a", 1000)]), reading(1.0, topics=[topic(2, "a", 10)]))
    assert [row["records_per_s"] for row in rows] == [10.0]


def test_a_topic_with_a_leader_that_does_not_answer_has_no_rate_then_and_after():
    unknown = Topic(1, "a", 2, None, None, None)
    first, second = reading(0.0, topics=[topic(1, "a", 5)]), reading(1.0, topics=[unknown])
    assert topic_rows(first, second)[0]["records_per_s"] is None
    assert topic_rows(second, reading(2.0, topics=[topic(1, "a", 9)]))[0]["records_per_s"] is None
    assert topic_rows(None, first)[0]["records_per_s"] is None
