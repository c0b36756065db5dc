"""The volume of one leader: what opening refuses, what a commit keeps, what happens when room ends."""

import os
import subprocess
import sys
import threading

import lmdb
import pytest

from zfabric import errors
from zfabric.settings import MIB, LeaderSettings
from zfabric.store import volume as volume_module
from zfabric.store.volume import MapFull, Volume

SMALL = LeaderSettings(map_bytes=MIB, disk_reserve_bytes=0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "leader-0"


@pytest.fixture
def volume(path):
    with Volume.open(path, SMALL) as volume:
        yield volume


def put(volume, *pairs):
    txn = volume.write()
    for key, value in pairs:
        txn.put(key, value)


def get(volume, key):
    with volume.read() as txn:
        found = txn.get(key)
        return None if found is None else bytes(found)


def files(path):
    return {
        name: (path / name).read_bytes() for name in os.listdir(path) if name not in {"LOCK", "lock.mdb", "journal"}
    }


class Failing:
    """A transaction whose commit fails as LMDB's does."""

    def __init__(self, txn, error):
        self.txn = txn
        self.error = error

    def commit(self):
        self.txn.abort()
        raise self.error

    def abort(self):
        self.txn.abort()


# Opening.


def test_a_new_volume_is_created_for_its_user_alone(path):
    with Volume.open(path, SMALL):
        assert path.stat().st_mode & 0o777 == 0o700
        assert (path / "FORMAT").read_bytes() == b"zfabric volume 1\n"
        assert all((path / name).stat().st_mode & 0o077 == 0 for name in os.listdir(path))


def test_a_volume_is_led_once(path, volume):
    with pytest.raises(errors.DirectoryLocked) as caught:
        Volume.open(path, SMALL)
    assert caught.value.pid == os.getpid()
    assert caught.value.directory == str(path)


def test_a_closed_volume_can_be_led_again(path):
    with Volume.open(path, SMALL) as first:
        first.write().put(b"key", b"value")
        first.commit()
    with Volume.open(path, SMALL) as second, second.read() as txn:
        assert bytes(txn.get(b"key")) == b"value"


def test_closing_twice_is_harmless(volume):
    volume.close()
    volume.close()
    with pytest.raises(errors.Closed):
        volume.write()


def test_a_foreign_directory_is_refused_and_left_alone(path):
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")
    with pytest.raises(errors.DirectoryFormat):
        Volume.open(path, SMALL)
    assert os.listdir(path) == ["thesis.txt"]


def test_a_foreign_lmdb_environment_is_refused_and_left_alone(path):
    path.mkdir()
    with lmdb.open(str(path)) as env, env.begin(write=True) as txn:
        txn.put(b"k", b"v")
    before = files(path)
    with pytest.raises(errors.DirectoryFormat):
        Volume.open(path, SMALL)
    assert files(path) == before


def test_a_file_of_that_name_is_refused(path):
    path.write_text("a file")
    with pytest.raises(errors.DirectoryFormat):
        Volume.open(path, SMALL)
    assert path.read_text() == "a file"


@pytest.mark.parametrize("line", [b"zfabric volume 2\n", b"zfabric data 1\n", b"something else", b"", b"\xff\n"])
def test_a_newer_or_another_format_is_refused_and_left_alone(path, line):
    Volume.open(path, SMALL).close()
    (path / "FORMAT").write_bytes(line)
    before = files(path)
    with pytest.raises(errors.DirectoryFormat):
        Volume.open(path, SMALL)
    assert files(path) == before


@pytest.mark.parametrize("left", [["LOCK"], ["LOCK", "FORMAT.new"], ["LOCK", "FORMAT.new", "data.mdb", "lock.mdb"]])
def test_a_creation_that_was_interrupted_begins_again(path, left):
    """Nothing was promised before FORMAT has its name."""
    path.mkdir()
    for name in left:
        (path / name).touch()
    with Volume.open(path, SMALL) as volume:
        put(volume, (b"k", b"v"))
        volume.commit()
        assert get(volume, b"k") == b"v"


@pytest.mark.parametrize("content", [bytes(8192), b"\xff" * 8192, bytes(100)], ids=["zeros", "ones", "cut"])
def test_what_an_interrupted_creation_left_in_the_files_does_not_matter(path, content):
    """A power cut keeps any part of what was not flushed."""
    path.mkdir()
    for name in ("FORMAT.new", "data.mdb", "lock.mdb", "journal"):
        (path / name).write_bytes(content)
    with Volume.open(path, SMALL) as volume:
        assert volume.journal_bytes == 0
        put(volume, (b"k", b"v"))
        volume.commit()


@pytest.mark.parametrize("length", [0, 1, 4096, 8191, 8192, 12288])
def test_a_cut_data_file_is_found_before_lmdb_maps_it(path, length):
    """A page that the file does not have is SIGBUS, so the check may not rely on LMDB."""
    with Volume.open(path, SMALL) as volume:
        put(volume, *((b"%d" % number, bytes(3000)) for number in range(100)))
        volume.commit()
    os.truncate(path / "data.mdb", length)
    before = files(path)
    with pytest.raises(errors.DirectoryDamaged):
        Volume.open(path, SMALL)
    assert files(path) == before


def test_a_missing_data_file_is_damage_and_not_a_new_volume(path):
    Volume.open(path, SMALL).close()
    os.unlink(path / "data.mdb")
    with pytest.raises(errors.DirectoryDamaged):
        Volume.open(path, SMALL)
    assert not (path / "data.mdb").exists()


def test_a_data_file_of_noise_is_damage(path):
    Volume.open(path, SMALL).close()
    (path / "data.mdb").write_bytes(b"\xa5" * 65536)
    with pytest.raises(errors.DirectoryDamaged):
        Volume.open(path, SMALL)


def test_a_refused_opening_gives_the_lock_back(path):
    Volume.open(path, SMALL).close()
    data = (path / "data.mdb").read_bytes()
    (path / "data.mdb").write_bytes(b"")
    with pytest.raises(errors.DirectoryDamaged):
        Volume.open(path, SMALL)
    (path / "data.mdb").write_bytes(data)
    Volume.open(path, SMALL).close()


def test_an_old_lmdb_package_is_refused(path, monkeypatch):
    """CVE-2019-16224 to 16228."""
    monkeypatch.setattr(lmdb, "__version__", "2.1.0")
    with pytest.raises(errors.ConfigurationError):
        Volume.open(path, SMALL)
    assert not path.exists()


def test_the_environment_cannot_choose_another_engine(path, monkeypatch):
    """The newer engine writes files that lmdb 2 cannot read."""
    program = "import sys; from zfabric.settings import *; from zfabric.store.volume import Volume\n"
    program += "Volume.open(sys.argv[1], LeaderSettings()).close()"
    environment = {**os.environ, "LMDB_DEFAULT_LIB_VERSION": "1"}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program, str(path)], env=environment, check=True)


