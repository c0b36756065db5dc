"""The partition leader: the only moving part of a fabric, wherever it runs.

Promise: an answer PRODUCED means that the batch is as durable as its topic says, and that a repeat of it will get the
same answer. Only committed batches are published or served.

The shell (``turn.py`` holds the part without I/O) runs turns. In each it

1. calls :meth:`Leader.clock` with the time,
2. hands every waiting command that changes something to :meth:`Leader.handle` with the open write transaction, calls
   :meth:`Leader.tick` if :meth:`Leader.next_deadline` has come, then :meth:`Leader.flush`,
3. makes the turn durable: a synced commit if :attr:`Leader.must_sync`, else :attr:`Leader.journal` (what "os" topics
   got) written to the page cache, and says so by :meth:`Leader.settled`,
4. hands every waiting command that only reads to :meth:`Leader.answer`,
5. performs :meth:`Leader.take_effects`.

If the transaction has to be given up before 3 (the map is full), the shell calls :meth:`Leader.abandon`, and
:meth:`Leader.reload` with the next one, and repeats the turn with the same commands. If it fails otherwise, the
process ends: nothing was acknowledged.

Commands of topics with a ``commit_interval`` wait in the leader for their shared commit, in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from zfabric import errors
from zfabric.core import rows
from zfabric.core.effects import LeaderEffect, Publish, Reply
from zfabric.core.leader import groups, keys
from zfabric.core.leader.log import MemoryLog, StoredLog
from zfabric.core.leader.partition import DURABILITY_CODE, Partition
from zfabric.core.leader.staging import Staging
from zfabric.core.transaction import Transaction
from zfabric.model import Buffer
from zfabric.settings import (
    BATCH_OVERHEAD_MAX,
    FETCH_BYTES_MAX,
    FETCH_PARTITIONS_MAX,
    GROUP_BYTES_MAX,
    LeaderSettings,
    check_name,
    check_range,
)
from zfabric.wire import batch, messages
from zfabric.wire.messages import Command, Type

TRIM_WITH_APPEND = 4
TRIM_STEP = 64
COMPACT_STEP_BYTES = 4 << 20
DOOMED_STEP = 256
EXPIRE_STEP = 256
SWEEP_PARTITIONS = 100
BUSY_NS = 5_000_000
_DOOMED_TABLES = (keys.BATCH, keys.EPOCH, keys.GROUP, keys.STATE, keys.PRODUCER, keys.TIME)

_encode = msgspec.msgpack.Encoder().encode
_decode_topic = msgspec.msgpack.Decoder(messages.AssignedTopic).decode


class Counters:
    """What a leader has done since it started: plain numbers, exported by the shell."""

    __slots__ = (
        "batches_in",
        "bytes_in",
        "bytes_out",
        "duplicates",
        "errors",
        "fetched_bytes",
        "published",
        "records_in",
        "records_out",
        "trimmed",
    )

    def __init__(self) -> None:
        self.batches_in = 0
        self.bytes_in = 0
        self.records_in = 0
        self.records_out = 0
        self.bytes_out = 0
        self.duplicates = 0
        self.published = 0
        self.fetched_bytes = 0
        self.trimmed = 0
        self.errors = 0


class Leader:
    """All partitions of one leader process. See the module for how a shell drives it.

    Attributes:
        id: number of this leader in its fabric. fabric: the fabric's id (text).
        epoch: leader epoch of everything appended since this start.
        must_sync: this turn changed something that needs a synced commit.
        journal: what the turn appended to "os" topics, (header, payload) each.
        storage_full: set by the shell while the disk reserve is reached; appends to stored topics are refused with it.
        bytes_written: set by the shell: bytes that the volume wrote since the start.
    """

    def __init__(self, leader_id: int, settings: LeaderSettings, *, software: str = "zfabric") -> None:
        self.id = leader_id
        self.fabric = ""
        self.epoch = 0
        self.counters = Counters()
        self.must_sync = False
        self.journal: list[tuple[bytes, Buffer]] = []
        self.storage_full: errors.StorageFull | None = None
        self.bytes_written = 0
        self.assignment_version = 0
        self._settings = settings
        self._software = software
        self._payload_max = settings.frame_bytes_max
        self._now = 0
        self._wall_ms = 0
        self._effects: list[LeaderEffect] = []
        self._topics: dict[int, messages.AssignedTopic] = {}
        self._places: dict[int, tuple[messages.AssignedTopic, int]] = {}
        self._partitions: dict[int, Partition] = {}
        self._dirty: dict[int, Partition] = {}
        self._heads: dict[int, int] = {}
        self._touched_rings: dict[int, Partition] = {}
        self._staging = Staging(settings.turn_bytes)
        self._unstaging = False
        self._doomed: list[int] = []
        self._sweep: list[int] = []
        self._expiring: dict[int, int] = {}
        self._maintenance_due = 0
        self._writers: dict[int, Callable[[bytes, Command, Transaction], None]] = {
            Type.PRODUCE: self._produce,
            Type.INIT_PRODUCER: self._init_producer,
            Type.COMMIT_OFFSETS: self._commit_offsets,
            Type.DELETE_GROUP: self._delete_group,
            Type.ASSIGN: self._assign,
        }
        self._readers: dict[int, Callable[[bytes, Command, Transaction], None]] = {
            Type.HELLO: self._hello,
            Type.FETCH: self._fetch,
            Type.DESCRIBE: self._describe,
            Type.FIND_OFFSETS: self._find_offsets,
            Type.GET_OFFSETS: self._get_offsets,
            Type.LIST_GROUPS: self._list_groups,
        }

    # The shell's side.

    @property
    def writes(self) -> frozenset[int]:
        """Command types for :meth:`handle`."""
        return frozenset(self._writers)

    @property
    def reads(self) -> frozenset[int]:
        """Command types for :meth:`answer`."""
        return frozenset(self._readers)

    def start(self, txn: Transaction) -> None:
        """Begin on a volume: take the next leader epoch and load what was assigned. Needs a synced commit."""
        row = txn.get(keys.volume("epoch"))
        self.epoch = (keys.U64.unpack(row)[0] if row is not None else 0) + 1
        txn.put(keys.volume("epoch"), keys.U64.pack(self.epoch))
        self.reload(txn)
        self.must_sync = True

    def reload(self, txn: Transaction) -> None:
        """Load what was assigned: at the start, and after :meth:`abandon`."""
        self._topics.clear()
        self._places.clear()
        self._doomed.clear()
        row = txn.get(keys.volume("fabric"))
        self.fabric = bytes(row).decode() if row is not None else ""
        row = txn.get(keys.volume("assignment"))
        self.assignment_version = keys.U64.unpack(row)[0] if row is not None else 0
        cursor = txn.cursor()
        found = cursor.set_range(keys.ASSIGNED)
        while found and bytes(cursor.key()[:1]) == keys.ASSIGNED:
            topic = f"topic id {keys.split_id(cursor.key())[0]}"
            self._take_topic(rows.decode(_decode_topic, cursor.value(), topic))
            found = cursor.next()
        found = cursor.set_range(keys.DOOMED)
        while found and bytes(cursor.key()[:1]) == keys.DOOMED:
            self._doomed.append(keys.split_id(cursor.key())[0])
            found = cursor.next()

    def restore(self, entry: Buffer, txn: Transaction) -> None:
        """Put a journal entry (header and payload) back that a crash took out of the transaction."""
        raw, payload = entry[: batch.HEADER_BYTES], entry[batch.HEADER_BYTES :]
        header = batch.parse(raw)
        if header.partition not in self._places:
            return
        partition = self._partition(header.partition, txn)
        if isinstance(partition.log, StoredLog) and partition.log.restore(header, raw, payload, txn):
            if header.producer_id:
                partition.producers.remember(header, header.base_offset, header.append_time, txn)
            self._dirty[partition.id] = partition
            self.must_sync = True

    def clock(self, now: int, wall_ms: int) -> None:
        """Begin a turn at ``now`` (monotonic ns) and ``wall_ms`` (ms since 1970)."""
        self._now = now
        self._wall_ms = wall_ms

    def handle(self, peer: bytes, command: Command, txn: Transaction) -> None:
        """Take a command that changes something; its answer becomes an effect."""
        try:
            self._writers[command.type](peer, command, txn)
        except errors.ZFabricError as error:
            self._refuse(peer, command, error)

    def answer(self, peer: bytes, command: Command, txn: Transaction) -> None:
        """Take a command that only reads what is committed."""
        try:
            self._readers[command.type](peer, command, txn)
        except errors.ZFabricError as error:
            self._refuse(peer, command, error)

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        deadlines = []
        if self._heads:
            deadlines.append(next(iter(self._heads.values())))
        staged = self._staging.next_deadline()
        if staged is not None:
            deadlines.append(staged)
        if self._places or self._doomed:
            deadlines.append(self._maintenance_due)
        return min(deadlines, default=None)

    def tick(self, txn: Transaction) -> None:
        """Do what is due: shared commits, HEAD beacons, one step of maintenance."""
        for partition_id in self._staging.due(self._now):
            self._unstage(partition_id, txn)
        while self._heads:
            partition_id, due_ns = next(iter(self._heads.items()))
            if due_ns > self._now:
                break
            del self._heads[partition_id]
            self._publish_head(partition_id)
        if self._maintenance_due <= self._now:
            self._maintain(txn)

    def flush(self, txn: Transaction) -> None:
        """Write the rows of all partitions that the turn changed."""
        for partition in self._dirty.values():
            partition.flush(txn)
        self._dirty.clear()

    def settled(self) -> None:
        """The turn is as durable as it has to be."""
        self.must_sync = False
        self.journal.clear()
        self._staging.settled()
        for partition in self._touched_rings.values():
            assert isinstance(partition.log, MemoryLog)
            partition.log.settled()
            partition.producers.settled()
        self._touched_rings.clear()

    def abandon(self) -> None:
        """The transaction was given up: forget what was only in it; partitions are loaded again when used.

        Memory topics take back what the turn did to them.
        """
        self._unstaging = False
        self._staging.abandon(self._now)
        self._effects.clear()
        self._dirty.clear()
        self.must_sync = False
        self.journal.clear()
        for partition_id, held in list(self._partitions.items()):
            if isinstance(held.log, MemoryLog):
                held.log.abandon()
                held.producers.abandon()
                held.groups = -1
            else:
                del self._partitions[partition_id]
        self._touched_rings.clear()

    def postpone(self) -> None:
        """Try what is due later: there is no room for it now."""
        self._maintenance_due = self._now + self._settings.maintenance_ms * 1_000_000
        self._staging.postpone(self._maintenance_due)

    def hasten(self) -> None:
        """Let nothing wait for a shared commit any more: this is the last turn."""
        self._staging.hasten(self._now)

    def take_effects(self) -> list[LeaderEffect]:
        """Return what is to be done now that the turn is durable."""
        effects, self._effects = self._effects, []
        return effects

    def partition_ids(self) -> frozenset[int]:
        """Ids of the partitions led here: what may be subscribed to."""
        return frozenset(self._places)

    def led(self) -> int:
        """Return the number of partitions led here."""
        return len(self._places)

    def leads(self, partition: int) -> bool:
        """Tell whether ``partition`` is led here."""
        return partition in self._places

    # Commands that change something.

    def _refuse(self, peer: bytes, command: Command, error: errors.ZFabricError) -> None:
        self.counters.errors += 1
        if not (command.type == Type.PRODUCE and command.flags & messages.FLAG_NO_ANSWER):
            self._reply(peer, messages.failure(command.request, error))

    def _reply(self, peer: bytes, frame: bytes) -> None:
        self._effects.append(Reply(peer, (frame,)))

    def _partition(self, partition_id: int, txn: Transaction) -> Partition:
        partition = self._partitions.get(partition_id)
        if partition is None:
            place = self._places.get(partition_id)
            if place is None:
                raise errors.NotLeader(leader=self.id, partition=partition_id)
            topic, number = place
            partition = self._partitions[partition_id] = Partition(partition_id, topic.name, number, topic.config, txn)
        return partition

    def _produce(self, peer: bytes, command: Command, txn: Transaction) -> None:
        body: messages.Produce = command.body
        header = batch.parse(body.header)
        partition = self._partition(header.partition, txn)
        if partition.config.commit_interval_ms and not self._unstaging:
            due_ns = self._now + partition.config.commit_interval_ms * 1_000_000
            self._staging.add(partition.id, peer, command, self._now, due_ns)
            return
        stored = isinstance(partition.log, StoredLog)
        if self.storage_full is not None and stored:
            raise self.storage_full
        payload_max = min(partition.config.record_bytes_max + BATCH_OVERHEAD_MAX, self._payload_max)
        batch.check_produced(header, body.payload, payload_max)
        if header.producer_id:
            original = partition.producers.check(header, txn)
            if original is not None:
                self.counters.duplicates += 1
                self._answer_produce(peer, command, partition, original.base_offset, original.append_time, 1)
                return
        base, wall = partition.log.state.end, self._wall_ms
        stamped = partition.log.append(header, body.header, body.payload, self.epoch, wall, txn)
        if header.producer_id:
            partition.producers.remember(header, base, wall, txn)
        self._appended(partition, header, stamped, body, txn)
        self._answer_produce(peer, command, partition, base, wall, 0)

    def _appended(
        self, partition: Partition, header: batch.BatchHeader, stamped: bytes, body: messages.Produce, txn: Transaction
    ) -> None:
        config, log = partition.config, partition.log
        over = "delete" in config.cleanup and 0 <= config.retention_bytes < log.state.bytes
        if over or not isinstance(log, StoredLog):
            self.counters.trimmed += log.trim(config, self._wall_ms, TRIM_WITH_APPEND, txn)
        counters = self.counters
        counters.batches_in += 1
        counters.records_in += header.records
        counters.bytes_in += header.payload_length + batch.HEADER_BYTES
        counters.published += 1
        self._dirty[partition.id] = partition
        if partition.durability == 0:
            self.must_sync = True
        elif partition.durability == 1:
            self.journal.append((stamped, body.payload))
        elif isinstance(log, MemoryLog):
            self._touched_rings[partition.id] = partition
            # The offsets given ahead are written down before any of them is told.
            self.must_sync |= log.state.end > log.reserved
        self._effects.append(Publish((messages.PARTITION.pack(partition.id), stamped, body.part)))
        partition.published = log.state.end
        self._heads.pop(partition.id, None)
        self._heads[partition.id] = self._now + self._settings.head_ms * 1_000_000

    def _answer_produce(
        self, peer: bytes, command: Command, partition: Partition, base: int, append_time: int, duplicate: int
    ) -> None:
        if command.flags & messages.FLAG_NO_ANSWER:
            return
        epoch = partition.log.state.epoch
        self._reply(peer, messages.produced(command.request, base, append_time, epoch, partition.durability, duplicate))

    def _unstage(self, partition_id: int, txn: Transaction) -> None:
        self._unstaging = True
        for peer, command in self._staging.take(partition_id):
            self.handle(peer, command, txn)
        self._unstaging = False

    def _init_producer(self, peer: bytes, command: Command, txn: Transaction) -> None:
        body: messages.InitProducer = command.body
        check_range("producer id", body.producer, 1, (1 << 64) - 1)
        partition = self._partition(body.partition, txn)
        state = partition.producers.begin(body.producer, body.instance, body.attempt, self._wall_ms, txn)
        self._dirty[partition.id] = partition
        if isinstance(partition.log, MemoryLog):
            self._touched_rings[partition.id] = partition
        self.must_sync = True
        self._reply(
            peer,
            messages.command(Type.PRODUCER_IS, command.request, messages.ProducerIs(state.epoch, state.sparse_last)),
        )

    def _commit_offsets(self, peer: bytes, command: Command, txn: Transaction) -> None:
        body: messages.CommitOffsets = command.body
        check_name("group", body.group, GROUP_BYTES_MAX)
        # All of it is checked before any of it is stored.
        for part in body.parts:
            partition = self._partition(part.partition, txn)
            state = partition.log.state
            if not 0 <= part.offset <= state.end:
                place = self._places[part.partition]
                raise errors.OffsetOutOfRange(
                    topic=place[0].name, partition=place[1], offset=part.offset, start=0, end=state.end
                )
            groups.check_room(partition, body.group, txn)
        for part in body.parts:
            groups.commit(
                self._partition(part.partition, txn), body.group, part.offset, self._wall_ms, txn, force=body.force
            )
        self.must_sync = True
        self._reply(peer, messages.command(Type.DONE, command.request, messages.Empty()))

    def _delete_group(self, peer: bytes, command: Command, txn: Transaction) -> None:
        body: messages.DeleteGroup = command.body
        check_name("group", body.group, GROUP_BYTES_MAX)
        for partition_id in self._places:
            if groups.forget(partition_id, body.group, txn) and partition_id in self._partitions:
                self._partitions[partition_id].groups = -1
        self.must_sync = True
        self._reply(peer, messages.command(Type.DONE, command.request, messages.Empty()))

    def _assign(self, peer: bytes, command: Command, txn: Transaction) -> None:
        body: messages.Assign = command.body
        if body.version <= self.assignment_version and self.fabric == body.fabric:
            return
        if body.since > self.assignment_version:
            return  # One before this was lost; the next ATTACH asks for all that came after ours.
        if self.fabric and self.fabric != body.fabric:
            raise errors.ProtocolViolation(problem=f"assignment of fabric {body.fabric!r}", allowed=repr(self.fabric))
        if not self.fabric:
            self.fabric = body.fabric
            txn.put(keys.volume("fabric"), body.fabric.encode())
        for topic in body.topics:
            txn.put(keys.assigned(topic.id), _encode(topic))
            self._take_topic(topic)
        for topic_id in body.gone:
            self._drop_topic(topic_id, txn)
        self.assignment_version = body.version
        txn.put(keys.volume("assignment"), keys.U64.pack(body.version))
        self.must_sync = True

    def _take_topic(self, topic: messages.AssignedTopic) -> None:
        self._topics[topic.id] = topic
        for place in topic.partitions:
            self._places[place.id] = (topic, place.number)
            partition = self._partitions.get(place.id)
            if partition is not None:
                partition.config = topic.config
                partition.durability = DURABILITY_CODE[topic.config.durability]

    def _drop_topic(self, topic_id: int, txn: Transaction) -> None:
        topic = self._topics.pop(topic_id, None)
        if topic is None:
            return
        txn.delete(keys.assigned(topic_id))
        for place in topic.partitions:
            txn.put(keys.doomed(place.id), b"")
            self._doomed.append(place.id)
            self._places.pop(place.id, None)
            self._partitions.pop(place.id, None)
            self._dirty.pop(place.id, None)
            self._heads.pop(place.id, None)
            self._expiring.pop(place.id, None)
            for peer, waiting in self._staging.take(place.id):
                self._refuse(peer, waiting, errors.NotLeader(leader=self.id, partition=place.id))

    # Commands that read.

    def _hello(self, peer: bytes, command: Command, txn: Transaction) -> None:
        body: messages.Hello = command.body
        version = min(body.highest, messages.VERSION)
        if version < max(body.lowest, messages.LOWEST_VERSION):
            raise errors.UnsupportedVersion(
                version=body.highest, lowest=messages.LOWEST_VERSION, highest=messages.VERSION
            )
        welcome = messages.Welcome(version, self.fabric, self.id, self._settings.frame_bytes_max, self._software)
        self._reply(peer, messages.command(Type.WELCOME, command.request, welcome))

    def _fetch(self, peer: bytes, command: Command, txn: Transaction) -> None:
        body: messages.Fetch = command.body
        check_range("fetch partitions", len(body.parts), 1, FETCH_PARTITIONS_MAX)
        check_range("fetch max_bytes", body.max_bytes, 1, FETCH_BYTES_MAX, "bytes")
        budget = body.max_bytes
        results: list[messages.FetchedPart] = []
        blob: list[Any] = []
        for part in body.parts:
            try:
                partition = self._partition(part.partition, txn)
                found, size = partition.log.read(part.offset, budget, txn) if budget > 0 else ([], 0)
            except errors.ZFabricError as error:
                held = self._partitions.get(part.partition)
                start, end = (held.log.state.start, held.log.state.end) if held else (0, 0)
                failed = messages.failure_body(error)
                results.append(messages.FetchedPart(part.partition, start, end, self.epoch, 0, failed))
                continue
            state = partition.log.state
            results.append(messages.FetchedPart(part.partition, state.start, state.end, state.epoch, size))
            blob += found
            self.counters.records_out += sum(map(batch.record_count, found[::2]))
            budget -= size
        joined = b"".join(blob)
        self.counters.fetched_bytes += len(joined)
        self.counters.bytes_out += len(joined)
        frame = messages.command(Type.FETCHED, command.request, messages.Fetched(results))
        self._effects.append(Reply(peer, (frame, joined)))

    def _describe(self, peer: bytes, command: Command, txn: Transaction) -> None:
        body: messages.Describe = command.body
        amplification = self.bytes_written / self.counters.bytes_in if self.counters.bytes_in else 0.0
        described = []
        for partition_id in body.partitions:
            partition = self._partition(partition_id, txn)
            state = partition.log.state
            described.append(
                messages.PartitionIs(
                    partition_id,
                    state.epoch,
                    state.start,
                    state.end,
                    state.bytes,
                    state.batches,
                    partition.config.durability,
                    amplification if isinstance(partition.log, StoredLog) else 0.0,
                )
            )
        self._reply(peer, messages.command(Type.DESCRIBED, command.request, messages.Described(described)))

    def _find_offsets(self, peer: bytes, command: Command, txn: Transaction) -> None:
        body: messages.FindOffsets = command.body
        parts = []
        for part in body.parts:
            log = self._partition(part.partition, txn).log
            state = log.state
            special = {-1: state.end, -2: state.start}
            offset = special[part.timestamp] if part.timestamp in special else log.find_time(part.timestamp, txn)
            parts.append(messages.OffsetIs(part.partition, offset, state.start, state.end))
        self._reply(peer, messages.command(Type.OFFSETS_ARE, command.request, messages.OffsetsAre(parts)))

    def _get_offsets(self, peer: bytes, command: Command, txn: Transaction) -> None:
        body: messages.GetOffsets = command.body
        check_name("group", body.group, GROUP_BYTES_MAX)
        parts = [self._committed(body.group, partition_id, txn) for partition_id in body.partitions]
        self._reply(peer, messages.command(Type.COMMITTED_ARE, command.request, messages.CommittedAre(parts)))

    def _committed(self, group: str, partition_id: int, txn: Transaction) -> messages.Committed:
        row = groups.committed(partition_id, group, txn)
        end = self._partition(partition_id, txn).log.state.end
        offset, timestamp = (row.offset, row.timestamp) if row is not None else (-1, 0)
        return messages.Committed(group, partition_id, offset, timestamp, end)

    def _list_groups(self, peer: bytes, command: Command, txn: Transaction) -> None:
        parts = [
            self._committed(group, partition_id, txn)
            for partition_id in self._places
            for group in groups.names(partition_id, txn)
        ]
        self._reply(peer, messages.command(Type.COMMITTED_ARE, command.request, messages.CommittedAre(parts)))

    # What is done in its own time.

    def _publish_head(self, partition_id: int) -> None:
        partition = self._partitions.get(partition_id)
        if partition is not None:
            state = partition.log.state
            head = messages.HEAD.pack(state.end, state.epoch)
            self._effects.append(Publish((messages.PARTITION.pack(partition_id), head)))

    def _maintain(self, txn: Transaction) -> None:
        busy = self._remove_doomed(txn)
        if not self._sweep:
            self._sweep = list(self._places)
        for _ in range(min(SWEEP_PARTITIONS, len(self._sweep))):
            partition_id = self._sweep.pop()
            if partition_id in self._places:
                try:
                    more = self._maintain_partition(partition_id, txn)
                except errors.CorruptRow:
                    self.counters.errors += 1  # Whoever uses the partition is told.
                    continue
                if more:
                    # One full step is enough for a turn, and those that wait come before the next one here.
                    self._sweep.insert(0, partition_id)
                    busy = True
                    break
        self._maintenance_due = self._now + (BUSY_NS if busy else self._settings.maintenance_ms * 1_000_000)

    def _maintain_partition(self, partition_id: int, txn: Transaction) -> bool:
        """Do one step of retention, compaction and expiry; tells whether more is waiting."""
        partition = self._partition(partition_id, txn)
        config, log = partition.config, partition.log
        removed = log.trim(config, self._wall_ms, TRIM_STEP, txn) if "delete" in config.cleanup else 0
        busy = removed == TRIM_STEP
        changed = removed > 0
        self.counters.trimmed += removed
        if isinstance(log, StoredLog):
            if partition.wants_compaction(self._wall_ms, self._settings.compact_after_ms, txn):
                busy |= partition.compact(self._wall_ms, COMPACT_STEP_BYTES, txn)
                self.counters.errors += partition.damaged
                changed = True
            changed |= self._expire(partition, txn)
        if changed:
            self._dirty[partition_id] = partition
            self.must_sync |= isinstance(log, StoredLog)
        return busy

    def _expire(self, partition: Partition, txn: Transaction) -> bool:
        after = self._expiring.get(partition.id, 0)
        removed, after = partition.producers.expire(self._wall_ms, EXPIRE_STEP, max(after, 0), txn)
        self._expiring[partition.id] = after
        return removed > 0

    def _remove_doomed(self, txn: Transaction) -> bool:
        """Remove some rows of deleted partitions; tells whether more are left."""
        left = DOOMED_STEP
        while self._doomed and left:
            partition_id = self._doomed[-1]
            for table in _DOOMED_TABLES:
                mine = keys.prefix(table, partition_id)
                cursor = txn.cursor()
                while left and cursor.set_range(mine) and bytes(cursor.key()[:5]) == mine:
                    txn.delete(bytes(cursor.key()))
                    cursor = txn.cursor()
                    left -= 1
            if left:
                txn.delete(keys.doomed(partition_id))
                self._doomed.pop()
                left -= 1
            self.must_sync = True
        return bool(self._doomed)
