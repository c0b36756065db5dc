"""Every kind of damage that can be planted in a data directory is found, named, and nothing else is."""

import hashlib
import os
from contextlib import contextmanager
from pathlib import Path

import lmdb
import msgspec
import pytest

from zfabric import errors
from zfabric.core.leader import keys
from zfabric.core.leader.groups import GroupRow
from zfabric.core.leader.leader import Leader
from zfabric.core.leader.log import PartitionState
from zfabric.core.leader.producers import ProducerState
from zfabric.model import TopicConfig
from zfabric.settings import LeaderSettings
from zfabric.store.directory import DataDirectory
from zfabric.store.repair import repair
from zfabric.store.scrub import Scrub
from zfabric.store.volume import Volume
from zfabric.wire import batch, messages
from zfabric.wire.messages import Command, Type
from zfabric.wire.metadata import Assign, AssignedTopic, PartitionPlace

BATCHES = 40
RECORDS = 3
SETTINGS = LeaderSettings(map_bytes=64 << 20)
# Partition id: topic, number, durability.
PLACES = {1: ("a", 0, "fsync"), 2: ("a", 1, "fsync"), 3: ("o", 0, "os"), 4: ("m", 0, "memory")}
A1 = 2


class Data:
    """A data directory with one volume, written by a leader without a process."""

    def __init__(self, path):
        self.directory = DataDirectory.create_or_check(path)
        self.path = self.directory.volume_path(0)
        self.file = os.path.join(self.path, "data.mdb")
        self.sequences = dict.fromkeys(PLACES, 0)

    @contextmanager
    def led(self):
        """Yield a function that takes one turn with one command."""
        with Volume.open(self.path, SETTINGS) as volume:
            leader = Leader(0, SETTINGS)
            txn = volume.write()
            leader.start(txn)
            for entry in volume.journaled():
                leader.restore(entry, txn)
            leader.flush(txn)
            volume.commit()
            leader.settled()

            def turn(kind, body):
                leader.clock(0, 1_000_000)
                leader.handle(b"peer", Command(kind, 0, 9, body, ()), volume.write())
                leader.flush(volume.write())
                if leader.must_sync:
                    volume.commit()
                else:
                    for entry in leader.journal:
                        volume.journal(entry)
                leader.settled()
                answers = [messages.read(effect.frames) for effect in leader.take_effects() if hasattr(effect, "peer")]
                assert [answer.body for answer in answers if answer.type == Type.ERROR] == []

            yield turn

    def produce(self, turn, partition, time=1000, size=200):
        sequence = self.sequences[partition]
        self.sequences[partition] += RECORDS
        payload = batch.encode_columns(0, None, [b"%d" % sequence * size] * RECORDS, None)
        header, payload = batch.seal(
            payload, codec=0, flags=0, count=RECORDS, base_timestamp=time, max_timestamp=time, producer_id=5,
            producer_epoch=0, base_sequence=sequence, last_sequence=sequence + RECORDS - 1, partition=partition,
        )  # fmt: skip
        turn(Type.PRODUCE, messages.Produce(header, payload, payload))

    def assign(self, turn, gone=(), version=1):
        topics = []
        for number, name in enumerate(("a", "o", "m"), 1):
            places = [PartitionPlace(p, n, 0) for p, (topic, n, _) in PLACES.items() if topic == name]
            durability = next(d for topic, _, d in PLACES.values() if topic == name)
            topics.append(AssignedTopic(number, name, TopicConfig(durability=durability), places))
        turn(Type.ASSIGN, Assign("f", version, topics if version == 1 else [], list(gone)))

    @contextmanager
    def rows(self):
        """Yield a transaction that may do anything."""
        options = {"lib_version": 0} if int(lmdb.__version__[0]) >= 3 else {}
        with lmdb.open(self.path, map_size=64 << 20, **options) as env, env.begin(write=True) as txn:
            yield txn

    def change(self, key, edit):
        with self.rows() as txn:
            value = bytearray(txn.get(key))
            after = edit(value)
            txn.put(key, bytes(value if after is None else after))

    def state(self, partition, **changes):
        def edit(value):
            state = msgspec.msgpack.decode(value, type=PartitionState)
            return msgspec.msgpack.encode(msgspec.structs.replace(state, **changes))

        self.change(keys.state(partition), edit)

    def scrub(self, **options):
        scrub = Scrub(DataDirectory.check(self.directory.path), **options)
        return list(scrub.run()), scrub.totals

    def found(self):
        before = self.hashes()
        findings = self.scrub()[0]
        assert self.hashes() == before
        return [(f.what, f.topic, f.partition, f.offset, f.next_offset) for f in findings]

    def hashes(self):
        return {
            os.path.join(place, name): hashlib.sha256(Path(place, name).read_bytes()).digest()
            for place, _, names in os.walk(self.directory.path)
            for name in names
            if name != "lock.mdb"
        }


