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
from contextlib import suppress
from itertools import islice

from zfabric import errors
from zfabric.core.effects import LeaderEffect, Publish, Reply
from zfabric.core.leader import express, groups, lineage
from zfabric.core.leader.arrivals import Arrivals
from zfabric.core.leader.assigned import Assigned
from zfabric.core.leader.commits import Commits
from zfabric.core.leader.copies import Copies, Keep
from zfabric.core.leader.counters import Counters
from zfabric.core.leader.cutting import announcement
from zfabric.core.leader.damage import Damage
from zfabric.core.leader.keepers import Keepers
from zfabric.core.leader.log import StoredLog
from zfabric.core.leader.maintenance import Maintenance
from zfabric.core.leader.memory import MemoryLog
from zfabric.core.leader.partition import Partition
from zfabric.core.leader.reading import Reading
from zfabric.core.leader.staging import Staging
from zfabric.core.transaction import Transaction
from zfabric.model import Buffer, TopicConfig
from zfabric.settings import BATCH_OVERHEAD_MAX, ENDS_MAX, GROUP_BYTES_MAX, LeaderSettings, check_name, check_range
from zfabric.wire import batch, messages
from zfabric.wire.messages import Command, Type
from zfabric.wire.metadata import PartitionEnd
from zfabric.wire.replication import KeptPlace, Share, SharedOffset


