"""The producer's rules, with a leader that the test plays."""

from __future__ import annotations

import pytest

from tests.unit.client.wire import MS, SECOND, Wire
from zfabric import errors
from zfabric.core.client.pieces import pieces
from zfabric.model import TopicConfig
from zfabric.wire import batch, messages
from zfabric.wire.messages import Type
from zfabric.wire.received import RecordBatch


def sequences(command):
    header = batch.parse(command.body.header)
    return header.partition, header.producer_epoch, header.base_sequence, header.last_sequence


def records(command):
    header = batch.parse(command.body.header)
    return batch.decode_columns(header, command.body.payload).values


@pytest.fixture
def wire():
    return Wire()


@pytest.fixture
def producer(wire):
    made = wire.producer()
    wire.client.want("t", wire.now, wire.now + SECOND)
    wire.step()
    made.blocked("t", wire.now, wire.now + SECOND)
    return made


# Natural batching.


def test_a_lone_record_is_sent_at_once(wire, producer):
    delivery = wire.send(producer)
    [command] = wire.step()
    assert (command.type, sequences(command), records(command)) == (Type.PRODUCE, (1, 0, 0, 0), [b"v"])
    wire.accept(command, 40)
    assert (delivery.metadata().offset, producer.used) == (40, 0)


def test_a_delivery_shows_where_it_goes_and_what_became_of_it(wire, producer):
    """Who calls ``send`` at a prompt sees it."""
    delivery = wire.send(producer)
    assert repr(delivery) == "<Delivery to 't' partition 0: under way>"
    [command] = wire.step()
    wire.accept(command, 40)
    assert repr(delivery) == "<Delivery to 't' partition 0: acknowledged, offset 40>"
    lost = wire.send(producer)
    producer.close()
    assert repr(lost) == "<Delivery to 't' partition 0: given up, Closed>"


def test_records_that_come_while_a_batch_is_under_way_share_the_next(wire, producer):
    for number in range(5):
        wire.send(producer, b"%d" % number)
    [first] = wire.step()
    [second] = wire.accept(first)
    assert (records(first), records(second)) == ([b"0"], [b"1", b"2", b"3", b"4"])
    assert sequences(second) == (1, 0, 1, 4)


def test_linger_lets_a_record_wait_for_company(wire):
    producer = wire.producer(linger_ns=50 * MS)
    wire.send(producer, b"a")
    assert wire.step() == []
    wire.pass_time(0.03)
    wire.send(producer, b"b")
    wire.pass_time(0.01)
    assert wire.sent == []
    wire.pass_time(0.02)
    assert records(wire.sent[0][1]) == [b"a", b"b"]


def test_at_most_five_batches_are_under_way(wire):
    producer = wire.producer(batch_bytes=1)
    for _ in range(9):
        wire.send(producer)
    sent = wire.step()
    assert [sequences(command)[2] for command in sent] == [0, 1, 2, 3, 4]
    [sixth] = wire.accept(sent[0])
    assert sequences(sixth)[2] == 5


def test_a_full_buffer_waits_for_room_and_all_who_wait_share_one_wait(wire):
    producer = wire.producer(buffer_bytes=20)
    wire.send(producer, b"12345678")
    [command] = wire.step()
    waits = {id(producer.blocked("t", wire.now, wire.now)) for _ in range(1_000)}
    assert (len(waits), wire.send(producer)) == (1, None)
    room = producer.blocked("t", wire.now, wire.now)
    wire.accept(command)
    assert room.done
    assert wire.send(producer) is not None


# Exactly once.


def test_a_new_session_repeats_what_is_not_answered_in_order(wire):
    producer = wire.producer(batch_bytes=1)
    for number in range(4):
        wire.send(producer, b"%d" % number)
    first = wire.step()
    wire.accept(first[0])
    wire.lose()
    wire.pass_time(0.05)
    again = [command for _, command in wire.sent[len(first) :]]
    assert [sequences(command) for command in again] == [sequences(command) for command in first[1:]]
    assert [command.request for command in again] == [command.request for command in first[1:]]