@pytest.fixture
def data(tmp_path):
    data = Data(tmp_path / "data")
    with data.led() as turn:
        data.assign(turn)
        for number in range(BATCHES):
            for partition in PLACES:
                data.produce(turn, partition, time=1000 + number, size=3000 if number % 10 == 0 else 200)
        turn(Type.COMMIT_OFFSETS, messages.CommitOffsets("g", [messages.CommitOffset(A1, 7)]))
    return data


def test_a_whole_directory_has_no_findings_and_is_counted(data):
    findings, totals = data.scrub()
    assert findings == []
    assert (totals.volumes, totals.partitions, totals.batches) == (1, 4, 3 * BATCHES)
    assert totals.records == totals.batches * RECORDS


@pytest.mark.parametrize("step_rows", [1, 2, 7])
def test_small_steps_find_the_same(data, step_rows):
    key = keys.batch(A1, 30)
    data.change(key, lambda value: value.__setitem__(-1, value[-1] ^ 1))
    whole, stepped = data.scrub(), data.scrub(step_rows=step_rows)
    assert whole == stepped
    assert len(whole[0]) == 1


@pytest.mark.parametrize("at", [-1, 96, 92, 76, 52, 4, 0], ids=lambda at: f"byte {at}")
def test_a_flipped_bit_in_a_batch_is_named_with_the_next_readable_offset(data, at):
    data.change(keys.batch(A1, 30), lambda value: value.__setitem__(at, value[at] ^ 4))
    assert data.found() == [("batch", "a", 1, 30, 33)]


def test_a_flipped_bit_in_the_last_batch_is_readable_again_from_the_end(data):
    last = (BATCHES - 1) * RECORDS
    data.change(keys.batch(A1, last), lambda value: value.__setitem__(10, value[10] ^ 4))
    assert data.found() == [("batch", "a", 1, last, BATCHES * RECORDS)]


@pytest.mark.parametrize("length", [0, 50, 96, 150])
def test_a_batch_cut_short_is_found(data, length):
    data.change(keys.batch(A1, 30), lambda value: value[:length])
    assert [entry[:4] for entry in data.found()] == [("batch", "a", 1, 30), ("state", "a", 1, None)]


def test_a_whole_batch_in_the_wrong_place_is_found(data):
    with data.rows() as txn:
        txn.put(keys.batch(A1, 30), txn.get(keys.batch(A1, 33)))
    assert data.found()[0] == ("batch", "a", 1, 30, 33)


@pytest.mark.parametrize(
    ("gone", "missing"),
    [([0], (0, 3)), ([30], (30, 33)), ([30, 33], (30, 36)), ([117], (117, 120)), (range(0, 120, 3), (0, 120))],
)
def test_missing_batches_are_found_wherever_they_were(data, gone, missing):
    with data.rows() as txn:
        for offset in gone:
            assert txn.delete(keys.batch(A1, offset))
    assert data.found() == [("missing", "a", 1, *missing)]


@pytest.mark.parametrize(
    "changes",
    [{"end": 60}, {"start": 3}, {"bytes": 1}, {"batches": 1}, {"epoch": 0}, {"max_timestamp": 5}, {"producers": 9}],
    ids=str,
)
def test_a_state_row_that_disagrees_is_found_and_mended(data, changes):
    data.state(A1, **changes)
    findings = data.scrub()[0]
    assert {(f.what, f.topic, f.partition) for f in findings if f.what == "state"} == {("state", "a", 1)}
    done = repair(data.directory, findings)
    assert {finding.what for finding in done.mended} == {"state"}
    assert data.scrub()[0] == []


@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x9a\x00", msgspec.msgpack.encode([5, -5])], ids=repr)
def test_a_state_row_that_cannot_be_read_is_computed_from_the_batches(data, value):
    data.change(keys.state(A1), lambda _: value)
    assert [entry[:3] for entry in data.found()] == [("state", "a", 1)]
    repair(data.directory, data.scrub()[0])
    assert data.scrub()[0] == []


