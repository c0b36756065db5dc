"""The express way of a lone batch to a topic in memory: of a producer in this process, or the first to come.

A turn is made for many commands of many clients; this is for one batch, with nothing else to be done before. It is
appended by the same rules (producer's sequence, offsets, the ring) and in the same order: it is there, and noted as its
producer's, before anybody is told. What nobody waits for is left until it is published.

What is left out, and why that may be: no transaction is begun, as none is needed, and it is not gathered with others.
If its producer, in this process, holds it in its hands, no command is encoded and read: a plain record is sealed and
stamped in one step, when its offset is known. Whatever is not as simple as that (a repeat, a gap, a fence, offsets to
be written down, a log that is not in memory, keepers to be waited for, a shared commit, a turn to be taken back) is
not taken, and goes the usual way, by which it gets the usual answer.

A way is made for a partition as it is, and leads nowhere once that may be otherwise: with each assignment, and with
each turn that is given up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zfabric import errors
from zfabric.core.leader.memory import MemoryLog
from zfabric.core.leader.partition import DURABILITY_CODE
from zfabric.settings import BATCH_OVERHEAD_MAX
from zfabric.wire import batch, lone, messages
from zfabric.wire.batch import SPARSE

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
    """The way to one partition, made by :func:`way`. For each batch: a take, publish, :meth:`taken`.

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
        # Of what was taken last: records, payload bytes, and its first offset.
        self._taken = (0, 0, 0)

    @property
    def leads(self) -> bool:
        """Whether it still leads to the partition."""
        return self._changes == self._assigned.changes

    def take_record(
        self, value: bytes, timestamp: int, producer: int, epoch: int, sequence: int, wall_ms: int
    ) -> Frames | None:
        """Append a plain record as a batch of its own; see :meth:`take`, which does the same with ``lone.seal``'s.

        Args:
            timestamp: ms since 1970. producer, epoch, sequence: whose it is, as in its header.
        """
        log, producers = self._log, self._producers
        base, leader_epoch = log.state.end, self._epoch
        if (
            self._changes != self._assigned.changes
            or base >= log.reserved
            or not producers.follows(producer, epoch, sequence)
        ):
            return None
        stamped, payload = lone.stamp(
            value, timestamp, producer, epoch, sequence, log.partition, leader_epoch, base, wall_ms
        )
        size = len(payload)
        if size > self._payload_max:
            return None
        log.keep(1, timestamp, leader_epoch, wall_ms, stamped, payload)
        producers.noted = producer, epoch, sequence, sequence, False, base, wall_ms
        log.settled()
        self._taken = 1, size, base
        return self._id, stamped, payload

    def take(self, raw: Buffer, payload: Buffer, wall_ms: int, part: object) -> Frames | None:
        """Append a batch that has come from elsewhere; returns what is to be published now, None if nothing was done.

        If an exception comes out of it, from a handler of signals, the turn is to be spoiled.

        Args:
            part: the payload as it can be passed on.
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
            batch.check_produced(header, payload, self._payload_max)
            if producers.check(header, txn) is not None:
                return None
        except errors.ZFabricError:
            return None
        stamped = log.append(header, raw, payload, self._epoch, wall_ms, txn)
        producers.noted = (
            header.producer_id, header.producer_epoch, header.base_sequence, header.last_sequence,
            bool(header.flags & SPARSE), base, wall_ms,
        )  # fmt: skip
        log.settled()
        self._taken = header.records, header.payload_length, base
        return self._id, stamped, part

    def taken(self, now: int, wall_ms: int) -> messages.Produced:
        """Do the rest for the batch that was taken; returns its producer's answer."""
        partition = self._partition
        records, size, base = self._taken
        assert records, "nothing was taken"
        self._producers.write_down()
        self._arrivals.note(partition, records, size, now, wall_ms, self._txn)
        self._counters.settled()
        partition.flush(self._txn)
        return messages.Produced(base, wall_ms, self._epoch, partition.durability, 0)
