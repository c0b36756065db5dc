"""What a partition remembers of its producers, and when it forgets."""

from __future__ import annotations

import pytest

from zfabric import errors
from zfabric.core.leader.producers import CROWDED_IDLE_MS, IDLE_MS, SEQUENCED_IDLE_MS, ProducerTable
from zfabric.sim.disk import SimDisk
from zfabric.wire import batch

WALL = 1_700_000_000_000


def header(first, last, *, sparse=False, producer=5, after=batch.NOT_SAID):
    raw, _ = batch.seal(
        b"", codec=0, flags=batch.SPARSE if sparse else 0, count=1, base_timestamp=0, max_timestamp=0,
        producer_id=producer, producer_epoch=0, base_sequence=first, last_sequence=last, partition=1, after=after,
    )  # fmt: skip
    return batch.parse(raw)


@pytest.fixture
def table():
    return ProducerTable(1, 0, stored=True)


@pytest.fixture
def txn():
    return SimDisk().write()


def test_a_producer_that_wakes_in_the_turn_of_its_expiry_is_kept(table, txn):
    table.remember(header(0, 0), 0, WALL, txn)
    table.flush(txn)
    late = WALL + IDLE_MS + 1
    table.remember(header(1, 1), 1, late, txn)
    assert table.expire(late, 100, 0, txn) == (0, -1)
    table.flush(txn)
    assert table.find(5, txn).last == 1
    assert table.rows == 1


def test_a_producer_that_stays_idle_is_forgotten(table, txn):
    table.remember(header(0, 0), 0, WALL, txn)
    table.flush(txn)
    assert table.expire(WALL + IDLE_MS + 1, 100, 0, txn) == (1, -1)
    assert (table.find(5, txn), table.rows) == (None, 0)


@pytest.mark.parametrize(("stored", "after", "fits"), [
    (None, -1, True), (None, 3, False), (None, batch.NOT_SAID, True),
    (4, 4, True), (4, 3, False), (4, 6, False), (4, -1, False), (4, batch.NOT_SAID, True),
])  # fmt: skip
def test_a_batch_that_says_what_comes_before_it_is_stored_behind_that_alone(table, txn, stored, after, fits):
    if stored is not None:
        table.remember(header(0, stored, sparse=True), 0, WALL, txn)
    new = header(7, 9, sparse=True, after=after)
    if fits:
        assert table.check(new, txn) is None
    else:
        with pytest.raises(errors.OutOfOrderSequence) as refused:
            table.check(new, txn)
        assert (refused.value.sequence, refused.value.expected) == (7, 0 if stored is None else stored + 1)


def test_a_repeat_is_a_repeat_whatever_it_says_of_what_comes_before_it(table, txn):
    table.remember(header(7, 9, sparse=True), 40, WALL, txn)
    assert table.check(header(7, 9, sparse=True, after=6), txn).base_offset == 40


def test_the_two_kinds_of_sequences_are_never_taken_for_each_other(table, txn):
    """I8: a retry returns the offset of its own batch, also where the other kind used the same numbers."""
    table.remember(header(0, 0), 0, WALL, txn)
    table.remember(header(0, 0, sparse=True), 1, WALL, txn)
    assert table.check(header(0, 0), txn).base_offset == 0
    assert table.check(header(0, 0, sparse=True), txn).base_offset == 1
    with pytest.raises(errors.ProtocolViolation):
        table.check(header(0, 1), txn)


@pytest.mark.parametrize(("rows", "idle"), [(0, IDLE_MS), (60_000, CROWDED_IDLE_MS)])
def test_an_application_sequence_outlives_months_offline_and_any_crowd(txn, rows, idle):
    """An edge node that comes back after a season goes on behind the last record that it stored."""
    table = ProducerTable(1, rows, stored=True)
    table.remember(header(0, 0, producer=4), 0, WALL, txn)
    table.remember(header(1000, 1000, sparse=True), 1, WALL, txn)
    table.flush(txn)
    assert table.expire(WALL + idle + 1, 100, 0, txn) == (1, -1)
    assert table.find(4, txn) is None
    assert table.expire(WALL + SEQUENCED_IDLE_MS, 100, 0, txn) == (0, -1)
    assert table.begin(5, 1, 0, WALL + SEQUENCED_IDLE_MS, txn).sparse_last == 1000
    table.flush(txn)
    assert table.expire(WALL + 2 * SEQUENCED_IDLE_MS + 1, 100, 0, txn) == (1, -1)
