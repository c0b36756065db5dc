"""The journal of durability "os": what was appended is replayed, nothing else ever is."""

import os
import struct

import pytest
from fastcrc.crc32 import iscsi
from hypothesis import given
from hypothesis import strategies as st

from zfabric import errors
from zfabric.settings import MIB, LeaderSettings
from zfabric.store import journal as journal_module
from zfabric.store.journal import Journal
from zfabric.store.volume import Volume

SMALL = LeaderSettings(map_bytes=MIB, disk_reserve_bytes=0)
ENTRIES = [b"first", b"second" * 100, b"\0", b"fourth"]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path)


def written(directory, entries, generation=7):
    journal = Journal(directory, generation)
    for entry in entries:
        journal.append([entry], generation)
    journal.close()
    with open(os.path.join(directory, "journal"), "rb") as file:
        return file.read()


def replayed(directory, content, generation=7):
    with open(os.path.join(directory, "journal"), "wb") as file:
        file.write(content)
    journal = Journal(directory, generation)
    try:
        assert journal.bytes + journal.dropped_bytes == len(content)
        return list(journal.entries(generation))
    finally:
        journal.close()


def test_the_format_is_fixed(path):
    """Golden bytes: a leader replays what another version wrote before it was killed."""
    assert written(path, [b"batch"], 7).hex() == "05000000f9cdd37407000000000000006261746368"


def test_entries_come_back_in_order(path):
    assert replayed(path, written(path, ENTRIES)) == ENTRIES


def test_an_entry_may_be_written_in_pieces(path):
    journal = Journal(path, 1)
    journal.append([b"a", memoryview(b"bc"), b"", b"d"], 1)
    journal.append([b"x"] * 2000, 1)
    assert list(journal.entries(1)) == [b"abcd", b"x" * 2000]
    journal.close()


def test_entries_that_a_commit_covers_are_not_replayed(path):
    """The cut after a commit may be lost, so staleness is in the entry."""
    assert replayed(path, written(path, ENTRIES, 7), 8) == []


def test_new_entries_are_read_when_stale_ones_were_in_front(path):
    written(path, ENTRIES, 7)
    written(path, [b"new"], 8)
    journal = Journal(path, 8)
    assert list(journal.entries(8)) == [b"new"]
    journal.close()


def test_old_entries_that_a_power_cut_brings_back_end_the_journal(path, tmp_path):
    """The new content in front, the old one behind, and the cut between them lost."""
    old = written(path, [b"same size"] * 3, 7)
    os.truncate(tmp_path / "journal", 0)
    new = written(path, [b"new bytes"], 8)
    assert replayed(path, new + old[len(new) :], 8) == [b"new bytes"]


def test_zeros_are_no_entry(path):
    """A file system may persist the length of a file before its blocks, and the checksum of nothing is no proof."""
    assert replayed(path, bytes(4096), 0) == []
    covered = struct.pack("<QQ", 0, 0)
    assert replayed(path, struct.pack("<IIQ", 0, iscsi(covered), 0), 0) == []


def test_an_empty_entry_is_a_mistake(path):
    journal = Journal(path, 0)
    with pytest.raises(AssertionError):
        journal.append([b""], 0)
    journal.close()


@given(data=st.data())
def test_a_cut_leaves_the_entries_before_it(tmp_path_factory, data):
    path = str(tmp_path_factory.mktemp("journal"))
    entries = data.draw(st.lists(st.binary(min_size=1, max_size=50), max_size=8))
    content = written(path, entries)
    cut = data.draw(st.integers(0, len(content)))
    whole, place = 0, 0
    for entry in entries:
        place += 16 + len(entry)
        whole += place <= cut
    assert replayed(path, content[:cut]) == entries[:whole]


