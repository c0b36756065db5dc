"""How long silence is borne while much is on its way."""

from __future__ import annotations

import pytest

from tests.unit.client.wire import BOOT, SECOND, Wire, endpoint, stored
from zfabric.core.appetite import FIRST_BYTES, LEAST_BYTES, PART_BYTES
from zfabric.core.client.connection import Request
from zfabric.core.client.feed import FETCH_BYTES
from zfabric.core.client.overdue import hindrance
from zfabric.core.client.pace import BULK_BYTES, SLOWEST_KIB_NS, Pace
from zfabric.core.client.requests import PATIENCE_NS
from zfabric.core.effects import OpenSession
from zfabric.wire import messages
from zfabric.wire.messages import Type

SLOWEST_BYTES = 21_334
"""What the slowest link carries in a second."""


def request(size, sent_ns=0):
    made = Request(1, (b"",), lambda _: None, None, None, PATIENCE_NS, size)
    made.sent_ns = sent_ns
    return made


def patience_s(pace, waiting, since_s=0):
    """Return after how many seconds somebody is silent."""
    return next(second for second in range(1, 1_000) if pace.silent(waiting, (since_s + second) * SECOND))


def test_of_a_new_connection_all_that_is_on_its_way_may_take_as_long_as_on_the_slowest_link():
    assert patience_s(Pace(), [request(0)]) == 6
    assert patience_s(Pace(), [request(10 * SLOWEST_BYTES)]) == 16
    assert patience_s(Pace(), [request(10 * SLOWEST_BYTES), request(10 * SLOWEST_BYTES), request(0)]) == 16


def test_an_answer_begins_the_patience_with_those_behind_it_anew():
    pace = Pace()
    pace.answered(0, 10 * SLOWEST_BYTES, 10 * SECOND)
    assert patience_s(pace, [request(10 * SLOWEST_BYTES)], since_s=10) == 16
    assert patience_s(pace, [request(0)], since_s=10) == 6


def test_an_answer_to_what_was_sent_later_is_no_sign_of_what_was_sent_before():
    pace = Pace()
    pace.answered(2 * SECOND, 0, 4 * SECOND)
    assert patience_s(pace, [request(0, SECOND)]) == 7


def test_on_a_link_that_has_shown_to_be_fast_a_silent_leader_is_noticed_at_once():
    pace = Pace()
    pace.answered(0, 1 << 20, 10_000_000)
    assert patience_s(pace, [request(5 << 20)]) == 6
    assert pace.kib_ns == SLOWEST_KIB_NS, "or it is the link"


def test_heartbeats_may_take_longer_once_a_session_was_lost_with_much_on_its_way():
    much, little = [request(BULK_BYTES)], [request(BULK_BYTES - 1)]
    pace = Pace()
    pace.lost(little)
    assert not pace.slow
    pace.lost(much)
    assert pace.slow
    pace.answered(0, 1 << 20, 10_000_000)
    pace.lost(much)
    assert not pace.slow, "a link that was fast: the leader has ended"
    pace.lost(much)
    assert pace.slow


def test_the_session_after_one_that_was_lost_under_a_large_batch_is_patient():
    wire = Wire()
    producer = wire.producer()
    wire.send(producer, bytes(900_000))
    wire.step()
    for session in list(wire.sessions):
        wire.client.lost(session, wire.now)
    wire.now += SECOND
    wire.client.tick(wire.now)
    opened = [effect for effect in wire.client.take_effects() if isinstance(effect, OpenSession)]
    assert [effect.slow for effect in opened] == [True]


def test_what_is_small_tells_nothing_of_bandwidth():
    pace = Pace()
    pace.answered(0, BULK_BYTES - 1, 1)
    assert pace.kib_ns == SLOWEST_KIB_NS


def test_what_waited_behind_others_is_measured_from_their_answers():
    pace, other = Pace(), Pace()
    for at in range(1, 6):
        pace.answered(0, 1 << 20, at * SECOND)
    other.answered(0, 1 << 20, SECOND)
    assert pace.kib_ns == other.kib_ns < SLOWEST_KIB_NS


def test_a_large_batch_is_not_sent_again_while_a_slow_link_may_carry_it():
    """Behind itself on the same link it would never arrive."""
    wire = Wire()
    producer = wire.producer()
    wire.send(producer, bytes(900_000))
    wire.step()
    wire.pass_time(45.0)
    assert [command.type for _, command in wire.sent] == [Type.PRODUCE]
    wire.pass_time(10.0)
    assert [command.type for _, command in wire.sent] == [Type.PRODUCE] * 2