def test_a_rejected_batch_is_sent_again_with_those_behind_it_once_all_answers_are_there(wire):
    producer = wire.producer(batch_bytes=1)
    for number in range(3):
        wire.send(producer, b"%d" % number)
    first, second, third = wire.step()
    wire.fail(first, errors.StorageFull(directory="d", free=0, reserve=1))
    wire.fail(second, errors.OutOfOrderSequence(partition=1, producer=7, epoch=0, sequence=1, expected=0))
    wire.pass_time(1.0)
    assert len(wire.sent) == 3
    wire.fail(third, errors.OutOfOrderSequence(partition=1, producer=7, epoch=0, sequence=2, expected=0))
    wire.pass_time(1.0)
    again = [command for _, command in wire.sent[3:]]
    assert [sequences(command) for command in again] == [(1, 0, 0, 0), (1, 0, 1, 1), (1, 0, 2, 2)]


def test_a_batch_refused_for_good_takes_its_sequences_with_it(wire):
    producer = wire.producer(batch_bytes=1)
    bad, good = wire.send(producer, b"bad"), wire.send(producer, b"good")
    first, second = wire.step()
    wire.fail(first, errors.ProtocolViolation(problem="p", allowed="a"))
    assert isinstance(bad.error, errors.ProtocolViolation)
    wire.fail(second, errors.OutOfOrderSequence(partition=1, producer=7, epoch=0, sequence=1, expected=0))
    wire.pass_time(1.0)
    [again] = [command for _, command in wire.sent[2:]]
    assert (sequences(again), records(again)) == ((1, 1, 0, 0), [b"good"])
    wire.accept(again, 9)
    assert (good.metadata().offset, producer.used) == (9, 0)


def test_a_leader_that_forgot_the_producer_gets_a_new_epoch(wire, producer):
    wire.send(producer, b"0")
    wire.accept(wire.step()[0])
    wire.send(producer, b"1")
    wire.fail(wire.step()[0], errors.UnknownProducer(partition=1, producer=7))
    wire.pass_time(0.1)
    assert sequences(wire.sent[-1][1]) == (1, 1, 0, 0)


def test_when_time_is_up_the_outcome_is_unknown_and_the_room_comes_back(wire):
    """Of the batch being filled as well: its bytes were never given back."""
    producer = wire.producer(delivery_timeout_ns=SECOND)
    deliveries = [wire.send(producer, b"%d" % number) for number in range(3)]
    wire.step()
    assert producer.used > 0
    wire.pass_time(1.5)
    assert all(isinstance(delivery.error, errors.DeliveryTimeout) for delivery in deliveries)
    assert (producer.used, producer.outstanding()) == (0, {})
    wire.send(producer, b"later")
    [command] = wire.step()
    assert sequences(command)[1:3] == (1, 0)
    wire.accept(command)
    assert producer.used == 0


def test_an_expired_batch_is_repeated_while_a_later_one_waits_behind_it(wire):
    producer = wire.producer(batch_bytes=1, delivery_timeout_ns=SECOND)
    old = wire.send(producer, b"old")
    wire.step()
    wire.pass_time(0.9)
    young = wire.send(producer, b"young")
    wire.step()
    wire.pass_time(0.3)
    assert (old.done, young.done) == (True, False)
    wire.lose()
    wire.pass_time(0.05)
    repeated = [command for _, command in wire.sent[2:]]
    assert [sequences(command)[2] for command in repeated] == [0, 1]
    for command in repeated:
        wire.accept(command)
    assert (young.error, producer.used) == (None, 0)
    assert isinstance(old.error, errors.DeliveryTimeout)


def test_a_fence_ends_the_producer_and_everything_it_holds(wire):
    producer = wire.producer(batch_bytes=1)
    deliveries = [wire.send(producer) for _ in range(7)]
    sent = wire.step()
    wire.fail(sent[0], errors.ProducerFenced(producer=7, epoch=0, current=1, partition=1))
    assert {type(delivery.error) for delivery in deliveries} == {errors.ProducerFenced}
    assert (producer.used, wire.client.busy()) == (0, False)
    with pytest.raises(errors.ProducerFenced):
        producer.blocked("t", wire.now, wire.now)


# Fire and forget.


def test_what_is_not_acknowledged_has_no_sequences_that_could_be_missed(wire):
    """A lost batch would leave a gap, and the leader would refuse all that follows, in silence."""
    producer = wire.producer(acks="none")
    seen = []
    delivery = wire.send(producer, b"a", on_delivery=lambda *told: seen.append(told))
    [command] = wire.step()
    assert (command.flags, batch.parse(command.body.header).producer_id) == (messages.FLAG_NO_ANSWER, 0)
    assert wire.client.busy()  # Somebody has to run the callback.
    for callback, told, error in wire.client.take_callbacks():
        callback(told, error)
    assert seen == [(delivery, None)]
    assert (delivery.metadata().offset, producer.used, wire.client.busy()) == (-1, 0, False)


