"""The express way of a lone batch: from a producer in the leader's own process to a topic in memory.

A turn is made for many commands of many clients; this is for one batch, with nothing else to be done, whose producer
holds it in its hands. It is appended by the same rules (producer's sequence, offsets, the ring) and in the same order:
it is there, and noted as its producer's, before anybody is told. What nobody waits for is left until it is published.

What is left out, and why that may be: no command is encoded and read, as the batch is handed over; its checksum is not
compared, as it was made by the same call; no transaction is begun, as none is needed; and it is not gathered with
others. Whatever is not as simple as that (a repeat, a gap, a fence, offsets to be written down, a log that is not in
memory, keepers to be waited for, a shared commit, a turn to be taken back) is not taken, and goes the usual way, by
which it gets the usual answer.

A way is made for a partition as it is, and leads nowhere once that may be otherwise: with each assignment, and with
each turn that is given up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zfabric import errors
from zfabric.core.leader.log import MemoryLog
from zfabric.wire import batch, messages

if TYPE_CHECKING:
    from zfabric.core.effects import Frames
    from zfabric.core.leader.arrivals import Arrivals
    from zfabric.core.leader.assigned import Assigned
    from zfabric.core.leader.counters import Counters
    from zfabric.core.leader.partition import Partition
    from zfabric.core.transaction import Transaction


def fits(partition: Partition) -> bool:
    """Tell whether a partition's batches may go by express at all."""
    config = partition.config
    in_memory = isinstance(partition.log, MemoryLog) and config.durability == "memory"
    return in_memory and not config.commit_interval_ms and config.replicas == 1


class Express:
    """The way to one partition, which :func:`fits`. For each batch: :meth:`take`, publish, :meth:`taken`.

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

    def take(self, raw: bytes, payload: bytes, wall_ms: int) -> Frames | None:
        """Append a sealed batch; returns what is to be published now, None if nothing was done.

        If an exception comes out of it, from a handler of signals, the turn is to be spoiled.
        """
        log, producers, txn = self._log, self._producers, self._txn
        header = batch.parse(raw)
        base = log.state.end
        if (
            self._changes != self._assigned.changes
            or base + header.records > log.reserved
            or header.payload_length > self._payload_max
        ):
            return None
        try:
            if producers.check(header, txn) is not None:
                return None
        except errors.ZFabricError:
            return None
        stamped = log.append(header, raw, payload, self._epoch, wall_ms, txn)
        producers.note(header, base, wall_ms)
        log.settled()
        self._header, self._base = header, base
        return self._id, stamped, payload

    def taken(self, now: int, wall_ms: int) -> messages.Produced:
        """Do the rest for the batch that was taken; returns its producer's answer."""
        partition = self._partition
        assert self._header is not None, "nothing was taken"
        self._producers.write_down()
        self._arrivals.note(partition, self._header, now, wall_ms, self._txn)
        self._counters.settled()
        partition.flush(self._txn)
        return messages.Produced(self._base, wall_ms, self._epoch, partition.durability, 0)
