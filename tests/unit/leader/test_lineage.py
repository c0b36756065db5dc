"""A log that was set back: what readers of the one that it was are told (KIP-320, see ``core/leader/lineage.py``)."""

from __future__ import annotations

import itertools

import pytest

from tests.unit.leader.test_leader import MS, Node, P
from zfabric import errors
from zfabric.core.leader import lineage
from zfabric.model import TopicConfig
from zfabric.wire import batch, messages
from zfabric.wire.messages import Type
from zfabric.wire.received import RecordBatch


class Reader:
    """What a consumer keeps of what it has read."""

    def __init__(self, node):
        self.node = node
        self.next = self.seen = self.epoch = self.time = 0
        self.first = (0, 0)

    def read(self, offset=None):
        at = self.next if offset is None else offset
        part = messages.FetchPart(P, at, self.seen, self.epoch, self.time, *self.first)
        answers, _ = self.node.turn(Type.FETCH, messages.Fetch(1 << 20, [part]))
        failure = answers[0].body.parts[0].failure
        if failure is not None:
            raise errors.from_wire(failure.code, failure.values)
        found = []
        for header, _, payload in batch.split(answers[0].rest[0]):
            self.next = self.seen = header.next_offset
            self.time = header.append_time
            if header.leader_epoch != self.epoch:
                self.epoch, self.first = header.leader_epoch, (header.base_offset, self.time)
            found += [record.value for record in RecordBatch("t", 0, header, bytes(payload)).records()]
        return found


def fill(node, name, count):
    for number in range(count):
        node.wall += 10
        node.produce(0, [b"%s %d" % (name, number)], producer=0)


def set_back(node, items):
    txn = node.disk.write()
    for entry in node.disk.items():
        txn.delete(entry[0])
    for key, value in items:
        txn.put(key, value)
    node.disk.commit()
    node.restart()


@pytest.fixture
def node():
    return Node()


def test_a_reader_of_the_same_log_is_told_nothing_over_any_number_of_starts(node):
    reader = Reader(node)
    for start in range(4):
        fill(node, b"%d" % start, 3)
        assert len(reader.read()) == 3
        assert reader.read() == []
        node.restart()
        assert reader.read() == []


@pytest.mark.parametrize("more", [1, 3, 9])
def test_a_log_that_was_set_back_while_its_leader_ran_parts_where_the_backup_ends(node, more):
    reader = Reader(node)
    fill(node, b"both", 2)
    backup = node.disk.items()
    fill(node, b"lost", 3)
    assert len(reader.read()) == 5
    set_back(node, backup)
    fill(node, b"new", more)
    with pytest.raises(errors.LogRewound) as told:
        reader.read()
    assert (told.value.offset, told.value.parted, told.value.end) == (5, 2, 2 + more)
    assert not told.value.retriable
    assert isinstance(told.value, errors.OffsetOutOfRange)
    assert reader.read(2) == [b"new %d" % number for number in range(more)]


@pytest.mark.parametrize("more", [1, 3, 9])
def test_a_backup_of_a_leader_that_stood_still_is_told_though_both_logs_go_on_under_the_same_epoch(node, more):
    """The time of the append tells them apart, and where the epoch began is as far as both are known to be the same."""
    reader = Reader(node)
    fill(node, b"both", 2)
    reader.read()
    backup = node.disk.items()
    node.restart()
    fill(node, b"lost", 3)
    assert len(reader.read()) == 3
    node.wall += 1_000
    set_back(node, backup)
    fill(node, b"new", more)
    assert node.leader.reads
    with pytest.raises(errors.LogRewound) as told:
        reader.read()
    assert told.value.parted == 2
    assert reader.read(2) == [b"new %d" % number for number in range(more)]


