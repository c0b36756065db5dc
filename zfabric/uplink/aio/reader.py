"""One consumer for all that is read of a mesh's topic, and each link's share in it.

Each partition of each origin has a link of its own, and there may be thousands. With a consumer each they would cost a
subscription, and a question every few seconds, each. So they share one: its connections are as many as the members that
it reads from, and what it has received and nobody took is bounded for all partitions together.

The reader takes batches and puts each into its partition's :class:`Share`, whose link sends them on. What keeps one
partition from going on concerns its share alone: the consumer reads it no more, and the link is told when it has taken
what came before.
"""

from __future__ import annotations

import logging
from collections import deque

from zfabric import errors
from zfabric.aio.consumer import Consumer
from zfabric.aio.fabric import Fabric
from zfabric.wire.batch import HEADER_BYTES
from zfabric.wire.received import RecordBatch

BATCHES = 64
"""Batches that are taken before the links have their turn."""
REFRESH_NS = 1_000_000_000
COMMIT_NS = 1_000_000_000

log = logging.getLogger("zfabric.uplink")


class Share:
    """One partition of a reader, for a link: what it asks of a consumer of that partition alone.

    Attributes:
        number: of the partition. end: of its log, as last heard of. committed: the last offset that was committed.
    """

    def __init__(self, reader: Reader, number: int) -> None:
        self.number = number
        self.end = 0
        self.committed = -1
        self._reader = reader
        self._queue: deque[tuple[RecordBatch, tuple[str, int]]] = deque()
        self._log = ("", -1)
        self._error: errors.ZFabricError | None = None
        self._position = -1
        self._lag = 0

    @property
    def has_news(self) -> bool:
        """Whether there is something for the link: batches, an error, or offsets that were skipped."""
        return bool(self._queue) or self._error is not None

    @property
    def position(self) -> dict[int, int]:
        """Where the partition is read on; nothing while that is not known, or batches wait here."""
        return {} if self._queue or self._position < 0 else {self.number: self._position}

    @property
    def lag(self) -> dict[int, int]:
        """Records between that and the end last heard of."""
        return {self.number: self._lag}

    def log(self, partition: int) -> tuple[str, int]:
        """Return of which log the batch is that was returned last."""
        return self._log

    async def seek(self, partition: int, offset: int) -> None:
        """Read it from ``offset`` on.

        Raises:
            UnknownPartition: nobody is known to have it. OffsetOutOfRange: it has no such offset.
        """
        self._clear()
        await self._reader.read(self, offset)
        self._position = offset

    def poll_batches(self) -> list[RecordBatch]:
        """Return the next batch, if there is one.

        Raises:
            ZFabricError: it does not go on: seek.
        """
        if self._queue:
            batch, self._log = self._queue.popleft()
            self._reader.queued -= _size(batch)
            return [batch]
        error, self._error = self._error, None
        if error is not None:
            raise error
        return []

    def commit(self, offset: int) -> None:
        """Store an offset for the group, soon and with those of other partitions."""
        self._reader.commits[self.number] = self.committed = offset

    def abandon(self) -> None:
        """Read it no more."""
        self._clear()
        self._position = -1
        self._reader.drop(self)

    def _clear(self) -> None:
        for batch, _ in self._queue:
            self._reader.queued -= _size(batch)
        self._queue.clear()
        self._error = None

    # For the reader.

    def put(self, batch: RecordBatch, origin: tuple[str, int]) -> None:
        """Take a batch, and of which log it is."""
        self._queue.append((batch, origin))
        self._reader.queued += _size(batch)

    def fail(self, error: errors.ZFabricError) -> None:
        """It does not go on behind what is here."""
        self._error = error
        self._position = -1

    def saw(self, position: int, lag: int) -> None:
        """Take in how far it is read."""
        self._position, self._lag = position, lag
        self.end = max(self.end, position + lag)