# Named producers.


def begin(wire, command, epoch, last=-1):
    assert command.type == Type.INIT_PRODUCER
    return wire.answer(command, Type.PRODUCER_IS, messages.ProducerIs(epoch, last))


def test_a_named_producer_asks_for_its_epoch_and_drops_what_is_stored(wire):
    producer = wire.producer(named=True)
    assert wire.send(producer, partition=0, sequence=1) is None
    begin(wire, wire.sent[-1][1], 3, last=5)
    told = []
    repeated = wire.send(producer, partition=0, sequence=5, on_delivery=lambda *what: told.append(what))
    assert (repeated.done, repeated.metadata().offset, wire.step()) == (True, -1, [])
    for callback, delivery, error in wire.client.take_callbacks():
        callback(delivery, error)
    assert told == [(repeated, None)]
    wire.send(producer, partition=0, sequence=8)
    [command] = wire.step()
    assert sequences(command) == (1, 3, 8, 8)


def test_a_named_producer_takes_every_new_epoch_from_the_leader(wire):
    """Counting on by itself it could arrive at the epoch of the instance that has fenced it."""
    producer = wire.producer(named=True, delivery_timeout_ns=SECOND)
    assert wire.send(producer) is None
    [asked] = [command for _, command in wire.sent]
    begin(wire, asked, 0)
    wire.send(producer)
    wire.step()
    wire.pass_time(1.5)
    assert wire.send(producer) is None
    again = wire.sent[-1][1]
    assert (again.body.instance, again.body.attempt) == (asked.body.instance, asked.body.attempt + 1)
    assert again.body.instance > 0
    wire.fail(again, errors.ProducerFenced(producer=7, epoch=0, current=1, partition=1))
    with pytest.raises(errors.ProducerFenced):
        wire.send(producer)


def test_what_a_named_producer_holds_goes_on_as_soon_as_it_has_its_epoch(wire):
    producer = wire.producer(named=True, batch_bytes=1)
    wire.send(producer)
    begin(wire, wire.sent[-1][1], 0)
    wire.send(producer, b"bad")
    wire.send(producer, b"good")
    bad, good = wire.step()
    wire.fail(bad, errors.ProtocolViolation(problem="p", allowed="a"))
    wire.fail(good, errors.OutOfOrderSequence(partition=1, producer=7, epoch=0, sequence=1, expected=0))
    wire.pass_time(0.1)
    asked = wire.sent[-1][1]
    [again] = begin(wire, asked, 1)
    assert (sequences(again), records(again)) == ((1, 1, 0, 0), [b"good"])


# The application's own sequences.


@pytest.fixture
def numbered(wire):
    """A named producer that has its epoch, and sends each record as a batch of its own."""
    producer = wire.producer(named=True, batch_bytes=1, delivery_timeout_ns=10 * SECOND)
    assert wire.send(producer) is None
    begin(wire, wire.sent[-1][1], 0)
    return producer


def test_one_batch_of_application_sequences_is_under_way_so_that_none_is_jumped_over(wire, numbered):
    """A leader that refused the first for a passing reason would take the second, and the first again for a repeat."""
    deliveries = [wire.send(numbered, b"%d" % at, partition=0, sequence=10 * at) for at in range(3)]
    [first] = wire.step()
    assert wire.fail(first, errors.StorageFull(directory="d", free=0, reserve=1)) == []
    wire.pass_time(0.1)
    again = wire.sent[-1][1]
    assert (sequences(again), records(again)) == (sequences(first), [b"0"])
    [second] = wire.accept(again, 0)
    [third] = wire.accept(second, 1)
    wire.accept(third, 2)
    assert [delivery.metadata().offset for delivery in deliveries] == [0, 1, 2]


def test_what_is_numbered_behind_a_batch_that_is_refused_for_good_is_given_up_as_well(wire, numbered):
    deliveries = [wire.send(numbered, b"%d" % at, partition=0, sequence=10 * at) for at in range(3)]
    [first] = wire.step()
    wire.fail(first, errors.ProtocolViolation(problem="p", allowed="a"))
    assert {type(delivery.error) for delivery in deliveries} == {errors.ProtocolViolation}
    wire.send(numbered, b"0", partition=0, sequence=0)
    wire.pass_time(0.1)
    [again] = begin(wire, wire.sent[-1][1], 1)
    assert (sequences(again), records(again)) == ((1, 1, 0, 0), [b"0"])


