"""A salvaged directory has every row that can be read, a leader starts on it, and what is missing is an error."""

from __future__ import annotations

import os
import random
import shutil

import pytest

from tests.unit.store.test_scrub import BATCHES, PLACES, RECORDS, Data
from zfabric import errors
from zfabric.core.leader import keys
from zfabric.core.leader.leader import Leader
from zfabric.core.leader.log import StoredLog, load_state
from zfabric.settings import LeaderSettings
from zfabric.store.directory import DataDirectory
from zfabric.store.salvage import UNFINISHED, Salvage, salvage
from zfabric.store.scrub import Scrub
from zfabric.store.volume import Volume
from zfabric.wire import batch, messages
from zfabric.wire.messages import Type
from zfabric.wire.received import RecordBatch

PAGE = 4096
STORED = [partition for partition, place in PLACES.items() if place[2] != "memory"]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    data = Data(str(tmp_path_factory.mktemp("original") / "data"))
    with data.led() as turn:
        data.assign(turn)
        for _ in range(BATCHES):
            for partition in PLACES:
                data.produce(turn, partition)
    return data


@pytest.fixture
def data(original, tmp_path):
    shutil.copytree(original.directory.path, tmp_path / "data")
    return Data(str(tmp_path / "data"))


def hashes(data):
    """Of all files but the one that says who led last."""
    return {path: content for path, content in data.hashes().items() if os.path.dirname(path) != data.directory.path}


def rescue(data, name="new"):
    """Salvage into ``name``; returns (the copy, what was copied)."""
    before, result = hashes(data), Salvage()
    new = os.path.join(os.path.dirname(data.directory.path), name)
    for _ in salvage(DataDirectory.check(data.directory.path), new, result):
        pass
    assert hashes(data) == before
    assert not os.path.exists(new + UNFINISHED)
    return DataDirectory.check(new), result


def records(directory, partition):
    """Return {offset: value} of what a reader gets that goes on behind every damage, and the end of the log."""
    found = {}
    with Volume.open(directory.volume_path(0), LeaderSettings()) as volume, volume.read() as txn:
        state = load_state(partition, txn)
        log, place = StoredLog(partition, "t", 0, state), state.start
        while place < state.end:
            try:
                for header, _, payload in log.batches(place, txn):
                    for record in RecordBatch("t", 0, header, payload).records():
                        found[record.offset] = record.value
                    place = header.next_offset
            except errors.CorruptBatch as error:
                place = max(error.next_offset, place + 1)
    return found, state.end


def value(offset):
    return b"%d" % (offset - offset % RECORDS) * 200


WHOLE = {offset: value(offset) for offset in range(BATCHES * RECORDS)}


def found_in(directory):
    return [(f.what, f.topic, f.partition, f.offset, f.next_offset) for f in Scrub(directory).run()]


def test_of_a_whole_directory_the_copy_is_whole(data):
    """With what only the journal has: topic o commits later."""
    copy, result = rescue(data)
    assert (result.lost, result.entries_lost, result.unreadable) == (0, 0, ())
    assert found_in(copy) == []
    for partition in STORED:
        assert records(copy, partition) == (WHOLE, BATCHES * RECORDS)


def test_entries_of_the_journal_are_put_back(tmp_path):
    data = Data(str(tmp_path / "data"))
    with data.led() as turn:
        data.assign(turn)
        for _ in range(BATCHES):
            data.produce(turn, 3)
    copy, result = rescue(data)
    assert (result.entries, result.entries_lost) == (BATCHES, 0)
    assert records(copy, 3) == (WHOLE, BATCHES * RECORDS)


def test_what_is_behind_the_cut_of_a_file_is_named_and_the_rest_is_there(data):
    os.truncate(data.file, os.path.getsize(data.file) - 6 * PAGE)
    with pytest.raises(errors.DirectoryDamaged):
        Volume.open(data.path, LeaderSettings())
    copy, result = rescue(data)
    assert result.lost > 0
    kept = {partition: records(copy, partition)[0] for partition in STORED}
    assert any(kept.values())
    assert all(found.items() <= WHOLE.items() for found in kept.values())


