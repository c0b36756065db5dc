"""The log of one partition: append, read, find by time, trim. Two kinds with one face.

:class:`StoredLog` keeps its batches in the transaction's ordered map and lives in whatever durability the shell gives
that transaction; ``memory.py`` has a bounded ring that never touches it.

Invariants, checked where they are made:

- offsets are dense: every offset of [start, end) is covered by exactly one batch, compacted ones included;
- the end never goes back, also over a restart, and an offset is never given twice;
- a batch read from the map passes ``batch.damage`` before anybody sees it;
- the state row, the batches and the time index change in the same transaction.

The time index is sparse: a row (timestamp, offset) is written when the running maximum of timestamps grows and
256 KiB were appended since the last row. The running maximum never falls, so the batch that first reaches a timestamp
lies between two neighbouring rows, whatever timestamps producers send (as in Kafka's KIP-33). Where no row helps (one
record claimed a far future, and then was removed) a search reads the log's headers, and no payload but that of the
batch it was looking for; it does so in steps, a turn each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import msgspec

from zfabric import errors
from zfabric.core import rows
from zfabric.core.leader import keys
from zfabric.core.leader.search import first_at_or_after
from zfabric.core.transaction import Cursor, Transaction
from zfabric.model import Buffer, TopicConfig
from zfabric.wire import batch
from zfabric.wire.batch import HEADER_BYTES, BatchHeader

INDEX_EVERY_BYTES = 256 << 10
SEARCH_BYTES = 8 << 20
"""What one step of a search by time reads."""
LOOKED_AT_BYTES = 16 << 10
"""What a batch counts whose header alone is read: a page or two, and what the kernel reads with them."""


class PartitionState(msgspec.Struct, array_like=True):
    """What is kept of a partition beside its batches; one row, rewritten in every turn that changes it.

    Attributes:
        start, end: first kept offset, and the next one to give.
        bytes, batches: stored size and number of batches.
        epoch: leader epoch of the last append.
        max_timestamp: running maximum, ms; unindexed: bytes appended since the last row of the time index.
        clean_end: offsets below were compacted; clean_bytes: size of that part after it was.
        producers: rows in the producer table.
        tombstone_ms: append time (ms) of the oldest tombstone below clean_end, 0 if there is none.
    """

    start: int = 0
    end: int = 0
    bytes: int = 0
    batches: int = 0
    epoch: int = 0
    max_timestamp: int = -1
    unindexed: int = INDEX_EVERY_BYTES
    clean_end: int = 0
    clean_bytes: int = 0
    producers: int = 0
    tombstone_ms: int = 0


encode_state = msgspec.msgpack.Encoder().encode
_decode_state = msgspec.msgpack.Decoder(PartitionState).decode


class Found(NamedTuple):
    """Where a search by time has come: its result if it is ``done``, else the offset to go on from; and bytes read."""

    offset: int
    done: bool
    read: int


class Log(Protocol):
    """What the leader asks of a partition's log."""

    state: PartitionState

    def append(
        self, header: BatchHeader, raw: Buffer, payload: Buffer, epoch: int, wall_ms: int, txn: Transaction
    ) -> bytes:
        """Give the batch its offsets and keep it; returns the stamped header."""
        ...

    def read(self, offset: int, max_bytes: int, txn: Transaction) -> tuple[list[Buffer], int]:
        """Return (header, payload, header, payload, …) from the batch that covers ``offset`` on, and their size."""
        ...

    def find_time(self, timestamp: int, txn: Transaction, since: int = 0, most: int = SEARCH_BYTES) -> Found:
        """Find the first offset whose record is at or after ``timestamp`` (ms); the end if there is none.

        Args:
            since: no record below this offset is; where an earlier step has ended. most: bytes to read.
        """
        ...

    def trim(self, config: TopicConfig, wall_ms: int, most: int, txn: Transaction) -> int:
        """Remove up to ``most`` batches that retention no longer keeps; returns how many."""
        ...

    def flush(self, txn: Transaction) -> None:
        """Write the state row if it changed."""
        ...


def load_state(partition: int, txn: Transaction) -> PartitionState:
    """Read the partition's state row; a new partition has none.

    Raises:
        CorruptRow: it cannot be decoded.
    """
    row = txn.get(keys.state(partition))
    return (
        PartitionState() if row is None else rows.decode(_decode_state, row, f"the state of partition id {partition}")
    )


def outside(topic: str, number: int, offset: int, state: PartitionState) -> errors.OffsetOutOfRange:
    """Return the error of a read at an offset that the log does not have."""
    return errors.OffsetOutOfRange(topic=topic, partition=number, offset=offset, start=state.start, end=state.end)


