"""Requests that wait for a worker: whatever is added, withdrawn and taken, what is left is counted right."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zfabric.core.client.backlog import Backlog
from zfabric.core.client.job import Job, Method

METHOD = Method("m", None, idempotent=False, stream=False)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 5)),
        st.tuples(st.sampled_from(["take", "withdraw"]), st.integers(0, 1_000)),
        st.tuples(st.sampled_from(["full", "free"]), st.sampled_from([b"a", b"b", b"c"])),
    ),
    max_size=400,
)


@given(STEPS)
def test_each_request_is_taken_once_in_its_caller_s_order_unless_it_was_withdrawn(steps):
    full = {}
    backlog = Backlog(full)
    waiting, number = [], 0

    def taken():
        job = backlog.take()
        if job is None:
            assert all(other.peer in full for other in waiting)
            return False
        assert job.peer not in full
        assert job is next(other for other in waiting if other.peer == job.peer)
        waiting.remove(job)
        return True

    for kind, *details in steps:
        if kind == "add":
            number += 1
            waiting.append(Job(details[0], number, METHOD, bytes(details[1]), b"", None))
            backlog.add(waiting[-1])
        elif kind == "take":
            taken()
        elif kind == "withdraw" and waiting:
            backlog.withdraw(waiting.pop(details[0] % len(waiting)))
        elif kind == "full":
            full[details[0]] = None
        elif kind == "free":
            full.pop(details[0], None)
            backlog.free()
        assert (len(backlog), backlog.bytes) == (len(waiting), sum(len(job.body) for job in waiting))
    full.clear()
    backlog.free()
    assert backlog.waiting == len(waiting)
    while waiting:
        assert taken()
    assert backlog.take() is None
