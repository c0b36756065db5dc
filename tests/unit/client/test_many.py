"""Consumers of very many partitions: what is asked and looked at grows with what is wanted, not with what there is."""

from __future__ import annotations

import sys
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.client.wire import SECOND, Wire, published, stored
from zfabric import errors
from zfabric.model import TopicConfig
from zfabric.settings import FETCH_PARTITIONS_MAX
from zfabric.wire import messages
from zfabric.wire.messages import Type


def many(count, leaders=1):
    return Wire(leaders, topics={"t": (1, list(range(1, count + 1)), TopicConfig())})


def sizes(commands, kind):
    """Return of how many partitions each of these commands is."""
    bodies = [command.body for command in commands if command.type == kind]
    return [len(body.partitions if kind == Type.GET_OFFSETS else body.parts) for body in bodies]


def nothing_committed(wire, command):
    parts = [messages.Committed("g", number, -1, 0, 0) for number in command.body.partitions]
    return wire.answer(command, Type.COMMITTED_ARE, messages.CommittedAre(parts))


# Where to begin.


def test_opening_asks_each_leader_once_for_a_thousand_partitions():
    wire = many(4_500, leaders=2)
    consumer = wire.consumer()
    wire.open(consumer)
    commands = [command for _, command in wire.sent]
    assert sizes(commands, Type.FIND_OFFSETS) == [1_000, 1_000, 250] * 2
    assert {cursor.position for cursor in consumer.cursors.values()} == {0}


def test_a_group_asks_so_for_what_it_has_committed_too():
    wire = many(1_500)
    consumer = wire.consumer(group="g")
    opening = consumer.open(wire.now, wire.now + SECOND)
    asked = wire.step()
    assert sizes(asked, Type.GET_OFFSETS) == [1_000, 500]
    for command in asked:
        found = nothing_committed(wire, command)
    assert sizes(found, Type.FIND_OFFSETS) == [1_000, 500]
    for command in found:
        wire.found(command)
    assert (opening.done, opening.error) == (True, None)


def test_of_an_offset_that_some_do_not_have_the_first_of_them_is_the_error():
    wire = many(3)
    consumer = wire.consumer(start=5)
    opening = consumer.open(wire.now, wire.now + SECOND)
    [command] = wire.step()
    parts = [messages.OffsetIs(1, 9, 0, 9), messages.OffsetIs(2, 4, 0, 4), messages.OffsetIs(3, 3, 0, 3)]
    wire.answer(command, Type.OFFSETS_ARE, messages.OffsetsAre(parts))
    assert isinstance(opening.error, errors.OffsetOutOfRange)
    assert (opening.error.values["partition"], opening.error.values["end"]) == (1, 4)


def grown(wire):
    """Open a consumer of one partition, then add three; returns the questions for where those begin."""
    consumer = wire.consumer()
    wire.open(consumer)
    wire.fetched(wire.fetches()[0])
    wire.topics["t"] = (1, [1, 2, 3, 4], TopicConfig())
    before = len(wire.sent)
    wire.pass_time(31.0)
    return consumer, [command for _, command in wire.sent[before:] if command.type == Type.FIND_OFFSETS]


def test_partitions_that_are_added_together_are_asked_for_together():
    wire = many(1)
    consumer, asked = grown(wire)
    assert sizes(asked, Type.FIND_OFFSETS) == [3]
    wire.found(asked[0])
    assert [consumer.cursor(number).position for number in range(4)] == [0, 0, 0, 0]


def test_one_that_is_damaged_keeps_none_of_those_that_were_added_with_it_waiting():
    wire = many(1)
    consumer, asked = grown(wire)
    damage = errors.CorruptBatch(topic="t", partition=1, offset=0, next_offset=1, problem="a checksum")
    before = len(wire.sent)
    wire.fail(asked[0], damage)
    wire.pass_time(0.6)
    again = [command for _, command in wire.sent[before:] if command.type == Type.FIND_OFFSETS]
    assert [[part.partition for part in command.body.parts] for command in again] == [[2], [3], [4]]
    wire.fail(again[0], damage)
    for command in again[1:]:
        wire.found(command)
    assert [consumer.cursor(number).position for number in range(4)] == [0, -1, 0, 0]