def test_a_power_cut_that_took_the_tail_parts_the_logs_there_and_not_where_the_epoch_began(node):
    """``durability="os"``: the same run wrote both."""
    reader = Reader(node)
    fill(node, b"both", 2)
    assert len(reader.read()) == 2
    fill(node, b"both", 2)
    backup = node.disk.items()
    fill(node, b"lost", 2)
    assert len(reader.read()) == 4
    set_back(node, backup)
    with pytest.raises(errors.LogRewound) as told:
        reader.read()
    assert (told.value.parted, told.value.end) == (4, 4)


def test_an_epoch_that_is_none_here_parts_the_logs_where_it_was_first_seen(node):
    """As at a keeper that has the log as it was before its origin was set back."""
    fill(node, b"both", 2)
    there = node.disk.items()
    node.restart()
    fill(node, b"new", 5)
    reader = Reader(node)
    assert len(reader.read()) == 7
    node.wall += 1_000
    txn = node.disk.write()
    for entry in node.disk.items():
        txn.delete(entry[0])
    for key, value in there:
        txn.put(key, value)
    node.disk.commit()
    node.start()
    node.leader._assigned.epoch = 1  # The run of before goes on.
    fill(node, b"lost", 9)
    with pytest.raises(errors.LogRewound) as told:
        reader.read()
    assert told.value.parted == 2


def test_who_begins_where_a_group_was_is_told_of_an_epoch_that_is_none_here(node):
    """All that it knows is which batch its group has processed last, not where that epoch began."""
    fill(node, b"both", 2)
    backup = node.disk.items()
    for _ in range(3):
        node.restart()
    fill(node, b"lost", 3)
    reader, beginner = Reader(node), Reader(node)
    reader.read()
    beginner.next = beginner.seen = reader.seen
    beginner.epoch, beginner.time, beginner.first = reader.epoch, reader.time, (reader.seen, 0)
    set_back(node, backup)
    fill(node, b"instead", 9)
    with pytest.raises(errors.LogRewound) as told:
        beginner.read()
    assert (told.value.offset, told.value.parted) == (5, 4)


def test_who_reads_from_before_the_parting_is_told_nothing_since_nothing_is_missed(node):
    reader = Reader(node)
    fill(node, b"both", 2)
    backup = node.disk.items()
    fill(node, b"lost", 3)
    reader.read()
    set_back(node, backup)
    fill(node, b"new", 1)
    assert reader.read(1) == [b"both 1", b"new 0"]


def test_what_retention_has_removed_is_not_compared():
    node = Node(TopicConfig(retention_ms=1_000))
    reader = Reader(node)
    fill(node, b"old", 3)
    reader.read()
    node.wall += 10_000
    node.now += 60_000 * MS
    node.turn()
    node.restart()
    fill(node, b"new", 2)
    assert reader.read() == [b"new 0", b"new 1"]


def test_a_ring_in_memory_is_gone_with_its_leader_and_says_what_it_said():
    node = Node(TopicConfig(durability="memory"))
    reader = Reader(node)
    fill(node, b"a", 3)
    reader.read()
    node.restart()
    with pytest.raises(errors.OffsetOutOfRange) as told:
        reader.read()
    assert type(told.value) is errors.OffsetOutOfRange


def test_an_idle_reader_costs_no_look_at_the_disk(node):
    fill(node, b"a", 3)
    log = node.leader._assigned.loaded[P].log
    with node.disk.read() as reading:
        header = log.header_at(2, reading)
    assert lineage.difference(log, 3, header.leader_epoch, header.append_time, None) == ""


def test_whatever_a_reader_claims_to_have_read_is_answered():
    node = Node()
    fill(node, b"a", 3)
    node.restart()
    fill(node, b"b", 3)
    numbers = (0, 1, 3, 6, 7, (1 << 32) - 1, (1 << 63) - 1)
    for seen, epoch, first in itertools.product(numbers, repeat=3):
        for time in (0, -1, 1_000_010, (1 << 63) - 1):
            part = messages.FetchPart(P, 3, seen, epoch, time, first, time)
            answers, _ = node.turn(Type.FETCH, messages.Fetch(1 << 20, [part]))
            failure = answers[0].body.parts[0].failure
            assert failure is None or failure.code == errors.LogRewound.code
