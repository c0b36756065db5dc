"""Retention, compaction and what else a leader does in its own time: bounded in every turn, and never wrong."""

from __future__ import annotations

import pytest

from tests.unit.leader.test_leader import MS, Node, P
from zfabric.core.leader import compaction, keys
from zfabric.core.leader.compaction import Compactor, due
from zfabric.core.leader.maintenance import TRIM_STEP
from zfabric.model import TopicConfig
from zfabric.wire import batch, messages
from zfabric.wire.messages import Type
from zfabric.wire.metadata import Assign, AssignedTopic, PartitionPlace


def log_of(node, partition=P):
    return node.leader._assigned.partition(partition, node.disk.write()).log


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
    places = [PartitionPlace(10 + number, number, 0) for number in range(partitions)]
    node.turn(Type.ASSIGN, Assign("f", 2, [AssignedTopic(2, "u", config, places)], []))
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


# When a pass begins.


def maintain(node, seconds):
    """Let the time pass in steps of maintenance; returns how many turns wrote something."""
    writes = 0
    for _ in range(int(seconds * 2)):
        node.now += 500 * MS
        node.wall += 500
        rows = node.disk.items()
        node.turn()
        writes += node.disk.items() != rows
    return writes


def test_a_small_log_is_compacted_within_a_minute_of_the_first_record_and_then_left_alone():
    node = Node(TopicConfig(cleanup="compact"))
    for number in range(40):
        node.produce(number, [b"%d" % number], keys_=[b"%d" % (number % 2)])
    assert maintain(node, 59) == 0
    assert len(node.fetch(0)) == 40
    assert maintain(node, 5) == 1
    assert node.fetch(0) == [(38, b"38"), (39, b"39")]
    assert maintain(node, 600) == 0


def test_a_large_log_waits_longer_in_proportion():
    """So that what passes read and write beside few new records is bounded."""
    node = Node(TopicConfig(cleanup="compact"))
    for number in range(192):
        node.produce(number, [bytes(64 << 10)], keys_=[b"%d" % number])
    compact(node)
    node.produce(192, [b"new"], keys_=[b"0"])
    assert maintain(node, 170) == 0
    assert maintain(node, 15) > 0
    assert node.fetch(0, most=1)[0][0] == 1


def test_what_a_leader_that_ended_has_left_is_compacted_by_the_next_one():
    """Embedded leaders live for seconds; age counts from the append."""
    node = Node(TopicConfig(cleanup="compact"))
    for number in range(4):
        node.produce(number, [b"%d" % number], keys_=[b"k"])
    node.wall += 70_000
    node.restart()
    maintain(node, 2)
    assert node.fetch(0) == [(3, b"3")]


def test_a_clock_that_goes_back_does_not_begin_pass_after_pass():
    node = Node(TopicConfig(cleanup="compact"))
    node.produce(0, keys_=[b"k"])
    node.wall -= 900_000
    assert maintain(node, 10) == 0


def test_tombstones_go_though_nothing_new_comes():
    node = Node(TopicConfig(cleanup="compact", tombstone_ms=100_000))
    node.produce(0, [b"old"], keys_=[b"k"])
    for number in range(1, 51):
        node.produce(number, [None], keys_=[b"%d" % number])
    assert maintain(node, 65) == 1
    assert len(node.fetch(0)) == 51
    assert maintain(node, 90) == 0
    assert maintain(node, 10) == 1
    assert node.fetch(0) == [(0, b"old")]
    assert maintain(node, 600) == 0


@pytest.mark.parametrize(
    "config",
    [
        TopicConfig(cleanup="compact", tombstone_ms=200_000),
        TopicConfig(cleanup="compact,delete", retention_ms=200_000),
    ],
)
def test_little_traffic_does_not_keep_alive_what_is_to_go(config):
    """Each pass joins the newest batches; the time of the youngest must not become that of the oldest."""
    node = Node(config)
    for number in range(100):
        value = None if config.cleanup == "compact" else b"v"
        node.produce(number, [value], keys_=[b"%d" % number])
        maintain(node, 10)
    kept = [offset for offset, _ in node.fetch(log_of(node).state.start)]
    # 200 s and a sixteenth; for tombstones 60 s more until the next pass, at 10 s a record.
    assert 20 <= len(kept) <= 30
    assert kept == list(range(100 - len(kept), 100))
    assert log_of(node).state.batches < len(kept)


def test_damage_does_not_begin_pass_after_pass():
    node = Node(TopicConfig(cleanup="compact"))
    for number in range(6):
        node.produce(number, [b"%d" % number], keys_=[b"k"])
    key = keys.batch(P, 3)
    row = bytearray(node.disk.value_at(key))
    row[-1] ^= 1
    node.disk.change(key, bytes(row))
    maintain(node, 600)
    assert node.leader.counters.errors == 1


def test_damage_ends_a_pass_and_takes_nothing_away():
    node = Node(TopicConfig(cleanup="compact"))
    for number in range(6):
        node.produce(number, [b"%d" % number], keys_=[b"k"])
    key = keys.batch(P, 3)
    row = bytearray(node.disk.value_at(key))
    row[-1] ^= 1
    node.disk.change(key, bytes(row))
    log = log_of(node)
    node.leader._assigned.loaded[P].compactor = Compactor(log)
    for _ in range(3):
        node.now += 1000 * MS
        node.turn()
    assert node.fetch(0) == [(number, b"%d" % number) for number in range(3)]
    assert node.fetch(4) == [(number, b"%d" % number) for number in range(4, 6)]
