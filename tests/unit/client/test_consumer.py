"""The consumer's rules, with a leader that the test plays."""

from __future__ import annotations

import pytest

from tests.unit.client.wire import SECOND, Wire, endpoint, head, published, sealed, stored
from zfabric import errors
from zfabric.core.client.feed import FETCH_BYTES
from zfabric.model import TopicConfig
from zfabric.wire import batch, messages
from zfabric.wire.messages import Type
from zfabric.wire.metadata import PartitionPlace, TopicMeta


@pytest.fixture
def wire():
    return Wire()


def subscription(wire):
    """Return the session that is subscribed now."""
    return max(session for session, _, on in wire.subscribed if on)


def publish(wire, frames):
    wire.client.receive(subscription(wire), frames, wire.now)
    return wire.step()


def live(wire, consumer, ends=None):
    """Open a consumer and let it catch up with empty logs."""
    wire.open(consumer, ends)
    wire.fetched(wire.fetches()[0])
    wire.serve(0.1)


def values(consumer, most=100):
    return [record.value for record in consumer.take(most)]


# The log is the truth, PUB is the accelerator.


def test_it_subscribes_when_a_fetch_reaches_the_end_and_fetches_once_more(wire):
    consumer = wire.consumer()
    wire.open(consumer)
    command, asked = wire.fetches()
    assert (asked, wire.subscribed) == ({1: 0}, [])
    wire.fetched(command, {1: [stored(1, 0, [b"a"])]}, {1: 1})
    assert [(topic, on) for _, topic, on in wire.subscribed] == [(1, True)]
    wire.pass_time(0.02)
    assert wire.fetches()[1] == {1: 1}
    assert values(consumer) == [b"a"]


def test_a_published_batch_that_begins_where_it_reads_is_taken(wire):
    consumer = wire.consumer()
    live(wire, consumer)
    ready = consumer.ready()
    publish(wire, published(1, 0, [b"a", b"b"]))
    assert (ready.done, values(consumer)) == (True, [b"a", b"b"])
    assert (consumer.cursor(0).position, consumer.gaps) == (2, 0)


def receive_calmly(wire, *messages):
    """Hand messages to a client whose pump is calm; tells whether it may stay so, which must then be true."""
    client = wire.client
    for frames in messages:
        due_ns = client.next_deadline()
        client.restless = False
        client.receive(subscription(wire), frames, wire.now)
        if client.restless:
            return False
        assert not client.requests.wants
        assert client.next_deadline() >= due_ns
    return True


def test_a_pump_has_nothing_to_do_for_what_is_published_as_usual(wire):
    """A look for what is due would take longer than the record."""
    consumer = wire.consumer()
    live(wire, consumer)
    wire.pass_time(0.01)
    publish(wire, published(1, 0, [b"a"]))  # A silence is a shorter one from now on.
    assert receive_calmly(wire, published(1, 1, [b"b"]), published(1, 1, [b"b"]), head(1, 2), published(1, 2, [b"c"]))
    wire.client.restless = False
    assert values(consumer) == [b"a", b"b", b"c"]
    assert not wire.client.restless


@pytest.mark.parametrize("frames", [head(1, 3), published(1, 1, [b"later"])])
def test_a_pump_hears_of_what_was_missed(wire, frames):
    consumer = wire.consumer()
    live(wire, consumer)
    assert not receive_calmly(wire, frames)


def test_a_pump_hears_that_a_full_buffer_has_room_again(wire):
    """There is something to ask for, which nothing that comes in would tell."""
    consumer = wire.consumer(buffer_bytes=1_000)
    live(wire, consumer)
    publish(wire, published(1, 0, [b"a" * 2_000]))
    assert not receive_calmly(wire, published(1, 1, [b"b"]))
    wire.step()
    wire.client.restless = False
    assert len(values(consumer)) == 1
    assert wire.client.restless


def test_one_that_was_seen_is_left_out(wire):
    consumer = wire.consumer()
    live(wire, consumer)
    for _ in range(3):
        publish(wire, published(1, 0, [b"a"]))
    assert values(consumer) == [b"a"]


