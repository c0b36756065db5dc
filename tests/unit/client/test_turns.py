"""Partitions that cannot go on beside those that can: told once, in turn, and keeping nobody waiting."""

from __future__ import annotations

import pytest

from tests.unit.client.wire import SECOND, Wire, stored
from zfabric import errors
from zfabric.model import TopicConfig
from zfabric.wire import messages
from zfabric.wire.messages import Type


@pytest.fixture
def wire():
    """Three partitions, with the ids 1 to 3, at one leader."""
    return Wire(topics={"t": (1, [1, 2, 3], TopicConfig())})


def missing(number=0):
    return errors.OffsetOutOfRange(topic="t", partition=number, offset=0, start=4, end=9)


def opened(wire, **options):
    """Return a consumer that has received something, so that a start that is missing is an error."""
    consumer = wire.consumer(**options)
    wire.open(consumer, {1: 9, 2: 9, 3: 9})
    touch(consumer)
    return consumer


def touch(consumer):
    for cursor in consumer.cursors.values():
        cursor.untouched = False


def joined(wire):
    """Return a consumer of a group that has committed nothing yet."""
    consumer = wire.consumer(group="g")
    consumer.open(wire.now, wire.now + SECOND)
    [command] = wire.step()
    nothing = [messages.Committed("g", part, -1, 0, 9) for part in command.body.partitions]
    [asked] = wire.answer(command, Type.COMMITTED_ARE, messages.CommittedAre(nothing))
    wire.found(asked, {1: 9, 2: 9, 3: 9})
    return consumer


def feed(wire, failing=(), giving=(), values=(b"a",)):
    """Answer the open FETCH: errors for some ids, a batch for others."""
    command, asked = wire.fetches()
    found = {there: [stored(there, asked[there], values)] for there in giving}
    return wire.fetched(command, found, {1: 9, 2: 9, 3: 9}, {there: missing(there - 1) for there in failing})


def partitions(consumer, most=100):
    return [record.partition for record in consumer.take(most)]


def test_one_that_cannot_go_on_is_told_once_and_the_others_are_read_on(wire):
    consumer = opened(wire)
    feed(wire, failing=[1], giving=[2])
    with pytest.raises(errors.OffsetOutOfRange) as told:
        consumer.take(100)
    assert told.value.partition == 0
    assert partitions(consumer) == [1]
    for _ in range(3):
        wire.pass_time(0.1)
        asked = wire.fetches()[1]
        assert 1 not in asked, "what cannot go on is not asked for again"
        feed(wire, giving=[2, 3])
        assert sorted(partitions(consumer)) == [1, 2]
    assert not consumer.ready().done
    assert (consumer.failures, consumer.cursor(0).error.partition) == (1, 0)


def test_what_is_told_goes_on_when_it_is_sought_and_what_stops_it_then_is_told_anew(wire):
    consumer = opened(wire)
    feed(wire, failing=[1])
    with pytest.raises(errors.OffsetOutOfRange):
        consumer.take(1)
    for times in (2, 3):
        consumer.seek(0, "earliest", wire.now, wire.now + SECOND)
        wire.found(wire.step()[-1], {1: 9})
        touch(consumer)
        wire.pass_time(0.1)
        while 1 not in wire.fetches()[1]:  # That was asked before.
            feed(wire)
            wire.pass_time(0.1)
        feed(wire, failing=[1])
        with pytest.raises(errors.OffsetOutOfRange):
            consumer.take(1)
        assert consumer.failures == times


def test_an_error_takes_its_turn_though_there_is_always_something_of_others(wire):
    """Whoever is slower than the producers would never hear of it."""
    consumer = opened(wire)
    told = 0
    feed(wire, failing=[1], giving=[2, 3], values=[b"a"] * 5)
    for _ in range(3):
        try:
            assert len(consumer.take(3)) == 3
        except errors.OffsetOutOfRange:
            told += 1
    assert told == 1
    assert consumer.take(3), "there was something all the time"


def test_a_call_that_has_taken_something_returns_it_and_the_next_one_is_told(wire):
    consumer = opened(wire)
    feed(wire, failing=[2], giving=[1, 3])
    assert partitions(consumer) == [0]
    with pytest.raises(errors.OffsetOutOfRange):
        consumer.take(1)
    assert partitions(consumer) == [2]


def test_batches_come_as_records_do(wire):
    consumer = opened(wire)
    feed(wire, failing=[2], giving=[1, 3])
    assert consumer.take_batch().partition == 0
    assert consumer.take_batch(1) is None
    with pytest.raises(errors.OffsetOutOfRange):
        consumer.take_batch()
    assert consumer.take_batch().partition == 2


def test_while_nothing_can_go_on_that_is_known_and_what_is_paused_does_not_count(wire):
    consumer = opened(wire)
    feed(wire, failing=[1, 2])
    for number in (0, 1):
        with pytest.raises(errors.OffsetOutOfRange) as told:
            consumer.take(1)
        assert told.value.partition == number
    assert consumer.stuck is None
    consumer.pause([2], wire.now)
    assert consumer.stuck is consumer.cursor(0).error
    consumer.pause([2], wire.now, paused=False)
    assert consumer.stuck is None


def test_a_topic_that_was_deleted_is_told_when_all_of_it_is_taken(wire):
    consumer = opened(wire)
    feed(wire, giving=[2, 3])
    consumer.gone("t", wire.now)
    assert partitions(consumer, 1) == [1]
    assert partitions(consumer) == [2]
    for _ in range(3):
        with pytest.raises(errors.UnknownTopic):
            consumer.take(1)
    assert isinstance(consumer.stuck, errors.UnknownTopic)


def test_what_a_leader_refuses_of_one_keeps_no_others_from_being_committed(wire):
    """It refuses all that it is told at once; and by a keeper's numbers nobody can tell which of them it is."""
    consumer = joined(wire)
    for number in range(3):
        consumer.cursor(number).there = 0
    refusal = errors.LogRewound(topic="t", partition=0, offset=2, start=0, end=9, parted=1, problem="p")
    committed = consumer.commit({0: 2, 1: 2, 2: 2}, wire.now, wire.now + SECOND)
    stored_ids, asked = [], wire.step()
    while asked:
        command = asked.pop(0)
        ids = [part.partition for part in command.body.parts]
        if 2 in ids:
            asked += wire.fail(command, refusal)
        else:
            stored_ids += ids
            asked += wire.answer(command, Type.DONE, messages.Empty())
    assert sorted(stored_ids) == [1, 3]
    assert isinstance(committed.error, errors.LogRewound)
    assert committed.error.partition == 1
    assert [consumer.cursor(number).committed for number in range(3)] == [2, -1, 2]


def test_what_was_read_of_a_log_that_is_no_more_is_left_out_of_a_commit_once_it_is_known(wire):
    consumer = joined(wire)
    feed(wire, giving=[1, 2])
    assert sorted(partitions(consumer)) == [0, 1]
    rewound = errors.LogRewound(topic="t", partition=0, offset=1, start=0, end=9, parted=0, problem="p")
    wire.fetched(wire.fetches()[0], failures={1: rewound})
    with pytest.raises(errors.LogRewound):
        consumer.take(1)
    consumer.commit(None, wire.now, wire.now + SECOND)
    [command] = [command for command in wire.step() if command.type == Type.COMMIT_OFFSETS]
    assert [part.partition for part in command.body.parts] == [2, 3]