class Leader:
    """All partitions of one leader process. See the module for how a shell drives it.

    Attributes:
        id: number of this leader in its fabric.
        must_sync: this turn changed something that needs a synced commit.
        journal: what the turn appended to "os" topics, (header, payload) each.
        storage_full: set by the shell while the disk reserve is reached; appends to stored topics are refused with it.
        copies: of other fabrics' partitions, for the follower. damage: what is known of it, for the same.
    """

    def __init__(self, leader_id: int, settings: LeaderSettings, *, software: str = "zfabric") -> None:
        self.id = leader_id
        self.counters = Counters()
        self.must_sync = False
        self.journal: list[tuple[bytes, Buffer]] = []
        self.storage_full: errors.StorageFull | None = None
        self._settings = settings
        self._payload_max = settings.frame_bytes_max
        self._now = 0
        self._wall_ms = 0
        self._effects: list[LeaderEffect] = []
        self._assigned = Assigned(leader_id)
        self._maintenance = Maintenance(self._assigned, settings, self.counters)
        self._commits = Commits()
        self.damage = Damage(self._assigned, self.counters)
        self._keepers = Keepers(self._assigned, self._commits, self.counters, self.damage)
        self._arrivals = Arrivals(self.counters, self._keepers, settings.head_ms * 1_000_000)
        self.copies = Copies(self._assigned, self.damage, settings.origin_expiry_days * 86_400_000)
        self._reading = Reading(
            leader_id, self._assigned, settings, self.counters, software, keepers=self._keepers, copies=self.copies,
            damage=self.damage,
        )  # fmt: skip
        self._dirty: dict[int, Partition] = {}
        self._touched_rings: dict[int, Partition] = {}
        self._staging = Staging(settings.turn_bytes)
        self._unstaging = False
        self._writers: dict[int, Callable[[bytes, Command, Transaction], None]] = {
            Type.PRODUCE: self._produce,
            Type.INIT_PRODUCER: self._init_producer,
            Type.COMMIT_OFFSETS: self._commit_offsets,
            Type.DELETE_GROUP: self._delete_group,
            Type.ASSIGN: self._assign,
            Type.KEEP: self._keep,
            Type.SHARE: self._share,
        }

    # The shell's side.

    @property
    def writes(self) -> frozenset[int]:
        """Command types for :meth:`handle`."""
        return frozenset(self._writers)

    @property
    def reads(self) -> frozenset[int]:
        """Command types for :meth:`answer`."""
        return self._reading.types | {Type.FOLLOW}

    @property
    def fabric(self) -> str:
        """Id of the fabric; empty until the first assignment."""
        return self._assigned.fabric

    @property
    def kept(self) -> dict[int, KeptPlace]:
        """The copies of other fabrics' partitions, by their ids here."""
        return self._assigned.kept

    def config(self, partition_id: int) -> TopicConfig:
        """Return the settings of a partition that is led or kept here."""
        return self._assigned.config(partition_id)

    @property
    def epoch(self) -> int:
        """Leader epoch of everything appended since this start."""
        return self._assigned.epoch

    @property
    def assignment_version(self) -> int:
        """Version of the last assignment."""
        return self._assigned.version

    def start(self, txn: Transaction) -> None:
        """Begin on a volume: take the next leader epoch and load what was assigned. Needs a synced commit."""
        self._assigned.begin(txn)
        self.reload(txn)
        self.must_sync = True

    def reload(self, txn: Transaction) -> None:
        """Load what was assigned: at the start, and after :meth:`abandon`."""
        self._assigned.load(txn)
        self._maintenance.load(txn)

    def restore(self, entry: Buffer, txn: Transaction) -> None:
        """Put a journal entry (header and payload) back that a crash took out of the transaction."""
        raw, payload = entry[: batch.HEADER_BYTES], entry[batch.HEADER_BYTES :]
        header = batch.parse(raw)
        if header.partition not in self._assigned.places:
            return
        partition = self._assigned.partition(header.partition, txn)
        if isinstance(partition.log, StoredLog) and partition.log.restore(header, raw, payload, txn):
            if header.producer_id:
                partition.producers.remember(header, header.base_offset, header.append_time, txn)
            self._dirty[partition.id] = partition
            self.must_sync = True

    def clock(self, now: int, wall_ms: int) -> None:
        """Begin a turn at ``now`` (monotonic ns) and ``wall_ms`` (ms since 1970)."""
        self._now = now
        self._wall_ms = wall_ms
        self.copies.full = self.storage_full
        self._keepers.now = now

    def handle(self, peer: bytes, command: Command, txn: Transaction) -> None:
        """Take a command that changes something; its answer becomes an effect."""
        try:
            self._writers[command.type](peer, command, txn)
        except errors.ZFabricError as error:
            self._refuse(peer, command, error)

    def answer(self, peer: bytes, command: Command, txn: Transaction) -> Command | None:
        """Take a command that only reads what is committed; returns what is left to do of it, in the next turn."""
        try:
            if command.type == Type.FOLLOW:
                answers = self._keepers.follow(peer, command, self._now, txn)
                self._effects += [Reply(waiter, frames) for waiter, frames in answers]
            else:
                answer = self._reading.answer(command, txn)
                if isinstance(answer, Command):
                    return answer
                if command.type == Type.FETCH:
                    announced = announcement(command, sum(map(len, answer[1:])))
                    self._effects += [Reply(peer, announced)] if announced is not None else []
                self._effects.append(Reply(peer, answer))
        except errors.ZFabricError as error:
            self._refuse(peer, command, error)
        return None

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        due_ns = next(iter(self._arrivals.heads.values()), None)
        for machine in (self._staging, self._maintenance, self._keepers):
            wanted = machine.next_deadline()
            if wanted is not None and (due_ns is None or wanted < due_ns):
                due_ns = wanted
        return due_ns

    def tick(self, txn: Transaction) -> None:
        """Do what is due: shared commits, HEAD beacons, signs to keepers, one step of maintenance."""
        self._effects += [Reply(peer, frames) for peer, frames in self._keepers.signs(self._now)]
        for partition_id in self._staging.due(self._now):
            self._unstage(partition_id, txn)
        while self._arrivals.heads:
            partition_id, due_ns = next(iter(self._arrivals.heads.items()))
            if due_ns > self._now:
                break
            del self._arrivals.heads[partition_id]
            self._publish_head(partition_id)
        if self._maintenance.due_ns <= self._now:
            self._maintain(txn)

    def woken(self) -> list[tuple[bytes, Command]]:
        """Return the questions that were held, (peer, command) each, and are for :meth:`answer` now."""
        return self._keepers.woken(self._now)

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
        self._keepers.settled()
        self.damage.settled()
        self.counters.settled()
        self.copies.lost = False
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
        self._assigned.abandon()
        self._keepers.abandon()
        self._commits.forget()
        self.copies.abandon()
        self.damage.abandon()
        self.counters.abandon()
        self._touched_rings.clear()

    def postpone(self) -> None:
        """Try what is due later: there is no room for it now."""
        self._maintenance.postpone(self._now)
        self._staging.postpone(self._maintenance.due_ns)

    def hasten(self) -> None:
        """Let nothing wait for a shared commit any more: this is the last turn."""
        self._staging.hasten(self._now)

    def take_effects(self) -> list[LeaderEffect]:
        """Return what is to be done now that the turn is durable."""
        effects, self._effects = self._effects, []
        return effects

    def partition_ids(self) -> frozenset[int]:
        """Ids of the partitions led here: what may be subscribed to."""
        return frozenset(self._assigned.places)

    def ends(self, txn: Transaction) -> list[PartitionEnd]:
        """Return how far the partitions led here are, at most ``ENDS_MAX`` of them, without those that are damaged."""
        found = []
        for partition in islice(self._assigned.places, ENDS_MAX):
            with suppress(errors.CorruptRow):
                end = self._assigned.partition(partition, txn).log.state.end
                found.append(PartitionEnd(partition, end))
        return found

    def led(self) -> int:
        """Return the number of partitions led here."""
        return len(self._assigned.places)

    def leads(self, partition: int) -> bool:
        """Tell whether ``partition`` is led here."""
        return partition in self._assigned.places

    def swift(self, header: Buffer, *, journaling: bool) -> bool:
        """Tell whether a batch can be appended without a commit: in memory, or with "os" if that is ``journaling``."""
        partition = self._assigned.loaded.get(batch.partition_of(header))
        if partition is None or partition.config.commit_interval_ms:
            return False
        return partition.durability == 2 or (journaling and partition.durability == 1)

    def express(self, partition_id: int, txn: Transaction) -> express.Express | None:
        """Return the express way to a partition that is in use, if there can be one."""
        return express.way(partition_id, self._assigned, self._arrivals, self.counters, self._payload_max, txn)

    def revoke(self) -> None:
        """Let no express way lead anywhere: a turn is to be taken back."""
        self._assigned.changes += 1

    # Commands that change something.

    def _refuse(self, peer: bytes, command: Command, error: errors.ZFabricError) -> None:
        self.counters.errors += 1
        if not (command.type == Type.PRODUCE and command.flags & messages.FLAG_NO_ANSWER):
            self._reply(peer, messages.failure(command.request, error))

    def _reply(self, peer: bytes, frame: bytes) -> None:
        self._effects.append(Reply(peer, (frame,)))

    def _produce(self, peer: bytes, command: Command, txn: Transaction) -> None:
        body: messages.Produce = command.body
        header = batch.parse(body.header)
        partition = self._assigned.led(header.partition, txn)
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
                base, time = original.base_offset, original.append_time
                end = partition.log.state.end if base == messages.UNKNOWN_OFFSET else base + header.records
                self._answer_produce(peer, command, partition, base, time, 1, end)
                return
        base, wall = partition.log.state.end, self._wall_ms
        stamped = partition.log.append(header, body.header, body.payload, self._assigned.epoch, wall, txn)
        if header.producer_id:
            read = header.leader_epoch, header.append_time  # Until the leader stamps its own.
            partition.producers.remember(header, base, wall, txn, read)
        self._appended(partition, header, stamped, body, txn)
        self._answer_produce(peer, command, partition, base, wall, 0, partition.log.state.end)

    def _appended(
        self, partition: Partition, header: batch.BatchHeader, stamped: bytes, body: messages.Produce, txn: Transaction
    ) -> None:
        log = partition.log
        self._arrivals.note(partition, header.records, header.payload_length, self._now, self._wall_ms, txn)
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

    def _answer_produce(
        self, peer: bytes, command: Command, partition: Partition, base: int, append_time: int, duplicate: int, end: int
    ) -> None:
        if command.flags & messages.FLAG_NO_ANSWER:
            return
        epoch = partition.log.state.epoch
        frame = messages.produced(command.request, base, append_time, epoch, partition.durability, duplicate)
        patient = partition.config.replicas > 1 and not command.flags & messages.FLAG_LEADER_ONLY
        if not (patient and self._keepers.wait(partition, end, peer, frame)):
            self._reply(peer, frame)

    def _unstage(self, partition_id: int, txn: Transaction) -> None:
        self._unstaging = True
        for peer, command in self._staging.take(partition_id):
            self.handle(peer, command, txn)
        self._unstaging = False

    def _init_producer(self, peer: bytes, command: Command, txn: Transaction) -> None:
        body: messages.InitProducer = command.body
        check_range("producer id", body.producer, 1, (1 << 64) - 1)
        partition = self._assigned.led(body.partition, txn)
        if isinstance(partition.log, MemoryLog):
            partition.log.begin()
            self._touched_rings[partition.id] = partition
        state = partition.producers.begin(body.producer, body.instance, body.attempt, self._wall_ms, txn)
        self._dirty[partition.id] = partition
        self.must_sync = True
        answer = messages.ProducerIs(state.epoch, state.sparse_last, state.read)
        self._reply(peer, messages.command(Type.PRODUCER_IS, command.request, answer))

    def _commit_offsets(self, peer: bytes, command: Command, txn: Transaction) -> None:
        body: messages.CommitOffsets = command.body
        check_name("group", body.group, GROUP_BYTES_MAX)
        # All of it is checked before any of it is stored.
        for part in body.parts:
            partition = self._assigned.partition(part.partition, txn)
            state = partition.log.state
            if not 0 <= part.offset <= state.end and part.partition not in self._assigned.kept:
                place = self._assigned.places[part.partition]
                raise errors.OffsetOutOfRange(
                    topic=place[0].name, partition=place[1], offset=part.offset, start=0, end=state.end
                )
            if part.seen:
                lineage.check(partition, part, txn, kept=part.partition in self._assigned.kept)
            groups.check_room(partition, body.group, txn)
        for part in body.parts:
            partition = self._assigned.partition(part.partition, txn)
            row = groups.commit(partition, body.group, part.offset, self._wall_ms, txn, force=body.force)
            if row is not None:
                self._committed(partition.id, body.group, row)
                if partition.id in self._assigned.kept:
                    self.copies.committed.add(partition.id)
        self.must_sync = True
        self._reply(peer, messages.command(Type.DONE, command.request, messages.Empty()))

    def _delete_group(self, peer: bytes, command: Command, txn: Transaction) -> None:
        body: messages.DeleteGroup = command.body
        check_name("group", body.group, GROUP_BYTES_MAX)
        for partition_id in self._assigned.places:
            if not groups.is_told(partition_id, body.group, txn):
                continue
            partition = self._assigned.partition(partition_id, txn)
            row = groups.delete(partition, body.group, self._wall_ms, txn)
            if row is not None:
                self._committed(partition_id, body.group, row)
                if partition_id in self._assigned.kept:
                    self.copies.committed.add(partition_id)
        self.must_sync = True
        self._reply(peer, messages.command(Type.DONE, command.request, messages.Empty()))

    def _committed(self, partition_id: int, group: str, row: groups.GroupRow) -> None:
        if self._commits.note(partition_id, group, row):
            self._keepers.appended(partition_id)

    def _share(self, peer: bytes, command: Command, txn: Transaction) -> None:
        body: Share = command.body
        if body.fabric != self._assigned.fabric:
            raise errors.WrongFabric(wanted=body.fabric, fabric=self._assigned.fabric)
        self._merge(body.commits, txn)
        self._reply(peer, messages.command(Type.DONE, command.request, messages.Empty()))

    def _merge(self, commits: list[SharedOffset], txn: Transaction) -> None:
        for partition_id, group, row in self.copies.merge(commits, self._wall_ms, txn):
            self._committed(partition_id, group, row)
            self.must_sync = True

    def _keep(self, peer: bytes, command: Command, txn: Transaction) -> None:
        body: Keep = command.body
        appended, changed = self.copies.take(body, self._wall_ms, txn)
        for entry in appended:
            produced = messages.Produce(entry.stamped, entry.payload, entry.payload)
            self._appended(entry.partition, entry.header, entry.stamped, produced, txn)
        self._dirty.update(changed)
        self.must_sync |= bool(changed) or self.copies.must_sync
        self._merge(body.commits, txn)

    def _assign(self, peer: bytes, command: Command, txn: Transaction) -> None:
        dropped = self._assigned.assign(command.body, txn)
        if dropped is None:
            return
        for partition_id in dropped:
            self._maintenance.doom(partition_id)
            self._dirty.pop(partition_id, None)
            self._arrivals.heads.pop(partition_id, None)
            self._keepers.drop(partition_id)
            self._commits.drop(partition_id)
            self.copies.drop(partition_id)
            self.damage.drop(partition_id)
            for waiter, waiting in self._staging.take(partition_id):
                self._refuse(waiter, waiting, errors.NotLeader(leader=self.id, partition=partition_id))
        for partition in list(self._assigned.loaded.values()):  # How many replicas an answer needs may have changed.
            self._effects += [Reply(waiter, (frame,)) for waiter, frame in self._keepers.release(partition)]
        self._keepers.changed()
        self.must_sync = True

    # What is done in its own time.

    def _publish_head(self, partition_id: int) -> None:
        partition = self._assigned.loaded.get(partition_id)
        if partition is not None:
            state = partition.log.state
            head = messages.HEAD.pack(state.end, state.epoch)
            self._effects.append(Publish((messages.PARTITION.pack(partition_id), head)))

    def _maintain(self, txn: Transaction) -> None:
        maintenance = self._maintenance
        maintenance.step(self._now, self._wall_ms, txn)
        self._dirty.update((partition.id, partition) for partition in maintenance.changed)
        self.must_sync |= maintenance.must_sync
        self.damage.scrub(self._now, txn)
