"""The leader's rules, on a simulated disk that is stricter than LMDB."""

from __future__ import annotations

import random

import pytest

from zfabric import errors
from zfabric.core.effects import Publish, Reply
from zfabric.core.leader import groups, keys, reading
from zfabric.core.leader.leader import Leader
from zfabric.model import TopicConfig
from zfabric.settings import LeaderSettings
from zfabric.sim.disk import SimDisk
from zfabric.wire import batch, messages
from zfabric.wire.messages import Command, Type
from zfabric.wire.metadata import Assign, AssignedTopic, PartitionPlace
from zfabric.wire.received import RecordBatch

P = 1
MS = 1_000_000


class Node:
    """A leader on a disk, driven turn by turn as its shell does."""

    def __init__(self, config=None, disk=None):
        self.disk = disk or SimDisk()
        self.now, self.wall = 0, 1_000_000
        self.config = config or TopicConfig()
        self.start()
        place = PartitionPlace(P, 0, 0)
        assign = Assign("f", 1, [AssignedTopic(1, "t", self.config, [place])], [])
        self.turn(Type.ASSIGN, assign)

    def start(self):
        self.leader = Leader(0, LeaderSettings())
        txn = self.disk.write()
        self.leader.start(txn)
        for entry in self.disk.journaled():
            self.leader.restore(entry, txn)
        self.leader.flush(txn)
        self.disk.commit()
        self.leader.settled()

    def restart(self):
        self.disk.kill(random.Random(1))
        self.start()

    def turn(self, kind=None, body=None, flags=0, *, commit=True):
        """Take one turn; returns (answers, publications)."""
        leader = self.leader
        leader.clock(self.now, self.wall)
        commands = [] if kind is None else [Command(kind, flags, 9, body, ())]
        txn = self.disk.write()
        for command in commands:
            if command.type in leader.writes:
                leader.handle(b"peer", command, txn)
        wanted = leader.next_deadline()
        if wanted is not None and wanted <= self.now:
            leader.tick(txn)
        leader.flush(txn)
        if not commit:
            return leader
        if leader.must_sync:
            self.disk.commit()
        elif leader.journal:
            for entry in leader.journal:
                self.disk.journal(entry)
        elif self.disk.journal_bytes == 0:
            self.disk.abandon()
        leader.settled()
        with self.disk.read() as reading:
            for command in commands:
                if command.type in leader.reads:
                    leader.answer(b"peer", command, reading)
            effects = leader.take_effects()
        answers = [messages.read(effect.frames) for effect in effects if isinstance(effect, Reply)]
        return answers, [effect.frames for effect in effects if isinstance(effect, Publish)]

    def ask(self, kind, body):
        answers, _ = self.turn(kind, body)
        if answers[0].type == Type.ERROR:
            raise errors.from_wire(answers[0].body.code, answers[0].body.values)
        return answers[0].body

    def produce(
        self,
        sequence=0,
        values=(b"v",),
        *,
        producer=5,
        epoch=0,
        last=None,
        partition=P,
        keys_=None,
        time=500,
        read=(0, 0),
    ):
        sparse = last is not None
        payload = batch.encode_columns(0, keys_, list(values), None)
        header, payload = batch.seal(
            payload, codec=0, flags=batch.SPARSE if sparse else 0, count=len(values), base_timestamp=time,
            max_timestamp=time, producer_id=producer, producer_epoch=epoch, base_sequence=sequence,
            last_sequence=last if sparse else sequence + len(values) - 1, partition=partition, read=read,
        )  # fmt: skip
        return self.ask(Type.PRODUCE, messages.Produce(header, payload, payload))

    def fetch(self, offset, most=1 << 20):
        answers, _ = self.turn(Type.FETCH, messages.Fetch(most, [messages.FetchPart(P, offset)]))
        part = answers[0].body.parts[0]
        if part.failure is not None:
            raise errors.from_wire(part.failure.code, part.failure.values)
        found = []
        for header, _, payload in batch.split(answers[0].rest[0]):
            found += RecordBatch("t", 0, header, bytes(payload)).records()
        return [(record.offset, record.value) for record in found]


@pytest.fixture
def node():
    return Node()


def test_a_retry_gets_the_original_offset_also_after_a_crash(node):
    """I8: a (producer, epoch, sequence) owns at most one offset."""
    first = node.produce(0)
    node.produce(1)
    assert node.produce(0).base_offset == first.base_offset
    node.restart()
    again = node.produce(0)
    assert (again.base_offset, again.duplicate) == (first.base_offset, 1)
    assert node.fetch(0) == [(0, b"v"), (1, b"v")]


