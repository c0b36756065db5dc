"""The producer: batches records by themselves, sends each batch once, however often it takes.

Natural batching. A partition with nothing under way sends its first record at once; while a batch is under way, the
next one fills. So a lone record has no delay, and a flood makes large batches, with no setting. ``linger`` makes an
open batch wait for company, ``batch_bytes`` closes it, ``buffer_bytes`` bounds all that is not acknowledged.

This is what the application meets; what becomes of a batch once it is closed is ``sender.py``, what is not settled yet
is ``ledger.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zfabric import errors
from zfabric.core.client.failures import Failures
from zfabric.core.client.ledger import Ledger
from zfabric.core.client.outbox import (
    RECORD_OVERHEAD,
    Delivery,
    OutBatch,
    Outbox,
    check_headers,
    check_payload,
    headers_size,
)
from zfabric.core.client.partitioner import key_hash
from zfabric.core.client.pending import Pending
from zfabric.core.client.pieces import Piece
from zfabric.core.client.route import Route
from zfabric.core.client.sender import IN_USE_NS, Sender
from zfabric.settings import (
    BATCH_OVERHEAD_MAX,
    BATCH_RECORDS_MAX,
    KEY_BYTES_MAX,
    TIMESTAMP_MAX,
    TOPIC_PARTITIONS_MAX,
    ProducerSettings,
    check_range,
)
from zfabric.wire.metadata import TopicMeta

if TYPE_CHECKING:
    from zfabric.core.client.client import Client

_OPEN_BYTES_MAX = BATCH_OVERHEAD_MAX * 3 // 4
"""A batch below this has room for one more record of the largest size: what a leader takes exceeds that by 1 MiB."""

OnDelivery = Callable[[Any, Exception | None], None]


class Producer:
    """The producer's state machine. One object, one identity, any number of topics.

    Args:
        identity: 64-bit producer id, random, or derived from the name of a named producer.
        named: ask leaders for the epoch, and allow application sequences.
        delivery: class of the deliveries made; the facade's own.
    """

    def __init__(
        self,
        client: Client,
        settings: ProducerSettings,
        identity: int,
        *,
        named: bool = False,
        delivery: Callable[[OutBatch, int], Any] = Delivery,
    ) -> None:
        self.settings = settings
        self.closed = False
        self.wants_flush = False
        self.call_timeout_ns = 10_000_000_000
        self._batch_bytes = min(settings.batch_bytes, _OPEN_BYTES_MAX)
        self._client = client
        self._ledger = Ledger(client, settings, named=named)
        self.sender = Sender(client, settings, self._ledger, identity, -IN_USE_NS, named=named)
        self._routes = self.sender.routes
        self._lanes = self._ledger.lanes
        self._delivery = delivery
        self._wanted: set[str] = set()

    # For the facade.

    @property
    def used(self) -> int:
        """Bytes of records that are not acknowledged."""
        return self._ledger.used - sum(lane.room for lane in self._lanes.values())

    @property
    def refusal(self) -> Exception | None:
        """Why leaders last refused something that is under way, though for a passing reason; None if none did."""
        return self._ledger.refusal

    @property
    def failures(self) -> Failures:
        """What a flush has to raise."""
        return self._ledger.failures

    @property
    def named(self) -> bool:
        """Whether it has a name, and so takes the application's own sequences."""
        return self.sender.named

    @property
    def rests(self) -> bool:
        """Whether nothing is on its way, so that no answer is to be looked for."""
        return not self._ledger

    def blocked(self, topic: str, now: int, deadline_ns: int) -> Pending[Any] | None:
        """Return what to wait for before a record to ``topic`` can be taken; None if it can be now."""
        unknown = self.unknown(topic, now, deadline_ns)
        return self._ledger.room() if unknown is None else unknown

    def unknown(self, topic: str, now: int, deadline_ns: int) -> Pending[Any] | None:
        """Return what to wait for before the topic's partitions, and a named producer's place in each, are known."""
        if self.closed:
            raise errors.Closed(what="producer")
        if self._ledger.fatal is not None:
            raise self._ledger.fatal
        route = self._routes.get(topic)
        if route is None:
            self._wanted.add(topic)
            return self._client.want(topic, now, deadline_ns)
        if self.sender.named:
            beginning = [self.sender.begin(route, outbox, now) for outbox in route.outboxes if not outbox.begun]
            if beginning:
                return beginning[0]
        return None

    def learn(self, meta: TopicMeta) -> None:
        """Note where a topic's partitions are (the client calls this with all metadata that comes)."""
        route = self._routes.get(meta.name)
        if route is not None:
            for outbox in route.update(meta):
                last = route.count - 1
                self.sender.give_up(
                    route, outbox, errors.UnknownPartition(topic=meta.name, partition=outbox.shown, last=last)
                )
        elif meta.name in self._wanted:
            self._wanted.discard(meta.name)
            route = self._routes[meta.name] = Route(meta, self._client.number)
            # Not the first one: the lone records of many short-lived producers would all go there.
            route.sticky = self._client.random.randrange(route.count)

    def holds(self, topic: str) -> bool:
        """Tell whether there are records for the topic that are not acknowledged."""
        route = self._routes.get(topic)
        return route is not None and not all(outbox.idle for outbox in route.outboxes)

    def gone(self, topic: str, now: int) -> None:
        """The topic does not exist any more: give up what is for it."""
        self._wanted.discard(topic)
        route = self._routes.pop(topic, None)
        if route is not None:
            for outbox in route.outboxes:
                self.sender.give_up(route, outbox, errors.UnknownTopic(topic=topic))

    def refuse(self, error: errors.ZFabricError) -> None:
        """Raise ``error`` for whatever is sent from now on."""
        self._ledger.refuse(error)

    def in_use(self, now: int) -> bool:
        """Tell whether it holds something, or sent something within the last minute."""
        return self._ledger.used > 0 or now - self.sender.sent_ns < IN_USE_NS

    def topics(self) -> list[str]:
        """Return the topics whose partitions are known."""
        return list(self._routes)

    def knows(self, topic: str) -> bool:
        """Tell whether the topic's partitions are known."""
        return topic in self._routes

    def append(self, topic: str, value: object, now: int) -> Any:
        """Take one plain record: :meth:`send` without any option, by the short way if there is one."""
        lane = self._lanes.get(topic)
        if type(value) is not bytes:
            return self._append(topic, value, now)
        if lane is None:
            batch = self.sender.lone(topic, value, now)
            if batch is None:
                return self._append(topic, value, now)
            self.wants_flush |= not batch.done
            return self._delivery(batch, 0)
        room = lane.room - len(value) - RECORD_OVERHEAD
        if room <= 0:
            return self._append(topic, value, now)
        batch = lane.batch
        if now >= batch.delta_until_ns:
            self._turn_ms(batch, now)
        # The whole record from here on: half of one would damage all of the batch.
        lane.room = room
        values = lane.values
        values.append(value)
        lane.deltas.append(batch.delta)
        return self._delivery(batch, len(values) - 1)

    def _turn_ms(self, batch: OutBatch, now: int) -> None:
        """Another millisecond of an open batch begins: time to look for acknowledgements, which let the next one go."""
        ms = now // 1_000_000
        batch.delta = ms + self._client.wall_offset_ms - batch.base_timestamp
        batch.delta_until_ns = (ms + 1) * 1_000_000
        self.wants_flush = True

    def _append(self, topic: str, value: object, now: int) -> Any:
        """Take the long way, and let those that follow take the short one if they fill the same batch.

        They do if nothing is asked before each record (a named producer), a record that is too large would find no
        room (a topic that allows only small ones), and the batch has no column that they would leave out.
        """
        delivery = self.send(topic, value, None, None, None, None, None, None, now)
        route = self._routes.get(topic)
        if delivery is not None and route is not None:
            batch = route.outboxes[route.sticky].open
            if (
                batch is not None
                and batch.keys is None
                and batch.headers is None
                and batch.sequences is None
                and route.record_max >= self._batch_bytes
            ):
                self._ledger.open_lane(batch, self._batch_bytes)
        return delivery

    def send(  # noqa: C901, PLR0915, PLR0917 - one call a record: each helper would cost 10 % of it
        self,
        topic: str,
        value: object,
        key: object,
        headers: object,
        partition: int | None,
        timestamp: int | None,
        sequence: int | None,
        on_delivery: OnDelivery | None,
        now: int,
    ) -> Any:
        """Take one record; returns its delivery, or None when :meth:`blocked` says what to wait for.

        Raises:
            InvalidArgument, RecordTooLarge, UnknownPartition: the record cannot be sent as it is.
        """
        ledger = self._ledger
        if topic in self._lanes:
            ledger.close_lane(topic)
        route = self._routes.get(topic)
        if route is None or (ledger.used >= ledger.check_from and self.blocked(topic, now, now) is not None):
            return None
        if type(value) is not bytes:
            value = check_payload("value", value)
        size = RECORD_OVERHEAD if value is None else RECORD_OVERHEAD + len(value)
        if key is None:
            outbox = route.outboxes[route.sticky]
            unusual = route.compacted
        else:
            if type(key) is not bytes:
                key = check_payload("key", key)
                assert key is not None
            size += len(key)
            outbox = route.outboxes[key_hash(key) % route.count]
            unusual = len(key) > KEY_BYTES_MAX
        if headers is not None:
            headers = check_headers(headers)
            if headers:
                size += headers_size(headers)
        if unusual or size > route.record_max or partition is not None or sequence is not None:
            outbox = self._check(topic, route, outbox, key, partition, sequence, size)
            if sequence is not None and sequence <= outbox.stored:
                return self._repeated(topic, outbox, timestamp, on_delivery)
        wall = now // 1_000_000 + self._client.wall_offset_ms
        if timestamp is None:
            timestamp = wall
        elif type(timestamp) is not int or not -TIMESTAMP_MAX <= timestamp <= TIMESTAMP_MAX:
            check_range("timestamp", timestamp, -TIMESTAMP_MAX, TIMESTAMP_MAX, "ms since 1970")
        # Nothing is refused from here on: half a record in an open batch would damage all of it.
        batch = outbox.open
        if batch is None:
            self.sender.busy[outbox] = route
            batch = outbox.open = OutBatch(topic, outbox.shown, now, wall)
            batch.delta_until_ns = (now // 1_000_000 + 1) * 1_000_000
            ledger.add(batch, now)
        elif now >= batch.delta_until_ns:
            self._turn_ms(batch, now)
        if key is not None or partition is not None:
            batch.eager = True
        index = batch.count
        batch.values.append(value)
        if batch.keys is not None:
            batch.keys.append(key)
        elif key is not None:
            batch.keys = [None] * index
            batch.keys.append(key)
        if batch.headers is not None:
            batch.headers.append(headers)
        elif headers:
            batch.headers = [None] * index
            batch.headers.append(headers)
        batch.deltas.append(timestamp - batch.base_timestamp)
        if sequence is not None:
            if batch.sequences is None:
                batch.sequences = []
            batch.sequences.append(sequence)
            outbox.application = sequence
        batch.count = index + 1
        batch.size += size
        ledger.used += size
        delivery = self._delivery(batch, index)
        if on_delivery is not None:
            if batch.callbacks is None:
                batch.callbacks = []
            batch.callbacks.append((on_delivery, delivery))
        if batch.size >= self._batch_bytes or index >= BATCH_RECORDS_MAX - 1:
            self.sender.close(route, outbox)
            self.sender.advance(route, outbox, now)
            self.wants_flush = True
        elif not outbox.under_way and not outbox.sealed:
            self.sender.advance(route, outbox, now)
            self.wants_flush = True
        return delivery

    def send_chunk(
        self, topic: str, values: list[Any], keys: list[Any] | None, size: int, timestamp: int | None, now: int
    ) -> None:
        """Take a whole chunk of values as one batch; keys only where all go to one partition's batch (see facade).

        ``size`` is the sum of their lengths; the values were checked to be bytes.
        """
        route = self._routes[topic]
        if route.compacted and keys is None:
            raise errors.InvalidArgument(name="keys", value="None", allowed=f"one key a record: {topic!r} is compacted")
        if size > route.record_max + _OPEN_BYTES_MAX and len(values) > 1:
            half = len(values) // 2
            left = sum(len(value or b"") for value in values[:half])
            self.send_chunk(topic, values[:half], None if keys is None else keys[:half], left, timestamp, now)
            self.send_chunk(topic, values[half:], None if keys is None else keys[half:], size - left, timestamp, now)
            return
        if size > route.record_max and max(len(value or b"") for value in values) + RECORD_OVERHEAD > route.record_max:
            biggest = max(len(value or b"") for value in values)
            raise errors.RecordTooLarge(size=biggest, topic=topic, limit=route.record_max)
        outbox = route.outboxes[route.sticky]
        if outbox.open is not None:
            self.sender.close(route, outbox)  # The chunk follows in the same partition.
        wall = self._client.wall_ms(now) if timestamp is None else timestamp
        batch = OutBatch(topic, outbox.shown, now, wall)
        batch.values = values
        batch.keys = keys
        batch.count = len(values)
        batch.size = size + RECORD_OVERHEAD * batch.count
        self._ledger.add(batch, now)
        self._ledger.used += batch.size
        self.sender.busy[outbox] = route
        outbox.open = batch
        self.sender.close(route, outbox)
        self.sender.advance(route, outbox, now)

    def send_piece(
        self, topic: str, partition: int, piece: Piece, after: int | None, on_delivery: OnDelivery | None, now: int
    ) -> Any:
        """Take records with the application's sequences, as columns; returns the delivery of the last one.

        None when :meth:`blocked` says what to wait for, which is asked before: ``piece`` depends on what is stored.

        Raises:
            OutOfOrderSequence: ``after`` is not the last sequence stored or held: what lies between was given up.
            InvalidArgument, RecordTooLarge, UnknownPartition: they cannot be sent as they are, or not there.
        """
        self._ledger.close_lane(topic)
        route = self._routes.get(topic)
        if route is None or self.blocked(topic, now, now) is not None:
            return None
        key = None if piece.keys is None or None in piece.keys else b""
        outbox = self._check(topic, route, route.outboxes[0], key, partition, piece.first, piece.largest)
        if after is not None and after != outbox.application:
            raise errors.OutOfOrderSequence(
                partition=outbox.partition_id,
                producer=self.sender.identity,
                epoch=outbox.epoch,
                sequence=piece.first,
                expected=outbox.application + 1,
            )
        batch = outbox.open
        if batch is not None and not piece.fits(batch, self._batch_bytes):
            self.sender.close(route, outbox)
            batch = None
        if batch is None:
            self.sender.busy[outbox] = route
            batch = outbox.open = OutBatch(topic, outbox.shown, now, self._client.wall_ms(now))
            batch.eager, batch.sequences, batch.after = True, [], outbox.application
            self._ledger.add(batch, now)
        piece.add_to(batch)
        outbox.application = piece.last
        self._ledger.used += piece.size
        delivery = self._delivery(batch, batch.count - 1)
        if on_delivery is not None:
            batch.callbacks = [*(batch.callbacks or ()), (on_delivery, delivery)]
        if batch.size >= self._batch_bytes:
            self.sender.close(route, outbox)
        self.sender.advance(route, outbox, now)
        return delivery

    def stored(self, topic: str) -> dict[int, int]:
        """Return the last application sequence known to be stored, by partition; -1 where there is none."""
        route = self._routes.get(topic)
        return {} if route is None else {outbox.shown: outbox.stored for outbox in route.outboxes}

    def read(self, topic: str) -> dict[int, tuple[int, int]]:
        """Return what is known of where the last record was read that was stored when this producer began."""
        route = self._routes.get(topic)
        return {} if route is None else {outbox.shown: outbox.read for outbox in route.outboxes}

    def _repeated(self, topic: str, outbox: Outbox, timestamp: int | None, on_delivery: OnDelivery | None) -> Any:
        """Answer a record whose application sequence is stored already."""
        batch = OutBatch(topic, outbox.shown, 0, timestamp or 0)
        batch.deltas = [0]
        batch.count = 1
        batch.done = True
        delivery = self._delivery(batch, 0)
        if on_delivery is not None:
            self._client.later([(on_delivery, delivery)], None)
            self.wants_flush = True
        return delivery

    def _check(
        self,
        topic: str,
        route: Route,
        outbox: Outbox,
        key: object,
        partition: int | None,
        sequence: int | None,
        size: int,
    ) -> Outbox:
        """Look at what most records do not have; returns the outbox to use."""
        if route.compacted and key is None:
            raise errors.InvalidArgument(
                name="key", value="None", allowed=f"bytes: topic {topic!r} is compacted by key"
            )
        if size > route.record_max:
            raise errors.RecordTooLarge(size=size, topic=topic, limit=route.record_max)
        if isinstance(key, bytes) and len(key) > KEY_BYTES_MAX:
            check_range("key length", len(key), 0, KEY_BYTES_MAX, "bytes")
        if partition is not None:
            check_range("partition", partition, 0, TOPIC_PARTITIONS_MAX - 1)
            if partition >= route.count:
                raise errors.UnknownPartition(topic=topic, partition=partition, last=route.count - 1)
            outbox = route.outboxes[partition]
        if sequence is not None:
            if not self.sender.named:
                raise errors.InvalidArgument(name="sequence", value=str(sequence), allowed="only with producer(name=…)")
            if key is None and partition is None:
                raise errors.InvalidArgument(
                    name="sequence", value=str(sequence), allowed="with a key or a partition, so that it repeats there"
                )
            check_range("sequence", sequence, 0, (1 << 63) - 1)
            if outbox.stored < sequence <= outbox.application:
                raise errors.InvalidArgument(
                    name="sequence",
                    value=f"{sequence:,}",
                    allowed=f"more than {outbox.application:,}, which is on its way to partition {outbox.number}",
                )
        if outbox.open is not None and (outbox.open.sequences is None) != (sequence is None):
            self.sender.close(route, outbox)
        return outbox

    def flush(self, now: int) -> Pending[None]:
        """Send what is open and return what comes when all that was taken so far is done."""
        self.sender.flush(now)
        return self._ledger.flushed()

    def outstanding(self) -> dict[tuple[str, int], int]:
        """Return how many records are not acknowledged, by topic and partition number."""
        return self._ledger.outstanding()

    def close(self) -> None:
        """Give up what is not acknowledged."""
        self.closed = True
        self._client.dismiss(self)
        self._ledger.close(errors.Closed(what="producer"))
        self.sender.empty_all()

    # For the client.

    def tick(self, now: int) -> None:
        """Expire what is over; send what has lingered, may be tried again, or had waited for what expired."""
        ledger, sender = self._ledger, self.sender
        if ledger.expiry_ns is not None and ledger.expiry_ns <= now:
            ledger.expire(now)
            sender.forget_expired()
            ledger.expect()
        sender.tick(now)

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        if not self._ledger:
            return None
        sending, expiry = self.sender.next_deadline(), self._ledger.expiry_ns
        return sending if expiry is None or (sending is not None and sending < expiry) else expiry
