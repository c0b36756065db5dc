"""Retention, compaction and what else a leader does in its own time: bounded in every turn, and never wrong."""

from __future__ import annotations

import pytest

from tests.unit.leader.test_leader import MS, Node, P
from zfabric.core.leader import compaction, keys
from zfabric.core.leader.compaction import Compactor, due
from zfabric.core.leader.leader import TRIM_STEP
from zfabric.model import TopicConfig
from zfabric.wire import batch, messages
from zfabric.wire.messages import Type


def log_of(node, partition=P):
    return node.leader._partition(partition, node.disk.write()).log


def stored(node, partition=P):
    return [header for header, _, _ in log_of(node, partition).batches(0, node.disk.write())]


def compact(node, *, step=1 << 30):
    """Run one pass; returns how many steps it took."""
    log = log_of(node)
    compactor, txn = Compactor(log), node.disk.write()
    steps = 1
    while not compactor.step(node.config, node.wall, step, txn):
        steps += 1
    log.flush(txn)
    node.disk.commit()
    return steps


def test_a_step_of_compaction_is_bounded_also_where_nothing_stays():
    """A pass over a log of one key, updated again and again, keeps nobody waiting for all of it."""
    node = Node(TopicConfig(cleanup="compact"))
    for number in range(100):
        node.produce(number, [bytes(1000)], keys_=[b"k"])
    assert compact(node, step=10_000) >= 20
    assert node.fetch(0, most=16 << 20) == [(99, bytes(1000))]


def test_an_emptied_stretch_never_exceeds_the_offsets_that_a_header_can_span(monkeypatch):
    monkeypatch.setattr(compaction, "SPAN_MAX", 10)
    node = Node(TopicConfig(cleanup="compact"))
    for number in range(50):
        node.produce(number, [b"v"], keys_=[b"k"])
    compact(node)
    node.produce(50, [b"v"], keys_=[b"k"])
    compact(node)
    spans = [header.span for header in stored(node)]
    assert (max(spans) <= 10, sum(spans)) == (True, 51)


def test_a_rewritten_batch_has_no_more_records_than_a_reader_takes(monkeypatch):
    monkeypatch.setattr(compaction, "BATCH_RECORDS_MAX", 12)
    node = Node(TopicConfig(cleanup="compact"))
    for number in range(10):
        keys_ = [b"%d" % (number * 8 + at) for at in range(8)]
        node.produce(number * 8, [b"v"] * 8, keys_=keys_)
    compact(node)
    assert max(header.records for header in stored(node)) <= 12
    assert len(node.fetch(0, most=16 << 20)) == 80


def test_what_retention_removes_no_longer_counts_as_compacted():
    """Else a log at its bound in bytes would never be compacted again."""
    node = Node(TopicConfig(cleanup="compact,delete", retention_bytes=4 << 20))
    for number in range(300):
        node.produce(number, [bytes(16 << 10)], keys_=[b"%d" % number])
    compact(node)
    for number in range(300, 600):
        node.produce(number, [bytes(16 << 10)], keys_=[b"%d" % (number % 7)])
    assert due(log_of(node))


def many(partitions, config):
    node = Node(config)
    places = [messages.PartitionPlace(10 + number, number, 0) for number in range(partitions)]
    node.turn(Type.ASSIGN, messages.Assign("f", 2, [messages.AssignedTopic(2, "u", config, places)], []))
    return node, [place.id for place in places]


def test_a_busy_partition_takes_one_step_of_a_turn_however_many_others_there_are():
    node, ids = many(50, TopicConfig(retention_ms=1000))
    for number in range(5 * TRIM_STEP):
        node.produce(number, partition=ids[7])
    node.wall += 10_000
    left = []
    for _ in range(12):
        node.now += 1000 * MS
        node.turn()
        left.append(log_of(node, ids[7]).state.batches)
    steps = [before - after for before, after in zip([5 * TRIM_STEP, *left], left, strict=False)]
    assert (max(steps), left[-1]) == (TRIM_STEP, 0)


def test_busy_partitions_take_turns():
    node, ids = many(3, TopicConfig(retention_ms=1000))
    for partition in ids:
        for number in range(3 * TRIM_STEP):
            node.produce(number, partition=partition, producer=partition)
    node.wall += 10_000
    for _ in range(4):
        node.now += 1000 * MS
        node.turn()
    assert all(log_of(node, partition).state.batches < 3 * TRIM_STEP for partition in ids)


def test_a_log_trimmed_to_its_end_goes_on_there():
    node = Node(TopicConfig(retention_ms=1000))
    for number in range(3):
        node.produce(number, time=1_000 + number)
    node.wall += 10_000
    node.now += 1000 * MS
    node.turn()
    state = log_of(node).state
    assert (state.start, state.end, state.bytes, state.batches) == (3, 3, 0, 0)
    found = node.ask(Type.FIND_OFFSETS, messages.FindOffsets([messages.FindOffset(P, 1_001)]))
    assert found.parts[0].offset == 3
    assert node.produce(3).base_offset == 3
    node.restart()
    assert node.fetch(3) == [(3, b"v")]


def test_a_clock_that_goes_back_removes_nothing_and_breaks_nothing():
    node = Node(TopicConfig(retention_ms=1000))
    node.produce(0)
    node.wall -= 900_000
    node.produce(1)
    for _ in range(3):
        node.now += 1000 * MS
        node.turn()
    assert node.fetch(0) == [(0, b"v"), (1, b"v")]
    assert node.produce(1).base_offset == 1


@pytest.mark.parametrize("step", [1, 4_000, 1 << 20])
def test_an_expired_tombstone_goes_together_with_what_it_deletes(step):
    node = Node(TopicConfig(cleanup="compact", tombstone_ms=1000))
    node.produce(0, [b"old"] * 20, keys_=[b"k"] * 20)
    node.produce(20, [None], keys_=[b"k"])
    compact(node, step=step)
    assert node.fetch(0) == [(20, None)]
    node.wall += 5_000
    node.produce(21, [b"v"], keys_=[b"other"])
    compact(node, step=step)
    assert node.fetch(0) == [(21, b"v")]
    header = stored(node)[0]
    assert (header.base_offset, header.flags & batch.COMPACTED) == (0, batch.COMPACTED)


def test_damage_ends_a_pass_and_takes_nothing_away():
    node = Node(TopicConfig(cleanup="compact"))
    for number in range(6):
        node.produce(number, [b"%d" % number], keys_=[b"k"])
    key = keys.batch(P, 3)
    row = bytearray(node.disk.value_at(key))
    row[-1] ^= 1
    node.disk.change(key, bytes(row))
    log = log_of(node)
    node.leader._partitions[P].compactor = Compactor(log)
    for _ in range(3):
        node.now += 1000 * MS
        node.turn()
    assert node.fetch(0) == [(number, b"%d" % number) for number in range(3)]
    assert node.fetch(4) == [(number, b"%d" % number) for number in range(4, 6)]
