"""Requests that wait for a worker: whatever is added, withdrawn and taken, what is left is counted right."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from zfabric.core.client.backlog import Backlog
from zfabric.core.client.job import Job, Method

METHOD = Method("m", None, idempotent=False, stream=False)
MOST, TOTAL = 2, 3
CALLERS = st.sampled_from([b"a", b"b", b"c"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), CALLERS, st.integers(0, 5), st.booleans()),
        st.tuples(st.sampled_from(["take", "withdraw", "end"]), st.integers(0, 1_000)),
        st.tuples(st.sampled_from(["full", "free"]), CALLERS),
    ),
    max_size=400,
)


class Played:
    """A backlog, what waits in it, and the streams that it has given and that are not over."""

    def __init__(self):
        self.full = {}
        self.backlog = Backlog(self.full, streams=MOST, workers=TOTAL + 1)
        self.waiting, self.streams = [], []
        self.number = 0

    def add(self, peer, size, streaming):
        self.number += 1
        job = Job(peer, self.number, METHOD, bytes(size), b"", None, streaming=streaming)
        self.waiting.append(job)
        self.backlog.add(job)

    def take(self, _=0):
        job = self.backlog.take()
        if job is None:
            begun = Counter(stream.peer for stream in self.streams)
            enough = begun.total() + sum(other.streaming and not other.held for other in self.waiting) == TOTAL
            assert all(
                other.peer in self.full or (other.streaming and (enough or begun[other.peer] == MOST))
                for other in self.waiting
            )
            return False
        assert job.peer not in self.full
        assert job is next(
            other for other in self.waiting if (other.peer, other.streaming) == (job.peer, job.streaming)
        )
        self.waiting.remove(job)
        if job.streaming:
            self.streams.append(job)
            assert max(Counter(stream.peer for stream in self.streams).values()) <= MOST
            assert len(self.streams) <= TOTAL
        return True

    def withdraw(self, place):
        if self.waiting:
            self.backlog.withdraw(self.waiting.pop(place % len(self.waiting)))

    def end(self, place):
        if self.streams:
            self.backlog.left(self.streams.pop(place % len(self.streams)))

    def fill(self, peer):
        self.full[peer] = None

    def free(self, peer):
        self.full.pop(peer, None)
        self.backlog.free()


@given(STEPS)
def test_each_request_is_taken_once_in_its_caller_s_order_unless_it_was_withdrawn(steps):
    """Streams in order, and others in order; neither one caller nor all have too many streams; none waits in vain."""
    played = Played()
    backlog = played.backlog
    does = {"add": played.add, "take": played.take, "withdraw": played.withdraw, "end": played.end,
            "full": played.fill, "free": played.free}  # fmt: skip
    for kind, *details in steps:
        does[kind](*details)
        size = sum(len(job.body) for job in played.waiting)
        assert (len(backlog), backlog.bytes + backlog.streams.bytes) == (len(played.waiting), size)
    for peer in list(played.full):
        played.free(peer)
    while played.waiting:
        while played.take():
            pass
        played.end(0)
    while played.streams:
        played.end(0)
    assert (len(backlog), backlog.bytes, backlog.take()) == (0, 0, None)
    assert not any(backlog.streams.holds(peer) for peer in (b"a", b"b", b"c"))


def test_callers_whose_streams_are_held_have_turns():
    """One that asks for many keeps another one waiting for one of them, as with what is no stream."""
    played = Played()
    for peer in (b"a", b"a", b"b", b"b", b"b", b"c"):
        played.add(peer, 0, streaming=True)
    while played.take():
        pass
    for _ in range(2):
        played.end([stream.peer for stream in played.streams].index(b"b"))
        assert played.take()
    assert sorted(stream.peer for stream in played.streams) == [b"a", b"a", b"c"]
