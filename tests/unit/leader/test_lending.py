"""Turns that another thread than the leader's takes: what they may do, and what happens if they cannot be finished."""

import random
import sys

import pytest

from zfabric.core.effects import Publish, Reply
from zfabric.core.leader.leader import Leader
from zfabric.core.leader.turn import Turn
from zfabric.model import TopicConfig
from zfabric.settings import LeaderSettings
from zfabric.sim.disk import SimDisk
from zfabric.wire import batch, messages, metadata
from zfabric.wire.messages import Command, Type
from zfabric.wire.received import RecordBatch

KINDS = ("fsync", "os", "memory")
MS = 1_000_000


class Disk(SimDisk):
    """One whose write transaction ends in the thread in which it began, as LMDB's has to; commits take long."""

    def __init__(self):
        super().__init__()
        self.thread = "leader"
        self.begun_by = None
        self.begun = 0
        self.waits = []

    def write(self):
        if not self.writing:
            self.begun_by = self.thread
            self.begun += 1
        return super().write()

    def commit(self, *, sync=True):
        assert not self.writing or self.begun_by == self.thread
        self.waits.append(self.thread)
        super().commit(sync=sync)

    def abandon(self):
        assert not self.writing or self.begun_by == self.thread
        super().abandon()


class Node:
    """A leader of one topic of each durability: its own thread, and an application's."""

    def __init__(self):
        self.disk = Disk()
        self.now, self.wall = 0, 1_000_000
        self.leader = Leader(0, LeaderSettings())
        self.turn = Turn(self.disk, self.leader, None)
        self.turn.begin(self.leader.start)
        topics = [
            metadata.AssignedTopic(number, kind, TopicConfig(durability=kind), [metadata.PartitionPlace(number, 0, 0)])
            for number, kind in enumerate(KINDS)
        ]
        self.change(Command(Type.ASSIGN, 0, 0, metadata.Assign("f", 1, topics, []), ()))
        self.sequences = dict.fromkeys(KINDS, 0)
        for kind in KINDS:
            self.change(self.produce(kind))
        self.settle()

    def produce(self, kind):
        """Return the next batch for a topic."""
        first = self.sequences[kind]
        self.sequences[kind] += 1
        payload = batch.encode_columns(0, None, [b"%d" % first], None)
        header, payload = batch.seal(
            payload, codec=0, flags=0, count=1, base_timestamp=0, max_timestamp=0, producer_id=5,
            producer_epoch=0, base_sequence=first, last_sequence=first, partition=KINDS.index(kind),
        )  # fmt: skip
        return Command(Type.PRODUCE, 0, first + 1, messages.Produce(header, payload, payload), ())

    def change(self, *commands):
        """Take a turn in the leader's own thread."""
        self.disk.thread = "leader"
        return self.turn.change([(b"peer", command) for command in commands], self.now, self.wall)

    def lend(self, *commands):
        """Take one in the application's; None if it was refused."""
        self.disk.thread = "application"
        return self.turn.lend([(b"peer", command) for command in commands], self.now, self.wall)

    def settle(self):
        """Let everything that is due be done."""
        self.now += 2_000 * MS
        self.wall += 2_000
        self.change()
        self.disk.waits.clear()

    def values(self, kind):
        """Return all that a topic holds."""
        part = messages.FetchPart(KINDS.index(kind), self.start(kind))
        with self.disk.read() as txn:
            self.leader.answer(b"peer", Command(Type.FETCH, 0, 9, messages.Fetch(1 << 20, [part]), ()), txn)
        answer = messages.read(self.leader.take_effects()[-1].frames)
        found = []
        for header, _, payload in batch.split(answer.rest[0]):
            found += [record.value for record in RecordBatch(kind, 0, header, bytes(payload)).records()]
        return found

    def start(self, kind):
        with self.disk.read() as txn:
            return self.leader._assigned.partition(KINDS.index(kind), txn).log.state.start

    def expected(self, kind):
        return [b"%d" % number for number in range(self.sequences[kind])]


@pytest.fixture
def node():
    return Node()


def test_a_turn_that_only_goes_to_memory_begins_no_transaction(node):
    """To begin one and to drop it takes as long as half of such a turn."""
    before = node.disk.begun
    effects = node.change(node.produce("memory"), node.produce("memory"))
    assert [type(effect) for effect in effects] == [Publish, Reply] * 2
    assert node.disk.begun == before
    node.change(node.produce("memory"), node.produce("fsync"))
    assert node.disk.begun == before + 1
    assert node.values("memory") == node.expected("memory")


def test_what_goes_to_memory_is_published_and_acknowledged_without_waiting_for_the_disk(node):
    effects = node.lend(node.produce("memory"))
    assert [type(effect) for effect in effects] == [Publish, Reply]
    assert messages.read(effects[1].frames).type == Type.PRODUCED
    assert node.disk.waits == []
    assert node.values("memory") == node.expected("memory")


def test_what_has_to_be_synced_is_refused_and_not_done(node):
    command = node.produce("fsync")
    assert node.lend(command) is None
    assert node.values("fsync") == node.expected("fsync")[:-1]
    assert [type(effect) for effect in node.change(command)] == [Publish, Reply]
    assert node.values("fsync") == node.expected("fsync")