def spoil(data, rng):
    """Overwrite, empty and exchange pages, and cut the file."""
    pages = os.path.getsize(data.file) // PAGE
    with open(data.file, "r+b") as file:
        for _ in range(rng.randrange(1, 6)):
            victim, kind = rng.randrange(2, pages), rng.randrange(3)
            file.seek(rng.randrange(2, pages) * PAGE)
            other = file.read(PAGE)
            file.seek(victim * PAGE + rng.randrange(PAGE - 64) * (kind == 0))
            file.write((rng.randbytes(rng.randrange(1, 64)), bytes(PAGE), other)[kind])
    if rng.randrange(3) == 0:
        os.truncate(data.file, rng.randrange(pages // 2, pages) * PAGE)


def append(data, turn, partition):
    payload = batch.encode_columns(0, None, [b"new"], None)
    header, payload = batch.seal(
        payload, codec=0, flags=0, count=1, base_timestamp=0, max_timestamp=0, producer_id=0, producer_epoch=0,
        base_sequence=0, last_sequence=0, partition=partition,
    )  # fmt: skip
    turn(Type.PRODUCE, messages.Produce(header, payload, payload))


def led_in(copy):
    """Return the partitions that a leader finds there."""
    leader = Leader(0, LeaderSettings())
    with Volume.open(copy.volume_path(0), LeaderSettings()) as volume:
        leader.start(volume.write())
    return {partition for partition in STORED if leader.leads(partition)}


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_damaged_records_are_right_or_missing_and_a_leader_goes_on(data, seed):
    spoil(data, random.Random(seed))
    copy, result = rescue(data)
    assert result.unreadable == ()
    assert {finding.what for finding in Scrub(copy).run()}.isdisjoint({"file", "page", "format", "journal"})
    ends = {}
    for partition in STORED:
        found, ends[partition] = records(copy, partition)
        assert found.items() <= WHOLE.items()
    led = led_in(copy)
    again = Data(copy.path)
    with again.led() as turn:
        for partition in led:
            append(again, turn, partition)
    with again.led():
        pass  # Commits what the journal has.
    for partition in led:
        found, end = records(copy, partition)
        assert (found.pop(ends[partition]), end) == (b"new", ends[partition] + 1)
        assert found.items() <= WHOLE.items()


def test_a_directory_of_which_nothing_can_be_read_says_so(data):
    os.truncate(data.file, 100)
    copy, result = rescue(data)
    assert (result.rows, result.unreadable) == (0, (0,))
    assert copy.volumes() == []


def test_lost_rows_of_the_volume_do_not_let_a_leader_epoch_come_again(data):
    for _ in range(2):
        with data.led():
            pass
    with data.rows() as txn:
        before = keys.U64.unpack(txn.get(keys.volume("epoch")))[0]
        txn.delete(keys.volume("epoch"))
    copy, _ = rescue(data)
    with Volume.open(copy.volume_path(0), LeaderSettings()) as volume, volume.read() as txn:
        told = max(load_state(partition, txn).epoch for partition in STORED)
        assert told <= keys.U64.unpack(txn.get(keys.volume("epoch")))[0] <= before + 1


def test_the_new_directory_has_to_be_new_and_elsewhere(data, tmp_path):
    (tmp_path / "there").mkdir()
    for new in (tmp_path / "there", data.directory.path, os.path.join(data.directory.path, "inside")):
        with pytest.raises(errors.InvalidArgument):
            list(salvage(data.directory, str(new), Salvage()))
    with data.directory.lock("embedded", ""), pytest.raises(errors.DirectoryLocked):
        list(salvage(data.directory, str(tmp_path / "new"), Salvage()))


def test_a_copy_that_was_interrupted_has_another_name_and_is_begun_again(data, tmp_path):
    steps = salvage(data.directory, str(tmp_path / "new"), Salvage())
    next(steps)
    steps.close()
    assert (tmp_path / f"new{UNFINISHED}").exists()
    assert not (tmp_path / "new").exists()
    copy, _ = rescue(data)
    assert found_in(copy) == []
