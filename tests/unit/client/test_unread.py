"""What callers have not read: bounded for each, and for all, and asked about."""

from __future__ import annotations

from random import Random

import pytest

from zfabric import errors
from zfabric.core.client.unread import ALL_BYTES, ASK_BYTES, CALLER_BYTES, EXCESS, Unread
from zfabric.wire.calls import QUESTION

SECOND = 1_000_000_000


@pytest.fixture
def unread():
    return Unread(Random(1).getrandbits)


def test_a_caller_is_asked_once_in_a_while_by_a_number_that_it_could_not_guess(unread):
    unread.sent(b"a", ASK_BYTES - 1, 0)
    assert unread.questions() == []
    unread.sent(b"a", 2_000, 0)
    unread.sent(b"a", 2_000, 0)
    [(peer, number)] = unread.questions()
    assert (peer, number & QUESTION) == (b"a", QUESTION)
    assert len({unread._random(62) for _ in range(100)}) == 100


def test_only_what_was_sent_before_a_question_is_read_when_it_is_answered(unread):
    unread.sent(b"a", CALLER_BYTES - 1, 0)
    [(_, first)] = unread.questions()
    unread.sent(b"a", CALLER_BYTES, 0)
    unread.answered(b"a", first, 0)
    assert b"a" in unread.full
    [(_, second)] = unread.questions()
    unread.answered(b"a", first, 0)
    assert b"a" in unread.full
    unread.answered(b"a", second, 0)
    assert not unread.full
    assert (unread._all, unread._readers) == (0, {})


def test_where_all_together_read_too_little_whoever_has_more_than_its_share_is_full(unread):
    for number in range(8):
        unread.sent(b"%d" % number, ALL_BYTES // 8, 0)
    assert set(unread.full) == {b"7"}  # With it the bound was reached.
    unread.sent(b"modest", 2_000, 0)
    unread.sent(b"1", 2_000, 0)
    assert b"1" in unread.full
    assert b"modest" not in unread.full
    questions = dict(unread.questions())
    for number in range(8):
        unread.answered(b"%d" % number, questions[b"%d" % number], 0)
    assert not unread.full


def test_a_single_reply_is_sent_however_little_a_share_is(unread):
    for number in range(1_000):
        unread.sent(b"%d" % number, ALL_BYTES // 1_000 + 1, 0)
    unread.sent(b"x", 32 << 20, 0)
    with pytest.raises(errors.LimitExceeded) as told:
        unread.sent(b"x", 2_000, 0)
    assert told.value.limit < CALLER_BYTES * EXCESS


def test_whoever_has_not_read_all_is_asked_again_and_given_up_after_the_patience(unread):
    unread.sent(b"little", 2_000, 0)
    unread.sent(b"much", CALLER_BYTES, 0)
    [(peer, number)] = unread.questions()
    assert peer == b"much"
    assert unread.tick(10 * SECOND, 60 * SECOND) == []
    assert (b"much", number) in unread.questions()
    assert unread.tick(60 * SECOND, 60 * SECOND) == [b"much"]
    unread.left(b"much")
    assert [peer for peer, _ in unread.questions()] == [b"little"]
    assert not unread.full
