"""The express way of lone batches: nothing comes out of it but what would have come out of turns."""

import random
import sys
from collections import deque

import pytest

from zfabric import errors
from zfabric.core.effects import Publish, Reply
from zfabric.core.leader.leader import Leader
from zfabric.core.leader.turn import Turn
from zfabric.model import TopicConfig
from zfabric.settings import LeaderSettings
from zfabric.sim.disk import SimDisk
from zfabric.wire import batch, messages, metadata
from zfabric.wire.messages import Command, Type
from zfabric.wire.received import RecordBatch

MS = 1_000_000
CONFIGS = {
    "memory": TopicConfig(durability="memory"),
    "small ring": TopicConfig(durability="memory", retention_bytes=1_000),
    "small records": TopicConfig(durability="memory", record_bytes_max=1_024),
    "short-lived": TopicConfig(durability="memory", retention_ms=50),
    "shared commit": TopicConfig(durability="memory", commit_interval_ms=20),
    "replicated": TopicConfig(durability="memory", replicas=2),
    "on disk": TopicConfig(durability="fsync"),
}
BY_EXPRESS = {"memory", "small ring", "small records", "short-lived"}


def sealed(first, *, producer=5, epoch=0, count=1, size=4, at=0):
    """Return (header, payload) of a batch of a producer."""
    payload = batch.encode_columns(0, None, [b"%0*d" % (size, first + number) for number in range(count)], None)
    return batch.seal(
        payload, codec=0, flags=0, count=count, base_timestamp=at, max_timestamp=at, producer_id=producer,
        producer_epoch=epoch, base_sequence=first, last_sequence=first + count - 1, partition=1,
    )  # fmt: skip


def handed_over(way, header, payload, wall):
    """Hand over what a producer in this process would have sealed so; it seals several records itself."""
    fields = batch.parse(header)
    if fields.records != 1:
        return None
    (value,) = batch.decode_columns(fields, payload).values
    return way.take_record(
        value, fields.base_timestamp, fields.producer_id, fields.producer_epoch, fields.base_sequence, wall
    )


class Node:
    """A leader of one topic, to which batches go by express if it is asked for, and there is one; else by turns.

    Args:
        express: "handed over" by a producer in the same process, or received and done "at once"; or none.
    """

    def __init__(self, config, *, express=None):
        self.disk = SimDisk()
        self.now, self.wall = 0, 1_000_000
        self.leader = Leader(0, LeaderSettings())
        self.turn = Turn(self.disk, self.leader, None)
        self.turn.begin(self.leader.start)
        self.assigned = 0
        self.assign(config)
        self.express = express
        self.way = None
        self.taken = 0
        self.published = []

    def assign(self, config):
        self.assigned += 1
        topic = metadata.AssignedTopic(1, "t", config, [metadata.PartitionPlace(1, 0, 0)])
        self.change(Command(Type.ASSIGN, 0, 0, metadata.Assign("f", self.assigned, [topic], []), ()))

    def change(self, *commands):
        return self.turn.change([(b"peer", command) for command in commands], self.now, self.wall)

    def pass_time(self, ms):
        self.now += ms * MS
        self.wall += ms
        due = self.turn.next_deadline()
        if due is not None and due <= self.now:
            self.told(self.change())

    def told(self, effects):
        self.published += [b"".join(map(bytes, effect.frames)) for effect in effects if isinstance(effect, Publish)]
        return [messages.read(effect.frames) for effect in effects if isinstance(effect, Reply)]

    def by_express(self, header, payload):
        """Return what the producer is told, None if it did not go."""
        if self.way is None:
            self.way = self.turn.express(1)
        frames = None if self.way is None else handed_over(self.way, header, payload, self.wall)
        if frames is None:
            self.way = None
            return None
        self.taken += 1
        self.told([Publish(frames)])
        return self.way.taken(self.now, self.wall)

    def produce(self, header, payload):
        body = messages.Produce(header, payload, payload)
        if self.express == "handed over":
            told = self.by_express(header, payload)
            if told is not None:
                return [told]
        elif self.express == "at once":
            effects = []
            command = Command(Type.PRODUCE, 0, 1, body, ())
            if self.turn.at_once(b"peer", command, self.now, self.wall, effects.extend):
                self.taken += 1
                assert [type(effect) for effect in effects] == [Publish, Reply]
                return [answer.body for answer in self.told(effects)]
            assert not effects
        answers = self.told(self.change(Command(Type.PRODUCE, 0, 1, body, ())))
        return [answer.body for answer in answers]

    def values(self):
        state = self.state()
        answers = deque([(b"peer", Command(
            Type.FETCH, 0, 9, messages.Fetch(1 << 20, [messages.FetchPart(1, state.start)]), ()
        ))])  # fmt: skip
        answer = messages.read(self.turn.answer(answers, 1 << 20)[-1].frames)
        found = []
        for header, raw, payload in batch.split(b"".join(map(bytes, answer.rest))):
            assert batch.damage(raw, payload, header, 1, header.base_offset) == ""
            found += [record.value for record in RecordBatch("t", 0, header, bytes(payload)).records()]
        return found

    def state(self):
        return self.leader._assigned.loaded[1].log.state

    def seen(self):
        """Return all that can be seen of it, at once or later."""
        producers = self.leader._assigned.loaded[1].producers
        known = {number: repr(state) for number, state in producers._known.items()}
        counters = self.leader.counters
        counted = {name: getattr(counters, name) for name in counters.__slots__ if name != "_settled"}
        deadline = self.turn.next_deadline()
        return self.published, self.values(), repr(self.state()), known, counted, deadline


