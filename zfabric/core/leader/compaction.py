"""Compaction by key: of each key the latest value stays, older ones go, tombstones go after a while.

A pass runs over a partition in small steps, one per maintenance tick, so that nobody waits for it:

1. MAP: decode the batches of [clean_end, end) and note the latest offset of every key. The pass covers as many
   batches as its map may hold keys; the rest is for the next pass.
2. REWRITE: walk from the log's start to the end of the mapped part. A record stays if it has no key, if no later
   offset of its key was noted, and if it is no expired tombstone. What stays of neighbouring batches of one epoch is
   put together into batches of about 64 KiB.

Every offset stays covered: a rewritten batch spans from the base of its first source to the end of its last one, and
gives each record's distance from the base (flag COMPACTED). So "a hole is damage" holds for compacted logs as well,
and a consumer in the middle goes on as if nothing had happened. Each step reads and writes in one transaction; a
crash between two leaves a valid log and the pass begins again.

When a pass begins. With enough appended (:func:`due`): 1 MiB, and half as much as was clean. Else when something waits
too long (:func:`overdue`): a record since its append, or a tombstone since its time was over, for W = 60 s and 10 s
more for each MiB that the partition holds. So a small topic is compacted within a minute, tombstones go although
nothing new comes, such passes read at most 6 MiB a minute on the average, and a clean log is left alone.

A batch has one append time, the newest of its records. If joining made records younger again and again, those of a
topic with little traffic would never reach the age at which they go. So batches are joined only within the same
sixteenth of the time that their records are kept: tombstones, and all records where retention goes by age.

(The scheme is that of Kafka's log cleaner, KIP-354 and the cleaner's own description, on a map instead of segments.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from zfabric import errors
from zfabric.core.leader import keys
from zfabric.core.leader.log import StoredLog
from zfabric.core.transaction import Transaction
from zfabric.model import TopicConfig
from zfabric.settings import BATCH_RECORDS_MAX
from zfabric.wire import batch
from zfabric.wire.batch import COMPACTED, HEADER_BYTES, BatchHeader, Columns

MAP_KEYS_MAX = 500_000
TARGET_BYTES = 64 << 10
SPAN_MAX = (1 << 32) - 1
"""Offsets that a batch can cover: a stretch that was emptied becomes several batches beyond this."""
DIRTY_BYTES_MIN = 1 << 20
BYTES_PER_WAIT = 6 << 20
"""A log of this many bytes waits twice as long as an empty one."""
AGE_STEPS = 16
"""Into so many parts is the time divided that records are kept; batches of different parts are not joined."""


def due(log: StoredLog) -> bool:
    """Tell whether enough was appended since the last pass: 1 MiB, and half as much as was clean then."""
    dirty = log.state.bytes - log.state.clean_bytes
    return log.state.end > log.state.clean_end and dirty >= max(DIRTY_BYTES_MIN, log.state.clean_bytes // 2)


def overdue(log: StoredLog, config: TopicConfig, wall_ms: int, after_ms: int, txn: Transaction) -> bool:
    """Tell whether a record or an expired tombstone has waited too long for a pass, by the leader's clock.

    Args:
        after_ms: the wait of an empty log, in ms; it grows by as much again for each 6 MiB stored.
    """
    state = log.state
    waited = wall_ms - after_ms - after_ms * state.bytes // BYTES_PER_WAIT
    if state.tombstone_ms and state.tombstone_ms + config.tombstone_ms < waited:
        return True
    dirty = max(state.start, state.clean_end)
    return dirty < state.end and log.append_time(dirty, txn) <= waited


_Row = tuple[int, int, bytes | None, bytes | None, dict[str, bytes] | None]


class _Kept(NamedTuple):
    """What stays of a batch: (offset, timestamp, key, value, headers) each, and whether tombstones are among it."""

    rows: list[_Row]
    bytes: int
    tombstones: bool


class _Output:
    """The batch being put together from what stays of several.

    Attributes:
        oldest, newest: append times (ms) of the sources of which something stays.
    """

    def __init__(self) -> None:
        self.sources: list[BatchHeader] = []
        self.rows: list[_Row] = []
        self.bytes = 0
        self.tombstones = False
        self.oldest = self.newest = 0

    def takes(self, header: BatchHeader, kept: _Kept, config: TopicConfig) -> bool:
        """Tell whether a batch may join those that are here: the result has to be one that every reader takes."""
        first = self.sources[0]
        return (
            self.bytes < TARGET_BYTES
            and header.leader_epoch == first.leader_epoch
            and header.next_offset - first.base_offset <= SPAN_MAX
            and len(self.rows) + len(kept.rows) <= BATCH_RECORDS_MAX
            and self._of_one_age(header, kept, config)
        )

    def _of_one_age(self, header: BatchHeader, kept: _Kept, config: TopicConfig) -> bool:
        if not self.rows or not kept.rows:
            return True
        limits = [config.tombstone_ms] if self.tombstones or kept.tombstones else []
        if "delete" in config.cleanup and config.retention_ms >= 0:
            limits.append(config.retention_ms)
        if not limits:
            return True
        step = max(1, min(limits) // AGE_STEPS)
        return min(self.oldest, header.append_time) // step == max(self.newest, header.append_time) // step

    def add(self, header: BatchHeader, kept: _Kept) -> None:
        """Join a batch to those that are here."""
        self.sources.append(header)
        if kept.rows:
            self.oldest = min(self.oldest, header.append_time) if self.rows else header.append_time
            self.newest = max(self.newest, header.append_time)
        self.rows += kept.rows
        self.bytes += kept.bytes
        self.tombstones |= kept.tombstones

    def write(self, log: StoredLog, txn: Transaction) -> None:
        """Replace the source batches by one, unless nothing about a single source changed."""
        first, last = self.sources[0], self.sources[-1]
        if len(self.sources) == 1 and len(self.rows) == first.records:
            return
        base, span = first.base_offset, last.next_offset - first.base_offset
        oldest = min((row[1] for row in self.rows), default=first.base_timestamp)
        newest = max((row[1] for row in self.rows), default=first.base_timestamp)
        payload = batch.encode_columns(
            [row[1] - oldest for row in self.rows],
            [row[2] for row in self.rows],
            [row[3] for row in self.rows],
            [row[4] for row in self.rows],
            [row[0] - base for row in self.rows],
        )
        header, payload = batch.seal(
            payload, codec=first.codec, flags=COMPACTED, count=len(self.rows), base_timestamp=oldest,
            max_timestamp=newest, producer_id=0, producer_epoch=0, base_sequence=0, last_sequence=0,
            partition=log.partition,
        )  # fmt: skip
        appended = self.newest if self.rows else last.append_time
        stamped = batch.stamp(header, log.partition, first.leader_epoch, span, base, appended)
        for source in self.sources:
            txn.delete(keys.batch(log.partition, source.base_offset))
            log.state.bytes -= HEADER_BYTES + source.payload_length
            log.state.batches -= 1
        txn.put(keys.batch(log.partition, base), stamped + payload)
        log.state.bytes += HEADER_BYTES + len(payload)
        log.state.batches += 1
        log.touch()


class Compactor:
    """One pass over one partition. ``step`` until it returns True."""

    def __init__(self, log: StoredLog) -> None:
        self._log = log
        self._latest: dict[bytes, int] = {}
        self._mapped = max(log.state.start, log.state.clean_end)
        self._end = log.state.end
        self._rewriting = False
        self._at = log.state.start
        self._tombstone_ms = 0
        self.dropped = 0

    def step(self, config: TopicConfig, wall_ms: int, most_bytes: int, txn: Transaction) -> bool:
        """Work through about ``most_bytes`` of batches; tells whether the pass is over.

        Raises:
            CorruptBatch: a damaged batch lies ahead; the pass ends, the log stays as it is.
        """
        if not self._rewriting:
            self._map(most_bytes, txn)
            return False
        return self._rewrite(config, wall_ms, most_bytes, txn)

    def _map(self, budget: int, txn: Transaction) -> None:
        self._mapped = max(self._mapped, self._log.state.start)
        for header, columns in self._decoded(self._mapped, self._end, txn):
            latest, base = self._latest, header.base_offset
            for key, distance in zip(columns.keys, columns.distances, strict=True):
                if key is not None:
                    latest[key] = base + distance
            self._mapped = header.next_offset
            budget -= header.payload_length
            if len(latest) >= MAP_KEYS_MAX:
                self._end = self._mapped
            if budget <= 0:
                break
        if self._mapped >= self._end:
            self._rewriting = True
            self._at = self._log.state.start

    def _rewrite(self, config: TopicConfig, wall_ms: int, budget: int, txn: Transaction) -> bool:
        expired = wall_ms - config.tombstone_ms
        output = _Output()
        finished: list[_Output] = []
        self._at = max(self._at, self._log.state.start)
        for header, columns in self._decoded(self._at, self._end, txn):
            kept = self._kept(header, columns, expired)
            # Where nothing stays an output never fills, and a step ends all the same.
            if output.sources and (budget <= 0 or not output.takes(header, kept, config)):
                finished.append(output)
                output = _Output()
                if budget <= 0:
                    break
            output.add(header, kept)
            self.dropped += header.records - len(kept.rows)
            self._at = header.next_offset
            budget -= header.payload_length
        if output.sources:
            finished.append(output)
        for entry in finished:
            entry.write(self._log, txn)
            if entry.tombstones:
                self._tombstone_ms = min(self._tombstone_ms or entry.newest, entry.newest)
        if self._at < self._end:
            return False
        state = self._log.state
        state.clean_end, state.clean_bytes, state.tombstone_ms = self._end, state.bytes, self._tombstone_ms
        self._log.touch()
        return True

    def _kept(self, header: BatchHeader, columns: Columns, expired: int) -> _Kept:
        base = header.base_offset
        kept: list[_Row] = []
        size, tombstones = 0, False
        rows = zip(columns.distances, columns.timestamps, columns.keys, columns.values, columns.headers, strict=True)
        for distance, timestamp, key, value, headers in rows:
            offset = base + distance
            superseded = key is not None and self._latest.get(key, -1) > offset
            tombstone = key is not None and value is None
            if not superseded and not (tombstone and header.append_time < expired):
                kept.append((offset, timestamp, key, value, headers))
                size += len(key or b"") + len(value or b"") + 16
                tombstones |= tombstone
        return _Kept(kept, size, tombstones)

    def _decoded(self, offset: int, end: int, txn: Transaction) -> Iterator[tuple[BatchHeader, Columns]]:
        if offset >= end:
            return
        for header, _, payload in self._log.batches(offset, txn):
            if header.base_offset >= end:
                return
            try:
                columns = batch.decode_columns(header, payload)
                batch.check_times(columns)
            except errors.ProtocolViolation as error:
                raise errors.CorruptBatch(
                    topic=self._log.topic,
                    partition=self._log.number,
                    offset=header.base_offset,
                    next_offset=header.next_offset,
                    problem=str(error),
                ) from error
            yield header, columns