def test_a_gap_is_refused_and_stores_nothing(node):
    node.produce(0)
    with pytest.raises(errors.OutOfOrderSequence) as refused:
        node.produce(2)
    assert (refused.value.expected, refused.value.retriable) == (1, True)
    assert node.fetch(0) == [(0, b"v")]


def test_an_unknown_producer_begins_at_zero(node):
    with pytest.raises(errors.UnknownProducer):
        node.produce(3)


def test_an_older_epoch_is_fenced(node):
    assert node.ask(Type.INIT_PRODUCER, messages.InitProducer(P, 5)).epoch == 0
    assert node.ask(Type.INIT_PRODUCER, messages.InitProducer(P, 5)).epoch == 1
    node.produce(0, epoch=1)
    with pytest.raises(errors.ProducerFenced) as refused:
        node.produce(0, epoch=0)
    assert refused.value.current == 1


def test_an_instance_that_was_fenced_gets_no_epoch_any_more(node):
    """Else it would go on in the epoch of the instance that has fenced it, and the two would share sequences."""
    old, new = 11, 22

    def begin(instance, attempt):
        return node.ask(Type.INIT_PRODUCER, messages.InitProducer(P, 5, instance, attempt)).epoch

    assert (begin(old, 0), begin(old, 1), begin(new, 0)) == (0, 1, 2)
    for attempt in (1, 2):
        with pytest.raises(errors.ProducerFenced) as refused:
            begin(old, attempt)
        assert refused.value.current == 2
    node.restart()
    with pytest.raises(errors.ProducerFenced):
        begin(old, 2)
    assert begin(new, 1) == 3


def test_the_same_attempt_to_begin_gets_the_same_epoch_however_late_it_comes(node):
    """One that was lost and repeated arrives after the repeat, and must not fence what began with that."""
    begin = messages.InitProducer(P, 5, 11, 0)
    assert node.ask(Type.INIT_PRODUCER, begin).epoch == 0
    node.produce(0)
    assert node.ask(Type.INIT_PRODUCER, begin).epoch == 0
    node.produce(1)
    assert node.ask(Type.INIT_PRODUCER, messages.InitProducer(P, 5, 11, 1)).epoch == 1
    with pytest.raises(errors.ProducerFenced):
        node.ask(Type.INIT_PRODUCER, begin)
    node.produce(0, epoch=1)


def test_application_sequences_may_skip_and_survive_epochs(node):
    node.produce(10, last=10)
    node.produce(25, last=25)
    node.restart()
    assert node.ask(Type.INIT_PRODUCER, messages.InitProducer(P, 5)).last_sequence == 25
    assert node.produce(25, last=25, epoch=1).duplicate == 1
    assert node.produce(26, last=26, epoch=1).duplicate == 0


@pytest.mark.parametrize(("durability", "known"), [("fsync", (8, 2_000)), ("os", (0, 0))])
def test_where_the_last_record_was_read_is_told_to_whoever_goes_on(durability, known):
    """The leader stamps over it, so what a crash leaves in the journal alone comes back without it."""
    node = Node(TopicConfig(durability=durability))

    def told():
        answer = node.ask(Type.INIT_PRODUCER, messages.InitProducer(P, 5))
        return answer.last_sequence, answer.read

    node.produce(25, last=25, read=(7, 1_000))
    assert told() == (25, (7, 1_000))
    node.restart()
    assert told() == (25, (7, 1_000))
    node.produce(26, last=26, epoch=2, read=(8, 2_000))
    node.restart()
    assert told() == (26, known)


def test_a_partition_that_is_not_led_here_is_refused(node):
    with pytest.raises(errors.NotLeader):
        node.produce(0, partition=99)


def test_nothing_is_told_of_a_turn_that_was_not_committed(node):
    """I1: an effect comes after its commit, or not at all."""
    payload = batch.encode_columns(0, None, [b"v"], None)
    header, payload = batch.seal(
        payload, codec=0, flags=0, count=1, base_timestamp=0, max_timestamp=0, producer_id=5, producer_epoch=0,
        base_sequence=0, last_sequence=0, partition=P,
    )  # fmt: skip
    leader = node.turn(Type.PRODUCE, messages.Produce(header, payload, payload), commit=False)
    node.disk.abandon()
    leader.abandon()
    assert leader.take_effects() == []
    assert node.fetch(0) == []
    assert leader.counters.records_in == 0
    assert node.produce(0).base_offset == 0
    assert (leader.counters.records_in, leader.counters.batches_in) == (1, 1)


