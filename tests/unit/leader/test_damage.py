"""Damage in a keeper's copies: found by readers and by the scrub, mended by what another holder has."""

from __future__ import annotations

import pytest

from tests.unit.leader.test_keepers import SECOND, KeeperNode, follow, kept
from zfabric import errors
from zfabric.core.leader import damage, keys
from zfabric.core.leader.cutting import cut
from zfabric.core.leader.damage import Patch, Piece
from zfabric.core.leader.log import load_state
from zfabric.model import TopicConfig
from zfabric.wire import batch
from zfabric.wire.messages import Type
from zfabric.wire.replication import Follow, FollowPart, KeptPlace


def piece(entry):
    return Piece(entry.header, entry.raw, entry.payload)


def row(node, offset):
    return node.disk._values[keys.batch(7, offset)]


def break_row(node, offset, at):
    key = keys.batch(7, offset)
    value = bytearray(node.disk._values[key])
    value[at % len(value)] ^= 1
    node.disk._values[key] = bytes(value)


def remove_row(node, offset):
    txn = node.disk.write()
    txn.delete(keys.batch(7, offset))
    node.disk.commit()


def state(node):
    with node.disk.read() as txn:
        return load_state(7, txn)


def news(node):
    return [(entry.kind, entry.first, entry.following) for entry in node.leader.damage.take_news()]


ENTRIES = (kept(0, 2), kept(2, 3), kept(5))


@pytest.fixture
def node():
    node = KeeperNode()
    node.keep(ENTRIES)
    return node


@pytest.mark.parametrize("at", [0, 20, 60, 90, 95, 96, -1])
def test_a_damaged_batch_is_replaced_by_the_same_bytes(node, at):
    """I10: a CRC failure yields an error or repair, never different bytes."""
    before, counted = row(node, 2), state(node)
    break_row(node, 2, at)
    with pytest.raises(errors.CorruptBatch):
        node.read(2)
    assert news(node) == [("found", 2, 5)]
    assert "damaged from offset 2 to 4" in node.leader.damage.problem(7)
    node.keep(mend=[Patch(7, 2, [piece(ENTRIES[1]), piece(ENTRIES[2])])])
    assert (row(node, 2), state(node)) == (before, counted)
    assert news(node) == [("mended", 2, 5)]
    assert (node.leader.damage.stretches, node.leader.damage.problem(7)) == ({}, "")
    assert [header.base_offset for header, _ in node.read(0)] == [0, 2, 5]
    assert (node.leader.counters.damaged, node.leader.counters.mended) == (1, 1)


def test_a_row_that_has_vanished_is_put_back(node):
    before, counted = row(node, 2), state(node)
    remove_row(node, 2)
    with pytest.raises(errors.CorruptBatch):
        node.read(2)
    node.keep(mend=[Patch(7, 2, [piece(ENTRIES[1])])])
    assert (row(node, 2), state(node)) == (before, counted)


def test_what_is_whole_is_not_replaced(node):
    before = dict(node.disk.items())
    node.keep(mend=[Patch(7, 2, [piece(kept(2, 3, time=701))])])
    assert dict(node.disk.items()) == before
    break_row(node, 2, 96)
    with pytest.raises(errors.CorruptBatch):
        node.read(2)
    break_row(node, 2, 96)
    node.keep(mend=[Patch(7, 2, [piece(kept(2, 3, time=701))])])
    assert dict(node.disk.items()) == before
    assert node.leader.damage.stretches == {}


@pytest.mark.parametrize(
    ("other", "at"), [(kept(2, 3, epoch=4), 0), (kept(2, 3, time=701), 96)], ids=["epoch", "another batch"]
)
def test_a_batch_of_another_log_mends_nothing(node, other, at):
    break_row(node, 2, at)
    with pytest.raises(errors.CorruptBatch):
        node.read(2)
    damaged = dict(node.disk.items())
    node.keep(mend=[Patch(7, 2, [piece(other)])])
    assert dict(node.disk.items()) == damaged
    assert [entry[0] for entry in news(node)] == ["found", "refused"]
    assert 7 in node.leader.damage.stretches


def test_what_the_other_one_has_not_got_stays_damaged(node):
    break_row(node, 2, 0)
    with pytest.raises(errors.CorruptBatch):
        node.read(2)
    node.keep(mend=[Patch(7, 2, [piece(ENTRIES[2])])])
    assert list(node.leader.damage.stretches[7]) == [2]
    assert [entry[0] for entry in news(node)] == ["found", "refused"]


