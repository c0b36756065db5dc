"""The simulated disk: what each fault takes away, and what it never takes."""

import random

import lmdb
import pytest

from zfabric import errors
from zfabric.sim.disk import MapFull, SimDisk


@pytest.fixture
def disk():
    return SimDisk()


@pytest.fixture
def rng():
    return random.Random(1)


def commit(disk, *pairs, sync=True):
    for key, value in pairs:
        disk.write().put(key, value)
    disk.commit(sync=sync)


def outcomes(prepare, fault):
    """Return the set of contents after ``fault``, over many seeds."""
    found = set()
    for seed in range(60):
        disk = SimDisk()
        prepare(disk)
        fault(disk, random.Random(seed))
        found.add((tuple(key for key, _ in disk.items()), tuple(disk.journaled())))
    return found


# Crashes.


def test_a_synced_commit_survives_everything(disk, rng):
    commit(disk, (b"a", b"1"))
    disk.crash(rng)
    disk.kill(rng)
    assert disk.items() == [(b"a", b"1")]


def test_an_open_transaction_survives_nothing(disk, rng):
    commit(disk, (b"a", b"1"))
    for fault in (disk.kill, disk.crash):
        disk.write().put(b"a", b"2")
        disk.write().put(b"b", b"2")
        fault(rng)
        assert not disk.writing
        assert disk.items() == [(b"a", b"1")]


def unsynced(disk):
    commit(disk, (b"0", b""))
    for key in (b"1", b"2", b"3"):
        commit(disk, (key, b""), sync=False)
        disk.journal(b"journal " + key)


def test_a_killed_process_loses_no_commit():
    assert outcomes(unsynced, SimDisk.kill) == {((b"0", b"1", b"2", b"3"), (b"journal 3",))}


def test_a_power_cut_keeps_a_prefix_of_unsynced_commits():
    contents = {keys for keys, _ in outcomes(unsynced, SimDisk.crash)}
    assert contents == {(b"0",), (b"0", b"1"), (b"0", b"1", b"2"), (b"0", b"1", b"2", b"3")}


def test_a_synced_commit_makes_those_before_it_durable():
    def prepare(disk):
        commit(disk, (b"1", b""), sync=False)
        commit(disk, (b"2", b""))

    assert {keys for keys, _ in outcomes(prepare, SimDisk.crash)} == {(b"1", b"2")}


def test_the_journal_outlives_the_process_and_a_prefix_the_power_cut():
    def prepare(disk):
        disk.write().put(b"k", b"")
        disk.journal(b"1")
        disk.journal([b"2", memoryview(b"3")])

    assert outcomes(prepare, SimDisk.kill) == {((), (b"1", b"23"))}
    assert outcomes(prepare, SimDisk.crash) == {((), ()), ((), (b"1",)), ((), (b"1", b"23"))}


def test_the_journal_never_outlives_the_commit_that_it_follows():
    for keys, journal in outcomes(unsynced, SimDisk.crash):
        assert not journal or keys == (b"0", b"1", b"2", b"3")


def test_a_failed_commit_may_or_may_not_be_there():
    def prepare(disk):
        commit(disk, (b"1", b""))
        disk.fail_next_commit = True
        with pytest.raises(errors.StorageFailed):
            commit(disk, (b"2", b""))
        with pytest.raises(errors.StorageFailed):
            disk.write()

    assert {keys for keys, _ in outcomes(prepare, SimDisk.kill)} == {(b"1",), (b"1", b"2")}


def test_the_disk_works_again_after_the_process_that_failed(disk, rng):
    disk.fail_next_commit = True
    with pytest.raises(errors.StorageFailed):
        commit(disk, (b"1", b""))
    disk.kill(rng)
    commit(disk, (b"2", b""))
    assert (b"2", b"") in disk.items()


def test_the_same_seed_gives_the_same_crash():
    def contents(seed):
        disk = SimDisk()
        unsynced(disk)
        disk.crash(random.Random(seed))
        return disk.items(), list(disk.journaled())

    assert [contents(seed) for seed in range(20)] == [contents(seed) for seed in range(20)]


# Other faults.


def test_a_flipped_bit_is_one_bit_of_one_value(disk, rng):
    commit(disk, (b"a", bytes(10)), (b"b", bytes(10)), (b"c", b""))
    key = disk.flip_bit(rng)
    changed = [(name, value) for name, value in disk.items() if any(value)]
    assert [name for name, _ in changed] == [key]
    assert int.from_bytes(changed[0][1], "big").bit_count() == 1