def test_an_os_topic_is_appended_to_while_the_leader_gathers_for_a_commit(node):
    """Its transaction begins and ends in the leader's thread."""
    first = node.produce("os")
    assert node.lend(first) is None
    node.change(first)
    assert node.disk.writing
    assert node.lend(node.produce("os")) is not None
    node.now += 1_000 * MS
    late = node.produce("os")
    assert node.lend(late) is None, "the commit is due"
    node.change(late)
    assert (node.disk.waits, node.disk.writing) == (["leader"], False)
    assert node.values("os") == node.expected("os")


def test_an_os_topic_outlives_the_process_by_a_lent_turn_as_well(node):
    node.change(node.produce("os"))
    assert node.lend(node.produce("os")) is not None
    node.disk.kill(random.Random(1))
    node.disk.begun_by = None
    node.leader = Leader(0, LeaderSettings())
    Turn(node.disk, node.leader, None).begin(node.leader.start)
    assert node.values("os") == node.expected("os")


def test_what_waits_for_a_shared_commit_is_left_to_the_leader(node):
    config = TopicConfig(durability="memory", commit_interval_ms=50)
    topics = [metadata.AssignedTopic(2, "memory", config, [metadata.PartitionPlace(2, 0, 0)])]
    node.change(Command(Type.ASSIGN, 0, 0, metadata.Assign("f", 2, topics, []), ()))
    assert node.lend(node.produce("memory")) is None


def test_nothing_but_producing_is_done_in_a_lent_turn(node):
    assert node.lend(node.produce("memory"), Command(Type.HELLO, 0, 1, messages.Hello("", 1, 1), ())) is None
    assert node.values("memory") == node.expected("memory")[:-1]


def test_a_partition_that_was_never_used_is_loaded_by_the_leader(node):
    del node.leader._assigned.loaded[2]
    node.sequences["memory"] = 0
    command = node.produce("memory")
    assert node.lend(command) is None
    assert node.change(command)
    assert node.lend(node.produce("memory"))


def test_a_map_that_is_full_is_grown_by_the_leader_and_nothing_is_missing_or_repeated(node):
    node.change(node.produce("os"))
    node.disk.map_full_in = 0
    command = node.produce("os")
    assert node.lend(command) is None
    other = node.produce("memory")
    assert node.lend(other) is None, "until the leader has put it right"
    effects = node.change(command, other)
    assert [type(effect) for effect in effects] == [Publish, Reply] * 2
    assert node.turn.grown == 1
    assert (node.values("os"), node.values("memory")) == (node.expected("os"), node.expected("memory"))


def test_offsets_given_ahead_are_written_down_before_any_is_told(node):
    """Once in 2**20 records a topic in memory needs a commit; the open transaction's is the leader's to make."""
    node.change(node.produce("os"))
    log = node.leader._assigned.loaded[2].log
    log.reserved = log.state.end  # As after so many.
    command = node.produce("memory")
    assert node.lend(command) is None
    effects = node.change(command)
    assert [type(effect) for effect in effects] == [Publish, Reply]
    assert node.disk.waits == ["leader"]
    assert node.expected("os") == node.values("os")
    assert node.leader._assigned.loaded[2].log.state.end <= node.leader._assigned.loaded[2].log.reserved


@pytest.mark.parametrize("kind", ["os", "memory"])
def test_a_turn_that_was_left_in_the_middle_is_taken_back_and_its_commands_are_done_once(node, kind, monkeypatch):
    """Wherever an exception of the application's struck: here at each place where the leader looks at its state."""
    node.change(node.produce("os"))

    class Struck(Exception):
        pass

    for call in range(1, 90):
        left = [call]

        def strike(frame, event, argument, left=left):
            if event in {"call", "return"}:
                left[0] -= 1
                if left[0] == 0:
                    raise Struck

        command = node.produce(kind)
        sys.setprofile(strike)
        try:
            effects = node.lend(command)
        except Struck:
            effects = None
        finally:
            sys.setprofile(None)
        if effects is None:
            node.turn.spoil()
            effects = node.change(command)
        replies = [messages.read(effect.frames) for effect in effects if isinstance(effect, Reply)]
        assert [reply.type for reply in replies] == [Type.PRODUCED]
    assert [node.values(kind) for kind in KINDS] == [node.expected(kind) for kind in KINDS]


@pytest.mark.parametrize("seed", range(30))
def test_any_order_of_turns_here_and_there_stores_each_batch_once(seed):
    """And no transaction ends in another thread than its own: the disk asserts it."""
    dice, node = random.Random(seed), Node()
    for _ in range(60):
        commands = [node.produce(dice.choice(KINDS)) for _ in range(dice.randint(1, 3))]
        node.now += dice.choice((0, 10, 600)) * MS
        if dice.random() < 0.2:
            node.disk.map_full_in = dice.randint(0, 4)
        effects = node.lend(*commands) if dice.random() < 0.7 else None
        effects = node.change(*commands) if effects is None else effects
        told = [messages.read(effect.frames).type for effect in effects if isinstance(effect, Reply)]
        assert told == [Type.PRODUCED] * len(commands)
        assert "application" not in node.disk.waits
    assert [node.values(kind) for kind in KINDS] == [node.expected(kind) for kind in KINDS]
