"""News that travel with other messages."""

from random import Random

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


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_each_news_goes_so_often_unless_it_is_replaced_and_the_least_sent_go_first(seed):
    """Against a model: a dict of what is current, and how often each was sent."""
    random = Random(seed)
    limit, most = random.randint(1, 6), random.choice([8, 40, 400])
    queue, current, sent = Queue(most), {}, {}
    for number in range(2_000):
        member = bytes([random.randrange(60)])
        kind = random.random()
        if kind < 0.5:
            queue.put(member, b"%d %b" % (number, b"x" * random.randrange(30)))
            for gone in [known for known in current if known not in queue]:
                assert len(current) == most
                assert sent[gone] == max(sent.values()), "those that were sent most often make room"
                del current[gone], sent[gone]
            current[member], sent[member] = b"%d " % number, 0
        elif kind < 0.6:
            queue.forget(member)
            current.pop(member, None)
            sent.pop(member, None)
        else:
            room, count = random.choice([40, 200, 10_000]), random.choice([3, 10, 100])
            taken = queue.take(room, limit, count)
            assert sum(map(len, taken)) <= room
            assert len(taken) <= count
            whose = {text: known for known, text in current.items()}
            order = []
            for update in taken:
                known = whose[update.partition(b" ")[0] + b" "]
                order.append(sent[known])
                sent[known] += 1
                if sent[known] == limit:
                    del current[known], sent[known]
            assert order == sorted(order)
        assert len(queue) == len(current)
        assert all(known in queue for known in current)
    while current:
        for update in queue.take(BIG, limit, 1_000):
            known = next(known for known, text in current.items() if update.startswith(text))
            sent[known] += 1
            if sent[known] == limit:
                del current[known], sent[known]
    assert queue.take(BIG, limit, 10) == []