def test_a_batch_is_published_as_it_is_stored(node):
    _, published = node.turn()
    assert published == []
    node.produce(0)
    node.now += 100 * MS
    _, published = node.turn()
    assert messages.HEAD.unpack(published[0][1])[0] == 1


def test_fetch_respects_the_bounds_of_the_log(node):
    node.produce(0, [b"a", b"b"])
    node.produce(2, [b"c"])
    assert node.fetch(1) == [(0, b"a"), (1, b"b"), (2, b"c")]
    assert node.fetch(3) == []
    with pytest.raises(errors.OffsetOutOfRange) as refused:
        node.fetch(4)
    assert (refused.value.start, refused.value.end) == (0, 3)
    assert node.fetch(0, most=1) == [(0, b"a"), (1, b"b")]


def test_damage_is_named_and_the_rest_stays_readable(node):
    """I10."""
    for number in range(3):
        node.produce(number)
    key = keys.batch(P, 1)
    row = bytearray(node.disk.value_at(key))
    row[-1] ^= 1
    node.disk.change(key, bytes(row))
    assert node.fetch(0) == [(0, b"v")]
    with pytest.raises(errors.CorruptBatch) as found:
        node.fetch(1)
    assert (found.value.topic, found.value.offset, found.value.next_offset) == ("t", 1, 2)
    assert node.fetch(2) == [(2, b"v")]


def test_time_finds_the_first_record_at_or_after(node):
    for number in range(10):
        node.produce(number, time=1000 + 10 * number)
    asked = {1000: 0, 1001: 1, 1090: 9, 1091: 10, 0: 0, -1: 10, -2: 0}
    for timestamp, offset in asked.items():
        found = node.ask(Type.FIND_OFFSETS, messages.FindOffsets([messages.FindOffset(P, timestamp)]))
        assert found.parts[0].offset == offset


def test_retention_by_bytes_keeps_the_newest():
    node = Node(TopicConfig(retention_bytes=1000))
    for number in range(50):
        node.produce(number, [b"x" * 100])
    described = node.ask(Type.DESCRIBE, messages.Describe([P])).partitions[0]
    assert described.bytes <= 1000 + 300
    assert (described.end_offset, node.fetch(described.start_offset)[0][0]) == (50, described.start_offset)


def test_retention_by_age_removes_what_is_old():
    node = Node(TopicConfig(retention_ms=1000))
    node.produce(0)
    node.wall += 5000
    node.now += 5000 * MS
    node.produce(1)
    node.now += 5000 * MS
    node.turn()
    described = node.ask(Type.DESCRIBE, messages.Describe([P])).partitions[0]
    assert (described.start_offset, described.end_offset) == (1, 2)


def test_a_memory_ring_is_bounded_and_never_reuses_offsets():
    node = Node(TopicConfig(durability="memory", retention_bytes=2000))
    for number in range(100):
        node.produce(number, [b"x" * 100])
    described = node.ask(Type.DESCRIBE, messages.Describe([P])).partitions[0]
    assert (described.bytes <= 2000, described.end_offset) == (True, 100)
    node.restart()
    assert node.produce(0).base_offset > 100


def test_a_memory_topic_reserves_its_offsets_also_in_a_turn_that_is_repeated():
    """What was told in the repeat was appended before, and is nevertheless never given again."""
    node = Node(TopicConfig(durability="memory"))
    payload = batch.encode_columns(0, None, [b"v"], None)
    header, payload = batch.seal(
        payload, codec=0, flags=0, count=1, base_timestamp=0, max_timestamp=0, producer_id=5, producer_epoch=0,
        base_sequence=0, last_sequence=0, partition=P,
    )  # fmt: skip
    leader = node.turn(Type.PRODUCE, messages.Produce(header, payload, payload), commit=False)
    node.disk.abandon()
    leader.abandon()
    leader.reload(node.disk.write())
    assert node.produce(0).base_offset == 0
    node.restart()
    assert node.produce(0).base_offset > 0


def test_a_size_bound_takes_nothing_from_a_topic_that_is_only_compacted():
    node = Node(TopicConfig(cleanup="compact", retention_bytes=1000))
    for number in range(20):
        node.produce(number, [b"x" * 100], keys_=[b"%d" % number])
    assert [offset for offset, _ in node.fetch(0)] == list(range(20))


