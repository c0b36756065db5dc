"""The log of a partition in memory: a ring of the newest batches, gone with the process."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from operator import itemgetter

import msgspec

from zfabric.core.leader import keys
from zfabric.core.leader.log import SEARCH_BYTES, Found, PartitionState, encode_state, outside
from zfabric.core.leader.search import first_at_or_after
from zfabric.core.transaction import Transaction
from zfabric.model import Buffer, TopicConfig
from zfabric.wire import batch
from zfabric.wire.batch import HEADER_BYTES, BatchHeader

RING_BYTES = 64 << 20
RESERVED_OFFSETS = 1 << 20
"""The end is written down this many offsets ahead, so that a restart never gives an offset twice."""

_Kept = tuple[int, int, int, bytes, bytes]
"""A batch in a ring: base offset, newest timestamp and append time (ms since 1970), stamped header, payload."""


class MemoryLog:
    """A partition's log as a ring in memory: the newest ``retention_bytes``, gone with the process.

    Only the end offset is written down, 2**20 offsets ahead, so that after a restart the log begins beyond every
    offset that it ever gave.
    """

    def __init__(self, partition: int, topic: str, number: int, state: PartitionState) -> None:
        self.partition = partition
        self.topic = topic
        self.number = number
        self.reserved = state.end
        self.state = msgspec.structs.replace(state, start=state.end, bytes=0, batches=0, unindexed=0, producers=0)
        self._ring: deque[_Kept] = deque()
        self._before: tuple[int, int, int, int] | None = None

    def append(
        self, header: BatchHeader, raw: Buffer, payload: Buffer, epoch: int, wall_ms: int, txn: Transaction
    ) -> bytes:
        """Give the batch its offsets and keep it; returns the stamped header."""
        stamped = batch.stamp(raw, self.partition, epoch, header.records, self.state.end, wall_ms)
        self.keep(header.records, header.max_timestamp, epoch, wall_ms, stamped, bytes(payload))
        return stamped

    def keep(self, records: int, newest: int, epoch: int, wall_ms: int, stamped: bytes, payload: bytes) -> None:
        """Keep a batch that is stamped with the next offset; ``newest``: its largest timestamp (ms)."""
        state = self.state
        base = state.end
        if self._before is None:
            self._before = base, state.epoch, state.max_timestamp, self.reserved  # As begin, which is a call more.
        self._ring.append((base, newest, wall_ms, stamped, payload))
        state.end = base + records
        state.epoch = epoch
        state.bytes += HEADER_BYTES + len(payload)
        state.batches += 1
        if newest > state.max_timestamp:  # noqa: PLR1730 - max() would be a call
            state.max_timestamp = newest

    def flush(self, txn: Transaction) -> None:
        """Write down offsets ahead when the reserved ones are used up: once in 2**20 records."""
        if self.state.end > self.reserved:
            self.reserved = self.state.end + RESERVED_OFFSETS
            ahead = PartitionState(start=self.reserved, end=self.reserved, epoch=self.state.epoch)
            txn.put(keys.state(self.partition), encode_state(ahead))

    def begin(self) -> None:
        """The turn changes something of the partition."""
        state = self.state
        if self._before is None:
            self._before = (state.end, state.epoch, state.max_timestamp, self.reserved)

    def settled(self) -> None:
        """The turn is durable: what it did to the partition stays. One step, which no exception leaves half done."""
        self._before = None

    def abandon(self) -> bool:
        """The turn is given up, and what it did here taken back; returns False if that is nothing, or was settled."""
        if self._before is None:
            return False
        state, ring = self.state, self._ring
        state.end, state.epoch, state.max_timestamp, self.reserved = self._before
        self._before = None
        while ring and ring[-1][0] >= state.end:
            ring.pop()
        state.start = ring[0][0] if ring else state.end
        state.bytes = sum(HEADER_BYTES + len(payload) for *_, payload in ring)
        state.batches = len(ring)
        return True

    def _index(self, offset: int) -> int:
        at = bisect_left(self._ring, offset, key=itemgetter(0))
        return at if at < len(self._ring) and self._ring[at][0] == offset else at - 1

    def read(self, offset: int, max_bytes: int, txn: Transaction) -> tuple[list[Buffer], int]:
        """Return batches from the one that covers ``offset`` on; see :meth:`StoredLog.read`."""
        state = self.state
        if not state.start <= offset <= state.end:
            raise outside(self.topic, self.number, offset, state)
        parts: list[Buffer] = []
        total = 0
        if offset == state.end:
            return parts, 0
        for at in range(self._index(offset), len(self._ring)):
            *_, raw, payload = self._ring[at]
            size = HEADER_BYTES + len(payload)
            if parts and total + size > max_bytes:
                break
            parts += (raw, payload)
            total += size
        return parts, total

    def find_time(self, timestamp: int, txn: Transaction, since: int = 0, most: int = SEARCH_BYTES) -> Found:
        """Find the first offset whose record is at or after ``timestamp`` (ms since 1970), in one step."""
        for _, newest, _, raw, payload in self._ring:
            if newest >= timestamp:
                found = first_at_or_after(batch.parse(raw), payload, timestamp)
                return Found(found, done=True, read=len(payload))
        return Found(self.state.end, done=True, read=0)

    def trim(self, config: TopicConfig, wall_ms: int, most: int, txn: Transaction) -> int:
        """Drop the oldest batches beyond the ring's size or age; all that are due, since it costs no I/O."""
        state = self.state
        limit = config.retention_bytes if config.retention_bytes >= 0 else RING_BYTES
        oldest = wall_ms - config.retention_ms if config.retention_ms >= 0 else None
        removed = 0
        while self._ring and (
            (state.bytes > limit and len(self._ring) > 1) or (oldest is not None and self._ring[0][2] < oldest)
        ):
            *_, payload = self._ring.popleft()
            state.start = self._ring[0][0] if self._ring else state.end
            state.bytes -= HEADER_BYTES + len(payload)
            state.batches -= 1
            removed += 1
        return removed
