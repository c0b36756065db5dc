"""News that travel with other messages."""

import pytest

from zfabric.core.mesh.dissemination import Queue, sync_interval, transmit_limit

BIG = 1_000_000


@pytest.mark.parametrize(("members", "limit"), [(1, 3), (2, 4), (10, 8), (100, 14), (1_000, 21), (5_000, 26)])
def test_news_are_sent_as_often_as_the_logarithm_of_the_mesh(members, limit):
    """SWIM, 4.1: lambda * log n."""
    assert transmit_limit(3, members) == limit


@pytest.mark.parametrize(("members", "seconds"), [(1, 30), (32, 30), (33, 60), (64, 60), (65, 90), (5_000, 270)])
def test_the_load_of_comparisons_grows_more_slowly_than_the_mesh(members, seconds):
    assert sync_interval(30, members) == seconds


def test_each_news_is_sent_so_often_and_no_oftener():
    queue = Queue()
    queue.put(b"a", b"1")
    assert [queue.take(BIG, 3, 10) for _ in range(4)] == [[b"1"], [b"1"], [b"1"], []]
    assert len(queue) == 0


def test_what_was_sent_least_goes_first_and_of_these_the_newest():
    queue = Queue()
    queue.put(b"a", b"1")
    queue.put(b"b", b"2")
    assert queue.take(1, 3, 10) == [b"2"]
    queue.put(b"c", b"3")
    assert queue.take(BIG, 3, 10) == [b"3", b"1", b"2"]


def test_the_latest_news_about_a_member_replaces_older_ones():
    queue = Queue()
    queue.put(b"a", b"1")
    queue.take(BIG, 3, 10)
    queue.put(b"a", b"2")
    assert [queue.take(BIG, 3, 10) for _ in range(4)] == [[b"2"], [b"2"], [b"2"], []]


def test_a_message_has_room_for_so_much():
    queue = Queue()
    for number in range(10):
        queue.put(bytes([number]), b"x" * 10)
    assert len(queue.take(35, 3, 10)) == 3
    assert len(queue.take(BIG, 3, 4)) == 4
    queue.put(b"large", b"y" * 100)
    assert queue.take(10, 3, 10) == [b"x" * 10], "a large one does not keep small ones back"


def test_the_own_record_goes_first_in_any_flood():
    queue = Queue()
    queue.put_own(b"me")
    for number in range(100):
        queue.put(bytes([number]), b"x")
    assert [queue.take(3, 3, 10)[0] for _ in range(3)] == [b"me"] * 3
    assert not queue.own_waits
    assert queue.take(3, 3, 10)[0] == b"x"


def test_the_queue_is_bounded():
    """News that were sent most often make room."""
    queue = Queue(10)
    for number in range(10):
        queue.put(bytes([number]), bytes([number]))
    sent = queue.take(4, 3, 10)
    for number in range(10, 14):
        queue.put(bytes([number]), bytes([number]))
    assert len(queue) == 10
    assert queue.dropped == 4
    assert not any(member in queue for member in sent)


def test_news_that_all_have_room_are_put_together_once_for_several_receivers():
    """Each receiver counts; the newest of those that were sent as often still go first."""
    queue = Queue()
    queue.put_own(b"me")
    queue.put(b"a", b"1")
    queue.put(b"b", b"2")
    assert queue.fits(4, 3)
    assert not queue.fits(3, 3)
    assert not queue.fits(4, 2)
    assert queue.take_all(5, 3) == [b"me", b"2", b"1"]
    queue.put(b"c", b"3")
    assert queue.take_all(5, 2) == [b"me", b"3", b"2", b"1"]
    assert queue.take_all(5, 2) == [b"3"]
    assert queue.take_all(5, 2) == [b"3"]
    assert len(queue) == 0
    assert queue.fits(0, 0)