def test_nothing_heavy_is_loaded():
    """A leader has 28 MB."""
    program = "import sys, zfabric.store.volume, zfabric.store.directory\nprint(*sys.modules)"
    # What measures coverage loads modules of its own.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    loaded = done.stdout.split()
    assert not {"asyncio", "click", "rich", "threading", "logging", "hashlib", "tempfile", "pathlib"} & set(loaded)


# Turns.


def test_what_was_committed_is_there_after_reopening(path):
    with Volume.open(path, SMALL) as volume:
        put(volume, (b"a", b"1"))
        volume.commit()
        put(volume, (b"b", b"2"))
    with Volume.open(path, SMALL) as volume:
        assert get(volume, b"a") == b"1"
        assert get(volume, b"b") is None


def test_abandoning_drops_the_turn(volume):
    put(volume, (b"a", b"1"))
    volume.abandon()
    assert not volume.writing
    assert get(volume, b"a") is None


def test_a_write_transaction_is_the_same_until_it_ends(volume):
    first = volume.write()
    assert volume.write() is first
    volume.commit()
    assert volume.write() is not first


def test_commit_and_abandon_without_a_transaction_do_nothing(volume):
    volume.commit()
    volume.abandon()
    assert volume.stats().commits == 0


def test_reading_sees_what_the_open_write_transaction_holds(volume):
    """A batch with durability "os" is acknowledged before it is committed."""
    put(volume, (b"a", b"1"))
    assert get(volume, b"a") == b"1"
    assert volume.writing


def test_a_reading_is_a_snapshot(volume):
    put(volume, (b"a", b"1"))
    volume.commit()
    with volume.read() as before:
        put(volume, (b"a", b"2"))
        volume.commit()
        assert bytes(before.get(b"a")) == b"1"
        assert get(volume, b"a") == b"2"