@given(data=st.data())
def test_damage_never_makes_an_entry(tmp_path_factory, data):
    """Whatever happens to the file, what is replayed is a prefix of what was appended."""
    path = str(tmp_path_factory.mktemp("journal"))
    entries = data.draw(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=8))
    content = bytearray(written(path, entries))
    begin = data.draw(st.integers(0, len(content) - 1))
    noise = data.draw(st.binary(min_size=1, max_size=20))
    content[begin : begin + len(noise)] = noise
    found = replayed(path, bytes(content))
    assert found == entries[: len(found)]


@given(content=st.binary(max_size=200))
def test_noise_holds_no_entries(tmp_path_factory, content):
    assert replayed(str(tmp_path_factory.mktemp("journal")), content, 0) == []


def test_a_write_that_the_kernel_takes_in_part_is_completed(path, monkeypatch):
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, pieces: real(fd, [b"".join(pieces)[:5]]))
    journal = Journal(path, 1)
    journal.append([b"hello", b"world"], 1)
    assert list(journal.entries(1)) == [b"helloworld"]
    journal.close()


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (journal_module.errno.ENOSPC, errors.StorageFull),
        (journal_module.errno.EDQUOT, errors.StorageFull),
        (journal_module.errno.EIO, errors.StorageFailed),
    ],
)
def test_a_write_that_fails_half_way_leaves_no_trace(path, monkeypatch, number, kind):
    """An entry behind a torn one would never be read."""
    journal = Journal(path, 1)
    journal.append([b"before"], 1)

    def half(fd, pieces):
        os.write(fd, b"".join(pieces)[:5])
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", half)
        with pytest.raises(kind):
            journal.append([b"half"], 1)
    journal.append([b"after"], 1)
    assert list(journal.entries(1)) == [b"before", b"after"]
    journal.close()


# In a volume.


@pytest.fixture
def volume(path):
    with Volume.open(os.path.join(path, "volume"), SMALL) as volume:
        yield volume


def test_what_was_journaled_is_replayed_after_a_restart(volume):
    volume.write().put(b"k", b"v")
    volume.journal(b"k=v")
    volume.close()
    with Volume.open(volume.path, SMALL) as again:
        with again.read() as txn:
            assert txn.get(b"k") is None
        assert list(again.journaled()) == [b"k=v"]


def test_a_commit_ends_what_is_to_be_replayed(volume):
    volume.write().put(b"k", b"v")
    volume.journal(b"k=v")
    volume.commit()
    assert volume.journal_bytes == 0
    volume.close()
    with Volume.open(volume.path, SMALL) as again:
        assert list(again.journaled()) == []


def test_a_commit_that_changes_nothing_keeps_the_journal(volume):
    volume.write()
    volume.journal(b"entry")
    volume.commit()
    assert list(volume.journaled()) == [b"entry"]


def test_after_abandoning_the_entries_are_replayed_and_not_those_of_earlier_commits(volume):
    volume.write().put(b"a", b"1")
    volume.journal(b"a=1")
    volume.commit()
    volume.write().put(b"b", b"2")
    volume.journal(b"b=2")
    volume.abandon()
    assert list(volume.journaled()) == [b"b=2"]


def test_a_commit_before_the_replay_is_a_mistake(volume):
    """It would clear the only copy of acknowledged batches."""
    volume.write().put(b"b", b"2")
    volume.journal(b"b=2")
    volume.abandon()
    volume.write().put(b"c", b"3")
    with pytest.raises(AssertionError):
        volume.commit()
    list(volume.journaled())
    volume.commit()


def test_a_journal_that_cannot_be_written_ends_the_volume(volume, monkeypatch):
    def broken(fd, pieces):
        raise OSError(5, "Input/output error")

    volume.write().put(b"k", b"v")
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", broken)
        with pytest.raises(errors.StorageFailed):
            volume.journal(b"k=v")
    with pytest.raises(errors.StorageFailed):
        volume.journal(b"k=v")


def test_a_full_disk_refuses_the_entry_and_not_the_volume(volume, monkeypatch):
    def full(fd, pieces):
        raise OSError(28, "No space left on device")

    volume.write().put(b"k", b"v")
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", full)
        with pytest.raises(errors.StorageFull):
            volume.journal(b"k=v")
    volume.commit()