def test_while_their_leader_is_busy_those_that_were_added_are_asked_for_together_again():
    wire = many(1)
    consumer, asked = grown(wire)
    before = len(wire.sent)
    wire.fail(asked[0], errors.RequestTimeout(what="offsets", seconds=30.0))
    wire.pass_time(0.6)
    again = [command for _, command in wire.sent[before:] if command.type == Type.FIND_OFFSETS]
    assert sizes(again, Type.FIND_OFFSETS) == [3]
    wire.found(again[0])
    assert [consumer.cursor(number).position for number in range(4)] == [0, 0, 0, 0]


# Taking.


def following(wire, ends=None):
    """Open a consumer that has caught up with logs that are empty."""
    consumer = wire.consumer()
    wire.open(consumer, ends)
    wire.fetched(next(command for _, command in wire.sent if command.type == Type.FETCH))
    wire.serve(0.1)
    return consumer


def calls_of(action):
    """Return how many Python functions and generators are entered while ``action`` runs."""
    entered = 0

    def count(frame, event, argument):
        nonlocal entered
        entered += event == "call"

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return entered


def test_a_record_of_one_partition_costs_no_look_at_the_others():
    wire = many(2_000)
    consumer = following(wire)
    session, frames = max(wire.sessions), published(1_234, 0, [b"a"])
    taken = []

    def cycle():
        consumer.ready()
        wire.client.receive(session, frames, wire.now)
        taken.extend(consumer.take(10))
        wire.client.next_deadline()
        consumer.ready()

    assert calls_of(cycle) < 200
    assert [(record.partition, record.value) for record in taken] == [(1_233, b"a")]


def test_a_record_of_one_consumer_costs_no_look_at_the_others_and_nor_does_what_is_due_for_one():
    wire = Wire()
    consumers = [wire.consumer() for _ in range(100)]
    for consumer in consumers:
        wire.open(consumer)
        wire.fetched(wire.fetches()[0])
    wire.serve(0.1)
    consumer, session, frames = consumers[-1], max(wire.sessions), published(1, 0, [b"a"])

    def cycle():
        consumer.ready()
        wire.client.receive(session, frames, wire.now)
        wire.client.next_deadline()
        assert len(consumer.take(10)) == 1
        consumer.ready()

    assert calls_of(cycle) < 200
    wire.client.lost(session, wire.now)
    due = wire.client.next_deadline()
    assert calls_of(lambda: (wire.client.tick(due), wire.client.next_deadline())) < 200


def test_a_record_for_one_partition_costs_its_producer_no_look_at_the_others():
    wire = many(1_000)
    producer = wire.producer()
    wire.send(producer, partition=1)
    wire.send(producer, partition=7)
    first, second = wire.step() or [command for _, command in wire.sent[-2:]]
    assert calls_of(lambda: (wire.client.next_deadline(), wire.client.tick(wire.now), producer.flush(wire.now))) < 100
    wire.accept(first)
    wire.fail(second, errors.RecordTooLarge(size=9, topic="t", limit=1))
    assert (producer.used, producer.next_deadline()) == (0, None)
    wire.send(producer, partition=1)  # The other one waits for nothing, though it was refused.
    deadline = producer.next_deadline()
    assert deadline is None or deadline > wire.now + SECOND