def test_a_gap_is_repaired_by_a_fetch_and_subscribed_to_only_once(wire):
    consumer = wire.consumer()
    live(wire, consumer)
    for number in range(3):
        publish(wire, published(1, number * 2 + 1, [b"later"]))
        command, asked = wire.fetches()
        assert asked == {1: number * 2}
        wire.fetched(command, {1: [stored(1, number * 2, [b"lost"]), stored(1, number * 2 + 1, [b"later"])]},
                     {1: number * 2 + 2})  # fmt: skip
        wire.pass_time(0.02)
        wire.fetched(wire.fetches()[0], ends={1: number * 2 + 2})
    assert values(consumer) == [b"lost", b"later"] * 3
    assert (consumer.gaps, len(wire.subscribed)) == (3, 1)


def test_a_head_beacon_tells_what_was_missed(wire):
    consumer = wire.consumer()
    live(wire, consumer)
    before = len(wire.sent)
    publish(wire, head(1, 0))
    assert len(wire.sent) == before
    publish(wire, head(1, 3))
    assert wire.fetches()[1] == {1: 0}


def test_after_a_silence_it_asks(wire):
    consumer = wire.consumer()
    live(wire, consumer)
    before = len(wire.sent)
    wire.pass_time(0.4)
    assert len(wire.sent) == before
    wire.pass_time(0.2)
    assert (len(wire.sent), wire.fetches()[1]) == (before + 1, {1: 0})


