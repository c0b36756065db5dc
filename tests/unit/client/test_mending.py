"""What is damaged is asked for again, in case that others have mended it, with a leader that the test plays."""

from __future__ import annotations

import pytest

from tests.unit.client.wire import Wire, stored
from zfabric import errors

FIRST, GOOD = stored(1, 0, [b"a"]), stored(1, 1, [b"b"])


@pytest.fixture
def wire():
    return Wire()


def corrupt(wire, command, offset=1, problem="CRC"):
    """Answer a FETCH of the only partition with damage."""
    error = errors.CorruptBatch(topic="t", partition=0, offset=offset, next_offset=offset + 1, problem=problem)
    return wire.fetched(command, failures={1: error})


def damage(wire):
    """Open a consumer that has read one record and is told of damage behind it; returns it."""
    consumer = wire.consumer()
    wire.open(consumer)
    wire.fetched(wire.fetches()[0], {1: [FIRST]}, {1: 3})
    assert len(consumer.take(1)) == 1
    corrupt(wire, wire.fetches()[0])
    with pytest.raises(errors.CorruptBatch):
        consumer.take(1)
    return consumer


def bad():
    return GOOD[:-1] + bytes([GOOD[-1] ^ 1])


def test_it_is_asked_for_every_five_seconds_told_once_and_read_when_it_is_there(wire):
    consumer = damage(wire)
    for problem in ("CRC", "its header cannot be read", "CRC"):
        before = wire.fetches()[0]
        wire.pass_time(4.7)
        assert wire.fetches()[0] is before
        wire.pass_time(0.4)
        command, asked = wire.fetches()
        assert (command is before, asked) == (False, {1: 1})
        corrupt(wire, command, problem=problem)
        assert consumer.take(1) == []
    wire.pass_time(5.1)
    wire.fetched(wire.fetches()[0], {1: [bad()]}, {1: 2})
    assert (consumer.take(1), consumer.failures) == ([], 1)
    wire.pass_time(5.1)
    wire.fetched(wire.fetches()[0], {1: [GOOD]}, {1: 2})
    assert ([record.value for record in consumer.take(1)], consumer.cursor(0).error) == ([b"b"], None)
    wire.pass_time(0.1)
    command, asked = wire.fetches()
    assert asked == {1: 2}
    corrupt(wire, command, 2)
    with pytest.raises(errors.CorruptBatch):
        consumer.take(1)


def test_who_has_sought_past_it_meanwhile_is_told_nothing_of_it(wire):
    consumer = damage(wire)
    wire.pass_time(5.1)
    late = wire.fetches()[0]
    consumer.cursor(0).clear(3)
    corrupt(wire, late)
    assert (consumer.take(1), consumer.cursor(0).error) == ([], None)


def test_while_it_is_paused_nothing_is_asked_and_nobody_who_waits_is_kept_busy(wire):
    consumer = damage(wire)
    consumer.pause([0], wire.now)
    before = wire.fetches()[0]
    wire.pass_time(12.0)
    assert wire.fetches()[0] is before
    consumer.pause([0], wire.now, paused=False)
    wire.pass_time(5.1)
    assert wire.fetches()[1] == {1: 1}
    assert wire.fetches()[0] is not before


def test_what_was_removed_is_told_as_what_it_is_and_not_asked_for_again(wire):
    """More may be at that offset some time, and be another record: only a seek goes on."""
    consumer = damage(wire)
    wire.pass_time(5.1)
    command = wire.fetches()[0]
    removed = errors.OffsetOutOfRange(topic="t", partition=0, offset=1, start=2, end=3)
    wire.fetched(command, failures={1: removed})
    with pytest.raises(errors.OffsetOutOfRange):
        consumer.take(1)
    wire.pass_time(30.0)
    assert wire.fetches()[0] is command