def test_an_empty_disk_has_no_bit_to_flip(disk, rng):
    assert disk.flip_bit(rng) is None


def test_a_full_disk_refuses_appends_and_lets_deletes_pass(disk):
    commit(disk, (b"a", b"1"))
    disk.disk_full = True
    for refused in (disk.check_room, disk.grow, lambda: disk.journal(b"x")):
        with pytest.raises(errors.StorageFull):
            refused()
    assert disk.write().delete(b"a")
    disk.commit()
    assert disk.items() == []


def test_a_full_map_interrupts_a_turn_until_it_grows(disk):
    disk.map_full_in = 1
    disk.write().put(b"a", b"1")
    for _ in range(2):
        with pytest.raises(MapFull):
            disk.write().put(b"b", b"2")
    disk.abandon()
    assert disk.items() == []
    disk.grow()
    commit(disk, (b"a", b"1"), (b"b", b"2"))


def test_a_commit_before_the_replay_is_a_mistake(disk):
    """As in the volume: it would clear the only copy of acknowledged batches."""
    disk.write().put(b"a", b"1")
    disk.journal(b"a=1")
    disk.abandon()
    disk.write().put(b"b", b"1")
    with pytest.raises(AssertionError):
        disk.commit()
    assert list(disk.journaled()) == [b"a=1"]
    disk.commit()


# Where LMDB would return other bytes.


def test_a_buffer_of_a_write_transaction_dies_with_the_next_change(disk):
    txn = disk.write()
    txn.put(b"a", b"1")
    view = txn.get(b"a")
    assert bytes(view) == b"1"
    txn.put(b"b", b"2")
    with pytest.raises(ValueError, match="released"):
        bytes(view)


def test_lmdb_does_return_other_bytes_there(tmp_path):
    """Why the rule above is no fuss."""
    with lmdb.open(str(tmp_path)) as env, env.begin(write=True, buffers=True) as txn:
        txn.put(b"k", b"five" * 10)
        view = txn.get(b"k")
        txn.put(b"k", b"other" * 20)
        for number in range(100):
            txn.put(b"%d" % number, b"x" * 50)
        assert bytes(view) != b"five" * 10


def test_a_buffer_of_a_reading_dies_with_it(disk):
    commit(disk, (b"a", b"1"))
    with disk.read() as txn:
        cursor = txn.cursor()
        assert cursor.set_range(b"")
        views = [txn.get(b"a"), cursor.key(), cursor.value()]
        assert [bytes(view) for view in views] == [b"1", b"a", b"1"]
    for view in views:
        with pytest.raises(ValueError, match="released"):
            bytes(view)
    with pytest.raises(AssertionError):
        txn.get(b"a")


def test_a_buffer_cannot_be_put_where_it_comes_from(disk):
    txn = disk.write()
    txn.put(b"a", b"1")
    with pytest.raises(AssertionError):
        txn.put(b"b", txn.get(b"a"))


def test_a_reading_that_a_write_overtakes_is_dead(disk):
    commit(disk, (b"a", b"1"))
    with disk.read() as txn:
        disk.write().put(b"a", b"2")
        with pytest.raises(AssertionError):
            txn.get(b"a")


def test_a_reading_cannot_write(disk):
    with disk.read() as txn, pytest.raises(AssertionError):
        txn.put(b"a", b"1")


def test_a_cursor_that_arrived_nowhere_cannot_step(disk):
    commit(disk, (b"a", b"1"))
    with disk.read() as txn:
        cursor = txn.cursor()
        assert cursor.last()
        assert not cursor.next()
        for use in (cursor.next, cursor.prev, cursor.key, cursor.value):
            with pytest.raises(AssertionError):
                use()
        assert cursor.last()


def test_a_cursor_steps_on_from_a_deleted_key_but_has_none(disk):
    commit(disk, (b"a", b"1"), (b"b", b"2"), (b"c", b"3"))
    txn = disk.write()
    cursor = txn.cursor()
    assert cursor.set_range(b"b")
    txn.delete(b"b")
    with pytest.raises(AssertionError):
        cursor.value()
    assert cursor.next()
    assert bytes(cursor.key()) == b"c"


def test_readings_see_the_open_write_transaction(disk):
    disk.write().put(b"a", b"1")
    with disk.read() as txn:
        assert bytes(txn.get(b"a")) == b"1"
    assert disk.writing
