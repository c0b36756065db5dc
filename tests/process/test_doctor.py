"""`zfabric doctor` on directories that the SDK wrote, and what a reader of a damaged one is told."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import lmdb
import pytest

import zfabric
from zfabric import errors
from zfabric.core.leader import keys
from zfabric.settings import LeaderSettings
from zfabric.store.directory import DataDirectory
from zfabric.store.scrub import Scrub

SETTINGS = LeaderSettings(grace_ms=100)
BATCHES = 10
RECORDS = 20


def doctor(directory, *arguments, **environment):
    command = [sys.executable, "-m", "zfabric", "doctor", *([str(directory)] if directory else []), *arguments]
    environ = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environ)
    assert "Traceback" not in done.stderr
    return done


def check(directory, *arguments):
    """Return (exit code, what is found as (what, topic, partition, offset, next readable), the document)."""
    done = doctor(directory, "--json", *arguments)
    document = json.loads(done.stdout)
    names = ("what", "topic", "partition", "offset", "next_readable")
    return done.returncode, [tuple(row[name] for name in names) for row in document["findings"]], document


def hashes(directory):
    return {
        path: hashlib.sha256(path.read_bytes()).digest()
        for path in directory.rglob("*")
        if path.is_file() and path.name != "lock.mdb"
    }


def connect(directory):
    return zfabric.connect(f"zf+file:{directory}", timeout=60.0, settings=SETTINGS)


def wait_for_the_leader_to_end(directory):
    deadline = time.monotonic() + 60
    while DataDirectory.check(directory).holder() is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert DataDirectory.check(directory).holder() is None


def value(number):
    return b"record %06d" % number


def offset_of(batch):
    return batch * RECORDS


@pytest.fixture
def directory(tmp_path):
    """A directory with batches of 20 records in partition 1 of topic t, that nobody leads any more."""
    directory = tmp_path / "data"
    with connect(directory) as fabric:
        fabric.topics.create("t", partitions=2)
        with fabric.producer(linger=30.0) as producer:
            for batch in range(BATCHES):
                for number in range(offset_of(batch), offset_of(batch + 1)):
                    producer.send("t", value(number), partition=1)
                producer.flush(20)
        assert fabric.topics.describe("t").partitions[1].batches == BATCHES
    wait_for_the_leader_to_end(directory)
    return directory


@contextmanager
def rows(directory):
    """Yield a transaction that may do anything."""
    options = {"lib_version": 0} if int(lmdb.__version__[0]) >= 3 else {}
    with lmdb.open(str(directory / "leader-0"), map_size=1 << 30, **options) as env, env.begin(write=True) as txn:
        yield txn


def partition_id(directory):
    with rows(directory) as txn, txn.cursor() as cursor:
        assert cursor.set_range(keys.BATCH)
        return keys.split_batch(cursor.key())[0]


def flip(directory, key, at):
    with rows(directory) as txn:
        row = bytearray(txn.get(key))
        row[at] ^= 1
        txn.put(key, bytes(row))


def flip_in_file(directory, text):
    """Flip a bit of every copy of ``text`` in the data file, in place, as a bad disk does."""
    path = directory / "leader-0" / "data.mdb"
    content = path.read_bytes()
    place = content.find(text)
    assert place >= 0
    with open(path, "r+b") as file:
        while place >= 0:
            file.seek(place)
            file.write(bytes([content[place] ^ 1]))
            place = content.find(text, place + 1)


def read_around(directory, bad, after):
    """A reader gets all up to ``bad``, an error that names it, and all from ``after`` on."""
    with connect(directory) as fabric, fabric.consumer("t", partitions=[1]) as consumer:
        seen = []
        while len(seen) < bad:
            seen += [record.offset for record in consumer.poll(timeout=60.0)]
        assert seen == list(range(bad))
        with pytest.raises(errors.CorruptBatch) as told:
            consumer.poll(timeout=60.0)
        assert (told.value.topic, told.value.partition, told.value.offset) == ("t", 1, bad)
        assert told.value.next_offset == after
        consumer.seek(1, told.value.next_offset)
        seen.clear()
        while len(seen) < offset_of(BATCHES) - after:
            got = consumer.poll(timeout=60.0)
            assert got
            assert all(record.value == value(record.offset) for record in got)
            seen += [record.offset for record in got]
        assert seen == list(range(after, offset_of(BATCHES)))
    wait_for_the_leader_to_end(directory)


def test_a_whole_directory_is_healthy_and_nothing_is_changed(directory):
    before = hashes(directory)
    done = doctor(directory)
    assert (done.returncode, hashes(directory)) == (0, before)
    assert "200 records" in done.stdout
    assert "Nothing was changed" in done.stdout
    code, found, document = check(directory)
    assert (code, found, document["healthy"], document["led_by"]) == (0, [], True, None)
    assert document["checked"]["records"] == offset_of(BATCHES)


@pytest.mark.parametrize("at", [-3, 70], ids=["payload", "header"])
def test_a_flipped_bit_is_named_and_the_rest_stays_readable(directory, at):
    flip(directory, keys.batch(partition_id(directory), offset_of(4)), at)
    before = hashes(directory)
    assert check(directory)[:2] == (5, [("batch", "t", 1, offset_of(4), offset_of(5))])
    assert hashes(directory) == before
    shown = doctor(directory).stdout
    assert all(word in shown for word in ("batch", "t", "80", "100", "CRC", "seek"))
    read_around(directory, offset_of(4), offset_of(5))
    assert check(directory, "--repair")[:2] == (5, [("batch", "t", 1, offset_of(4), offset_of(5))])


@pytest.mark.parametrize("batches", [(4,), (4, 5), (BATCHES - 1,), (0,)], ids=str)
def test_a_missing_batch_is_named_and_the_rest_stays_readable(directory, batches):
    """A hole is an error for its reader, never a wait without end."""
    partition = partition_id(directory)
    with rows(directory) as txn:
        for batch in batches:
            assert txn.delete(keys.batch(partition, offset_of(batch)))
    bad, after = offset_of(batches[0]), offset_of(batches[-1] + 1)
    assert check(directory)[:2] == (5, [("missing", "t", 1, bad, after)])
    read_around(directory, bad, after)


def test_a_wrong_state_row_is_named_and_mended_when_asked(directory):
    import msgspec

    from zfabric.core.leader.log import PartitionState

    key = keys.state(partition_id(directory))
    with rows(directory) as txn:
        state = msgspec.msgpack.decode(txn.get(key), type=PartitionState)
        txn.put(key, msgspec.msgpack.encode(msgspec.structs.replace(state, end=offset_of(7))))
    before = hashes(directory)
    code, found, document = check(directory)
    assert (code, found[0][:3], document["findings"][0]["mendable"]) == (5, ("state", "t", 1), True)
    assert hashes(directory) == before
    code, found, document = check(directory, "--repair")
    assert (code, found, [row["what"] for row in document["mended"]]) == (0, [], ["state"])
    assert os.path.dirname(document["quarantine"]) == str(directory)
    with connect(directory) as fabric, fabric.producer() as producer:
        assert producer.send("t", b"more", partition=1).result(timeout=60).offset == offset_of(BATCHES)


SMALL = {"state": keys.STATE, "producer": keys.PRODUCER, "group": keys.GROUP}


@pytest.mark.parametrize("what", SMALL)
def test_a_small_row_that_cannot_be_decoded_concerns_nobody_else(directory, what):
    """Its users are told by name, everybody else goes on; a repair sets it aside."""
    with connect(directory) as fabric:
        fabric.topics.create("other")
        with fabric.producer(name="named") as producer:
            producer.send("t", b"v", partition=0).result(timeout=60)
            producer.send("other", b"v").result(timeout=60)
        with fabric.consumer("t", group="g") as consumer:
            consumer.commit({0: 1})
    wait_for_the_leader_to_end(directory)
    with rows(directory) as txn, txn.cursor() as cursor:
        assert cursor.set_range(SMALL[what])
        txn.put(cursor.key(), b"\xc1")
    assert [entry[:3] for entry in check(directory)[1]] == [(what, "t", 0)]
    with connect(directory) as fabric:
        with fabric.consumer("other") as consumer:
            assert consumer.poll(timeout=60.0)[0].value == b"v"
        with pytest.raises(errors.CorruptRow) as told:
            use(fabric, what, patience=60.0)
        assert what in told.value.what
        with fabric.producer() as producer:
            assert producer.send("other", b"w").result(timeout=60).offset == 1
    wait_for_the_leader_to_end(directory)
    assert check(directory, "--repair")[:2] == (0, [])
    with connect(directory) as fabric:
        use(fabric, what)


def use(fabric, what, patience=0.0):
    """Do what needs the row; where that is to fail, have patience until it does."""
    if what == "producer":
        with fabric.producer(name="named") as producer:
            producer.send("t", b"v", partition=0).result(timeout=60)
    else:
        fabric.consumer("t", group="g", partitions=[0]).poll(timeout=patience)


@pytest.mark.parametrize("key", [b"CF", b"CTt", keys.assigned(1)], ids=["controller", "topic", "assignment"])
def test_a_leader_that_cannot_read_its_topics_says_so(directory, key):
    with rows(directory) as txn:
        assert txn.get(key) is not None
        txn.put(key, b"\xc1")
    assert "row" in {entry[0] for entry in check(directory)[1]}
    with connect(directory) as fabric, pytest.raises(errors.CorruptRow):
        fabric.topics.list()


def test_a_cut_file_is_an_error_and_no_signal(directory):
    path = directory / "leader-0" / "data.mdb"
    os.truncate(path, path.stat().st_size - 3 * 4096)
    before = hashes(directory)
    code, found, _ = check(directory)
    assert (code, found[0][0], hashes(directory)) == (5, "file", before)
    shown = doctor(directory).stdout
    assert all(text in shown for text in ("a leader refuses to start", "restore it from a copy", "--salvage"))
    assert "Everything else is readable" not in shown
    with connect(directory) as fabric, pytest.raises(errors.DirectoryDamaged) as told:
        fabric.topics.list()
    wait_for_the_leader_to_end(directory)
    # The error names the volume, and says to run the doctor on it.
    assert doctor(told.value.directory, "--json").stdout == doctor(directory, "--json").stdout


def test_a_leader_starts_on_what_was_salvaged(directory, tmp_path):
    """A page of batches is gone in all its versions; everything else is there, and readers go on behind it."""
    with connect(directory) as fabric, fabric.producer() as producer:
        for number in range(100):
            producer.send("t", b"lone %04d" % number * 40, partition=0).result(timeout=60)
    wait_for_the_leader_to_end(directory)
    path = directory / "leader-0" / "data.mdb"
    whole = path.read_bytes()
    place = whole.find(b"lone 0050")
    while True:
        # The page that holds it now; others are of older commits, or have it in what they do not use.
        begin = place - place % 4096
        path.write_bytes(whole[:begin] + bytes(4096) + whole[begin + 4096 :])
        holes = [row for row in Scrub(DataDirectory.check(directory)).run() if row.offset is not None]
        if any(row.partition == 0 and row.offset <= 50 < row.next_offset for row in holes):
            break
        place = whole.find(b"lone 0050", begin + 4096)
        assert place > 0
    shown = doctor(directory).stdout
    assert all(text in shown for text in ("page", "leader-0", "--salvage"))
    new = tmp_path / "new"
    done = doctor(directory, "--salvage", str(new), "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["directory"], document["salvaged"]["lost"]) == (5, str(new), 1)
    (lost,) = document["findings"]
    assert (lost["what"], lost["topic"], lost["partition"]) == ("missing", "t", 0)
    assert 0 < lost["offset"] <= 50 < lost["next_readable"] < 100
    with connect(new) as fabric:
        with fabric.consumer("t", partitions=[0], start=lost["offset"]) as consumer:
            with pytest.raises(errors.CorruptBatch) as told:
                consumer.poll(timeout=60.0)
            consumer.seek(0, told.value.next_offset)
            assert consumer.poll(1, timeout=60.0)[0].offset == lost["next_readable"]
        with fabric.consumer("t", partitions=[1]) as consumer:
            assert consumer.poll(1, timeout=60.0)[0].value == value(0)
        with fabric.producer() as producer:
            assert producer.send("t", b"more", partition=0).result(timeout=60).offset == 100
    again = doctor(directory, "--salvage", str(new))
    assert (again.returncode, "NEW" in again.stderr) == (2, True)
    assert doctor(directory, "--salvage", str(new), "--repair").returncode == 2


def test_a_directory_with_another_identity_has_all_that_it_had_and_is_whole(directory):
    """With topics in the journal as well, and more than one volume."""
    with connect(directory) as fabric:
        fabric.topics.create("o", durability="os")
        with fabric.producer() as producer:
            producer.send("o", b"o").result(20)
        before = fabric.topics.describe("t").partitions[1].end_offset
        os.kill(fabric.status()[0].pid, signal.SIGKILL)
    wait_for_the_leader_to_end(directory)
    told = [json.loads(doctor(directory, "--new-identity", "--json").stdout) for _ in range(2)]
    assert told[0]["identity"] == told[1]["before"] != told[1]["identity"]
    assert check(directory)[0] == 0
    with connect(directory) as fabric, fabric.consumer("o") as consumer:
        assert fabric.topics.describe("t").partitions[1].end_offset == before
        assert fabric.members()[0].fabric == told[1]["identity"]
        assert [record.value for record in consumer.poll(timeout=60.0)] == [b"o"]
    wait_for_the_leader_to_end(directory)


def test_other_directories_are_refused_and_named(directory, tmp_path):
    (directory / "FORMAT").write_bytes(b"zfabric data 2\n")
    newer = doctor(directory)
    assert (newer.returncode, "upgrade zfabric" in newer.stderr) == (1, True)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "file").write_text("mine")
    done = doctor(foreign)
    assert (done.returncode, f"no data directory {str(foreign)!r}" in done.stderr) == (4, True)
    assert [path.name for path in foreign.iterdir()] == ["file"]
    absent = doctor(tmp_path / "absent")
    assert (absent.returncode, "absent" in absent.stderr, (tmp_path / "absent").exists()) == (4, True, False)


def test_the_directory_is_that_of_the_url(directory):
    assert doctor(None, ZFABRIC_URL=f"zf+file:{directory}").returncode == 0
    assert doctor(None, ZFABRIC_URL=f"zf+peer://plant?data={directory}").returncode == 0
    assert doctor(None, ZFABRIC_URL="zf://127.0.0.1:7400").returncode == 2


def test_a_bit_flipped_under_a_running_leader_is_found_by_doctor_and_reader(directory):
    with connect(directory) as fabric:
        assert fabric.topics.list() == ["t"]
        flip_in_file(directory, value(offset_of(4)))
        code, found, document = check(directory)
        assert (code, found) == (5, [("batch", "t", 1, offset_of(4), offset_of(5))])
        assert document["led_by"] == fabric.status()[0].pid
        refused = doctor(directory, "--repair")
        assert (refused.returncode, "is led by process" in refused.stderr) == (1, True)
        with fabric.consumer("t", partitions=[1], start=offset_of(3)) as consumer:
            seen = [record.offset for record in consumer.poll(timeout=60.0)]
            assert seen == list(range(offset_of(3), offset_of(4)))
            with pytest.raises(errors.CorruptBatch) as told:
                consumer.poll(timeout=60.0)
            assert (told.value.topic, told.value.partition, told.value.offset) == ("t", 1, offset_of(4))
            consumer.seek(1, told.value.next_offset)
            assert consumer.poll(1, timeout=60.0)[0].offset == offset_of(5)
        with fabric.producer() as producer:
            assert producer.send("t", b"more", partition=1).result(timeout=60).offset == offset_of(BATCHES)


@pytest.mark.timeout(120)
def test_a_leader_at_work_is_no_damage(zfabric_url, tmp_path):
    """Appends, retention, compaction, commits and topics that come and go, while the pages are read."""
    with zfabric.connect(zfabric_url, timeout=20.0, settings=SETTINGS) as fabric:
        fabric.topics.create("kept", partitions=2)
        fabric.topics.create("trimmed", retention_bytes=50_000)
        fabric.topics.create("compacted", cleanup="compact", tombstone_retention=0.0)
        fabric.topics.create("os", durability="os")
        stop = threading.Event()

        def work():
            with zfabric.connect(zfabric_url, timeout=20.0, settings=SETTINGS) as own, own.producer() as producer:
                number = 0
                while not stop.is_set():
                    for topic in ("kept", "trimmed", "os"):
                        producer.send_many(topic, [b"%0200d" % number] * 100)
                    for key in range(2_000):
                        producer.send("compacted", b"%0100d" % number, key=b"%d" % (key % 5))
                    if number % 5 == 0:
                        own.topics.create(f"passing-{number}")
                        producer.send(f"passing-{number}", b"v").result(timeout=60)
                        own.topics.delete(f"passing-{number}")
                    producer.flush(20)
                    number += 1

        worker = threading.Thread(target=work)
        worker.start()
        try:
            trimmed, compacted, batches = False, False, 0
            while not (trimmed and compacted and batches > 20):
                for step_rows in (5, 20, 100, 20_000):
                    scrub = Scrub(DataDirectory.check(tmp_path / "zfabric-data"), step_rows=step_rows)
                    assert list(scrub.run()) == []
                trimmed = fabric.topics.describe("trimmed").partitions[0].start_offset > 0
                table = fabric.topics.describe("compacted").partitions[0]
                compacted = table.end_offset * 100 > 2 * table.bytes
                batches = scrub.totals.batches
        finally:
            stop.set()
            worker.join()


def test_the_disk_is_measured_and_nothing_stays(directory):
    before = hashes(directory)
    done = doctor(directory, "--disk", "--seconds", "0", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert 0 < report["commit"]["p50_us"] <= report["commit"]["p99_us"]
    assert report["honours_fsync"] in ("likely", "doubtful", "unknown")
    assert hashes(directory) == before
    shown = doctor(directory, "--disk", "--seconds", "0").stdout
    assert "fsync reaches the medium" in shown
    assert doctor(directory, "--disk", "--repair").returncode == 2
    assert doctor(directory / "absent", "--disk").returncode == 4
