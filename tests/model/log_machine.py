"""A leader driven turn by turn beside its model: what a step sends, and what must hold after it."""

from __future__ import annotations

from collections import deque

import msgspec
from hypothesis.stateful import RuleBasedStateMachine

from tests.model.log_inputs import MS, SETTINGS, OnLmdb
from tests.model.log_model import Answer, Model
from zfabric import errors
from zfabric.core.cluster.placement import Placement
from zfabric.core.effects import Publish, Reply
from zfabric.core.leader import keys
from zfabric.core.leader.groups import GroupRow
from zfabric.core.leader.leader import Leader
from zfabric.core.leader.log import PartitionState
from zfabric.core.leader.producers import ProducerState
from zfabric.core.leader.turn import Turn
from zfabric.wire import batch, messages
from zfabric.wire.messages import Command, Type
from zfabric.wire.received import RecordBatch

TABLES = (keys.BATCH, keys.EPOCH, keys.GROUP, keys.STATE, keys.PRODUCER, keys.TIME)


def group_row(value):
    return msgspec.msgpack.decode(value, type=GroupRow)


class DrivenLeader(RuleBasedStateMachine):
    """The parts of the machine that are no steps.

    Attributes (set by the first step): backing: the store and its faults. now, wall: ns and ms. model: what is true
    now; committed: at the last commit; snapshots: after each batch since, in the order of the journal. waiting: batches
    by request id that wait for a shared commit. full: whether the shell says that the disk is full.
    """

    made = OnLmdb
    backing: OnLmdb
    model: Model
    committed: Model
    snapshots: list[Model]

    @property
    def store(self):
        return self.backing.store

    def start_machines(self):
        self.leader = Leader(0, SETTINGS)
        placement = Placement()

        def start(txn):
            self.leader.start(txn)
            placement.start("f", 1, SETTINGS.record_bytes_max, txn)

        self.turns = Turn(self.store, self.leader, placement)
        self.turns.begin(start)
        self.published = {}
        self.grown = 0
        assert self.leader.epoch > self.epoch
        self.epoch = self.leader.epoch

    def command(self, kind, body):
        self.request += 1
        return b"peer", Command(kind, 0, self.request, body, ())

    def change(self, *commands):
        """Take a turn; returns the answers by request id, in order."""
        if self.full:
            self.leader.storage_full = errors.StorageFull(directory="d", free=0, reserve=1)
        effects = self.turns.change(commands, self.now, self.wall)
        self.leader.storage_full = None
        return self.answers(effects)

    def answers(self, effects):
        found = {}
        for effect in effects:
            if isinstance(effect, Reply) and effect.peer:
                answer = messages.read(effect.frames)
                assert answer.request not in found
                found[answer.request] = answer
            elif isinstance(effect, Publish) and len(effect.frames) == 3:
                self.check_published(*effect.frames)
        return found

    def check_published(self, place, raw, payload):
        """Batches of a partition are published once, in order, as they are stored."""
        partition, header = messages.PARTITION.unpack(place)[0], batch.parse(raw)
        base = max(header.base_offset, self.published.get(partition, 0))
        assert batch.damage(raw, payload, header, partition, base) == ""
        self.published[partition] = header.next_offset

    def ask(self, kind, body):
        """Ask what only reads."""
        effects = self.turns.answer(deque([self.command(kind, body)]), 1 << 30)
        (answer,) = (messages.read(effect.frames) for effect in effects if isinstance(effect, Reply))
        return answer

    def settle(self):
        """Let the leader do all that is due, without the wall clock moving."""
        turns = quiet = 0
        # After a full step of maintenance the next one is wanted within 5 ms; after a pass another may begin.
        while turns < 40 or (quiet < 3 and turns < 2_000):
            self.now += 600 * MS
            self.take(self.change())
            due = self.turns.next_deadline()
            quiet = quiet + 1 if due is None or due - self.now > 10 * MS else 0
            turns += 1
        self.model.forget_idle(self.wall)

    def take(self, answers):
        """Compare what arrived, also late, with what the model says; then note what is safe now."""
        for request, answer in answers.items():
            op = self.waiting.pop(request, None)
            if op is not None:
                part = self.model.parts.get(op.part)
                wanted = Answer("NotLeader") if part is None else part.apply(op, self.wall)
                self.compare(answer, wanted, part)
        self.settled()

    def settled(self):
        for part in self.model.parts.values():
            part.justified = max(part.justified, part.bound(self.wall))
        if self.turns.grown != self.grown:
            self.grown = self.turns.grown
            self.lose_removals()
        commits = self.backing.commits()
        if commits != getattr(self, "seen_commits", None):
            self.seen_commits = commits
            self.snapshots.clear()
            self.committed = self.model.copy()

    @staticmethod
    def compare(answer, wanted, part, *, repeated=False):
        if wanted.error:
            assert answer.type == Type.ERROR
            assert type(errors.from_wire(answer.body.code, answer.body.values)).__name__ == wanted.error
            return
        assert answer.type == Type.PRODUCED
        assert answer.body.base_offset == wanted.base
        # A memory topic keeps what it took in a turn that was repeated, so the repeat may be called one.
        assert answer.body.duplicate == wanted.duplicate or (repeated and part.config.durability == "memory")

    def part(self, pick):
        parts = self.model.parts
        return parts[sorted(parts)[pick % len(parts)]]

    def begin_step(self):
        self.commits_before = self.backing.commits()
        if not self.snapshots:
            self.snapshots.append(self.model.copy())

    def resume(self, candidates):
        """Start on what is left, which has to be one of the ``candidates``."""
        self.waiting.clear()
        self.start_machines()
        found = [candidate for candidate in candidates if self.agrees(candidate)]
        assert found
        self.model = found[-1].copy()
        for part in self.model.parts.values():
            if part.config.durability == "memory":
                part.restarted(self.described(part).end_offset)
        self.lose_removals()
        self.seen_commits = None
        self.settled()

    def lose_removals(self):
        """What retention removed beside appends that only the journal has is back, until it is removed again."""
        for part in self.model.parts.values():
            if part.config.durability == "os" and part.id in self.committed.parts:
                part.start = min(part.start, self.committed.parts[part.id].start)

    def agrees(self, candidate):
        if set(self.leader.partition_ids()) != set(candidate.parts):
            return False
        rows = self.rows()
        groups = {
            (number, rest.decode()): row.offset
            for table, number, rest, value in rows
            if table == keys.GROUP and not (row := group_row(value)).deleted
        }
        for part in candidate.parts.values():
            mine = {name: offset for (number, name), offset in groups.items() if number == part.id}
            if mine != part.groups:
                return False
            if part.config.durability == "memory":
                continue
            if self.described(part).end_offset != part.end or self.producers(part, rows) != self.known(part):
                return False
        return True

    def described(self, part):
        return self.ask(Type.DESCRIBE, messages.Describe([part.id])).body.partitions[0]

    def rows(self):
        """Return all rows about partitions: (table, partition id, rest of the key, value)."""
        found = []
        with self.store.read() as txn:
            cursor = txn.cursor()
            there = cursor.set_range(b"\0")
            while there:
                key = bytes(cursor.key())
                if key[:1] in TABLES:
                    found.append((key[:1], *keys.split_id(key), bytes(cursor.value())))
                there = cursor.next()
        return found

    @staticmethod
    def producers(part, rows):
        states = {}
        for table, number, rest, value in rows:
            if (table, number) == (keys.PRODUCER, part.id):
                state = msgspec.msgpack.decode(value, type=ProducerState)
                kept = [(sent.first, sent.last, sent.base_offset) for sent in state.batches]
                states[int.from_bytes(rest, "big")] = (state.epoch, state.last, state.sparse_last, kept)
        return states

    @staticmethod
    def known(part):
        states = {}
        for name, known in part.producers.items():
            kept = [(sent.first, sent.last, sent.base) for sent in known.batches]
            states[name] = (known.epoch, known.last, known.sparse_last, kept)
        return states

    def fetch(self, part, offset, most):
        """Return (header, records) of each batch of one answer, or raise what it says."""
        answer = self.ask(Type.FETCH, messages.Fetch(most, [messages.FetchPart(part.id, offset)]))
        result = answer.body.parts[0]
        if result.failure is not None:
            raise errors.from_wire(result.failure.code, result.failure.values)
        assert (result.start_offset, result.end_offset) == (part.start, part.end)
        found = []
        for header, raw, payload in batch.split(answer.rest[0]):
            expected = found[-1][0].next_offset if found else header.base_offset
            assert batch.damage(raw, payload, header, part.id, expected) == ""
            found.append((header, RecordBatch(part.topic, part.number, header, payload).records()))
        return found

    def check_records(self, part):
        """Offsets are dense, records are those that were sent, and only compaction leaves any out."""
        place = part.start
        while place < part.end:
            for header, records in self.fetch(part, place, 1500):
                assert header.base_offset == place or part.compacted
                present = {record.offset: record for record in records}
                for offset in range(place, header.next_offset):
                    row, record = part.records[offset], present.get(offset)
                    if record is None:
                        assert part.may_be_gone(offset, self.wall)
                    else:
                        assert (record.timestamp, record.key, record.value) == row[:3]
                place = header.next_offset
        assert place == part.end

    def check_compacted(self, part):
        """What is left of each key is its latest record, unless that is a tombstone whose time is over."""
        offsets, place = [], part.start
        while place < part.end:
            for header, records in self.fetch(part, place, 1 << 20):
                offsets += [record.offset for record in records]
                place = header.next_offset
        latest = {part.records[offset].key: offset for offset in range(part.end)}
        young = self.wall - 65_000 - part.config.tombstone_ms * 17 // 16
        for offset in offsets:
            row = part.records[offset]
            if row.key is not None:
                assert latest[row.key] == offset
                assert row.value is not None or row.append_ms >= young

    @staticmethod
    def check_rows(part, rows, found):
        """State row, batches, time index and groups agree; no row of another kind is there."""
        sizes = [len(value) for table, _, value in rows if table == keys.BATCH]
        assert (len(sizes), sum(sizes)) == (found.batches, found.bytes)
        states = [msgspec.msgpack.decode(value, type=PartitionState) for table, _, value in rows if table == keys.STATE]
        for state in states:
            assert (state.start, state.end, state.epoch) == (found.start_offset, found.end_offset, found.epoch)
            assert state.producers == len(part.producers)
        assert len(states) == 1 or (not states and part.end == 0)
        times = [
            (int.from_bytes(rest, "big"), int.from_bytes(value, "big"))
            for table, rest, value in rows
            if table == keys.TIME
        ]
        assert times == sorted(times, key=lambda row: row[1])
        assert all(part.start <= offset < part.end for _, offset in times)
        groups = {
            rest.decode(): row.offset
            for table, rest, value in rows
            if table == keys.GROUP and not (row := group_row(value)).deleted
        }
        assert groups == part.groups
