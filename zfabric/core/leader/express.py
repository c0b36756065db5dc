"""The express way of a lone batch to a topic in memory: of a producer in this process, or the first to come.

A turn is made for many commands of many clients; this is for one batch, with nothing else to be done before. It is
appended by the same rules (producer's sequence, offsets, the ring) and in the same order: it is there, and noted as its
producer's, before anybody is told. What nobody waits for is left until it is published.

What is left out, and why that may be: no transaction is begun, as none is needed, and it is not gathered with others.
If its producer, in this process, holds it in its hands, no command is encoded and read, and its checksum is not
compared, as it was made by the same call. Whatever is not as simple as that (a repeat, a gap, a fence, offsets to be
written down, a log that is not in memory, keepers to be waited for, a shared commit, a turn to be taken back) is not
taken, and goes the usual way, by which it gets the usual answer.

A way is made for a partition as it is, and leads nowhere once that may be otherwise: with each assignment, and with
each turn that is given up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zfabric import errors
from zfabric.core.leader.log import MemoryLog
from zfabric.core.leader.partition import DURABILITY_CODE
from zfabric.settings import BATCH_OVERHEAD_MAX
from zfabric.wire import batch, messages

if TYPE_CHECKING:
    from zfabric.core.effects import Frames
    from zfabric.core.leader.arrivals import Arrivals
    from zfabric.core.leader.assigned import Assigned
    from zfabric.core.leader.counters import Counters
    from zfabric.core.leader.partition import Partition
    from zfabric.core.transaction import Transaction
    from zfabric.model import Buffer

_MEMORY = DURABILITY_CODE["memory"]


def _fits(partition: Partition) -> bool:
    """Tell whether a partition's batches may go by express at all."""
    config = partition.config
    in_memory = isinstance(partition.log, MemoryLog) and config.durability == "memory"
    return in_memory and not config.commit_interval_ms and config.replicas == 1


def way(
    partition_id: int, assigned: Assigned, arrivals: Arrivals, counters: Counters, frame_max: int, txn: Transaction
) -> Express | None:
    """Return the way to a partition that is in use, None if there can be none."""
    partition = assigned.loaded.get(partition_id)
    if partition is None or partition.durability != _MEMORY:
        return None
    found = partition.express
    if found is None or not found.leads:
        if partition_id in assigned.kept or not _fits(partition):
            return None
        payload_max = min(partition.config.record_bytes_max + BATCH_OVERHEAD_MAX, frame_max)
        found = partition.express = Express(partition, assigned, arrivals, counters, payload_max, txn)
    return found


class Express:
    """The way to one partition, made by :func:`way`. For each batch: :meth:`take`, publish, :meth:`taken`.

    Args:
        payload_max: bytes. txn: of no use to a log in memory.
    """

    def __init__(
        self,
        partition: Partition,
        assigned: Assigned,
        arrivals: Arrivals,
        counters: Counters,
        payload_max: int,
        txn: Transaction,
    ) -> None:
        assert isinstance(partition.log, MemoryLog), "asked for an express way to a log on disk"
        self._partition = partition
        self._log = partition.log
        self._producers = partition.producers
        self._assigned = assigned
        self._arrivals = arrivals
        self._counters = counters
        self._payload_max = payload_max
        self._txn = txn
        self._changes = assigned.changes
        self._epoch = assigned.epoch
        self._id = messages.PARTITION.pack(partition.id)
        self._header: batch.BatchHeader | None = None
        self._base = 0

    @property
    def leads(self) -> bool:
        """Whether it still leads to the partition."""
        return self._changes == self._assigned.changes

    def take(self, raw: Buffer, payload: Buffer, wall_ms: int, part: object = None) -> Frames | None:
        """Append a sealed batch; returns what is to be published now, None if nothing was done.

        If an exception comes out of it, from a handler of signals, the turn is to be spoiled.

        Args:
            part: the payload of a batch that has come from elsewhere and is to be checked, as it can be passed on.
        """
        log, producers, txn = self._log, self._producers, self._txn
        header = batch.parse(raw)
        base = log.state.end
        if (
            self._changes != self._assigned.changes
            or base + header.records > log.reserved
            or header.payload_length > self._payload_max
            or not header.producer_id
        ):
            return None
        try:
            if part is not None:
                batch.check_produced(header, payload, self._payload_max)
            if producers.check(header, txn) is not None:
                return None
        except errors.ZFabricError:
            return None
        stamped = log.append(header, raw, payload, self._epoch, wall_ms, txn)
        producers.note(header, base, wall_ms)
        log.settled()
        self._header, self._base = header, base
        return self._id, stamped, payload if part is None else part

    def taken(self, now: int, wall_ms: int) -> messages.Produced:
        """Do the rest for the batch that was taken; returns its producer's answer."""
        partition = self._partition
        assert self._header is not None, "nothing was taken"
        self._producers.write_down()
        self._arrivals.note(partition, self._header, now, wall_ms, self._txn)
        self._counters.settled()
        partition.flush(self._txn)
        return messages.Produced(self._base, wall_ms, self._epoch, partition.durability, 0)
