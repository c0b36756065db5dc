"""What a leader notes of batches that were appended, and what nobody waits for: it may be done once they are told."""

from __future__ import annotations

from zfabric.core.leader.counters import Counters
from zfabric.core.leader.keepers import Keepers
from zfabric.core.leader.memory import MemoryLog
from zfabric.core.leader.partition import Partition
from zfabric.core.transaction import Transaction
from zfabric.wire import batch

TRIM_WITH_APPEND = 4


class Arrivals:
    """The batches that have come to a leader's partitions.

    Args:
        head_ns: after this long without another one a HEAD beacon is published.

    Attributes:
        heads: partition ids, and when to publish a HEAD (monotonic ns), the first one first.
    """

    def __init__(self, counters: Counters, keepers: Keepers, head_ns: int) -> None:
        self.heads: dict[int, int] = {}
        self._counters = counters
        self._keepers = keepers
        self._head_ns = head_ns

    def note(
        self, partition: Partition, records: int, payload_bytes: int, now: int, wall_ms: int, txn: Transaction
    ) -> None:
        """A batch was appended, and is published in this turn: make room, count it, wake who waits for it."""
        config, log = partition.config, partition.log
        counters = self._counters
        if isinstance(log, MemoryLog) or ("delete" in config.cleanup and 0 <= config.retention_bytes < log.state.bytes):
            counters.trimmed += log.trim(config, wall_ms - partition.behind_ms, TRIM_WITH_APPEND, txn)
        counters.batches_in += 1
        counters.records_in += records
        counters.bytes_in += payload_bytes + batch.HEADER_BYTES
        counters.published += 1
        partition.published = log.state.end
        self._keepers.appended(partition.id)
        self.heads.pop(partition.id, None)
        self.heads[partition.id] = now + self._head_ns
