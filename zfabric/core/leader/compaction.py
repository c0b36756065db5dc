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

(The scheme is that of Kafka's log cleaner, KIP-354 and the cleaner's own description, on a map instead of segments.)
"""

from __future__ import annotations

from collections.abc import Iterator

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


def due(log: StoredLog) -> bool:
    """Tell whether enough was appended since the last pass: 1 MiB, and half as much as was clean then."""
    dirty = log.state.bytes - log.state.clean_bytes
    return log.state.end > log.state.clean_end and dirty >= max(DIRTY_BYTES_MIN, log.state.clean_bytes // 2)


class _Output:
    """The batch being put together from what stays of several."""

    def __init__(self) -> None:
        self.sources: list[BatchHeader] = []
        self.rows: list[tuple[int, int, bytes | None, bytes | None, dict[str, bytes] | None]] = []
        self.bytes = 0
        self.changed = False

    def takes(self, header: BatchHeader) -> bool:
        """Tell whether a batch may join those that are here: the result has to be one that every reader takes."""
        first = self.sources[0]
        return (
            self.bytes < TARGET_BYTES
            and header.leader_epoch == first.leader_epoch
            and header.next_offset - first.base_offset <= SPAN_MAX
            and len(self.rows) + header.records <= BATCH_RECORDS_MAX
        )

    def write(self, log: StoredLog, txn: Transaction) -> None:
        """Replace the source batches by one, unless nothing about a single source changed."""
        first, last = self.sources[0], self.sources[-1]
        if len(self.sources) == 1 and not self.changed:
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
        stamped = batch.stamp(
            header, log.partition, first.leader_epoch, span, base, max(s.append_time for s in self.sources)
        )
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
            # Where nothing stays an output never fills, and a step ends all the same.
            if output.sources and (budget <= 0 or not output.takes(header)):
                finished.append(output)
                output = _Output()
                if budget <= 0:
                    break
            self._keep(header, columns, expired, output)
            self._at = header.next_offset
            budget -= header.payload_length
        if output.sources:
            finished.append(output)
        for entry in finished:
            entry.write(self._log, txn)
        if self._at < self._end:
            return False
        state = self._log.state
        state.clean_end, state.clean_bytes = self._end, state.bytes
        self._log.touch()
        return True

    def _keep(self, header: BatchHeader, columns: Columns, expired: int, output: _Output) -> None:
        base = header.base_offset
        output.sources.append(header)
        rows = zip(columns.distances, columns.timestamps, columns.keys, columns.values, columns.headers, strict=True)
        for distance, timestamp, key, value, headers in rows:
            offset = base + distance
            superseded = key is not None and self._latest.get(key, -1) > offset
            tombstone_over = key is not None and value is None and header.append_time < expired
            if superseded or tombstone_over:
                output.changed = True
                self.dropped += 1
            else:
                output.rows.append((offset, timestamp, key, value, headers))
                output.bytes += len(key or b"") + len(value or b"") + 16

    def _decoded(self, offset: int, end: int, txn: Transaction) -> Iterator[tuple[BatchHeader, Columns]]:
        if offset >= end:
            return
        for header, _, payload in self._log.batches(offset, txn):
            if header.base_offset >= end:
                return
            try:
                columns = batch.decode_columns(header, payload)
            except errors.ProtocolViolation as error:
                raise errors.CorruptBatch(
                    topic=self._log.topic,
                    partition=self._log.number,
                    offset=header.base_offset,
                    next_offset=header.next_offset,
                    problem=str(error),
                ) from error
            yield header, columns