def test_what_is_numbered_behind_a_batch_whose_time_is_up_is_given_up_as_well(wire, numbered):
    """Else it would be stored without it when the link is back."""
    first = wire.send(numbered, b"0", partition=0, sequence=0)
    wire.step()
    wire.pass_time(9.5)
    second = wire.send(numbered, b"1", partition=0, sequence=1)
    wire.pass_time(1.0)
    assert (type(first.error), type(second.error)) == (errors.DeliveryTimeout, errors.DeliveryTimeout)
    assert (numbered.used, wire.client.busy()) == (0, False)


def whole(values, *, keys=None, base=0, sequences=None, headers=None):
    """A batch as a consumer returns it; compacted, if its offsets are given."""
    distances = None if sequences is None else [at - base for at in sequences]
    payload = batch.encode_columns(list(range(len(values))), keys, list(values), headers, distances)
    header, payload = batch.seal(
        payload, codec=0, flags=0 if distances is None else batch.COMPACTED, count=len(values), base_timestamp=500,
        max_timestamp=600, producer_id=0, producer_epoch=0, base_sequence=0, last_sequence=0, partition=3,
    )  # fmt: skip
    span = len(values) if distances is None else distances[-1] + 1
    return RecordBatch("s", 3, batch.parse(batch.stamp(header, 3, 1, span, base, 600)), payload)


def send_batch(wire, producer, source, after=None, on_delivery=None):
    found = list(pieces(source, producer.stored("t")[0], producer.settings.batch_bytes))
    for piece in found:
        assert producer.send_piece("t", 0, piece, after, on_delivery, wire.now) is not None
        after = piece.last
    return found


def columns(command):
    return batch.decode_columns(batch.parse(command.body.header), command.body.payload)


@pytest.fixture
def copying(wire):
    producer = wire.producer(named=True, delivery_timeout_ns=10 * SECOND)
    assert wire.send(producer) is None
    begin(wire, wire.sent[-1][1], 0, last=2)
    return producer


def test_a_batch_goes_on_as_it_is_and_its_offsets_are_its_sequences(wire, copying):
    headers = [{"h": b"%d" % at} if at % 2 else None for at in range(5)]
    send_batch(wire, copying, whole([b"a", b"b", b"c", None, b"e"], keys=[b"1", None, b"3", b"4", b"5"],
                                    headers=headers))  # fmt: skip
    [command] = wire.step()
    assert sequences(command)[2:] == (3, 4)  # What is stored is left out.
    found = columns(command)
    assert (found.keys, found.values, found.headers) == ([b"4", b"5"], [None, b"e"], [{"h": b"3"}, None])
    assert found.timestamps == [503, 504]


def test_batches_that_come_while_one_is_under_way_share_the_next(wire, copying):
    told = []
    send_batch(wire, copying, whole([b"a"], base=3), 2, lambda *what: told.append(what))
    [first] = wire.step()
    send_batch(wire, copying, whole([b"b"], base=4), 3)
    send_batch(wire, copying, whole([b"c", b"d"], keys=[b"k", None], base=9, sequences=[9, 20]), 4)
    send_batch(wire, copying, whole([b"e"], base=30, headers=[{"h": b"1"}]), 20)
    [second] = wire.accept(first)
    assert sequences(second)[2:] == (4, 30)
    found = columns(second)
    assert (found.keys, found.values) == ([None, b"k", None, None], [b"b", b"c", b"d", b"e"])
    assert found.headers == [None, None, None, {"h": b"1"}]
    wire.accept(second)
    assert copying.stored("t") == {0: 30}
    assert [error for *_, error in wire.client.take_callbacks()] == [None]


def test_a_large_batch_is_cut(wire):
    producer = wire.producer(named=True, batch_bytes=1_000)
    assert wire.send(producer) is None
    begin(wire, wire.sent[-1][1], 0)
    found = send_batch(wire, producer, whole([b"x" * 184] * 10 + [b"y" * 2_000] + [b"z"] * 3))
    assert [(piece.first, piece.last, piece.size) for piece in found] == [
        (0, 4, 1_000), (5, 9, 1_000), (10, 10, 2_016), (11, 13, 51),
    ]  # fmt: skip
    commands = wire.step()
    while commands:
        [command] = commands
        last = sequences(command)[3]
        commands = wire.accept(command)
    assert (last, producer.used) == (13, 0)


