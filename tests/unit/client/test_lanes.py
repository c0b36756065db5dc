"""The short way of plain records into an open batch differs from the long one in nothing but its cost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.client.wire import MS, SECOND, Wire, attempt
from zfabric import errors
from zfabric.model import TopicConfig
from zfabric.wire import batch
from zfabric.wire.messages import Type

TOPICS = {
    "t": (1, [1], TopicConfig()),
    "two": (4, [5, 6], TopicConfig()),
    "small": (2, [3], TopicConfig(record_bytes_max=1024)),
    "compacted": (3, [4], TopicConfig(cleanup="compact")),
}
SIZES = st.sampled_from([0, 4, 84])
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("plain"), st.sampled_from(sorted(TOPICS)), SIZES),
        st.tuples(st.just("plain"), st.just("t"), SIZES),
        st.tuples(st.just("keyed"), st.sampled_from(sorted(TOPICS)), SIZES),
        st.tuples(st.just("headed"), st.just("t"), SIZES),
        st.tuples(st.just("odd"), st.just("t"), st.integers(0, 2)),
        st.tuples(st.just("pass"), st.just(""), st.integers(0, 60)),
        st.tuples(st.sampled_from(["accept", "flush", "give up"]), st.just(""), st.just(0)),
    ),
    min_size=20,  # On average there would be five.
    max_size=60,
)


class Side:
    """A producer that takes plain records by one of the two ways."""

    def __init__(self, *, short, **settings):
        self.short = short
        self.wire = Wire(topics=dict(TOPICS))
        self.producer = self.wire.producer(**settings)
        for topic in TOPICS:
            self.producer.blocked(topic, self.wire.now, self.wire.now + SECOND)
            self.wire.step()
        self.deliveries = []
        self.flushes = []
        self.accepted = 0

    def send(self, topic, value, key=None, headers=None):
        now, short = self.wire.now, self.short
        return attempt(self.producer, self.deliveries, topic, value, now, short=short, key=key, headers=headers)

    def do(self, what, topic, number):
        wire, said = self.wire, None
        if what == "plain":
            said = self.send(topic, bytes(number))
        elif what == "keyed":
            said = self.send(topic, bytes(number), key=b"%d" % (number % 3))
        elif what == "headed":
            said = self.send(topic, bytes(number), headers={"h": bytes(number)})
        elif what == "odd":
            said = self.send(topic, [None, bytearray(5), "text"][number])
        elif what == "pass":
            wire.pass_time(number / 1000)
        elif what == "flush":
            self.flushes.append(self.producer.flush(wire.now))
        elif what == "give up":
            self.wire.topics.pop("small", None)
            self.wire.client.refresh("small", wire.now)
        elif self.accepted < len(wire.sent):
            self.accepted += 1
            wire.accept(wire.sent[self.accepted - 1][1], self.accepted * 100)
        wire.step()
        return said

    def seen(self):
        batches = [
            (bytes(command.body.header), bytes(command.body.payload))
            for _, command in self.wire.sent
            if command.type == Type.PRODUCE
        ]
        fates = [(delivery.done, str(delivery.error)) for delivery in self.deliveries]
        done = [flush.done for flush in self.flushes]
        return batches, fates, done, self.producer.used, self.producer.outstanding()


@settings(deadline=None)
@given(operations=OPERATIONS, linger=st.sampled_from([0, 20]), buffer_bytes=st.sampled_from([60, 700, 100_000]))
def test_both_ways_send_the_same_batches_and_keep_the_same_bounds(operations, linger, buffer_bytes):
    options = {
        "linger_ns": linger * MS,
        "batch_bytes": 400,
        "buffer_bytes": buffer_bytes,
        "delivery_timeout_ns": SECOND // 4,
    }
    short, long = Side(short=True, **options), Side(short=False, **options)
    for operation in operations:
        assert short.do(*operation) == long.do(*operation)
        assert short.producer.used == long.producer.used
    assert short.seen() == long.seen()


@pytest.fixture
def side():
    made = Side(short=True, batch_bytes=4_000, buffer_bytes=3_000)
    made.send("t", b"under way")
    made.wire.step()
    return made


def taken(side):
    return [side.send("t", bytes(84)) for _ in range(50)]


def test_the_short_way_ends_where_the_buffer_is_full(side):
    """Exactly as the long one: the record that reaches the bound is the last."""
    used = side.producer.used
    said = taken(side)
    count = -(-(3_000 - used) // 100)
    assert said == [*range(count), *["blocked"] * (50 - count)]
    assert side.producer.used == used + 100 * count


def test_room_that_one_topic_keeps_for_its_batch_is_not_missing_to_another(side):
    """A lane reserves room; whoever finds none takes back what is not used."""
    side.send("t", b"opens a batch, and a lane with all the room there is")
    assert side.send("small", b"v") == 0
    assert side.producer.used < 200


def test_what_took_the_short_way_counts_when_it_is_given_up(side):
    taken(side)
    left = side.producer.outstanding()
    side.producer.close()
    assert side.producer.failures.take().values["records"] == sum(left.values()) > 20
    assert side.producer.used == 0
    with pytest.raises(errors.Closed):
        side.producer.append("t", b"v", side.wire.now)


def test_each_record_has_the_millisecond_of_its_own(side):
    for _ in range(5):
        side.send("t", b"v")
        side.wire.now += MS
    side.wire.accept(side.wire.sent[0][1])
    header = batch.parse(side.wire.sent[1][1].body.header)
    stamps = batch.decode_columns(header, side.wire.sent[1][1].body.payload).timestamps
    assert [stamp - stamps[0] for stamp in stamps] == list(range(5))


@pytest.mark.parametrize("end", ["time is up", "the topic is gone"])
def test_what_took_the_short_way_is_given_up_whole_while_it_waits(end):
    side = Side(short=True, delivery_timeout_ns=SECOND)
    for _ in range(10):
        side.send("t", b"v")
    if end == "the topic is gone":
        del side.wire.topics["t"]
        side.wire.client.refresh("t", side.wire.now)
    side.wire.pass_time(1.1)
    assert {delivery.done for delivery in side.deliveries} == {True}
    assert (side.producer.failures.take().values["records"], side.producer.used) == (10, 0)


def test_a_record_that_its_topic_does_not_allow_is_refused_though_the_batch_has_room():
    side = Side(short=True, batch_bytes=400_000)
    for _ in range(3):
        side.send("small", b"v")
    with pytest.raises(errors.RecordTooLarge):
        side.producer.append("small", bytes(1024), side.wire.now)
    assert side.send("small", b"v") == 2


def test_a_batch_that_is_exactly_full_is_sent_at_once():
    side = Side(short=True, batch_bytes=4_000)
    side.send("t", b"under way")
    side.wire.step()
    taken(side)
    side.wire.step()
    assert batch.parse(side.wire.sent[1][1].body.header).records == 40


@pytest.mark.parametrize("key", [None, b"k"])
def test_who_sends_without_a_pause_looks_for_acknowledgements_once_a_millisecond(key):
    """They let the next batch go; a look costs as much as ten records."""
    side = Side(short=True)
    side.send("t", b"first")  # Goes at once; those that follow wait for its acknowledgement.
    side.send("t", b"second", key)
    looks = 0
    side.producer.wants_flush = False
    for _ in range(4_000):
        side.wire.now += MS // 1_000
        side.send("t", b"v", key)
        looks += side.producer.wants_flush
        side.producer.wants_flush = False
    assert looks == 4