@pytest.mark.parametrize(("seconds", "grown"), [(0.0, FETCH_BYTES), (1.5, FIRST_BYTES), (3.0, LEAST_BYTES)])
def test_a_consumer_asks_for_what_comes_in_a_second_or_two(seconds, grown):
    wire = Wire()
    consumer = wire.consumer(buffer_bytes=256 << 20)
    wire.open(consumer, {1: 1_000})
    for number in range(6):
        command, _ = wire.fetches()
        if number == 0:
            assert (command.body.max_bytes, command.body.part_bytes) == (FIRST_BYTES, PART_BYTES)
        wire.pass_time(seconds)
        wire.fetched(command, {1: [stored(1, number, [bytes(command.body.max_bytes)])]}, {1: 1_000})
    command, _ = wire.fetches()
    assert command.body.max_bytes == grown
    assert command.body.part_bytes == (0 if grown == FETCH_BYTES else PART_BYTES)
    wire.lose()
    wire.up.clear()
    wire.pass_time(31.0)
    assert wire.client.requests.outstanding()
    wire.up.update(at for pair in wire.places.values() for at in pair)
    wire.pass_time(5.0)
    assert wire.fetches()[0].body.max_bytes == min(grown, FIRST_BYTES), "another link, perhaps"


def test_what_is_published_is_not_wanted_on_a_link_that_has_shown_to_be_slow():
    """It would come twice: once more by the FETCH that asks meanwhile whether something was missed."""
    wire = Wire()
    publish = wire.places[0][1]
    consumer = wire.consumer()
    wire.open(consumer, {1: 1})
    wire.pass_time(3.0)
    wire.fetched(wire.fetches()[0], {1: [stored(1, 0, [bytes(200_000)])]}, {1: 1})
    asked = len(wire.sent)
    wire.pass_time(0.1)
    wire.serve(29.0)
    assert publish not in wire.opened
    assert 55 <= len(wire.sent) - asked <= 65, "two a second"
    wire.serve(2.0)
    assert wire.opened[-1] == publish

    wire.pass_time(3.0)
    wire.fetched(wire.fetches()[0], {1: [stored(1, 1, [bytes(200_000)])]}, {1: 2})
    assert publish not in wire.sessions.values()
    wire.pass_time(0.7)
    wire.fetched(wire.fetches()[0], {1: [stored(1, 2, [bytes(200_000)])]}, {1: 3})
    assert publish in wire.sessions.values(), "a large answer has come at once"


def test_what_wants_no_answer_may_take_as_long_as_on_the_slowest_link_until_something_behind_it_is_answered():
    wire = Wire()
    producer = wire.producer(acks="none")
    wire.send(producer, bytes(900_000))
    wire.pass_time(1.0)

    def ask():
        wire.client.requests.call(
            BOOT, Type.GET_OFFSETS, messages.GetOffsets("g", [1]), wire.now, wire.now + 300 * SECOND, "it", 300.0
        )
        return wire.step()

    [command] = ask()
    wire.pass_time(25.0)
    assert wire.opened.count(BOOT) == 1
    wire.answer(command, Type.COMMITTED_ARE, messages.CommittedAre([messages.Committed("g", 1, 4, 0, 4)]))
    ask()
    wire.pass_time(7.0)
    assert wire.opened.count(BOOT) == 2


def test_the_session_after_one_that_was_lost_under_what_wants_no_answer_is_patient():
    pace = Pace()
    pace.loose = BULK_BYTES
    pace.lost([])
    assert pace.slow
    pace.begin()
    pace.lost([])
    assert not pace.slow


def test_who_waits_for_an_answer_is_told_what_may_keep_it():
    """Also where each connection comes up, and ends under what is sent: as over a path that drops large packets."""
    wire, leads = Wire(2), endpoint(1)
    producer = wire.producer()
    wire.send(producer, bytes(900_000))
    told = []
    wire.step()
    for _ in range(3):
        told.append(hindrance(wire.client.requests.connections.values()))
        wire.lose(leads)
        told.append(hindrance(wire.client.requests.connections.values()))
        wire.pass_time(1.0)
    assert told[:3] == ["", f"there is no connection to {leads}", ""]
    assert all("lost one after another" in text for text in told[3:])
    wire.accept(wire.sent[-1][1])
    wire.send(producer, b"small")
    assert hindrance(wire.client.requests.connections.values()) == ""
