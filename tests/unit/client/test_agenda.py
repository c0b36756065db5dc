"""The agenda, against a look at everybody."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zfabric.core.client.agenda import Agenda, Chore
from zfabric.core.client.later import Later

STEPS = st.lists(
    st.tuples(st.sampled_from(["earlier", "later", "never", "passes"]), st.integers(0, 5), st.integers(0, 9)),
    max_size=60,
)


class Job(Chore):
    """Due at a moment, and again some time after each."""

    def __init__(self):
        self.due = None
        self.done = []

    def next_deadline(self):
        return self.due

    def tick(self, now):
        if self.due is not None and self.due <= now:
            self.done.append(self.due)
            self.due = now + 3 if self.due % 2 else None


@given(steps=STEPS)
def test_the_next_deadline_and_who_is_ticked_are_what_a_look_at_everybody_finds(steps):
    agenda, jobs, now = Agenda(), [Job() for _ in range(6)], 0
    for step, which, amount in steps:
        job = jobs[which]
        if step == "earlier":
            job.due = now + amount if job.due is None else max(now, job.due - amount)
            agenda.note(job)
        elif step == "later" and job.due is not None:
            job.due += amount  # Which it need not tell.
        elif step == "never":
            job.due = None
        else:
            now += amount
            due = {one: [*one.done, one.due] for one in jobs if one.due is not None and one.due <= now}
            agenda.tick(now)
            assert all(one.done == expected for one, expected in due.items())
        assert agenda.next_deadline() == min((one.due for one in jobs if one.due is not None), default=None)


def test_those_due_at_the_same_moment_are_ticked_in_the_order_in_which_they_were_noted_first():
    ticked = []

    class Named(Job):
        def tick(self, now):
            super().tick(now)
            ticked.append(self)

    agenda, jobs = Agenda(), [Named() for _ in range(3)]
    for job in (jobs[1], jobs[2], jobs[0]):
        job.due = 4
        agenda.note(job)
    agenda.tick(3)
    assert ticked == []
    agenda.tick(4)
    assert ticked == [jobs[1], jobs[2], jobs[0]]


def test_what_is_to_be_done_later_is_done_once_in_order_and_what_it_adds_waits_for_the_next_tick():
    done, later = [], Later()
    later.add(5, lambda: (done.append("b"), later.add(1, lambda: done.append("d"))))
    later.add(5, lambda: done.append("c"))
    later.add(3, lambda: done.append("a"))
    later.add(9, lambda: done.append("e"))
    later.tick(2)
    assert (done, later.next_deadline()) == ([], 3)
    later.tick(5)
    assert (done, later.next_deadline()) == (["a", "b", "c"], 1)
    later.tick(9)
    assert (done, later.next_deadline(), bool(later)) == (["a", "b", "c", "d", "e"], None, False)