def test_a_failed_commit_is_final(volume, path):
    """After a failed fsync the next one succeeds, so nothing after it may be believed."""
    put(volume, (b"a", b"1"))
    volume._txn = Failing(volume._txn, lmdb.Error("mdb_txn_commit: Input/output error"))
    with pytest.raises(errors.StorageFailed):
        volume.commit()
    for use in (volume.write, volume.read().__enter__, volume.grow, lambda: volume.journal(b"x")):
        with pytest.raises(errors.StorageFailed):
            use()
    volume.close()
    Volume.open(path, SMALL).close()


def test_a_commit_that_finds_the_map_full_is_not_final(volume):
    put(volume, (b"a", b"1"))
    volume._txn = Failing(volume._txn, lmdb.MapFullError("mdb_txn_commit"))
    with pytest.raises(MapFull):
        volume.commit()
    assert not volume.writing
    volume.grow()
    put(volume, (b"a", b"1"))
    volume.commit()
    assert get(volume, b"a") == b"1"


# The map.


def fill_until_full(volume):
    with pytest.raises(MapFull):
        put(volume, *((b"%06d" % number, bytes(3000)) for number in range(10_000)))


def test_a_turn_is_repeated_on_a_larger_map(volume):
    put(volume, (b"before", b"1"))
    volume.commit()
    fill_until_full(volume)
    volume.abandon()
    map_bytes = volume.stats().map_bytes
    volume.grow()
    assert volume.stats().map_bytes == 2 * map_bytes
    put(volume, *((b"%06d" % number, bytes(3000)) for number in range(300)))
    volume.commit()
    assert get(volume, b"before") == b"1"
    assert get(volume, b"000299") == bytes(3000)


def test_the_map_grows_from_tiny_to_whatever_is_needed(path):
    with Volume.open(path, SMALL) as volume:
        for base in range(0, 4000, 50):
            while True:
                try:
                    put(volume, *((b"%06d" % number, bytes(3000)) for number in range(base, base + 50)))
                    volume.commit()
                    break
                except MapFull:
                    volume.abandon()
                    volume.grow()
        used_bytes = volume.stats().used_bytes
    assert used_bytes > 8 * MIB
    with Volume.open(path, SMALL) as volume:
        assert volume.stats().map_bytes >= used_bytes * 5 // 4
        assert sum(get(volume, b"%06d" % number) == bytes(3000) for number in range(4000)) == 4000


def test_a_map_that_is_used_up_to_four_fifths_grows_between_turns(volume):
    turns = 0
    while not volume.grow_if_needed():
        put(volume, *((b"%d %d" % (turns, number), bytes(3000)) for number in range(10)))
        volume.commit()
        turns += 1
    stats = volume.stats()
    assert stats.map_bytes == 2 * MIB
    assert MIB * 0.8 <= stats.used_bytes <= MIB


def test_the_map_does_not_grow_under_an_open_transaction(volume, monkeypatch):
    monkeypatch.setattr(volume_module, "_GROW_AT", 0.0)
    volume.write()
    assert not volume.grow_if_needed()
    volume.abandon()
    with volume.read():
        assert not volume.grow_if_needed()
        with pytest.raises(AssertionError):
            volume.grow()
    assert volume.grow_if_needed()


# The disk.


def disk(monkeypatch, *, free, size=10**9):
    found = os.statvfs("/")
    block = found.f_frsize
    values = list(found)
    values[2], values[3], values[4] = size // block, free // block, free // block
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(values))