def test_a_rebuilt_state_gives_no_offset_twice_though_the_last_batch_is_gone(data):
    """What producers remember lies beyond the batches that are left."""
    with data.rows() as txn:
        txn.delete(keys.state(A1))
        txn.delete(keys.batch(A1, 117))
    repair(data.directory, data.scrub()[0])
    assert data.found() == [("missing", "a", 1, 117, 120)]


def test_the_state_of_a_memory_topic_is_not_made_up(data):
    data.change(keys.state(4), lambda _: b"\xc1")
    findings = data.scrub()[0]
    assert [(f.what, f.topic) for f in findings] == [("state", "m")]
    assert repair(data.directory, findings).mended == ()


@pytest.mark.parametrize("offset", [31, 33, 1 << 40])
def test_a_time_index_row_that_leads_elsewhere_is_found_and_removed(data, offset):
    key = keys.time(A1, 1000)
    with data.rows() as txn:
        assert txn.get(key) is not None
    data.change(key, lambda _: keys.U64.pack(offset))
    assert data.found() == [("time index", "a", 1, offset, offset)]
    done = repair(data.directory, data.scrub()[0])
    assert data.scrub()[0] == []
    with open(done.quarantine, encoding="ascii") as file:
        assert [msgspec.json.decode(line)["what"] for line in file] == ["time index"]


@pytest.mark.parametrize(
    ("key", "what"), [(keys.producer(A1, 5), "producer"), (keys.group(A1, "g"), "group")], ids=["producer", "group"]
)
def test_small_rows_that_cannot_be_decoded_are_found_and_set_aside(data, key, what):
    data.change(key, lambda _: b"\xc1")
    assert [entry[:3] for entry in data.found()] == [(what, "a", 1)]
    repair(data.directory, data.scrub()[0])
    assert data.scrub()[0] == []


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        (keys.group(A1, "g"), msgspec.msgpack.encode(GroupRow(10_000, 0)), "group"),
        (keys.producer(A1, 5), msgspec.msgpack.encode(ProducerState(batches=[[0, 1, 9_999, 0]])), "producer"),
        (keys.epoch(A1, 1), keys.U64.pack(9_999), "epoch"),
        (keys.epoch(A1, 1), b"short", "epoch"),
        (keys.assigned(1), b"\xc1", "row"),
        (keys.volume("epoch"), b"short", "row"),
        (keys.volume("nonsense"), b"", "row"),
        (keys.state(77), msgspec.msgpack.encode(PartitionState()), "state"),
        (keys.batch(77, 0), b"x" * 200, "row"),
        (b"CF", b"\xc1", "row"),
        (b"CTname", b"\xc1", "row"),
        (b"Zwhat", b"", "row"),
        (b"B\0short", b"", "row"),
    ],
)
def test_a_strange_row_is_found(data, key, value, what):
    with data.rows() as txn:
        txn.put(key, value)
    assert what in [entry[0] for entry in data.found()]


def test_rows_of_a_topic_that_is_being_deleted_are_not_looked_at(data):
    with data.led() as turn:
        data.assign(turn, gone=[1], version=2)
    with data.rows() as txn:
        txn.delete(keys.batch(A1, 30))
        txn.put(keys.state(A1), b"\xc1")
    assert data.found() == []


