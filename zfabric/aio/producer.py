"""The producer of the SDK: a thin face on ``core/client/producer.py``."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import islice
from types import TracebackType, new_class
from typing import TYPE_CHECKING, Any, ClassVar, Self

from zfabric import errors
from zfabric.aio.pump import Pump
from zfabric.core.client.outbox import Delivery as CoreDelivery
from zfabric.core.client.outbox import OutBatch, check_headers, check_payload
from zfabric.core.client.pieces import pieces
from zfabric.model import RecordMetadata
from zfabric.settings import (
    TIMESTAMP_MAX,
    TOPIC_PARTITIONS_MAX,
    check_callable,
    check_iterable,
    check_name,
    check_range,
    check_timeout,
)
from zfabric.wire.received import RecordBatch

if TYPE_CHECKING:
    from zfabric.core.client.producer import Producer as Core

Serializer = Callable[[str, Any], bytes | None]
_TOPICS_SHOWN = 3
_PAUSE_NS = 50_000
"""A caller that comes after a longer pause looks for acknowledgements: else its record might wait for the next one.

Who never pauses does so once a millisecond: the core sees to that.
"""


class Delivery(CoreDelivery):
    """The fate of one record that was sent: ``done``, ``error``, and :meth:`result`."""

    pump: ClassVar[Pump]

    async def result(self, timeout: float | None = None) -> RecordMetadata:
        """Wait for the acknowledgement and return where the record went.

        Args:
            timeout: seconds, None for as long as the producer tries (its ``delivery_timeout``).

        Raises:
            RequestTimeout: not acknowledged yet; it goes on.
            DeliveryTimeout, ProducerFenced, RecordTooLarge, UnknownTopic, Closed: it was given up.
        """
        check_timeout("timeout", timeout)
        if not self.done and not await self.pump.wait(self.batch.wait(), timeout):
            raise errors.RequestTimeout(what="the acknowledgement", seconds=timeout)
        return self.metadata()

    def __await__(self) -> Generator[Any, None, RecordMetadata]:  # async-only
        """Wait as :meth:`result` does, for as long as the producer tries."""
        return self.result().__await__()


class Producer:
    """Sends records to topics; made by ``fabric.producer()``. Safe to share between threads.

    Idempotent: a record that was acknowledged is in its partition exactly once, in the order in which it was sent.
    """

    def __init__(self, pump: Pump, core: Core, serializer: Serializer | None, *, block: bool) -> None:
        self._pump = pump
        self._core = core
        self._serializer = serializer
        self._block = block
        self._came_ns = 0

    def __repr__(self) -> str:
        topics = self._core.topics()
        shown = ", ".join(repr(topic) for topic in topics[:_TOPICS_SHOWN])
        shown += f" and {len(topics) - _TOPICS_SHOWN:,} more" * (len(topics) > _TOPICS_SHOWN)
        return f"<Producer to {shown or 'no topic yet'}: {'closed' if self._core.closed else self._pump.state}>"

    @property
    def sent_bytes(self) -> int:
        """Bytes handed to sockets so far, repeats included."""
        return self._core.sender.sent_bytes

    @property
    def refusal(self) -> Exception | None:
        """Why leaders last refused something that is under way, though they may take it later; None if none did."""
        with self._pump.lock:
            return self._core.refusal

    @staticmethod
    def delivery(pump: Pump) -> Callable[[OutBatch, int], Delivery]:
        """Return the class of deliveries that wait with ``pump``."""
        kind = new_class("Delivery", (Delivery,), exec_body=lambda body: body.update(pump=pump))
        kind.__doc__ = Delivery.__doc__
        return kind

    async def send(
        self,
        topic: str,
        value: Any,
        *,
        key: bytes | None = None,
        headers: dict[str, bytes] | None = None,
        partition: int | None = None,
        timestamp: int | None = None,
        sequence: int | None = None,
        on_delivery: Callable[[Delivery, Exception | None], None] | None = None,
    ) -> Delivery:
        """Take one record and return its delivery; waits only while the buffer is full or the topic is not known yet.

        Args:
            value: bytes, None for a tombstone, or anything if the producer has a serializer.
            key: chooses the partition (``xxh3_64(key) % partitions``). partition: chooses it by number.
            timestamp: ms since 1970, now by default.
            sequence: the application's own sequence, increasing per partition (only with a named producer).
            on_delivery: called with (delivery, error or None) when the record is acknowledged or given up.

        Raises:
            InvalidArgument, RecordTooLarge, UnknownTopic, UnknownPartition: the record cannot be sent as it is.
            BufferFull: no room, and the producer does not block or waited for its ``delivery_timeout``.
        """
        pump, core = self._pump, self._core
        if on_delivery is not None:
            check_callable("on_delivery", on_delivery)
        if type(topic) is not str:
            check_name("topic", topic)
        if self._serializer is not None:
            value = self._serializer(topic, value)
        delivery: Delivery | None
        lock = pump.lock
        while True:
            try:
                lock.acquire()  # Not `with`, which takes 80 ns longer: a tenth of all that is done here.
                now = pump.now()
                if (
                    key is None
                    and headers is None
                    and partition is None
                    and timestamp is None
                    and sequence is None
                    and on_delivery is None
                ):
                    delivery = core.append(topic, value, now)
                else:
                    delivery = core.send(topic, value, key, headers, partition, timestamp, sequence, on_delivery, now)
                paced = now - self._came_ns > _PAUSE_NS
                if core.wants_flush or (paced and not (core.rests and pump.rests(now))):
                    core.wants_flush = False
                    pump.paced_ns = now if paced else 0
                    pump.flush()
                self._came_ns = now
            finally:
                try:
                    lock.release()
                except RuntimeError as error:  # A signal's handler has raised before it was taken.
                    if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                        raise  # Or when it was released: that is the handler's own.
            if delivery is not None:
                return delivery
            await self._wait_for_room(topic)

    async def _wait_for_room(self, topic: str) -> None:
        check_name("topic", topic)
        core, timeout = self._core, self._core.settings.delivery_timeout_ns / 1e9
        with self._pump.lock:
            self._pump.check()
            now = self._pump.now()
            known = core.knows(topic)
            pending = core.blocked(topic, now, now + min(core.settings.delivery_timeout_ns, core.call_timeout_ns))
            self._pump.flush()
        if pending is None:
            return
        full = known and core.used >= core.settings.buffer_bytes
        if full and not self._block:
            raise errors.BufferFull(used=core.used, limit=core.settings.buffer_bytes)
        if not await self._pump.wait(pending, timeout):
            raise errors.BufferFull(used=core.used, limit=core.settings.buffer_bytes)
        pending.result()

    async def send_many(
        self,
        topic: str,
        values: Iterable[Any],
        keys: Iterable[bytes | None] | None = None,
        *,
        timestamp: int | None = None,
    ) -> int:
        """Take many records by the bulk path; returns how many were taken. :meth:`flush` tells what became of them.

        Args:
            values: bytes each (or what the serializer takes). keys: as many, or None for none.

        Raises:
            As :meth:`send`; and InvalidArgument if there are fewer keys than values.
        """
        check_name("topic", topic)
        check_iterable("values", values, "bytes")
        if timestamp is not None:
            check_range("timestamp", timestamp, -TIMESTAMP_MAX, TIMESTAMP_MAX, "ms since 1970")
        if keys is not None:
            check_iterable("keys", keys, "bytes or None")
            return await self._send_keyed(topic, values, keys, timestamp)
        core, pump = self._core, self._pump
        if self._serializer is not None:
            serializer = self._serializer
            values = (serializer(topic, value) for value in values)
        source, count, taken = iter(values), 256, 0
        while True:
            pump.checkpoint()
            chunk = list(islice(source, count))
            if not chunk:
                return taken
            try:
                size = len(b"".join(chunk))
            except TypeError:
                chunk = [check_payload("value", value) for value in chunk]
                size = sum(len(value or b"") for value in chunk)
            while True:
                with pump.lock:
                    pump.check()
                    now = pump.now()
                    if core.blocked(topic, now, now + core.call_timeout_ns) is None:
                        core.send_chunk(topic, chunk, None, size, timestamp, now)
                        pump.flush()
                        break
                await self._wait_for_room(topic)
            taken += len(chunk)
            count = max(1, min(100_000, core.settings.batch_bytes * len(chunk) // max(size, len(chunk))))

    async def _send_keyed(
        self, topic: str, values: Iterable[Any], keys: Iterable[bytes | None], timestamp: int | None
    ) -> int:
        taken = 0
        names = iter(keys)
        for value in values:
            self._pump.checkpoint()
            try:
                key = next(names)
            except StopIteration:
                raise errors.InvalidArgument(
                    name="keys", value=f"{taken} keys", allowed="one for each value; None where there is none"
                ) from None
            await self.send(topic, value, key=key, timestamp=timestamp)
            taken += 1
        return taken

    async def send_batch(
        self,
        topic: str,
        batch: RecordBatch,
        *,
        partition: int,
        after: int | None = None,
        headers: Sequence[dict[str, bytes]] | None = None,
        on_delivery: Callable[[Delivery, Exception | None], None] | None = None,
    ) -> int:
        """Take all records of a batch that a consumer returned, with their offsets as sequences; returns how many.

        For a named producer. Keys, values, timestamps and headers stay as they are, and no call is made per record.
        Records whose sequence is stored already are left out. A batch may be taken in part before an error.

        Args:
            partition: where they go, by number.
            after: the last sequence sent there before. If it was given up meanwhile the batch is refused, for what
                was given up would be jumped over: send again, from :meth:`stored` on.
            headers: one dict a record, instead of those that the batch has.
            on_delivery: called with (delivery, error or None), once or more, as parts are acknowledged or given up.

        Raises:
            OutOfOrderSequence: see ``after``. CorruptBatch: it cannot be decoded.
            InvalidArgument, RecordTooLarge, UnknownTopic, UnknownPartition, BufferFull: as :meth:`send`.
        """
        check_name("topic", topic)
        check_range("partition", partition, 0, TOPIC_PARTITIONS_MAX - 1)
        if not isinstance(batch, RecordBatch):
            raise errors.InvalidArgument(name="batch", value=type(batch).__name__, allowed="RecordBatch")
        if headers is not None:
            headers = [check_headers(entry) or {} for entry in headers]
            check_range("number of headers", len(headers), len(batch), len(batch))
        if on_delivery is not None:
            check_callable("on_delivery", on_delivery)
        core, pump, taken = self._core, self._pump, 0
        stored = (await self.stored(topic)).get(partition, -1)
        for piece in pieces(batch, stored, core.settings.batch_bytes, headers):
            while True:
                with pump.lock:
                    pump.check()
                    delivery = core.send_piece(topic, partition, piece, after, on_delivery, pump.now())
                    pump.flush()
                if delivery is not None:
                    break
                await self._wait_for_room(topic)
            taken += len(piece.values)
            after = piece.last
        return taken

    async def stored(self, topic: str) -> dict[int, int]:
        """Return the last ``sequence`` of this named producer that is stored, by partition number; -1 where none is.

        The first call asks the partitions' leaders, which fences earlier instances; then it is what was acknowledged
        since. An application that starts again goes on behind it.

        Raises:
            InvalidArgument: the producer has no name.
            ProducerFenced: a newer instance is at work. UnknownTopic, Unreachable, RequestTimeout.
        """
        check_name("topic", topic)
        core = self._core
        if not core.named:
            raise errors.InvalidArgument(name="producer", value="without a name", allowed="only with producer(name=…)")
        seconds = core.call_timeout_ns / 1e9
        while True:
            with self._pump.lock:
                self._pump.check()
                now = self._pump.now()
                pending = core.unknown(topic, now, now + core.call_timeout_ns)
                if pending is None:
                    return core.stored(topic)
                self._pump.flush()
            if not await self._pump.wait(pending, seconds):
                raise errors.RequestTimeout(what=f"the stored sequences of topic {topic!r}", seconds=seconds)
            pending.result()

    def read(self, topic: str) -> dict[int, tuple[int, int]]:
        """Return where the last stored record was read, by partition number, as known since :meth:`stored` asked first.

        Of the batch of another log that :meth:`send_batch` was given, which had that record, the leader epoch and the
        append time (ms): whoever goes on behind it can tell whether that log is the same. Zeros where nobody knows.
        """
        with self._pump.lock:
            return self._core.read(topic)

    async def flush(self, timeout: float | None = None) -> None:
        """Send what is open and wait until all that was taken is acknowledged.

        Args:
            timeout: seconds, None for as long as the producer tries.

        Raises:
            DeliveryError: what was not acknowledged, by topic and partition: given up since the last flush, or
                still under way when the time was over.
        """
        check_timeout("timeout", timeout)
        with self._pump.lock:
            pending = self._core.flush(self._pump.now())
            self._pump.flush()
        done = await self._pump.wait(pending, timeout)
        failed = self._core.failures.take()
        if failed is not None:
            raise failed
        if not done:
            left = self._core.outstanding()
            detail = "; ".join(
                f"{topic} [{number}]: {count:,} still under way" for (topic, number), count in left.items()
            )
            raise errors.DeliveryError(records=sum(left.values()), detail=detail)

    async def close(self, timeout: float | None = 30.0) -> None:
        """Flush, then give up what could not be delivered; a second call does nothing, nor does a forked child's.

        Raises:
            DeliveryError: what could not be delivered.
        """
        check_timeout("timeout", timeout)
        if self._core.closed or self._pump.forked:
            return
        try:
            await self.flush(timeout)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close without waiting: what is not acknowledged is given up."""
        with self._pump.lock:
            if not self._core.closed:
                self._core.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or self._pump.forked:
            await self.close()
            return
        with self._pump.lock:
            self._core.flush(self._pump.now())
        try:
            await self.close(1.0)
        except errors.ZFabricError as problem:
            error.add_note(f"and then: {problem}") if error is not None else None


__all__ = ["Delivery", "Producer", "Serializer"]