def test_appends_are_refused_at_the_reserve(path, monkeypatch):
    with Volume.open(path, LeaderSettings(disk_reserve_bytes=MIB)) as volume:
        disk(monkeypatch, free=2 * MIB)
        volume.refresh_room()
        volume.check_room()
        disk(monkeypatch, free=MIB // 2)
        volume.check_room()
        volume.refresh_room()
        with pytest.raises(errors.StorageFull) as caught:
            volume.check_room()
        assert caught.value.reserve == MIB
        assert caught.value.free <= MIB // 2
        assert caught.value.retriable


def test_the_reserve_is_five_percent_and_at_most_a_gigabyte(path, monkeypatch):
    with Volume.open(path, LeaderSettings()) as volume:
        for size, reserve in ((10**9, 50 * 10**6), (10**13, 1 << 30)):
            disk(monkeypatch, free=0, size=size)
            volume.refresh_room()
            with pytest.raises(errors.StorageFull) as caught:
                volume.check_room()
            assert caught.value.reserve == pytest.approx(reserve, rel=0.01)


def test_what_commits_add_comes_off_between_two_looks_at_the_disk(path, monkeypatch):
    with Volume.open(path, LeaderSettings(disk_reserve_bytes=MIB)) as volume:
        disk(monkeypatch, free=2 * MIB)
        volume.refresh_room()
        put(volume, (b"k", bytes(3 * MIB // 2)))
        volume.commit()
        with pytest.raises(errors.StorageFull):
            volume.check_room()


def test_appends_go_on_in_the_room_that_retention_made(path, monkeypatch):
    """The file does not shrink, so the disk never shows what retention freed."""
    with Volume.open(path, LeaderSettings(disk_reserve_bytes=MIB)) as volume:
        put(volume, *((b"%d" % number, bytes(100_000)) for number in range(20)))
        volume.commit()
        disk(monkeypatch, free=MIB * 3 // 4)
        volume.refresh_room()
        with pytest.raises(errors.StorageFull):
            volume.check_room()
        for number in range(20):
            volume.write().delete(b"%d" % number)
        volume.commit()
        volume.refresh_room()
        volume.check_room()
        disk(monkeypatch, free=MIB // 4)
        volume.refresh_room()
        with pytest.raises(errors.StorageFull):
            volume.check_room()


def test_the_map_does_not_grow_on_a_full_disk(volume, monkeypatch):
    disk(monkeypatch, free=0)
    with pytest.raises(errors.StorageFull):
        volume.grow()


# Upkeep.


def test_stats_count_commits_that_wrote_something(volume):
    volume.write()
    volume.commit()
    put(volume, (b"k", b"v"))
    volume.commit()
    put(volume, (b"k", b"w"))
    volume.abandon()
    assert volume.stats().commits == 1


def test_stats_show_the_pages_written(volume):
    put(volume, (b"k", bytes(MIB // 4)))
    volume.commit()
    stats = volume.stats()
    assert stats.used_bytes >= MIB // 4
    # A file system in memory writes nothing.
    assert stats.bytes_written == 0 or stats.bytes_written >= MIB // 4


def test_stats_show_what_another_thread_has_written_to_the_journal(volume):
    """A lent turn's entries."""
    before = volume.stats().bytes_written
    lent = threading.Thread(target=volume.journal, args=(bytes(MIB // 4),))
    lent.start()
    lent.join()
    assert volume.stats().bytes_written - before >= MIB // 4


def test_deleted_values_leave_pages_to_reuse(volume):
    put(volume, (b"k", bytes(MIB // 4)))
    volume.commit()
    before = volume.reusable_bytes()
    volume.write().delete(b"k")
    volume.commit()
    assert volume.reusable_bytes() >= before + MIB // 4


def resident_bytes_of(path):
    """Resident bytes of the maps of a file, from /proc/self/smaps."""
    total, inside = 0, False
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            if "-" in line.split()[0] and not line.split()[0].endswith(":"):
                inside = line.rstrip().endswith(str(path))
            elif inside and line.startswith("Rss:"):
                total += int(line.split()[1]) * 1024
    return total


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="needs /proc/self/smaps")
def test_pages_that_were_read_can_be_given_back(tmp_path):
    with Volume.open(tmp_path / "volume", LeaderSettings()) as volume:
        put(volume, *((b"%d" % number, bytes([number]) * MIB) for number in range(8)))
        volume.commit()
        with volume.read() as txn:
            views = [txn.get(b"%d" % number) for number in range(8)]
            assert [bytes(view) for view in views] == [bytes([number]) * MIB for number in range(8)]
            assert resident_bytes_of(volume.path + "/data.mdb") >= 8 * MIB
            assert volume.release_pages() >= 8 * MIB
            assert resident_bytes_of(volume.path + "/data.mdb") < MIB
            assert [bytes(view) for view in views] == [bytes([number]) * MIB for number in range(8)]


def test_dead_readers_are_cleared(volume, path):
    """A killed reader would keep pages from reuse for ever."""
    program = "import lmdb, os, sys\n"
    program += "env = lmdb.open(sys.argv[1], readonly=True, max_dbs=0)\n"
    program += "txn = env.begin()\nos.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", program, str(path)])
    assert volume.reader_check() == 1
    assert volume.reader_check() == 0