def test_a_file_that_was_cut_is_an_error_and_the_rest_is_named(data):
    with open(data.file, "r+b") as file:
        file.truncate(os.path.getsize(data.file) // 2)
    findings = data.scrub()[0]
    assert findings[0].what == "file"
    assert all(finding.problem for finding in findings)
    assert repair(data.directory, findings).mended == ()


@pytest.mark.parametrize("length", [0, 100, 4096, 5000])
def test_a_file_without_its_meta_pages_is_an_error(data, length):
    with open(data.file, "r+b") as file:
        file.truncate(length)
    assert data.found()[0] == ("file", None, None, None, None)


def test_a_missing_file_is_an_error(data):
    os.unlink(data.file)
    assert data.found() == [("file", None, None, None, None)]


def test_a_volume_that_was_never_finished_promised_nothing(data):
    os.makedirs(data.directory.volume_path(1))
    assert data.found() == []


@pytest.mark.parametrize("text", [b"", b"zfabric volum\x05 1\n", b"other\n"])
def test_a_damaged_format_is_found(data, text):
    with open(os.path.join(data.path, "FORMAT"), "wb") as file:
        file.write(text)
    assert data.found() == [("format", None, None, None, None)]


def test_a_missing_format_is_found(data):
    os.unlink(os.path.join(data.path, "FORMAT"))
    assert data.found() == [("format", None, None, None, None)]


def test_a_newer_volume_is_refused(data):
    with open(os.path.join(data.path, "FORMAT"), "wb") as file:
        file.write(b"zfabric volume 2\n")
    with pytest.raises(errors.DirectoryFormat):
        data.scrub()


def test_a_damaged_tree_page_is_a_finding_and_the_other_pages_are_read(data):
    with open(data.file, "rb") as file:
        content = bytearray(file.read())
    place = content.index(b"30" * 200) // 4096 * 4096
    content[place + 10] ^= 0x40
    with open(data.file, "wb") as file:
        file.write(content)
    found = data.found()
    assert found
    assert {entry[0] for entry in found} <= {"page", "batch", "missing", "state"}
    assert data.scrub()[1].batches > BATCHES


# The journal of topics with durability "os".


@pytest.fixture
def journaled(data):
    """Three batches that only the journal has, and one more in another partition of the log."""
    with data.led() as turn:
        data.produce(turn, A1)
        for _ in range(3):
            data.produce(turn, 3)
    return data


def flip_journal(data, at):
    with open(os.path.join(data.path, "journal"), "r+b") as file:
        content = bytearray(file.read())
        content[at] ^= 1
        file.seek(0)
        file.write(content)


def test_entries_of_the_journal_are_checked(journaled):
    findings, totals = journaled.scrub()
    assert (findings, totals.journal_entries) == ([], 3)


@pytest.mark.parametrize("at", [5, 40, -1])
def test_a_damaged_entry_of_the_journal_is_found(journaled, at):
    flip_journal(journaled, at)
    assert journaled.found() == [("journal", None, None, None, None)]


def test_a_torn_journal_is_as_a_crash_leaves_it(journaled):
    path = os.path.join(journaled.path, "journal")
    os.truncate(path, os.path.getsize(path) - 10)
    findings, totals = journaled.scrub()
    assert (findings, totals.journal_entries) == ([], 2)


def test_a_hole_between_log_and_journal_is_found(journaled):
    path = os.path.join(journaled.path, "journal")
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write(content[len(content) // 3 :])
    end = BATCHES * RECORDS
    assert journaled.found() == [("journal", "o", 0, end + RECORDS, end + 2 * RECORDS)]


def test_a_repair_keeps_what_only_the_journal_has(journaled):
    # Damage that leaves LMDB's commit number alone: in place, not by another commit.
    with open(journaled.file, "rb") as file:
        content = file.read()
    with lmdb.open(journaled.path, readonly=True) as env, env.begin() as txn:
        row = txn.get(keys.state(A1))
    state = msgspec.msgpack.decode(row, type=PartitionState)
    wrong = msgspec.msgpack.encode(msgspec.structs.replace(state, batches=state.batches + 1))
    assert len(wrong) == len(row)
    with open(journaled.file, "wb") as file:
        file.write(content.replace(row, wrong))
    findings, totals = journaled.scrub()
    assert ([f.what for f in findings], totals.journal_entries) == (["state"], 3)
    assert repair(journaled.directory, findings).mended
    findings, totals = journaled.scrub()
    assert (findings, totals.journal_entries) == ([], 0)
    assert totals.batches == 3 * BATCHES + 1 + 3


# Repair.


def test_repair_refuses_while_somebody_leads(data):
    data.state(A1, batches=1)
    findings = data.scrub()[0]
    with data.directory.lock("embedded", ""):
        before = data.hashes()
        with pytest.raises(errors.DirectoryLocked):
            repair(data.directory, findings)
        assert data.hashes() == before


def test_repair_never_touches_a_batch(data):
    data.change(keys.batch(A1, 30), lambda value: value.__setitem__(-1, value[-1] ^ 1))
    with data.rows() as txn:
        txn.delete(keys.batch(A1, 60))
    before = data.found()
    assert before == [("batch", "a", 1, 30, 33), ("missing", "a", 1, 60, 63)]
    assert repair(data.directory, data.scrub()[0]).mended == ()
    assert data.found() == before