def test_what_is_taken_of_one_leader_makes_room_for_what_another_is_asked_for():
    wire = Wire(2, topics={"t": (1, [1, 2], TopicConfig())})
    consumer = wire.consumer()
    consumer.bound(4_096)
    wire.open(consumer)
    first, second = [command for _, command in wire.sent if command.type == Type.FETCH]
    (part,) = first.body.parts
    wire.fetched(first, {part.partition: [stored(part.partition, 0, [bytes(5_000)])]})
    sent = len(wire.sent)
    (other,) = second.body.parts
    wire.fetched(second, ends={other.partition: 1})
    wire.pass_time(10.0)
    assert len(wire.sent) == sent  # There is no room.
    assert len(consumer.take(10)) == 1
    wire.step()
    asked = [part.partition for _, command in wire.sent[sent:] for part in command.body.parts]
    assert sorted(asked) == [1, 2]


def test_partitions_come_in_turn_whatever_the_order_in_which_they_get_something():
    wire = many(4)
    consumer = following(wire)
    session, taken = max(wire.sessions), []
    for number in (4, 2, 1, 3, 2, 2):
        base = consumer.cursor(number - 1).expected
        wire.client.receive(session, published(number, base, [b"a"]), wire.now)
    taken += [record.partition for record in consumer.take(2)]
    wire.client.receive(session, published(1, 1, [b"a"]), wire.now)
    taken += [record.partition for record in consumer.take(10)]
    assert taken == [0, 1, 2, 3, 0, 1, 1]


def test_more_partitions_of_a_leader_than_a_fetch_may_ask_for_are_asked_for_in_turns():
    wire = many(FETCH_PARTITIONS_MAX + 2)
    wire.open(wire.consumer())
    asked = set()
    for _ in range(3):
        command, wanted = wire.fetches()
        asked |= wanted.keys()
        assert len(wanted) <= FETCH_PARTITIONS_MAX
        wire.fetched(command)
        wire.pass_time(0.1)
    assert len(asked) == FETCH_PARTITIONS_MAX + 2


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["publish", "lose", "damage", "take", "batch", "pause", "resume", "seek", "fetched", "wait"]),
        st.integers(0, 2),
    ),
    min_size=15,
    max_size=40,
)


@given(steps=STEPS)
@settings(max_examples=60)
def test_what_is_found_without_a_look_at_all_is_what_a_look_at_all_finds(steps):
    wire = many(3)
    consumer = following(wire)
    consumer.buffer_bytes = 400
    for step, number in steps:
        cursor = consumer.cursor(number)
        session = max(wire.sessions)
        if step in ("publish", "lose"):
            frames = published(cursor.id, cursor.expected + (step == "lose"), [b"a", b"b"])
            wire.client.receive(session, frames, wire.now)
        elif step == "damage":
            cursor.take_blob(memoryview(bytes(stored(cursor.id, cursor.expected, [b"a"])[:-1] + b"?")))
        elif step in ("pause", "resume"):
            consumer.pause([number], wire.now, paused=step == "pause")
        elif step == "seek":
            consumer.seek(number, "earliest", wire.now, wire.now + SECOND)
            [asked] = [command for command in wire.step() if command.type == Type.FIND_OFFSETS]
            wire.found(asked)
        elif step == "fetched":
            command, asked = wire.fetches()
            found = {there: [stored(there, offset, [b"c"])] for there, offset in asked.items()}
            wire.fetched(command, found, {there: offset + 2 for there, offset in asked.items()})
        elif step == "wait":
            wire.pass_time(0.6)
        else:
            with suppress(errors.ZFabricError):
                _ = consumer.take(1) if step == "take" else consumer.take_batch()
        wire.step()
        agree(wire, consumer)


def agree(wire, consumer):
    cursors = list(consumer.cursors.values())
    unpaused = [cursor for cursor in cursors if not cursor.paused]
    something = any(_has_news(cursor) for cursor in unpaused)
    assert consumer.ready().done == something
    half = consumer.buffer_bytes // 2
    [feed] = {id(cursor.lists[2]): cursor.lists[2] for cursor in cursors}.values()
    assert feed.all() == [cursor for cursor in cursors if cursor.behind and cursor.buffered <= half]


def _has_news(cursor):
    return cursor.records or cursor.buffer or (cursor.error and not cursor.told)
