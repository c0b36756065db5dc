"""What a producer has taken and not settled: its bytes, its time limits, and who waits for it.

A batch is in the ledger from its first record on. It is *reported* once: acknowledged, given up, or over because its
time is up; that is what deliveries, callbacks and flushes hear. It is *settled* when nothing of it is under way any
more; that gives its room in the buffer back. Both happen together, except for a batch whose time is up while later ones
wait behind it.

Plain records take a short way into an open batch, its *lane*. It reserves room for as many as the batch takes, so that
the bound of the buffer holds, and accounts for what came only once it is closed. Everything else that looks at an open
batch closes its lane first, and who finds no room closes all of them, which gives back what they did not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zfabric import errors
from zfabric.core.client.failures import Failures
from zfabric.core.client.outbox import Lane, OutBatch
from zfabric.core.client.pending import Pending
from zfabric.settings import ProducerSettings

if TYPE_CHECKING:
    from zfabric.core.client.client import Client


class Ledger:
    """The batches of one producer that are not settled.

    Attributes:
        used: bytes of records that are not settled, and the room in lanes.
        lanes: where plain records go, by topic.
        check_from: from so many bytes on, or always if -1, a record may be taken only after a closer look.
        fatal: why nothing can be sent any more.
        acknowledged: records, since the start.
        failures: what a flush has to raise.
        expiry_ns: when :meth:`expire` is wanted next (monotonic); None while there is nothing to expire.
    """

    def __init__(self, client: Client, settings: ProducerSettings, *, named: bool) -> None:
        self.used = 0
        self.lanes: dict[str, Lane] = {}
        # Where more than room may be missing, always.
        self.check_from = -1 if named else settings.buffer_bytes
        self.fatal: errors.ZFabricError | None = None
        self.acknowledged = 0
        self.failures = Failures()
        self.expiry_ns: int | None = None
        self._client = client
        self._settings = settings
        self._live: dict[OutBatch, None] = {}
        self._flushes: list[tuple[set[OutBatch], Pending[None]]] = []
        self._room: Pending[None] | None = None

    def __len__(self) -> int:
        return len(self._live)

    def add(self, batch: OutBatch, now: int) -> None:
        """Take a batch in, full or with no record yet."""
        self._live[batch] = None
        due_ns = now + self._settings.delivery_timeout_ns
        if self.expiry_ns is None or due_ns < self.expiry_ns:
            self.expiry_ns = due_ns

    def open_lane(self, batch: OutBatch, batch_bytes: int) -> None:
        """Let plain records of its topic into an open batch by the short way, as long as there is room for them."""
        room = min(batch_bytes - batch.size, self.check_from - self.used)
        if room > 0:
            assert batch.topic not in self.lanes, "a lane is closed before its topic gets another"
            self.lanes[batch.topic] = Lane(batch, room)
            self.used += room

    def close_lane(self, topic: str) -> None:
        """Account for what went into a topic's lane, if it has one: count, size and used are exact again."""
        lane = self.lanes.pop(topic, None)
        if lane is not None:
            lane.batch.count = len(lane.values)
            lane.batch.size += lane.opened - lane.room
            self.used -= lane.room

    def close_lanes(self) -> None:
        """Account for what went into all lanes."""
        for topic in list(self.lanes):
            self.close_lane(topic)

    def room(self) -> Pending[None] | None:
        """Return what comes when there is room in the buffer; None if there is."""
        self.close_lanes()
        if self.used < self._settings.buffer_bytes:
            return None
        if self._room is None:
            self._room = Pending()
        return self._room

    def refuse(self, error: errors.ZFabricError) -> None:
        """Raise ``error`` for whatever is sent from now on."""
        self.close_lanes()
        self.fatal = error
        self.check_from = -1

    def flushed(self) -> Pending[None]:
        """Return what comes when all that is in the ledger now was reported."""
        pending: Pending[None] = Pending()
        live = {batch for batch in self._live if not batch.expired}
        if live:
            self._flushes.append((live, pending))
        else:
            pending.resolve(None)
        return pending

    def outstanding(self) -> dict[tuple[str, int], int]:
        """Return how many records were not reported, by topic and partition number."""
        self.close_lanes()
        counts: dict[tuple[str, int], int] = {}
        for batch in self._live:
            if not batch.expired:
                place = (batch.topic, batch.partition)
                counts[place] = counts.get(place, 0) + batch.count
        return counts

    def skip(self, batch: OutBatch) -> None:
        """A batch was acknowledged before anybody could have asked for it: it need not have been added."""
        batch.done = True
        batch.payload = b""
        self.acknowledged += batch.count

    def finish(self, batch: OutBatch, error: Exception | None) -> None:
        """Report and settle a batch: it is acknowledged, or given up for ``error``."""
        if self.lanes:
            self.close_lanes()
        if not batch.expired:
            self._report(batch, error)
        self.settle(batch)

    def finish_all(self, error: Exception) -> None:
        """Give up everything."""
        for batch in list(self._live):
            self.finish(batch, error)

    def close(self, error: Exception) -> None:
        """Give up everything, and let nobody wait for room."""
        self.close_lanes()
        self.check_from = -1
        self.finish_all(error)
        if self._room is not None:
            self._room.resolve(None)

    @property
    def refusal(self) -> Exception | None:
        """Why leaders last refused something that is under way, though for a passing reason; None if none did."""
        return next((batch.refusal for batch in self._live if batch.refusal is not None), None)

    def expire(self, now: int) -> None:
        """Report the batches whose time is up; their outcome is unknown, so they are not settled yet."""
        self.close_lanes()
        limit = now - self._settings.delivery_timeout_ns
        for batch in [batch for batch in self._live if batch.created_ns <= limit and not batch.expired]:
            error = errors.DeliveryTimeout(
                records=batch.count,
                topic=batch.topic,
                partition=batch.partition,
                seconds=self._settings.delivery_timeout_ns / 1e9,
                **self._reason(batch),
            )
            self._report(batch, error)
            batch.expired = True

    def _reason(self, batch: OutBatch) -> dict[str, str]:
        """Return why a batch is not acknowledged, as far as that is known."""
        if batch.refusal is not None:
            return {"reason": f"last refused: {batch.refusal}"}
        meta = self._client.topic(batch.topic)
        if meta is None or meta.config.replicas < 2 or self._settings.acks != "all":
            return {}
        keepers = "a keeper" if meta.config.replicas == 2 else f"{meta.config.replicas - 1} keepers"
        hint = f"'zfabric topic describe {batch.topic}' shows what each has confirmed"
        return {"reason": f"they may or may not be stored: acks='all' waits for {keepers}; {hint}"}

    def expect(self) -> None:
        """Find out when the next batch expires."""
        oldest = min((batch.created_ns for batch in self._live if not batch.expired), default=None)
        self.expiry_ns = None if oldest is None else oldest + self._settings.delivery_timeout_ns

    def _report(self, batch: OutBatch, error: Exception | None) -> None:
        batch.error = error
        batch.done = error is None or batch.done
        if error is None:
            self.acknowledged += batch.count
        else:
            self.failures.add(batch)
        if batch.pending is not None:
            batch.pending.resolve(None)
        if batch.callbacks is not None:
            if error is not None:
                batch.tell(delivery.index for _, delivery in batch.callbacks)
            self._client.later(batch.callbacks, error)
            batch.callbacks = None
        for live, pending in self._flushes:
            live.discard(batch)
            if not live:
                pending.resolve(None)
        if self._flushes:
            self._flushes = [entry for entry in self._flushes if not entry[1].done]

    def settle(self, batch: OutBatch) -> None:
        """Nothing of the batch is under way any more: give its room back."""
        if batch not in self._live:
            return
        del self._live[batch]
        batch.done = True
        batch.payload = b""
        batch.values = []
        self.used -= batch.size
        if self._room is not None and self.used < self._settings.buffer_bytes:
            room, self._room = self._room, None
            room.resolve(None)
