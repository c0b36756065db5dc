"""Whoever expects a record gets what whoever waits and takes gets, and leaves everything else as that does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.client.wire import SECOND, Wire, head, published
from zfabric import errors
from zfabric.model import TopicConfig
from zfabric.wire import batch, codecs, messages
from zfabric.wire.messages import Type

IDS = (1, 2)
LIMIT = 20


def row(partition, base, values, *, epoch=1, codec=codecs.NONE, flags=0, payload=None):
    """Return the header and the payload of a batch as its leader stores it."""
    payload = batch.encode_columns(0, None, list(values), None) if payload is None else payload
    header, payload = batch.seal(
        payload, codec=codec, flags=flags, count=len(values), base_timestamp=500, max_timestamp=500, producer_id=0,
        producer_epoch=0, base_sequence=0, last_sequence=len(values) - 1, partition=0,
    )  # fmt: skip
    return batch.stamp(header, partition, epoch, len(values), base, 600), payload


class Side:
    """A consumer of two partitions, a leader whose logs the test writes, and an application that waits and takes.

    Args:
        expects: the application expects records, rather than taking them.
    """

    def __init__(self, expects):
        self.expects = expects
        self.wire = Wire(topics={"t": (1, list(IDS), TopicConfig())})
        self.consumer = self.wire.consumer(buffer_bytes=1_500, group="g", numbers=[0, 1])
        self.logs = {number: [] for number in IDS}
        self.ends = dict.fromkeys(IDS, 0)
        self.answered = 0
        self.arrival = None
        self.got = []
        self.handed = 0
        opening = self.consumer.open(self.wire.now, self.wire.now + 10 * SECOND)
        for _ in range(4):
            self.wire.pass_time(0.01)
            self.answer()
        opening.result()

    def answer(self):
        """Answer what was asked."""
        while self.answered < len(self.wire.sent):
            _, command = self.wire.sent[self.answered]
            self.answered += 1
            if command.type == Type.FETCH:
                found = {p.partition: [b"".join(row) for base, row in self.logs[p.partition] if base >= p.offset]
                         for p in command.body.parts}  # fmt: skip
                self.wire.fetched(command, found, self.ends)
            elif command.type == Type.FIND_OFFSETS:
                self.wire.found(command, self.ends)
            elif command.type == Type.GET_OFFSETS:
                parts = [messages.Committed("g", number, -1, 0, 0) for number in command.body.partitions]
                self.wire.answer(command, Type.COMMITTED_ARE, messages.CommittedAre(parts))

    def publish(self, frames):
        subscribed = [session for session, _, on in self.wire.subscribed if on]
        self.wire.client.receive(subscribed[-1], frames, self.wire.now)

    def append(self, number, values, **how):
        """Add a batch to a log, and return what is published of it."""
        base = self.ends[number]
        made = row(number, base, values, **how)
        self.logs[number].append((base, made))
        self.ends[number] += len(values)
        return [messages.PARTITION.pack(number), *made]

    # The application.

    def wait(self):
        """Come for more, unless it waits already."""
        if self.arrival is None:
            self.arrival = self.consumer.expect() if self.expects else self.consumer.ready()
        self.look()

    def leave(self):
        """Wait no more."""
        if self.arrival is not None:
            self.consumer.arrivals.withdraw(self.arrival)
            self.arrival = None

    def look(self):
        """Take what has come."""
        if self.arrival is None or not self.arrival.done:
            return
        arrival, self.arrival = self.arrival, None
        if arrival.record is not None:
            self.handed += 1
            arrival.cursor.position = arrival.record.offset + 1
            self.got.append([arrival.record])
            return
        try:
            self.got.append(self.consumer.take(LIMIT))
        except errors.ZFabricError as error:
            self.got.append(repr(error))

    def state(self):
        """Return what anybody may see of it."""
        consumer, client = self.consumer, self.wire.client
        cursors = [(c.position, c.expected, c.end, c.seen, c.epoch, c.seen_ms, c.first, c.live, c.untouched, c.buffered,
                    repr(c.error)) for c in consumer.cursors.values()]  # fmt: skip
        sent = [(command.type, command.body) for _, command in self.wire.sent]
        return (self.got, cursors, consumer.gaps, consumer.skipped, consumer.tally.bytes, consumer.arrivals.idle,
                consumer._turns.last, client.restless, client.next_deadline(), sent, self.wire.subscribed)  # fmt: skip


NUMBERS = st.sampled_from(IDS)
VALUES = st.lists(st.binary(min_size=1, max_size=3), min_size=1, max_size=2)
HOW = st.fixed_dictionaries(
    {},
    optional={
        "epoch": st.integers(1, 2),
        "codec": st.sampled_from([codecs.NONE, codecs.LZ4]),
        "flags": st.just(batch.SPARSE),
        "payload": st.just(b"nonsense"),
    },
)
COME = st.tuples(st.just("come"), NUMBERS, st.binary(max_size=2))
STEPS = st.one_of(
    COME,
    COME,
    COME,
    st.tuples(st.just("wait")),
    st.tuples(st.just("leave")),
    st.tuples(st.just("next"), NUMBERS, VALUES),
    st.tuples(st.just("next"), NUMBERS, VALUES, HOW),
    st.tuples(st.just("lose"), NUMBERS, VALUES),
    st.tuples(st.just("again"), NUMBERS, st.integers(0, 3)),
    st.tuples(st.just("damage"), NUMBERS, VALUES, st.integers(0, 99)),
    st.tuples(st.just("head"), NUMBERS, st.integers(-1, 1)),
    st.tuples(st.just("short"), NUMBERS, st.integers(0, 4)),
    st.tuples(st.just("pause"), NUMBERS, st.booleans()),
    st.tuples(st.just("seek"), NUMBERS, st.integers(0, 5)),
    st.tuples(st.just("commit")),
    st.tuples(st.just("pass_time"), st.sampled_from([0.0, 0.01, 0.6, 5.0])),
)


class Steps(Side):
    """What may happen, by name."""

    def next(self, number, values, how=None):
        self.publish(self.append(number, values, **(how or {})))

    def lose(self, number, values):
        self.append(number, values)

    def again(self, number, at):
        log = self.logs[number]
        if log:
            self.publish([messages.PARTITION.pack(number), *log[at % len(log)][1]])

    def damage(self, number, values, at):
        partition, header, payload = self.append(number, values)
        whole = bytearray(header + payload)
        whole[at % len(whole)] ^= 1
        self.publish([partition, bytes(whole[:96]), bytes(whole[96:])])

    def head(self, number, beyond):
        self.publish(head(number, max(0, self.ends[number] + beyond)))

    def short(self, number, parts):
        self.publish([messages.PARTITION.pack(number), b"x" * 96, b"y", b"z"][:parts] or [b""])

    def pause(self, number, paused):
        self.consumer.pause([number - 1], self.wire.now, paused=paused)

    def seek(self, number, offset):
        if offset <= self.ends[number]:
            self.consumer.seek(number - 1, offset, self.wire.now, self.wire.now + SECOND)

    def commit(self):
        self.consumer.commit(None, self.wire.now, self.wire.now + SECOND)

    def pass_time(self, seconds):
        self.wire.pass_time(seconds)
        self.answer()

    def come(self, number, value):
        """Send a record that somebody waits for, when all is quiet."""
        for _ in range(3):
            self.wait()
            self.pass_time(0.01)
        self.wait()
        self.publish(self.append(number, [value]))

    def begin(self):
        """Read a record of each partition."""
        for number in IDS:
            self.come(number, b"first")
            self.look()

    def do(self, what, *how):
        """Do one step, after which the application takes what it was told of."""
        getattr(self, what)(*how)
        self.look()


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_what_is_handed_over_is_what_would_have_been_taken(steps):
    """One log, one way of being read, whichever way a record goes."""
    expecting, taking = Steps(expects=True), Steps(expects=False)
    expecting.begin()
    taking.begin()
    assert expecting.state() == taking.state()
    for step in steps:
        for side in (expecting, taking):
            side.do(*step)
        assert expecting.state() == taking.state(), step
    assert taking.handed == 0


def begun():
    """One whose first partition has been read up to offset 1."""
    side = Side(expects=True)
    side.publish(side.append(1, [b"first"]))
    side.wire.step()
    assert [record.value for record in side.consumer.take(LIMIT)] == [b"first"]
    side.wire.client.restless = False
    return side


def test_a_record_that_comes_alone_is_handed_over_and_held_by_nobody():
    side = begun()
    arrival = side.consumer.expect()
    side.publish(side.append(1, [b"a"]))
    cursor = side.consumer.cursor(0)
    assert (arrival.done, arrival.record.value, arrival.cursor) == (True, b"a", cursor)
    assert (cursor.expected, cursor.position, cursor.buffered, side.consumer.tally.bytes) == (2, 1, 0, 0)
    assert side.consumer.take(LIMIT) == []


def test_nothing_is_handed_to_a_caller_that_has_left():
    side = begun()
    arrival = side.consumer.expect()
    side.consumer.arrivals.withdraw(arrival)
    side.publish(side.append(1, [b"a"]))
    assert not arrival.done
    assert [record.value for record in side.consumer.take(LIMIT)] == [b"a"]


def test_of_two_callers_the_first_is_handed_the_record_and_the_other_goes_on_waiting():
    side = begun()
    first, second = side.consumer.expect(), side.consumer.expect()
    side.publish(side.append(1, [b"a"]))
    assert (first.record.value, first.done, second.done) == (b"a", True, False)
    side.publish(side.append(1, [b"b"]))
    assert (second.done, second.record) == (True, None)
    first.cursor.position = 2
    assert [record.value for record in side.consumer.take(LIMIT)] == [b"b"]


def test_a_record_that_was_handed_over_and_not_accepted_is_read_again():
    side = begun()
    side.consumer.expect()
    side.publish(side.append(1, [b"a"]))
    side.consumer.rewind([0], side.wire.now)
    side.wire.step()
    side.answer()
    assert [record.value for record in side.consumer.take(LIMIT)] == [b"a"]


def test_a_record_of_a_paused_partition_is_held():
    side = begun()
    side.consumer.pause([0], side.wire.now)
    arrival = side.consumer.expect()
    side.publish(side.append(1, [b"a"]))
    assert (arrival.done, side.consumer.cursor(0).buffered > 0) == (False, True)
    side.consumer.pause([0], side.wire.now, paused=False)
    assert (arrival.done, arrival.record) == (True, None)


def test_what_is_handed_over_is_no_reason_for_a_pump_to_look_around():
    side = begun()
    arrival = side.consumer.expect()
    due_ns = side.wire.client.next_deadline()
    side.publish(side.append(1, [b"b"]))
    assert (arrival.record.value, side.wire.client.restless) == (b"b", False)
    assert side.wire.client.next_deadline() >= due_ns


def test_a_partition_that_is_read_no_more_is_not_rewound():
    side = begun()
    side.consumer.exclude(1)
    side.consumer.rewind([0, 1], side.wire.now)
    assert list(side.consumer.cursors) == [0]


def test_two_records_in_one_batch_are_taken():
    side = begun()
    arrival = side.consumer.expect()
    side.wire.client.receive(side.wire.subscribed[-1][0], published(1, 1, [b"a", b"b"]), side.wire.now)
    assert (arrival.done, arrival.record) == (True, None)
    assert [record.value for record in side.consumer.take(LIMIT)] == [b"a", b"b"]


def pause(cursor):
    cursor.paused = True


def fail(cursor):
    cursor.error = errors.UnknownTopic(topic="t")


def fall_behind(cursor):
    cursor.live = False


def forget(cursor):
    cursor.forget()


def resume(cursor):
    cursor.resume(1, 1, 600)


def resume_and_go_live(cursor):
    resume(cursor)
    cursor.live = True


RESUMES = (resume, resume_and_go_live)


@pytest.mark.parametrize("change", [None, pause, fail, fall_behind, forget, *RESUMES])
def test_nothing_is_handed_on_past_a_change_that_a_general_look_would_mind(change):
    """Until that was found right, and a batch of the epoch was received."""
    side = Side(expects=True)
    side.publish(side.append(1, [b"first"]))
    side.wait()
    cursor = side.consumer.cursors[0]
    cursor.untouched = True
    arrivals = side.consumer.arrivals
    arrivals.expect()
    if change is not None:
        change(cursor)
    frames = side.append(1, [b"second"])
    assert arrivals.hand(cursor, frames) is (change is None)
    assert cursor.untouched is (change is not None and change not in RESUMES)
