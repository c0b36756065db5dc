"""What instances have refused lately: who is left aside, for how long, and when that is over."""

from __future__ import annotations

from zfabric import errors
from zfabric.core.client.refusals import FIRST_NS, LACKS_MAX, LACKS_NS, LONGEST_NS, Refusals

FULL = errors.Overloaded(service="s", running=1, concurrency=1, queued=0, limit=0)
LACKS = errors.UnknownMethod(service="s", method="m", known="")
DEADLOCK = errors.WouldDeadlock(service="s", method="m", concurrency=1)


def test_one_that_is_overloaded_is_left_aside_by_all_requests_and_longer_each_time():
    refusals, now, pauses = Refusals(), 0, []
    for _ in range(10):
        refusals.note(1, "s.m", FULL, now)
        assert refusals.aside("s.other", now) == (1,)
        pause = next(
            pause for pause in range(FIRST_NS, LONGEST_NS + 1, FIRST_NS) if not refusals.aside("s.m", now + pause)
        )
        pauses.append(pause)
        now += pause
    assert pauses[:3] == [FIRST_NS, 2 * FIRST_NS, 4 * FIRST_NS]
    assert pauses[-1] == LONGEST_NS


def test_refusals_of_what_was_under_way_already_are_no_further_ones():
    refusals = Refusals()
    for now in range(5):
        refusals.note(1, "s.m", FULL, now)
    assert refusals.aside("s.m", FIRST_NS) == ()


def test_an_answer_to_what_was_sent_after_a_refusal_ends_it():
    refusals = Refusals()
    refusals.note(1, "s.m", FULL, 100)
    assert refusals.answered(1, sent_ns=50)
    assert refusals.aside("s.m", 100) == (1,)
    assert not refusals.answered(1, sent_ns=100)
    assert not refusals.any


def test_one_that_has_not_got_a_method_is_left_aside_by_requests_of_that_for_a_while():
    refusals = Refusals()
    refusals.note(1, "s.m", LACKS, 0)
    assert refusals.aside("s.other", 0) == ()
    assert refusals.aside("s.m", LACKS_NS - 1) == (1,)
    assert refusals.aside("s.m", LACKS_NS) == ()
    assert not refusals.any


def test_what_says_nothing_of_other_requests_is_not_remembered():
    refusals = Refusals()
    refusals.note(1, "s.m", DEADLOCK, 0)
    assert not refusals.any


def test_what_is_remembered_of_methods_is_bounded():
    refusals = Refusals()
    for number in range(LACKS_MAX + 1):
        refusals.note(1, f"s.{number}", LACKS, 0)
    assert refusals.aside("s.0", 0) == ()
    assert refusals.aside(f"s.{LACKS_MAX}", 0) == (1,)