@pytest.mark.parametrize("express", ["handed over", "at once"])
@pytest.mark.parametrize("name", CONFIGS)
def test_lone_batches_have_the_same_outcome_by_express_and_by_turns(name, express):
    """Repeats, gaps, fences, full rings, old records and changes of the topic included."""
    taken = 0
    for seed in range(6):
        dice = random.Random(seed)
        nodes = Node(CONFIGS[name], express=express), Node(CONFIGS[name])
        next_ones = {}
        for _ in range(80):
            producer, what = dice.choice((5, 6)), dice.random()
            epoch, first = next_ones.get(producer, (0, 0))
            count, size = dice.choice((1, 1, 1, 3)), dice.choice((4, 4, 200, 1_100_000 if dice.random() < 0.1 else 4))
            if what < 0.6:
                asked = sealed(first, producer=producer, epoch=epoch, count=count, size=size)
                next_ones[producer] = epoch, first + count
            elif what < 0.7:  # A repeat, or one that overlaps.
                asked = sealed(max(0, first - count), producer=producer, epoch=epoch, count=count)
            elif what < 0.75:
                asked = sealed(first + 2, producer=producer, epoch=epoch)
            elif what < 0.8:
                asked = sealed(0, producer=producer, epoch=epoch + 1)
                next_ones[producer] = epoch + 1, 1
            elif what < 0.82 and epoch:
                asked = sealed(first, producer=producer, epoch=epoch - 1)
            elif what < 0.87:
                config = CONFIGS[dice.choice([name, name, "memory", "shared commit", "small ring"])]
                if name != "on disk":
                    for node in nodes:
                        node.assign(config)
                continue
            else:
                ms = dice.choice((1, 30, 600))
                for node in nodes:
                    node.pass_time(ms)
                continue
            before = len(nodes[0].published)
            answers = [node.produce(*asked) for node in nodes]
            assert answers[0] == answers[1]
            assert nodes[0].published[before:] == nodes[1].published[before:]
        assert nodes[0].seen() == nodes[1].seen()
        taken += nodes[0].taken
    assert bool(taken) == (name in {*BY_EXPRESS, "replicated", "shared commit"})


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - BY_EXPRESS))
def test_there_is_no_express_way_where_an_answer_has_to_wait(name):
    node = Node(CONFIGS[name], express="handed over")
    assert node.turn.express(1) is None, "not in use yet"
    node.produce(*sealed(0))
    assert node.turn.express(1) is None