def test_a_batch_that_follows_what_was_given_up_is_refused(wire, copying):
    """Whoever sends it does not know yet that what was before it is lost."""
    send_batch(wire, copying, whole([b"a"], base=3), 2)
    [first] = wire.step()
    wire.fail(first, errors.ProtocolViolation(problem="p", allowed="a"))
    with pytest.raises(errors.OutOfOrderSequence) as caught:
        send_batch(wire, copying, whole([b"b"], base=4), 3)
    assert (caught.value.sequence, caught.value.expected) == (4, 3)


def test_a_batch_that_cannot_be_sent_there_is_refused_before_any_of_it_is_taken():
    wire = Wire(topics={"t": (1, [1], TopicConfig(cleanup="compact", record_bytes_max=100))})
    producer = wire.producer(named=True)
    assert wire.send(producer, key=b"k") is None
    begin(wire, wire.sent[-1][1], 0)
    with pytest.raises(errors.InvalidArgument, match="compacted"):
        send_batch(wire, producer, whole([b"a", b"b"], keys=[b"k", None]))
    with pytest.raises(errors.RecordTooLarge) as caught:
        send_batch(wire, producer, whole([b"a", b"b" * 200], keys=[b"k", b"l"]))
    assert (caught.value.size, producer.used) == (217, 0)


# Topics that change.


def test_partitions_that_were_added_are_used(wire, producer):
    wire.topics["t"] = (1, [1, 2, 3], TopicConfig())
    wire.client.refresh("t", wire.now)
    wire.step()
    for number in range(3):
        wire.send(producer, partition=number)
    assert sorted(sequences(command)[0] for command in wire.step()) == [1, 2, 3]


def test_a_deleted_topic_gives_up_what_is_for_it(wire, producer):
    deliveries = [wire.send(producer) for _ in range(3)]
    [command] = wire.step()
    del wire.topics["t"]
    wire.fail(command, errors.NotLeader(leader=0, partition=1))
    assert {type(delivery.error) for delivery in deliveries} == {errors.UnknownTopic}
    assert (producer.used, producer.knows("t"), wire.client.busy()) == (0, False, False)


def test_a_topic_made_again_gets_what_was_under_way(wire, producer):
    delivery = wire.send(producer)
    [command] = wire.step()
    wire.topics["t"] = (2, [9], TopicConfig())
    wire.fail(command, errors.NotLeader(leader=0, partition=1))
    wire.pass_time(0.1)
    assert sequences(wire.sent[-1][1]) == (9, 1, 0, 0)
    wire.accept(wire.sent[-1][1], 3)
    assert delivery.metadata().offset == 3


def test_a_topic_made_again_with_fewer_partitions_gives_up_what_was_for_the_others():
    wire = Wire(topics={"t": (1, [1, 2, 3], TopicConfig())})
    producer = wire.producer()
    deliveries = [wire.send(producer, partition=number) for number in range(3)]
    sent = wire.step()
    wire.topics["t"] = (2, [9], TopicConfig())
    for command in sent:
        wire.fail(command, errors.NotLeader(leader=0, partition=sequences(command)[0]))
    wire.pass_time(0.1)
    assert [type(delivery.error) for delivery in deliveries[1:]] == [errors.UnknownPartition] * 2
    wire.accept(wire.sent[-1][1])
    assert (deliveries[0].error, producer.used) == (None, 0)
    for _ in range(3):
        wire.send(producer)
        [command] = wire.step()
        assert sequences(command)[0] == 9
        wire.accept(command)


def test_a_producer_knows_only_the_topics_that_it_sends_to():
    """Else listing a thousand topics makes each of its ticks look at all their partitions."""
    wire = Wire(topics={name: (at, [at], TopicConfig()) for at, name in enumerate(["t", "u", "v"], 1)})
    producer = wire.producer()
    wire.send(producer)
    wire.client.note(wire.metadata(None))
    assert [producer.knows(name) for name in "tuv"] == [True, False, False]
    assert wire.send(producer, topic="u") is not None


def test_headers_count_with_what_they_take_on_the_wire(wire):
    """A leader takes 1 MiB beyond the largest record: a batch of many small headers must not exceed that."""
    producer = wire.producer(batch_bytes=1 << 20)
    headers = {"ä" * 3 + str(number): b"" for number in range(100)}
    for _ in range(4_000):
        wire.send(producer, b"", headers=headers)
    for command in (sent := wire.step()):
        assert len(command.body.payload) <= (1 << 20) + (1 << 20)
        sent += wire.accept(command)
    assert producer.used == 0