def test_of_a_stretch_that_is_put_back_in_two_parts_the_second_is_asked_for_by_itself():
    """The copy was compacted into one batch, the origin was not."""
    node = KeeperNode(TopicConfig(cleanup=("compact",)))
    whole = kept(0, 6)
    header, raw, payload = cut(whole.header, whole.payload, 0, 6)
    node.keep([whole._replace(header=header, raw=raw, payload=payload)])
    break_row(node, 0, 0)
    with pytest.raises(errors.CorruptBatch):
        node.read(0)
    node.keep(mend=[Patch(7, 0, [piece(kept(0, 2))])])
    assert list(node.leader.damage.stretches[7]) == [2]
    assert [header.base_offset for header, _ in node.read(0)] == [0]
    node.keep(mend=[Patch(7, 2, [piece(kept(1, 3)), piece(kept(4, 2))])])
    found = node.read(0)
    assert [(header.base_offset, header.next_offset) for header, _ in found] == [(0, 2), (2, 4), (4, 6)]
    values = [value for header, payload in found for value in batch.decode_columns(header, payload).values]
    assert values == [b"%d" % number for number in range(6)]
    assert (node.leader.damage.stretches, state(node).batches) == ({}, 3)
    assert state(node).bytes == sum(len(row(node, offset)) for offset in (0, 2, 4))


def test_a_turn_that_is_given_up_has_mended_nothing(node):
    break_row(node, 2, 0)
    with pytest.raises(errors.CorruptBatch):
        node.read(2)
    leader = node.leader
    leader.damage.mend(Patch(7, 2, [piece(ENTRIES[1])]), node.disk.write())
    leader.abandon()
    node.disk.abandon()
    leader.settled()
    assert list(leader.damage.stretches[7]) == [2]


def test_the_scrub_finds_what_nobody_reads(node, monkeypatch):
    """All copies, some bytes in each step of maintenance, and once a day."""
    monkeypatch.setattr(damage, "SCRUB_BYTES", 1)
    node.assign(3, [KeptPlace(7, "o", 0, 0, 1), KeptPlace(8, "p", 0, 0, 1)])
    node.keep([entry._replace(partition=8) for entry in ENTRIES])

    def walk(steps):
        for _ in range(steps):
            node.now += SECOND
            node.turn()
        return node.leader.damage.stretches

    assert walk(20) == {}
    break_row(node, 2, 96)
    break_row(node, 5, 96)
    assert walk(20) == {}
    node.now += 86_400 * SECOND
    assert {partition: list(found) for partition, found in walk(20).items()} == {7: [2, 5]}
    assert node.leader.counters.damaged == 2


def test_another_keeper_that_asks_for_what_is_damaged_finds_it(node):
    break_row(node, 0, 96)
    body = follow(node)  # Of what is led here: nothing is wrong with that.
    assert body
    assert node.leader.damage.stretches == {}
    node.turn(Type.FOLLOW, Follow("f", "k", 1 << 20, 0, 0, 0, 0, [FollowPart(7, 0)]))
    assert list(node.leader.damage.stretches[7]) == [0]


def test_where_the_last_batch_is_damaged_its_time_is_not_told(node):
    """An origin that compares it would take the copy for one of another log."""
    break_row(node, 5, 60)
    node.restart()
    node.keep(load=[7])
    assert node.leader.copies.positions[7] == (6, 3, 0)
    assert list(node.leader.damage.stretches[7]) == [5]


def test_what_is_damaged_is_bounded_and_forgotten_with_its_copy(node, monkeypatch):
    monkeypatch.setattr(damage, "STRETCHES_MAX", 1)
    for offset in (2, 5):
        break_row(node, offset, 96)
        with pytest.raises(errors.CorruptBatch):
            node.read(offset)
    assert list(node.leader.damage.stretches[7]) == [2]
    node.assign(3, [])
    assert node.leader.damage.stretches == {}


def test_what_retention_has_removed_is_no_problem_any_more():
    node = KeeperNode(TopicConfig(retention_ms=60_000))
    node.keep(ENTRIES)
    break_row(node, 2, 96)
    with pytest.raises(errors.CorruptBatch):
        node.read(2)
    assert node.leader.damage.problem(7)
    node.wall += 10_000_000
    node.now += SECOND
    node.turn()
    assert state(node).batches == 0
    assert node.leader.damage.problem(7) == ""
    assert node.leader.damage.is_over(7, 2)


def test_the_scrub_reads_no_faster_where_maintenance_is_busy(node, monkeypatch):
    monkeypatch.setattr(damage, "SCRUB_BYTES", 1)
    leader = node.leader
    leader.damage = damage.Damage(leader._assigned, leader.counters)
    break_row(node, 5, 96)

    def steps(count, pause_ns):
        for _ in range(count):
            with node.disk.read() as txn:
                leader.damage.scrub(node.now, txn)
            node.now += pause_ns
        return leader.counters.damaged

    assert steps(99, 5_000_000) == 0  # Half a second: the first batch.
    assert steps(3, SECOND) == 1