class StoredLog:
    """A partition's log in the ordered map.

    Attributes:
        last: leader epoch and append time (ms) of the last batch, None while that is not known.
    """

    def __init__(self, partition: int, topic: str, number: int, state: PartitionState) -> None:
        self.partition = partition
        self.topic = topic
        self.number = number
        self.state = state
        self.last: tuple[int, int] | None = None
        self._dirty = False
        # Of the oldest batch: where the log began, and when that was appended; compaction may make it younger.
        self._oldest = (-1, 0)

    def append(
        self, header: BatchHeader, raw: Buffer, payload: Buffer, epoch: int, wall_ms: int, txn: Transaction
    ) -> bytes:
        """Give the batch its offsets and put it; returns the stamped header."""
        base, self.last = self.state.end, (epoch, wall_ms)
        stamped = batch.stamp(raw, self.partition, epoch, header.records, base, wall_ms)
        self._put(base, header.records, epoch, header.max_timestamp, stamped, payload, txn)
        return stamped

    def restore(self, header: BatchHeader, raw: Buffer, payload: Buffer, txn: Transaction) -> bool:
        """Put a batch that was stamped and acknowledged before a crash, unless the log has it; tells whether it put."""
        if header.base_offset < self.state.end:
            return False
        assert header.base_offset == self.state.end, "journal and log leave a hole"
        self.last = header.leader_epoch, header.append_time
        self._put(header.base_offset, header.span, header.leader_epoch, header.max_timestamp, bytes(raw), payload, txn)
        return True

    def _put(
        self, base: int, span: int, epoch: int, newest: int, stamped: bytes, payload: Buffer, txn: Transaction
    ) -> None:
        state = self.state
        assert epoch >= state.epoch, "leader epochs never go back"
        if epoch != state.epoch or state.batches == 0:
            txn.put(keys.epoch(self.partition, epoch), keys.U64.pack(base))
            state.epoch = epoch
        if newest > state.max_timestamp:
            state.max_timestamp = newest
            if state.unindexed >= INDEX_EVERY_BYTES:
                txn.put(keys.time(self.partition, newest), keys.U64.pack(base))
                state.unindexed = 0
        txn.put(keys.batch(self.partition, base), b"".join((stamped, payload)))
        size = HEADER_BYTES + len(payload)
        state.end = base + span
        state.bytes += size
        state.batches += 1
        state.unindexed += size
        self._dirty = True

    def flush(self, txn: Transaction) -> None:
        """Write the state row if it changed."""
        if self._dirty:
            txn.put(keys.state(self.partition), encode_state(self.state))
            self._dirty = False

    def touch(self) -> None:
        """Note that the state was changed from outside (producers, compaction)."""
        self._dirty = True

    def _walk(self, offset: int, txn: Transaction) -> Iterator[tuple[int, Cursor]]:
        """Yield (base offset, cursor standing on the batch) from the batch that covers ``offset`` on."""
        cursor = txn.cursor()
        mine = keys.prefix(keys.BATCH, self.partition)
        wanted = keys.batch(self.partition, offset)
        found = cursor.set_range(wanted)
        if not found or bytes(cursor.key()) != wanted:
            back = cursor.prev() if found else cursor.last()
            if not back or bytes(cursor.key()[:5]) != mine:
                found = cursor.set_range(wanted)
                if not found:
                    return
        while bytes(cursor.key()[:5]) == mine:
            yield keys.split_batch(cursor.key())[1], cursor
            if not cursor.next():
                return

    def _missing(self, offset: int, following: int) -> errors.CorruptBatch:
        problem = "no batch covers this offset"
        return errors.CorruptBatch(
            topic=self.topic, partition=self.number, offset=offset, next_offset=following, problem=problem
        )

    def _corrupt(self, base: int, problem: str, txn: Transaction) -> errors.CorruptBatch:
        # The damaged header cannot be asked how far it reaches; the next key can.
        following = self.state.end
        cursor = txn.cursor()
        if cursor.set_range(keys.batch(self.partition, base + 1)) and bytes(cursor.key()[:5]) == keys.prefix(
            keys.BATCH, self.partition
        ):
            following = keys.split_batch(cursor.key())[1]
        return errors.CorruptBatch(
            topic=self.topic, partition=self.number, offset=base, next_offset=following, problem=problem
        )

    def batches(self, offset: int, txn: Transaction) -> Iterator[tuple[BatchHeader, memoryview, memoryview]]:
        """Yield (header, its bytes, payload) of whole batches from the one that covers ``offset`` on.

        Raises:
            CorruptBatch: the next one is damaged or missing.
        """
        return self._rows(offset, txn, batch.damage)

    def _rows(
        self, offset: int, txn: Transaction, damage: Callable[[Buffer, Buffer, BatchHeader, int, int], str]
    ) -> Iterator[tuple[BatchHeader, memoryview, memoryview]]:
        expected = offset
        for base, cursor in self._walk(offset, txn):
            if base > expected:
                raise self._missing(expected, base)
            row = memoryview(cursor.value())
            if len(row) < HEADER_BYTES:
                raise self._corrupt(base, f"row of {len(row)} bytes", txn)
            raw, payload = row[:HEADER_BYTES], row[HEADER_BYTES:]
            header = batch.parse(raw)
            problem = damage(raw, payload, header, self.partition, base)
            if problem:
                raise self._corrupt(base, problem, txn)
            if header.next_offset <= expected:
                continue  # The one before a hole.
            expected = header.next_offset
            yield header, raw, payload
        if expected < self.state.end:
            raise self._missing(expected, self.state.end)

    def read(self, offset: int, max_bytes: int, txn: Transaction) -> tuple[list[Buffer], int]:
        """Return batches from the one that covers ``offset`` on: at least one, at most ``max_bytes`` beyond it.

        Raises:
            OffsetOutOfRange: ``offset`` is outside [start, end].
            CorruptBatch: the first batch is damaged; a later damaged one ends the answer before it.
        """
        state = self.state
        if not state.start <= offset <= state.end:
            raise outside(self.topic, self.number, offset, state)
        parts: list[Buffer] = []
        total = 0
        if offset == state.end:
            return parts, 0
        try:
            for _, raw, payload in self.batches(offset, txn):
                size = HEADER_BYTES + len(payload)
                if parts and total + size > max_bytes:
                    break
                parts += (raw, payload)
                total += size
        except errors.CorruptBatch:
            if not parts:
                raise
        return parts, total

    def append_time(self, offset: int, txn: Transaction) -> int:
        """Return when the batch that covers ``offset`` was appended (ms); 0 if its header is damaged."""
        header = self.header_at(offset, txn)
        return 0 if header is None else header.append_time

    def header_at(self, offset: int, txn: Transaction) -> BatchHeader | None:
        """Return the header of the batch that covers ``offset``; None if there is none, or it is damaged."""
        for _, cursor in self._walk(offset, txn):
            row = cursor.value()
            return batch.parse(row) if len(row) >= HEADER_BYTES and batch.header_is_whole(row) else None
        return None

    def find_time(self, timestamp: int, txn: Transaction, since: int = 0, most: int = SEARCH_BYTES) -> Found:
        """Find the first offset whose record is at or after ``timestamp`` (ms since 1970), in steps; see ``Log``."""
        state = self.state
        if timestamp > state.max_timestamp:
            return Found(state.end, done=True, read=0)
        cursor = txn.cursor()
        mine = keys.prefix(keys.TIME, self.partition)
        found = cursor.set_range(keys.time(self.partition, timestamp))
        before = cursor.prev() if found else cursor.last()
        offset = max(state.start, since)
        if before and bytes(cursor.key()[:5]) == mine and len(cursor.value()) == keys.U64.size:
            offset = max(offset, keys.U64.unpack(cursor.value())[0])
        read = 0
        if offset < state.end:
            for header, raw, payload in self._rows(offset, txn, batch.header_damage):
                read += LOOKED_AT_BYTES
                if header.max_timestamp >= timestamp and header.records:
                    problem = batch.damage(raw, payload, header, self.partition, header.base_offset)
                    if problem:
                        raise self._corrupt(header.base_offset, problem, txn)
                    read += len(payload)
                    return Found(first_at_or_after(header, payload, timestamp), done=True, read=read)
                if read >= most and header.next_offset < state.end:
                    return Found(header.next_offset, done=False, read=read)
        return Found(state.end, done=True, read=read)

    def trim(self, config: TopicConfig, wall_ms: int, most: int, txn: Transaction) -> int:
        """Remove up to ``most`` of the oldest batches that retention no longer keeps; returns how many.

        Size never takes the last batch, however large it is.
        Age counts from the append, not from the producer's timestamp, which may be anything.
        """
        state = self.state
        oldest = wall_ms - config.retention_ms if config.retention_ms >= 0 else None
        removed = 0
        if not 0 <= config.retention_bytes < state.bytes:
            start, appended = self._oldest
            if oldest is None or (start == state.start and appended >= oldest):
                return 0
        while removed < most and state.batches:
            cursor = txn.cursor()
            if not cursor.set_range(keys.batch(self.partition, 0)):
                break
            key = bytes(cursor.key())
            if key[:5] != keys.prefix(keys.BATCH, self.partition):
                break
            row = cursor.value()
            header = batch.parse(row) if len(row) >= HEADER_BYTES else None
            big = 0 <= config.retention_bytes < state.bytes and state.batches > 1
            old = oldest is not None and (header is None or header.append_time < oldest)
            if not (big or old):
                if header is not None and batch.header_is_whole(row):
                    self._oldest = (state.start, header.append_time)
                break
            size = len(row)
            following = state.end
            if cursor.next() and bytes(cursor.key()[:5]) == key[:5]:
                following = keys.split_batch(cursor.key())[1]
            txn.delete(key)
            if state.start < state.clean_end:
                # Else a log at its bound in bytes would never have enough beside the clean part to be compacted again.
                state.clean_bytes = max(0, state.clean_bytes - size)
            state.start = following
            state.bytes -= size
            state.batches -= 1
            removed += 1
        if removed:
            self._dirty = True
            self._trim_index(txn)
        return removed

    def _trim_index(self, txn: Transaction) -> None:
        mine = keys.prefix(keys.TIME, self.partition)
        while True:
            cursor = txn.cursor()
            if not cursor.set_range(mine) or bytes(cursor.key()[:5]) != mine:
                return
            row = cursor.value()
            # One of another length is damaged, and of no use.
            if len(row) == keys.U64.size and keys.U64.unpack(row)[0] >= self.state.start:
                return
            txn.delete(bytes(cursor.key()))