def test_shared_commits_are_answered_together():
    node = Node(TopicConfig(commit_interval_ms=1000))
    payload = batch.encode_columns(0, None, [b"v"], None)
    for number in range(3):
        header, payload = batch.seal(
            payload, codec=0, flags=0, count=1, base_timestamp=0, max_timestamp=0, producer_id=5, producer_epoch=0,
            base_sequence=number, last_sequence=number, partition=P,
        )  # fmt: skip
        assert node.turn(Type.PRODUCE, messages.Produce(header, payload, payload)) == ([], [])
    node.now += 1000 * MS
    answers, published = node.turn()
    assert [answer.body.base_offset for answer in answers] == [0, 1, 2]
    assert len(published) >= 3


def test_os_batches_are_in_the_journal_before_they_are_told():
    node = Node(TopicConfig(durability="os"))
    for number in range(5):
        node.produce(number)
    node.restart()
    assert node.fetch(0) == [(number, b"v") for number in range(5)]
    assert node.produce(4).duplicate == 1


def test_a_full_disk_refuses_appends_and_still_reads(node):
    node.produce(0)
    node.leader.storage_full = errors.StorageFull(directory="d", free=1, reserve=2)
    with pytest.raises(errors.StorageFull) as refused:
        node.produce(1)
    assert refused.value.retriable
    assert node.fetch(0) == [(0, b"v")]


def test_committed_offsets_never_go_back_unless_forced(node):
    """I9."""
    node.produce(0, [b"v"] * 10)

    def commit(offset, *, force=False):
        node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets("g", [messages.CommitOffset(P, offset)], force))
        return node.ask(Type.GET_OFFSETS, messages.GetOffsets("g", [P])).parts[0].offset

    assert (commit(5), commit(3), commit(2, force=True)) == (5, 5, 2)
    node.restart()
    assert commit(1) == 2
    with pytest.raises(errors.OffsetOutOfRange):
        commit(11)
    with pytest.raises(errors.InvalidArgument):
        node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets("../x", []))


def test_compaction_keeps_the_latest_and_covers_every_offset():
    node = Node(TopicConfig(cleanup="compact", tombstone_ms=0))
    for number in range(300):
        node.produce(number, [b"%d" % number + bytes(8000)], keys_=[b"%d" % (number % 3)])
    node.produce(300, [None], keys_=[b"0"])
    node.wall += 10
    for _ in range(50):
        node.now += 1000 * MS
        node.turn()
    kept = node.fetch(0, most=16 << 20)
    assert [offset for offset, _ in kept] == [298, 299]
    answers, _ = node.turn(Type.FETCH, messages.Fetch(16 << 20, [messages.FetchPart(P, 0)]))
    expected = 0
    for header, raw, payload in batch.split(answers[0].rest[0]):
        assert batch.damage(raw, payload, header, P, expected) == ""
        expected = header.next_offset
    assert expected == 301


def test_what_is_fetched_comes_in_frames_of_the_size_that_is_asked_for(node):
    """Each complete one shows a consumer on a slow link that its leader is alive."""
    node.produce(0, [bytes(100_000)])
    part = messages.FetchPart(P, 0)
    [whole] = node.turn(Type.FETCH, messages.Fetch(1 << 20, [part]))[0]
    [parted] = node.turn(Type.FETCH, messages.Fetch(1 << 20, [part], 16_384))[0]
    assert (parted.body, parted.rest) == (whole.body, whole.rest)
    for wrong in (16_383, (16 << 20) + 1):
        with pytest.raises(errors.InvalidArgument):
            node.ask(Type.FETCH, messages.Fetch(1 << 20, [part], wrong))
    held, answer = node.turn(Type.FETCH, messages.Fetch(1 << 20, [part], 16_384, True))[0]
    assert (held.type, held.body.bytes, answer.body) == (Type.HELD, len(whole.rest[0]), whole.body)


def test_a_deleted_topic_leaves_no_rows(node):
    node.produce(0)
    node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets("g", [messages.CommitOffset(P, 1)]))
    node.turn(Type.ASSIGN, Assign("f", 2, [], [1]))
    node.now += 1000 * MS
    node.turn()
    assert [key for key, _ in node.disk.items() if not key.startswith(keys.VOLUME)] == []
    with pytest.raises(errors.NotLeader):
        node.fetch(0)


def test_a_failed_commit_tells_nobody(node):
    node.disk.fail_next_commit = True
    with pytest.raises(errors.StorageFailed):
        node.produce(0)


def topic_of(number, *partitions):
    places = [PartitionPlace(partition, at, 0) for at, partition in enumerate(partitions)]
    return AssignedTopic(number, f"t{number}", TopicConfig(), places)