def silences(wire, seconds):
    """Answer every FETCH with nothing for a while; returns the pauses between them, in tenths of a second."""
    asked, last, pauses = len(wire.sent), wire.now, []
    for _ in range(int(seconds * 100)):
        wire.serve(0.01)
        if len(wire.sent) > asked:
            pauses.append(round((wire.now - last) / (SECOND // 10)))
            asked, last = len(wire.sent), wire.now
    return pauses


def test_the_longer_nothing_comes_the_less_often_it_asks_down_to_once_in_four_seconds(wire):
    consumer = wire.consumer()
    live(wire, consumer)
    wire.serve(0.4)
    assert silences(wire, 12.0)[1:] == [10, 20, 40, 40]


@pytest.mark.parametrize("what", ["a batch", "a beacon"])
def test_whatever_comes_makes_it_ask_again_after_half_a_second(wire, what):
    consumer = wire.consumer()
    live(wire, consumer)
    wire.serve(10.0)
    publish(wire, published(1, 0, [b"a"]) if what == "a batch" else head(1, 0))
    assert silences(wire, 3.6) == [5, 10, 20]


def test_what_comes_of_one_partition_keeps_no_lost_record_of_another_waiting():
    """However much is published of one, a lost publication of the other with a lost HEAD is found within 4.5 s."""
    wire = Wire(topics={"t": (1, [1, 2], TopicConfig())})
    consumer = wire.consumer()
    live(wire, consumer)
    wire.serve(10.0)
    asked = []
    for number in range(90):
        before = len(wire.sent)
        publish(wire, published(1, number, [b"a"]))
        wire.serve(0.05)
        asked += [[part.partition for part in command.body.parts] for _, command in wire.sent[before:]]
    assert asked == [[2]]


def test_a_damaged_publication_is_as_good_as_lost(wire):
    consumer = wire.consumer()
    live(wire, consumer)
    frames = published(1, 0, [b"a"])
    frames[2] = frames[2][:-1] + b"\xff"
    publish(wire, frames)
    assert (values(consumer), consumer.gaps, wire.fetches()[1]) == ([], 1, {1: 0})


def test_a_slow_consumer_unsubscribes_and_fetches_once_there_is_room(wire):
    consumer = wire.consumer(buffer_bytes=1_000)
    live(wire, consumer)
    for number in range(20):
        publish(wire, published(1, number, [bytes(100)]))
    assert [on for _, _, on in wire.subscribed] == [True, False]
    before = len(wire.sent)
    consumer.take(100)
    wire.step()
    assert len(wire.sent) == before + 1, "room that was made is used at once, not at the next silence"


def test_no_partition_keeps_others_of_its_leader_waiting():
    """The first one asked for may take all that an answer holds."""
    wire = Wire(topics={"t": (1, [1, 2, 3], TopicConfig())})
    consumer = wire.consumer(buffer_bytes=64 << 20)
    wire.open(consumer, {1: 1000, 2: 1000, 3: 1000})
    position = {1: 0, 2: 0, 3: 0}
    for _ in range(6):
        command, asked = wire.fetches()
        first = next(iter(asked))
        row = stored(first, position[first], [bytes(FETCH_BYTES)])
        position[first] += 1
        wire.fetched(command, {first: [row]}, dict.fromkeys(asked, 1000))
    assert set(position.values()) == {2}


# Sessions.


def test_a_lost_subscription_is_opened_again_and_what_was_missed_is_fetched(wire):
    consumer = wire.consumer()
    live(wire, consumer)
    before = len(wire.subscribed)
    wire.lose(wire.places[0][1])
    wire.pass_time(0.1)
    command, asked = wire.fetches()
    assert asked == {1: 0}
    wire.fetched(command, {1: [stored(1, 0, [b"a"])]}, {1: 1})
    assert (len(wire.subscribed), values(consumer)) == (before + 1, [b"a"])


def test_however_often_a_subscription_ends_the_next_fetch_comes_within_four_tenths_of_a_second(wire):
    consumer = wire.consumer()
    live(wire, consumer)
    wire.up.discard(wire.places[0][1])
    for _ in range(20):
        wire.client.lost(subscription(wire), wire.now)
        before = len(wire.sent)
        wire.pass_time(0.41)
        assert len(wire.sent) == before + 1
        wire.fetched(wire.fetches()[0])
        wire.step()


def test_a_leader_that_publishes_elsewhere_is_followed():
    wire = Wire(leaders=2)
    consumer = wire.consumer()
    live(wire, consumer)
    wire.places[1] = ("tcp://h:77", "tcp://h:78")
    wire.up |= {"tcp://h:77", "tcp://h:78"}
    wire.up -= {endpoint(1), "tcp://h:4"}
    wire.lose(endpoint(1))
    wire.serve(1.0)
    assert wire.opened.count("tcp://h:78") == 1
    assert wire.sessions[subscription(wire)] == "tcp://h:78"


def test_a_partition_that_moves_is_wanted_at_its_new_leader_alone():
    """Else the old one's turn to ask would be over for ever and never come."""
    wire = Wire(leaders=2, topics={"t": (1, [1, 3], TopicConfig())})
    consumer = wire.consumer()
    wire.open(consumer)
    meta = wire.client.topic("t")
    assert {place.leader for place in meta.partitions} == {1}
    moved = PartitionPlace(3, 1, 0)
    consumer.learn(TopicMeta("t", meta.id, meta.config, [meta.partitions[0], moved]), wire.now)
    wanted = {leader: [cursor.id for cursor in feed.behind.all()] for leader, feed in consumer._feeds.items()}
    assert wanted == {1: [1], 0: [3]}


# Taking.


def test_all_who_wait_share_one_wait_however_often_they_ask(wire):
    """A consumer of a quiet topic that is polled for days must not remember each poll."""
    consumer = wire.consumer()
    live(wire, consumer)
    assert len({id(consumer.ready()) for _ in range(1_000)}) == 1
    waiting = consumer.ready()
    consumer.close()
    assert waiting.done


def test_a_paused_partition_delivers_nothing_until_it_is_resumed(wire):
    consumer = wire.consumer()
    live(wire, consumer)
    publish(wire, published(1, 0, [b"a"]))
    consumer.pause([0], wire.now)
    assert (values(consumer), consumer.ready().done) == ([], False)
    waiting = consumer.ready()
    consumer.pause([0], wire.now, paused=False)
    assert (waiting.done, values(consumer)) == (True, [b"a"])


def test_a_seek_goes_on_there_and_forgets_what_was_buffered(wire):
    consumer = wire.consumer()
    live(wire, consumer)
    publish(wire, published(1, 0, [b"a", b"b"]))
    sought = consumer.seek(0, "earliest", wire.now, wire.now + SECOND)
    [command] = wire.step()
    wire.found(command, {1: 2})
    assert (sought.done, values(consumer)) == (True, [])
    command, asked = wire.fetches()
    assert asked == {1: 0}
    wire.fetched(command, {1: [stored(1, 0, [b"a", b"b"])]}, {1: 2})
    assert values(consumer) == [b"a", b"b"]


def test_what_a_fetch_says_of_the_place_before_a_seek_is_ignored(wire):
    consumer = wire.consumer()
    live(wire, consumer)
    wire.pass_time(0.6)
    late, _ = wire.fetches()
    sought = consumer.seek(0, 5, wire.now, wire.now + SECOND)
    command = wire.step()[-1]
    wire.answer(command, Type.OFFSETS_ARE, messages.OffsetsAre([messages.OffsetIs(1, 9, 0, 9)]))
    assert (sought.done, consumer.cursor(0).expected) == (True, 5)
    wire.fetched(late, failures={1: errors.OffsetOutOfRange(topic="t", partition=0, offset=0, start=3, end=9)})
    assert (consumer.cursor(0).error, consumer.cursor(0).expected) == (None, 5)


def test_a_position_that_retention_removed_is_an_error_unless_it_is_skipped():
    refusal = errors.OffsetOutOfRange(topic="t", partition=0, offset=1, start=4, end=9)
    for skip in (False, True):
        wire = Wire()
        consumer = wire.consumer(skip_missing=skip)
        wire.open(consumer)
        wire.fetched(wire.fetches()[0], {1: [stored(1, 0, [b"a"])]}, {1: 9})
        assert values(consumer) == [b"a"]
        wire.fetched(wire.fetches()[0], failures={1: refusal})
        if skip:
            wire.pass_time(0.1)
            assert (consumer.skipped, wire.fetches()[1]) == (3, {1: 4})
        else:
            with pytest.raises(errors.OffsetOutOfRange):
                consumer.take(1)


def test_one_that_begins_with_the_earliest_record_begins_with_what_is_the_earliest_when_it_gets_something(wire):
    """A keeper that is new skips to its origin's start, and retention goes on everywhere."""
    consumer = wire.consumer()
    wire.open(consumer)
    for start in (3, 7):
        refusal = errors.OffsetOutOfRange(topic="t", partition=0, offset=start - 3, start=start, end=9)
        wire.fetched(wire.fetches()[0], failures={1: refusal})
        wire.pass_time(0.1)
    assert wire.fetches()[1] == {1: 7}
    wire.fetched(wire.fetches()[0], {1: [stored(1, 7, [b"a"])]}, {1: 9})
    assert (values(consumer), consumer.skipped) == ([b"a"], 0)


def test_a_publication_of_another_epoch_is_not_taken_before_a_fetch_was_answered(wire):
    """The log may have been set back: what its leader is asked says which one was read."""
    consumer = wire.consumer()
    live(wire, consumer)
    publish(wire, published(1, 0, [b"a"]))
    frames = published(1, 1, [b"b"])
    header, payload = sealed([b"b"])
    frames[1] = batch.stamp(header, 1, 2, 1, 1, 700)
    publish(wire, frames)
    [part] = wire.fetches()[0].body.parts
    assert part == messages.FetchPart(1, 1, 1, 1, 600, 0, 600)
    assert values(consumer) == [b"a"]
    wire.fetched(wire.fetches()[0], {1: [frames[1] + payload]}, {1: 2})
    assert (values(consumer), consumer.gaps) == ([b"b"], 0)


def test_a_log_that_was_set_back_is_an_error_once_and_seeking_goes_on_in_the_new_one(wire):
    consumer = wire.consumer()
    wire.open(consumer)
    wire.fetched(wire.fetches()[0], {1: [stored(1, 0, [b"a", b"b"])]}, {1: 9})
    told = errors.LogRewound(topic="t", partition=0, offset=2, start=0, end=9, parted=1, problem="p")
    wire.fetched(wire.fetches()[0], failures={1: told})
    assert values(consumer) == [b"a", b"b"]
    with pytest.raises(errors.LogRewound):
        consumer.take(1)
    consumer.seek(0, "latest", wire.now, wire.now + SECOND)
    wire.found(wire.step()[-1], {1: 9})
    [part] = wire.fetches()[0].body.parts
    assert part == messages.FetchPart(1, 9)


def test_a_damaged_batch_is_an_error_once_all_before_it_is_taken(wire):
    consumer = wire.consumer()
    wire.open(consumer)
    bad = bytearray(stored(1, 1, [b"bad"]))
    bad[-1] ^= 1
    wire.fetched(wire.fetches()[0], {1: [stored(1, 0, [b"good"]), bytes(bad)]}, {1: 3})
    assert values(consumer) == [b"good"]
    with pytest.raises(errors.CorruptBatch) as found:
        consumer.take(1)
    assert (found.value.topic, found.value.partition, found.value.offset) == ("t", 0, 1)


# Committing.


def test_a_commit_stores_what_changed_and_nothing_twice(wire):
    consumer = wire.consumer(group="g")
    opening = consumer.open(wire.now, wire.now + SECOND)
    [command] = wire.step()
    wire.answer(command, Type.COMMITTED_ARE, messages.CommittedAre([messages.Committed("g", 1, 4, 0, 4)]))
    assert (opening.done, wire.fetches()[1]) == (True, {1: 4})
    wire.fetched(wire.fetches()[0], {1: [stored(1, 4, [b"a"])]}, {1: 5})
    consumer.take(10)
    stored_ = consumer.commit(None, wire.now, wire.now + SECOND)
    command = wire.step()[0]
    assert command.body.parts == [messages.CommitOffset(1, 5, 5, 1, 600, 4, 600)]
    wire.answer(command, Type.DONE, messages.Empty())
    assert stored_.done
    again = consumer.commit(None, wire.now, wire.now + SECOND)
    assert (again.done, wire.step()) == (True, [])


def test_a_member_that_begins_where_its_group_was_tells_which_batch_it_has_processed_last(wire):
    consumer = wire.consumer(group="g")
    consumer.open(wire.now, wire.now + SECOND)
    [command] = wire.step()
    committed = messages.Committed("g", 1, 4, 0, 9, 3, 500)
    wire.answer(command, Type.COMMITTED_ARE, messages.CommittedAre([committed]))
    assert wire.fetches()[0].body.parts == [messages.FetchPart(1, 4, 4, 3, 500, 4, 0)]


# Topics that change.


def test_partitions_that_are_added_are_read_from_their_start():
    wire = Wire()
    every, some = wire.consumer(start="latest"), wire.consumer(numbers=[0])
    for consumer in (every, some):
        wire.open(consumer)
        wire.fetched(wire.fetches()[0])
    wire.topics["t"] = (1, [1, 2], TopicConfig())
    wire.serve(32.0, {2: 1})
    assert (sorted(every.cursors), sorted(some.cursors)) == ([0, 1], [0])
    assert every.cursor(1).expected == 0
    assert {part.partition for part in wire.fetches()[0].body.parts} == {1, 2}


def test_a_group_reads_an_added_partition_from_where_it_has_committed():
    wire = Wire()
    consumer = wire.consumer(group="g")
    consumer.open(wire.now, wire.now + SECOND)
    [command] = wire.step()
    wire.answer(command, Type.COMMITTED_ARE, messages.CommittedAre([messages.Committed("g", 1, 4, 0, 4)]))
    wire.topics["t"] = (1, [1, 2], TopicConfig())
    wire.client.refresh("t", wire.now)
    command = wire.step()[-1]
    assert (command.type, command.body.partitions) == (Type.GET_OFFSETS, [2])
    wire.answer(command, Type.COMMITTED_ARE, messages.CommittedAre([messages.Committed("g", 2, 7, 0, 9)]))
    assert consumer.cursor(1).position == 7


@pytest.mark.parametrize("skip", [False, True])
def test_a_deleted_topic_is_an_error_once_all_is_taken_unless_missing_things_are_skipped(wire, skip):
    consumer = wire.consumer(skip_missing=skip)
    live(wire, consumer)
    publish(wire, published(1, 0, [b"a"]))
    del wire.topics["t"]
    wire.pass_time(0.6)
    wire.fetched(wire.fetches()[0], failures={1: errors.NotLeader(leader=0, partition=1)})
    assert values(consumer) == [b"a"]
    if skip:
        assert (values(consumer), consumer.ready().done) == ([], False)
        return
    with pytest.raises(errors.UnknownTopic):
        consumer.take(1)


@pytest.mark.parametrize("skip", [False, True])
def test_a_topic_made_again_is_another_log(wire, skip):
    """Its offsets begin anew: to go on at the old position would leave out what is before it, in silence."""
    consumer = wire.consumer(skip_missing=skip)
    live(wire, consumer)
    publish(wire, published(1, 0, [b"a", b"b"]))
    assert values(consumer) == [b"a", b"b"]
    wire.topics["t"] = (2, [9], TopicConfig())
    wire.pass_time(0.6)
    wire.fetched(wire.fetches()[0], failures={1: errors.NotLeader(leader=0, partition=1)})
    wire.pass_time(0.1)
    if not skip:
        with pytest.raises(errors.OffsetOutOfRange):
            consumer.take(1)
        sought = consumer.seek(0, "earliest", wire.now, wire.now + SECOND)
        wire.found(wire.step()[-1], {9: 1})
        assert sought.done
    command, asked = wire.fetches()
    assert asked == {9: 0}
    wire.fetched(command, {9: [stored(9, 0, [b"new"])]}, {9: 1})
    assert values(consumer) == [b"new"]
    assert [on for _, _, on in wire.subscribed] == [True, False, True]


def test_a_topic_made_again_with_fewer_partitions_is_read_as_far_as_it_goes():
    wire = Wire(topics={"t": (1, [1, 2], TopicConfig())})
    consumer = wire.consumer(skip_missing=True)
    live(wire, consumer)
    wire.topics["t"] = (2, [9], TopicConfig())
    wire.client.refresh("t", wire.now)
    wire.step()
    assert wire.fetches()[1] == {9: 0}
    wire.fetched(wire.fetches()[0], {9: [stored(9, 0, [b"new"])]}, {9: 1})
    wire.pass_time(2.0)
    assert values(consumer) == [b"new"]


def test_an_opening_that_failed_leaves_nothing_to_the_next():
    wire = Wire(topics={"t": (1, [1, 2], TopicConfig())})
    consumer = wire.consumer()
    failed = consumer.open(wire.now, wire.now + SECOND)
    wire.step()
    wire.pass_time(1.5)
    assert isinstance(failed.error, errors.RequestTimeout)
    wire.topics["t"] = (2, [9], TopicConfig())
    wire.client.refresh("t", wire.now)
    wire.step()
    wire.open(consumer)
    assert (list(consumer.cursors), [cursor.id for cursor in consumer.cursors.values()]) == ([0], [9])


def test_a_producer_that_wants_no_answers_asks_again_where_its_topic_is(wire):
    """Nobody tells it that the topic is another one by now."""
    producer = wire.producer(acks="none")
    for _ in range(50):
        wire.send(producer)
        wire.pass_time(1.0)
    assert wire.asked_metadata == 2
    wire.pass_time(200.0)
    asked = wire.asked_metadata
    wire.pass_time(200.0)
    assert wire.asked_metadata == asked, "once it sends nothing any more, it asks nothing"