def test_what_comes_from_elsewhere_is_checked():
    """And refused as in a turn; what a producer in this process has just made is not looked at again."""
    node = Node(CONFIGS["memory"], express="at once")
    node.produce(*sealed(0))
    header, payload = sealed(1)
    damaged = payload[:-1] + bytes([payload[-1] ^ 1])
    assert [answer.code for answer in node.produce(header, damaged)] == [errors.CorruptFrame.code]
    assert node.taken == 0
    node.produce(header, payload)
    assert (node.taken, node.values()) == (1, [b"0000", b"0001"])


def test_who_wants_no_answer_gets_none():
    node = Node(CONFIGS["memory"], express="at once")
    node.produce(*sealed(0))
    body = messages.Produce(*sealed(0, producer=0), b"")
    command = Command(Type.PRODUCE, messages.FLAG_NO_ANSWER, 1, body, ())
    assert not node.turn.at_once(b"peer", command, node.now, node.wall, pytest.fail)


@pytest.mark.parametrize("change", ["assigned anew", "a turn was given up", "left in the middle", "gone"])
def test_a_way_leads_nowhere_once_its_partition_may_be_another(change):
    node = Node(CONFIGS["memory"], express="handed over")
    node.produce(*sealed(0))
    way = node.turn.express(1)
    if change == "assigned anew":
        node.assign(TopicConfig(durability="memory", retention_bytes=5_000))
    elif change == "a turn was given up":
        node.turn.spoil()
        node.change()
    elif change == "left in the middle":
        node.turn.spoil()
        assert node.turn.express(1) is None
    else:
        node.change(Command(Type.ASSIGN, 0, 0, metadata.Assign("f", 9, [], [1]), ()))
    assert handed_over(way, *sealed(1), node.wall) is None
    assert node.published == [node.published[0]]


def test_offsets_given_ahead_are_written_down_by_a_turn():
    node = Node(CONFIGS["memory"], express="handed over")
    node.produce(*sealed(0))
    log = node.leader._assigned.loaded[1].log
    log.reserved = log.state.end  # As after 2**20 records.
    assert node.by_express(*sealed(1)) is None
    node.produce(*sealed(1))
    assert log.reserved > log.state.end
    assert node.by_express(*sealed(2)) is not None


def test_a_batch_is_remembered_before_it_is_told_of():
    """Whoever hears of it may ask for it in the very next moment."""
    node = Node(CONFIGS["memory"], express="handed over")
    node.produce(*sealed(0))
    way = node.turn.express(1)
    assert handed_over(way, *sealed(1), node.wall) is not None
    assert node.values() == [b"0000", b"0001"]
    body = messages.Produce(*sealed(1), b"")
    node.turn.spoil()  # From here on it stays, whatever comes.
    answers = node.told(node.change(Command(Type.PRODUCE, 0, 1, body, ())))
    assert [(answer.body.base_offset, answer.body.duplicate) for answer in answers] == [(1, 1)]


def test_one_that_was_left_in_the_middle_is_done_once(monkeypatch):
    """Wherever an exception of the application's struck: here at each place where the leader looks at its state."""

    class Struck(Exception):
        pass

    node = Node(CONFIGS["memory"], express="handed over")
    node.produce(*sealed(0))
    struck = 0
    for call in range(1, 40):
        left = [call]

        def strike(frame, event, argument, left=left):
            left[0] -= 1
            if left[0] == 0:
                raise Struck

        way = node.turn.express(1)
        assert way is not None
        sys.setprofile(strike)
        try:
            frames = way.take_record(b"%04d" % call, 0, 5, 0, call, node.wall)
            sys.setprofile(None)
            node.told([Publish(frames)])
            assert way.taken(node.now, node.wall).base_offset == call
        except Struck:
            struck += 1
            sys.setprofile(None)
            node.turn.spoil()
            answers = node.produce(*sealed(call))
            assert [answer.base_offset for answer in answers] == [call]
    assert struck > 20
    assert node.values() == [b"%04d" % number for number in range(40)]