def test_an_assignment_after_a_lost_one_is_not_taken(node):
    """Else what the lost one said would never be asked for again."""
    node.turn(Type.ASSIGN, Assign("f", 3, [topic_of(3, 30)], [], 2))
    assert (node.leader.assignment_version, node.leader.leads(30)) == (1, False)
    node.turn(Type.ASSIGN, Assign("f", 3, [topic_of(2, 20), topic_of(3, 30)], [], 1))
    assert (node.leader.assignment_version, node.leader.leads(20), node.leader.leads(30)) == (3, True, True)
    node.turn(Type.ASSIGN, Assign("f", 2, [], [3], 1))
    assert node.leader.leads(30)


def test_a_search_by_time_that_has_to_read_the_log_goes_on_turn_by_turn(monkeypatch):
    """A record that claimed a far future leaves no time index behind when it is removed."""
    monkeypatch.setattr(reading, "SEARCH_BYTES", 5 * 1024)
    node = Node(TopicConfig(retention_bytes=20_000))
    node.produce(0, time=1 << 42)
    for number in range(1, 60):
        node.produce(number, [bytes(300)], time=1000 + number)
    parts = [messages.FindOffset(P, wanted) for wanted in (1055, -1, 1040, 1 << 43)]
    left, steps = Command(Type.FIND_OFFSETS, 0, 9, messages.FindOffsets(parts), ()), 0
    with node.disk.read() as txn:
        while left is not None:
            left, steps = node.leader.answer(b"peer", left, txn), steps + 1
            effects = node.leader.take_effects()
            assert bool(effects) == (left is None)
    found = messages.read(effects[0].frames).body.parts
    assert found[0].start_offset > 0, "the first record is to be gone"
    assert [part.offset for part in found] == [55, 60, 40, 60]
    assert steps > 5


def test_a_search_by_time_reads_no_payload_but_that_of_the_batch_it_looks_for(node):
    """What lies between may be large, or damaged."""
    for number in range(3):
        node.produce(number, time=1_000 + number)
    for offset in (1, 2):
        row = bytearray(node.disk.value_at(keys.batch(P, offset)))
        row[-1] ^= 1
        node.disk.change(keys.batch(P, offset), bytes(row))
    for wanted in (1_001, 1_002):
        with pytest.raises(errors.CorruptBatch) as found:
            node.ask(Type.FIND_OFFSETS, messages.FindOffsets([messages.FindOffset(P, wanted)]))
        assert found.value.offset == wanted - 1_000


@pytest.mark.parametrize("only", ["", "b"])
def test_groups_are_listed_in_answers_of_a_bounded_length(node, monkeypatch, only):
    """However many there are: who asks goes on behind the last entry, by partition and name."""
    monkeypatch.setattr(reading, "LISTED_MAX", 2)
    node.turn(Type.ASSIGN, Assign("f", 2, [topic_of(2, 20), topic_of(3, 4)], [], 1))
    committed = [(P, "a"), (P, "b"), (P, "c"), (4, "b"), (20, "b"), (20, "d")]
    for place, name in reversed(committed):
        node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets(name, [messages.CommitOffset(place, 0)]))
    listed, sizes, more = [(0, "")], [], True
    while more:
        answer = node.ask(Type.LIST_GROUPS, messages.ListGroups(only, *listed[-1]))
        listed += [(part.partition, part.group) for part in answer.parts]
        sizes.append(len(answer.parts))
        more = answer.more
    assert listed[1:] == [entry for entry in committed if only in ("", entry[1])]
    assert max(sizes) == 2


def test_a_commit_of_several_partitions_is_stored_whole_or_not_at_all(node, monkeypatch):
    """A refusal must not leave half of it behind, nor count groups that are not there."""
    monkeypatch.setattr(groups, "GROUPS_PER_PARTITION_MAX", 2)
    node.turn(Type.ASSIGN, Assign("f", 2, [topic_of(2, 20)], [], 1))
    full, free = messages.CommitOffset(P, 0), messages.CommitOffset(20, 0)
    for name in ("a", "b"):
        node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets(name, [full]))
    for _ in range(5):
        with pytest.raises(errors.LimitExceeded):
            node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets("c", [free, full]))
    assert node.ask(Type.GET_OFFSETS, messages.GetOffsets("c", [20])).parts[0].offset == -1
    node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets("d", [free]))
    node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets("e", [free, free]))
    with pytest.raises(errors.LimitExceeded):
        node.ask(Type.COMMIT_OFFSETS, messages.CommitOffsets("f", [free]))
