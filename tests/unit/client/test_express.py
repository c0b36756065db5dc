"""Lone records by express, to a leader in the same process: what comes of them is what would come of them otherwise."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.client.wire import MS, SECOND, Wire, attempt
from zfabric import errors
from zfabric.core.effects import Publish, Reply
from zfabric.core.leader.leader import Leader
from zfabric.core.leader.turn import Turn
from zfabric.model import TopicConfig
from zfabric.settings import LeaderSettings
from zfabric.sim.disk import SimDisk
from zfabric.wire import metadata
from zfabric.wire.messages import Command, Type

MEMORY = TopicConfig(durability="memory")
TOPICS = {
    "t": (1, [1], MEMORY),
    "two": (4, [5, 6], MEMORY),
    "small": (2, [3], TopicConfig(durability="memory", record_bytes_max=1_024)),
    "disk": (3, [4], TopicConfig()),
}
PEER = b"peer"


class Struck(Exception):
    """What a handler of signals raises."""


class Side:
    """A producer and its leader; lone records go by express if that is ``near``."""

    def __init__(self, *, near, named=False, **options):
        self.wire = Wire(topics=dict(TOPICS))
        self.turn = Turn(SimDisk(), Leader(0, LeaderSettings()), None)
        self.leader = self.turn._leader
        self.turn.begin(self.leader.start)
        self.assigned = 0
        self.published = []
        self.assign(dict(TOPICS))
        self.strike_at = self.refuse = None
        self.by_express = self.answered = 0
        self.producer = self.wire.producer(named=named, **options)
        for topic in TOPICS:
            while self.producer.blocked(topic, self.wire.now, self.wire.now + SECOND) is not None:
                self.wire.step()
                self.take_turns()
        if near:
            self.wire.client.requests.express = self.express
        self.deliveries = []

    def assign(self, topics, gone=()):
        self.assigned += 1
        listed = [
            metadata.AssignedTopic(number, name, config, [metadata.PartitionPlace(led, at, 0) for at, led in pairs])
            for name, (number, ids, config) in topics.items()
            for pairs in [list(enumerate(ids))]
        ]
        body = metadata.Assign("f", self.assigned, listed, list(gone))
        self.turn.change([(b"", Command(Type.ASSIGN, 0, 0, body, ()))], self.wire.now, self.wall)

    @property
    def wall(self):
        return self.wire.now // MS

    def express(self, session, partition_id):
        """As the shell gives it."""
        assert self.wire.sessions[session] in self.wire.up
        way = self.turn.express(partition_id)

        def take(value, timestamp, producer, epoch, sequence, now):
            strike_at, self.strike_at = self.strike_at, None
            if strike_at == "before":
                raise Struck
            frames = None if self.refuse else way.take_record(value, timestamp, producer, epoch, sequence, self.wall)
            if frames is None:
                return None
            self.publish([Publish(frames)])
            produced = way.taken(now, self.wall)
            self.by_express += 1
            if strike_at == "after":
                raise Struck
            return produced

        return None if way is None else take

    def publish(self, wanted):
        self.published += [b"".join(map(bytes, effect.frames)) for effect in wanted if isinstance(effect, Publish)]

    def take_turns(self):
        """Let the leader do all that was sent, and what is due, and tell of it."""
        due = self.turn.next_deadline()
        if due is not None and due <= self.wire.now:
            self.publish(self.turn.change((), self.wire.now, self.wall))
        while self.answered < len(self.wire.sent):
            session, command = self.wire.sent[self.answered]
            self.answered += 1
            wanted = self.turn.change([(PEER, command)], self.wire.now, self.wall)
            self.publish(wanted)
            for effect in wanted:
                if isinstance(effect, Reply):
                    self.wire.client.receive(session, list(effect.frames), self.wire.now)
            self.wire.step()

    def send(self, topic, value, key=None):
        return attempt(self.producer, self.deliveries, topic, value, self.wire.now, short=True, key=key)

    def do(self, what, topic, number):
        wire, said = self.wire, None
        if what == "plain":
            said = self.send(topic, b"%0*d" % (number, len(self.deliveries)))
        elif what == "several":
            said = [self.send(topic, b"%d" % at) for at in range(number)]
        elif what == "keyed":
            said = self.send(topic, b"%d" % number, key=b"%d" % (number % 3))
        elif what == "odd":
            said = self.send(topic, [None, bytearray(5), "text"][number % 3])
        elif what == "alter":
            config = TopicConfig(durability="memory", retention_bytes=500 + number)
            wire.topics["t"] = (1, [1], config)
            self.assign({"t": wire.topics["t"]})
            wire.client.refresh("t", wire.now)
        elif what == "add a partition":
            wire.topics["two"] = (4, [5, 6, 7], MEMORY)
            self.assign({"two": wire.topics["two"]})
            wire.client.refresh("two", wire.now)
        elif what == "lose":
            wire.lose()
            wire.pass_time(0.1)
        elif what == "refuse":
            self.refuse = not self.refuse
        elif what == "wait":
            wire.pass_time(number / 1000)
        wire.step()
        self.take_turns()
        return said

    def seen(self):
        fates = [delivery.metadata() if delivery.error is None else str(delivery.error) for delivery in self.deliveries]
        counters = self.leader.counters
        counted = {name: getattr(counters, name) for name in counters.__slots__ if name not in {"_settled", "errors"}}
        producer = self.producer
        return (
            self.published, fates, counted, producer.used, producer.outstanding(), producer._ledger.acknowledged,
            producer.sender.sent_bytes, producer.in_use(self.wire.now),
        )  # fmt: skip


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("plain"), st.sampled_from(sorted(TOPICS)), st.sampled_from([1, 90, 1_100, 20_000])),
        st.tuples(st.just("plain"), st.sampled_from(["t", "two"]), st.just(8)),
        st.tuples(st.just("several"), st.sampled_from(["t", "two"]), st.integers(2, 4)),
        st.tuples(st.sampled_from(["keyed", "odd"]), st.sampled_from(sorted(TOPICS)), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.just(""), st.integers(0, 60)),
        st.tuples(
            st.sampled_from(["alter", "add a partition", "lose", "refuse", "wait"]), st.just(""), st.integers(0, 60)
        ),
    ),
    min_size=20,
    max_size=50,
)


@settings(deadline=None, max_examples=30)
@given(operations=OPERATIONS)
def test_lone_records_have_the_same_fate_by_express(operations):
    """The same bytes are published in the same order, and each is acknowledged as it would be otherwise."""
    near, far = Side(near=True), Side(near=False)
    for what, topic, number in operations:
        if what != "several":  # Of these the first one is acknowledged by express before the second one comes.
            assert near.do(what, topic, number) == far.do(what, topic, number)
    assert near.seen() == far.seen()


@settings(deadline=None, max_examples=20)
@given(operations=OPERATIONS, strikes=st.lists(st.sampled_from([None, None, "before", "after"]), min_size=5))
def test_each_record_is_stored_once_whatever_strikes(operations, strikes):
    """An exception of a signal handler leaves open whether the leader has it; it gets it once."""
    side = Side(near=True)
    sent = []
    for number, operation in enumerate(operations):
        side.strike_at = strikes[number % len(strikes)]
        if operation[0] in {"plain", "several"}:
            value = b"record %d" % number
            sent.append(value)
            try:
                side.send("t", value)
            except Struck:
                side.wire.now += 1
            side.wire.step()
            side.take_turns()
        elif operation[0] != "odd":
            side.strike_at = None
            side.do(*operation)
    side.strike_at = None
    side.wire.pass_time(1.0)
    side.take_turns()
    values = b"|".join(side.published)
    assert [values.count(value + b"\xc0") for value in sent] == [1] * len(sent)
    assert side.producer.used == 0


def test_nothing_is_sent_where_the_leader_takes_it():
    side = Side(near=True)
    side.do("plain", "t", 5)
    before = len(side.wire.sent)
    assert side.by_express == 0
    for _ in range(10):
        delivery = side.producer.append("t", b"v", side.wire.now)
        assert delivery.done
    assert (side.by_express, len(side.wire.sent)) == (10, before)
    assert [delivery.metadata().offset for delivery in [delivery]] == [10]
    assert delivery.metadata().durability == "memory"


def test_records_of_a_topic_of_several_partitions_go_round_by_express_as_well():
    side = Side(near=True)
    for _ in range(2):
        side.do("plain", "two", 5)
    found = [side.producer.append("two", b"v", side.wire.now).metadata() for _ in range(6)]
    assert len({(entry.partition, entry.offset) for entry in found}) == 6
    assert sorted(entry.partition for entry in found) == [0, 0, 0, 1, 1, 1]
    assert side.by_express == 6


@pytest.mark.parametrize("options", [{"linger_ns": 20 * MS}, {"acks": "none"}, {"named": True}])
def test_who_asks_for_something_else_gets_no_express_way(options):
    side = Side(near=True, **options)
    for _ in range(5):
        side.do("wait", "", 30)
        side.do("plain", "t", 5)
    side.do("wait", "", 30)
    assert (side.by_express, len(side.published)) == (0, 5)


@pytest.mark.parametrize("what", ["closed", "refused", "full"])
def test_nothing_goes_by_express_where_nothing_may_be_sent(what):
    side = Side(near=True, buffer_bytes=40)
    side.do("plain", "t", 5)
    assert side.send("t", b"by express") == 0
    if what == "closed":
        side.producer.close()
    elif what == "refused":
        side.producer.refuse(errors.Forked(what="fabric", owner=1, child=2))
    else:
        side.send("disk", b"is not answered, and fills the buffer")
    try:
        assert side.producer.append("t", b"v", side.wire.now) is None
    except (errors.Closed, errors.Forked):
        assert what != "full"
    assert side.by_express == 1


def test_a_record_behind_others_waits_for_its_turn():
    """Else it would come before them."""
    side = Side(near=True)
    side.do("plain", "t", 5)
    side.producer.send("t", b"1", None, None, None, None, None, None, side.wire.now)  # Takes a command.
    side.producer.append("t", b"2", side.wire.now)
    side.producer.append("t", b"3", side.wire.now)
    assert side.by_express == 0
    side.wire.step()
    side.take_turns()
    assert [b"2" in entry and b"3" in entry for entry in side.published][-1]
    side.producer.append("t", b"4", side.wire.now)
    assert side.by_express == 1