def _size(batch: RecordBatch) -> int:
    return batch.header.payload_length + HEADER_BYTES


class Reader:
    """The consumer of one topic of a mesh.

    Attributes:
        queued: bytes that shares hold. commits: offsets to be committed, by partition.
    """

    def __init__(self, source: Fabric, topic: str, *, group: str, buffer_bytes: int) -> None:
        self.queued = 0
        self.commits: dict[int, int] = {}
        self._source = source
        self._topic = topic
        self._group = group
        self._buffer_bytes = buffer_bytes
        self._consumer: Consumer | None = None
        self._shares: dict[int, Share] = {}
        self._refresh_ns = 0
        self._commit_ns = 0

    @property
    def consumer(self) -> Consumer | None:
        """What to wait for; None while nothing is read."""
        return self._consumer if self._shares else None

    async def read(self, share: Share, offset: int) -> None:
        """Read a partition from ``offset`` on.

        Raises:
            UnknownPartition: nobody is known to have it. OffsetOutOfRange: it has no such offset.
        """
        if self._consumer is None:
            consumer = self._source.consumer(
                self._topic,
                group=self._group,
                partitions=[share.number],
                missing="raise",  # To skip is not enough: a topic that was made anew has to begin as another origin.
                buffer_bytes=self._buffer_bytes,
            )
            consumer.bound(self._buffer_bytes)
            await consumer.begin()
            self._consumer = consumer
        await self._consumer.add(share.number, offset)
        self._shares[share.number] = share

    def drop(self, share: Share) -> None:
        """Read a partition no more."""
        if self._shares.get(share.number) is share:
            del self._shares[share.number]
            self.commits.pop(share.number, None)
            if self._consumer is not None:
                self._consumer.remove(share.number)

    async def fill(self, room: int, now: int) -> None:
        """Take up to ``room`` bytes, and one batch, and give them to the shares."""
        consumer = self.consumer
        if consumer is None:
            return
        taken = 0
        while room > 0 and taken < BATCHES:
            try:
                found = await consumer.poll_batches(1, timeout=0.0)
            except errors.Closed:
                raise
            except errors.ZFabricError as error:
                self._fail(consumer, error)
                taken += 1
                continue
            if not found:
                break
            for batch in found:
                share = self._shares.get(batch.partition)
                if share is not None:
                    share.put(batch, consumer.log(batch.partition))
                room -= _size(batch)
                taken += 1
        if taken or now >= self._refresh_ns:
            self._refresh_ns = now + REFRESH_NS
            self._refresh(consumer)

    def _refresh(self, consumer: Consumer) -> None:
        lags = consumer.lag
        for number, position in consumer.position.items():
            share = self._shares.get(number)
            if share is not None and position >= 0:
                share.saw(position, lags[number])

    def _fail(self, consumer: Consumer, error: errors.ZFabricError) -> None:
        """Let those links know whose partitions do not go on; all of them, if it is none of these."""
        problems = consumer.problems or dict.fromkeys(self._shares, error)
        for number, problem in problems.items():
            consumer.remove(number)
            share = self._shares.pop(number, None)
            if share is not None:
                share.fail(problem)

    async def commit(self, now: int, *, soon: bool = False) -> None:
        """Commit what the shares want, once a second, or now if it is to be ``soon``."""
        if self._consumer is None or not self.commits or not (soon or now - self._commit_ns >= COMMIT_NS):
            return
        self._commit_ns = now
        commits, self.commits = self.commits, {}
        try:
            await self._consumer.commit({number: at for number, at in commits.items() if number in self._shares})
        except errors.ZFabricError as error:
            log.info("uplink_commit_failed topic=%s problem=%s", self._topic, error)
            self.commits = commits | self.commits

    def close(self) -> None:
        """Read nothing any more."""
        consumer, self._consumer = self._consumer, None
        self._shares.clear()
        self.commits.clear()
        self.queued = 0
        if consumer is not None:
            consumer.abandon()
