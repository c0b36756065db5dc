"""The producer: batches records by themselves, sends each batch once, however often it takes.

Natural batching. A partition with nothing under way sends its first record at once; while a batch is under way, the
next one fills. So a lone record has no delay, and a flood makes large batches, with no setting. ``linger`` makes an
open batch wait for company, ``batch_bytes`` closes it, ``buffer_bytes`` bounds all that is not acknowledged.

Exactly once, per partition (see ``core/leader/producers.py`` for the leader's half). Up to five batches are under
way, each with its sequences. A new session repeats them in order. A batch that is rejected for a passing reason makes
the later ones arrive out of order; all of them are rejected, and sent again in order once every answer is there. A
batch that is rejected for good takes its sequences with it: once nothing is in doubt, the rest begins a new epoch.
When time is up the outcome of a batch is unknown, and its deliveries say so; it is repeated nevertheless while later
ones wait behind it, since without it they could not be placed. Only when all of them are over does the partition
begin a new epoch, which fences what may still be in the network.

A named producer asks each partition's leader for its epoch first, which fences its earlier instances, and learns the
last of the application's own sequences that was stored; what the application sends again is dropped here. It asks for
every later epoch as well: counting on by itself, it could arrive at the epoch of the instance that has fenced it.

The application's own sequences leave gaps, so a leader cannot see that a batch is missing: it would take the next one,
and the missing one's retry for a repeat. So one batch of them is under way per partition, and with one that is given
up all behind it are: the application sends them again, in order, and nothing was jumped over.

With ``acks="none"`` a batch carries no producer id: nobody repeats what was lost, and to a leader that expects dense
sequences all that follows would be out of order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zfabric import errors
from zfabric.core.client.failures import Failures
from zfabric.core.client.outbox import (
    Delivery,
    OutBatch,
    Outbox,
    check_headers,
    check_payload,
    codec_number,
    headers_size,
)
from zfabric.core.client.partitioner import key_hash
from zfabric.core.client.pending import Pending
from zfabric.core.client.pieces import RECORD_OVERHEAD, Piece
from zfabric.core.client.requests import PATIENCE_NS, Request
from zfabric.core.client.route import Route
from zfabric.settings import (
    BATCH_OVERHEAD_MAX,
    BATCH_RECORDS_MAX,
    KEY_BYTES_MAX,
    TIMESTAMP_MAX,
    TOPIC_PARTITIONS_MAX,
    ProducerSettings,
    check_range,
)
from zfabric.wire import messages
from zfabric.wire.messages import Command, Type

if TYPE_CHECKING:
    from zfabric.core.client.client import Client

RETRY_NS = 20_000_000
RETRY_MAX_NS = 1_000_000_000
AGE_NS = 60_000_000_000
_OPEN_BYTES_MAX = BATCH_OVERHEAD_MAX * 3 // 4
"""A batch below this has room for one more record of the largest size: what a leader takes exceeds that by 1 MiB."""
_FLAGS = {"all": 0, "leader": messages.FLAG_LEADER_ONLY, "none": messages.FLAG_NO_ANSWER}

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
        self.identity = identity
        self.closed = False
        self.fatal: errors.ZFabricError | None = None
        self.used = 0
        # From so many bytes on, `blocked` is asked before each record: always, where more than room may be missing.
        self._check_from = -1 if named else settings.buffer_bytes
        self._batch_bytes = min(settings.batch_bytes, _OPEN_BYTES_MAX)
        self.wants_flush = False
        self.call_timeout_ns = 10_000_000_000
        self.acknowledged = 0
        self.sent_ns = -AGE_NS
        self._client = client
        self.named = named
        self._instance = client.random.getrandbits(62) + 1 if named else 0
        self._delivery = delivery
        self._codec = codec_number(settings.codec)
        self._flags = _FLAGS[settings.acks]
        self._routes: dict[str, Route] = {}
        self._live: dict[OutBatch, None] = {}
        self.failures = Failures()
        self._flushes: list[tuple[set[OutBatch], Pending[None]]] = []
        self._room: Pending[None] | None = None
        self._wanted: set[str] = set()
        self._expiry_ns: int | None = None

    # For the facade.

    def blocked(self, topic: str, now: int, deadline_ns: int) -> Pending[Any] | None:
        """Return what to wait for before a record to ``topic`` can be taken; None if it can be now."""
        unknown = self.unknown(topic, now, deadline_ns)
        if unknown is None and self.used >= self.settings.buffer_bytes:
            if self._room is None:
                self._room = Pending()
            return self._room
        return unknown

    def unknown(self, topic: str, now: int, deadline_ns: int) -> Pending[Any] | None:
        """Return what to wait for before the topic's partitions, and a named producer's place in each, are known."""
        if self.closed:
            raise errors.Closed(what="producer")
        if self.fatal is not None:
            raise self.fatal
        route = self._routes.get(topic)
        if route is None:
            self._wanted.add(topic)
            return self._client.want(topic, now, deadline_ns)
        if self.named:
            beginning = [self._begin(topic, route, outbox, now) for outbox in route.outboxes if not outbox.begun]
            if beginning:
                return beginning[0]
        return None

    def learn(self, meta: messages.TopicMeta) -> None:
        """Note where a topic's partitions are (the client calls this with all metadata that comes)."""
        route = self._routes.get(meta.name)
        if route is not None:
            for outbox in route.update(meta):
                last = route.count - 1
                self._give_up(
                    route, outbox, errors.UnknownPartition(topic=meta.name, partition=outbox.number, last=last)
                )
        elif meta.name in self._wanted:
            self._wanted.discard(meta.name)
            route = self._routes[meta.name] = Route(meta)
            # Not the first one: the lone records of many short-lived producers would all go there.
            route.sticky = self._client.random.randrange(route.count)

    def gone(self, topic: str) -> None:
        """The topic does not exist any more: give up what is for it."""
        self._wanted.discard(topic)
        route = self._routes.pop(topic, None)
        if route is not None:
            for outbox in route.outboxes:
                self._give_up(route, outbox, errors.UnknownTopic(topic=topic))

    def _give_up(self, route: Route, outbox: Outbox, error: errors.ZFabricError) -> None:
        """Give up all that an outbox holds."""
        waiting = [*outbox.under_way, *outbox.sealed]
        if outbox.open is not None:
            waiting.append(outbox.open)
        self._empty(route, outbox)
        for batch in waiting:
            self._finish(batch, error)
        beginning, outbox.beginning = outbox.beginning, None
        if beginning is not None:
            beginning.fail(error)

    def _empty(self, route: Route, outbox: Outbox) -> None:
        for batch in outbox.under_way:
            self._client.requests.withdraw(batch.request_id)
        route.under_way -= len(outbox.under_way)
        outbox.open = None
        outbox.under_way.clear()
        outbox.sealed.clear()

    def refuse(self, error: errors.ZFabricError) -> None:
        """Raise ``error`` for whatever is sent from now on."""
        self.fatal = error
        self._check_from = -1

    def in_use(self, now: int) -> bool:
        """Tell whether it holds something, or sent something within the last minute."""
        return self.used > 0 or now - self.sent_ns < AGE_NS

    def topics(self) -> list[str]:
        """Return the topics whose partitions are known."""
        return list(self._routes)

    def knows(self, topic: str) -> bool:
        """Tell whether the topic's partitions are known."""
        return topic in self._routes

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
        route = self._routes.get(topic)
        if route is None or (self.used >= self._check_from and self.blocked(topic, now, now) is not None):
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
            batch = outbox.open = OutBatch(topic, outbox.number, now, wall)
            self._live[batch] = None
            due_ns = now + self.settings.delivery_timeout_ns
            if self._expiry_ns is None or due_ns < self._expiry_ns:
                self._expiry_ns = due_ns
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
        self.used += size
        delivery = self._delivery(batch, index)
        if on_delivery is not None:
            if batch.callbacks is None:
                batch.callbacks = []
            batch.callbacks.append((on_delivery, delivery))
        if batch.size >= self._batch_bytes or index >= BATCH_RECORDS_MAX - 1:
            self._close(route, outbox)
            self._advance(topic, route, outbox, now)
            self.wants_flush = True
        elif not outbox.under_way and not outbox.sealed:
            self._advance(topic, route, outbox, now)
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
            self._close(route, outbox)  # The chunk follows in the same partition.
        wall = self._client.wall_ms(now) if timestamp is None else timestamp
        batch = OutBatch(topic, outbox.number, now, wall)
        batch.values = values
        batch.keys = keys
        batch.count = len(values)
        batch.size = size + RECORD_OVERHEAD * batch.count
        self._live[batch] = None
        if self._expiry_ns is None:
            self._expiry_ns = now + self.settings.delivery_timeout_ns
        self.used += batch.size
        outbox.open = batch
        self._close(route, outbox)
        self._advance(topic, route, outbox, now)

    def send_piece(
        self, topic: str, partition: int, piece: Piece, after: int | None, on_delivery: OnDelivery | None, now: int
    ) -> Any:
        """Take records with the application's sequences, as columns; returns the delivery of the last one.

        None when :meth:`blocked` says what to wait for, which is asked before: ``piece`` depends on what is stored.

        Raises:
            OutOfOrderSequence: ``after`` is not the last sequence stored or held: what lies between was given up.
            InvalidArgument, RecordTooLarge, UnknownPartition: they cannot be sent as they are, or not there.
        """
        route = self._routes.get(topic)
        if route is None or self.blocked(topic, now, now) is not None:
            return None
        key = None if piece.keys is None or None in piece.keys else b""
        outbox = self._check(topic, route, route.outboxes[0], key, partition, piece.first, piece.largest)
        if after is not None and after != outbox.application:
            raise errors.OutOfOrderSequence(
                partition=outbox.partition_id,
                producer=self.identity,
                epoch=outbox.epoch,
                sequence=piece.first,
                expected=outbox.application + 1,
            )
        batch = outbox.open
        if batch is not None and not piece.fits(batch, self._batch_bytes):
            self._close(route, outbox)
            batch = None
        if batch is None:
            batch = outbox.open = OutBatch(topic, outbox.number, now, self._client.wall_ms(now))
            batch.eager, batch.sequences = True, []
            self._live[batch] = None
            if self._expiry_ns is None:
                self._expiry_ns = now + self.settings.delivery_timeout_ns
        piece.add_to(batch)
        outbox.application = piece.last
        self.used += piece.size
        delivery = self._delivery(batch, batch.count - 1)
        if on_delivery is not None:
            batch.callbacks = [*(batch.callbacks or ()), (on_delivery, delivery)]
        if batch.size >= self._batch_bytes:
            self._close(route, outbox)
        self._advance(topic, route, outbox, now)
        return delivery

    def stored(self, topic: str) -> dict[int, int]:
        """Return the last application sequence known to be stored, by partition; -1 where there is none."""
        route = self._routes.get(topic)
        return {} if route is None else {outbox.number: outbox.stored for outbox in route.outboxes}

    def _repeated(self, topic: str, outbox: Outbox, timestamp: int | None, on_delivery: OnDelivery | None) -> Any:
        """Answer a record whose application sequence is stored already."""
        batch = OutBatch(topic, outbox.number, 0, timestamp or 0)
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
            if not self.named:
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
            self._close(route, outbox)
        return outbox

    def flush(self, now: int) -> Pending[None]:
        """Send what is open and return what comes when all that was taken so far is done."""
        for topic, route in self._routes.items():
            for outbox in route.outboxes:
                if outbox.open is not None:
                    self._close(route, outbox)
                self._advance(topic, route, outbox, now)
        pending: Pending[None] = Pending()
        live = {batch for batch in self._live if not batch.expired}
        if live:
            self._flushes.append((live, pending))
        else:
            pending.resolve(None)
        return pending

    def outstanding(self) -> dict[tuple[str, int], int]:
        """Return how many records are not acknowledged, by topic and partition number."""
        counts: dict[tuple[str, int], int] = {}
        for batch in self._live:
            if not batch.expired:
                place = (batch.topic, batch.partition)
                counts[place] = counts.get(place, 0) + batch.count
        return counts

    def close(self) -> None:
        """Give up what is not acknowledged."""
        self.closed = True
        self._client.dismiss(self)
        self._check_from = -1
        for batch in list(self._live):
            self._finish(batch, errors.Closed(what="producer"))
        for route in self._routes.values():
            for outbox in route.outboxes:
                self._empty(route, outbox)
        if self._room is not None:
            self._room.resolve(None)

    # For the client.

    def tick(self, now: int) -> None:
        """Expire what is over; send what has lingered, may be tried again, or had waited for what expired."""
        if self._expiry_ns is not None and self._expiry_ns <= now:
            self._expire(now)
        for topic, route in self._routes.items():
            for outbox in route.outboxes:
                if outbox.open is not None or outbox.sealed or outbox.under_way:
                    self._advance(topic, route, outbox, now)

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        deadlines = [] if self._expiry_ns is None else [self._expiry_ns]
        linger = self.settings.linger_ns
        if not self._live:
            return None
        for route in self._routes.values():
            for outbox in route.outboxes:
                if outbox.retry_at_ns is not None:
                    if outbox.beginning is None and all(batch.rejected for batch in outbox.under_way):
                        deadlines.append(outbox.retry_at_ns)
                elif (
                    linger
                    and outbox.open is not None
                    and (outbox.begun or not self.named)
                    and not outbox.sealed
                    and len(outbox.under_way) < self.settings.in_flight_max
                ):
                    deadlines.append(outbox.open.created_ns + linger)
        return min(deadlines, default=None)

    # Batches.

    def _close(self, route: Route, outbox: Outbox) -> None:
        """Close the open batch; keyless records go to the next partition from here on."""
        batch = outbox.open
        assert batch is not None
        outbox.open = None
        if not batch.deltas:
            batch.deltas = [0] * batch.count
        repeats = batch.sequences is not None or not self._flags & messages.FLAG_NO_ANSWER
        batch.seal(self._codec, self.identity if repeats else 0)
        outbox.sealed.append(batch)
        if outbox.number == route.sticky:
            route.sticky = (route.sticky + 1) % route.count

    def _ripe(self, route: Route, outbox: Outbox, now: int) -> bool:
        batch = outbox.open
        if batch is None:
            return False
        if self.settings.linger_ns:
            return now >= batch.created_ns + self.settings.linger_ns
        return not outbox.under_way and (batch.eager or not route.under_way)

    def _advance(self, topic: str, route: Route, outbox: Outbox, now: int) -> None:
        """Send what may be sent now."""
        if outbox.retry_at_ns is not None:
            if now < outbox.retry_at_ns or any(not batch.rejected for batch in outbox.under_way):
                return
            if outbox.next_sequence < 0:
                outbox.renew()
            if self.named and not outbox.begun:
                self._begin(topic, route, outbox, now)
                return
            self._resend(topic, route, outbox, now)
        if self.named and not outbox.begun:
            self._begin(topic, route, outbox, now)
            return
        while len(outbox.under_way) < self.settings.in_flight_max:
            if not outbox.sealed:
                if not self._ripe(route, outbox, now):
                    return
                self._close(route, outbox)
            if outbox.under_way and outbox.sealed[0].sparse:
                return
            batch = outbox.sealed.popleft()
            outbox.assign(batch)
            outbox.under_way.append(batch)
            route.under_way += 1
            self._transmit(topic, route, outbox, batch, now)

    def _transmit(self, topic: str, route: Route, outbox: Outbox, batch: OutBatch, now: int) -> None:
        requests = self._client.requests
        batch.request_id = requests.next_id()
        batch.rejected = False
        self.sent_ns = now
        batch.sent_first = outbox.under_way[0] is batch
        header = batch.encoded(outbox.epoch, outbox.partition_id)
        frames = messages.produce(batch.request_id, self._flags, header, batch.payload)
        if len(batch.payload) > requests.frame_bytes_max:
            limit = requests.frame_bytes_max
            self._rejected(
                topic,
                route,
                outbox,
                batch,
                errors.RecordTooLarge(size=len(batch.payload), topic=topic, limit=limit),
                now,
            )
            return
        endpoint = self._client.endpoint(outbox.leader)
        if endpoint is None:  # That leader was not back when we asked.
            batch.rejected = True
            self._client.refresh(topic, now)
            self._postpone(topic, outbox, now)
            return
        if self._flags & messages.FLAG_NO_ANSWER:
            requests.send_once(endpoint, frames, now)
            outbox.under_way.remove(batch)
            route.under_way -= 1
            self._finish(batch, None)
            return

        def answered(command: Command) -> None:
            self._answered(topic, route, outbox, batch, command)

        patience_ns = PATIENCE_NS + route.config.commit_interval_ms * 1_000_000
        requests.send(endpoint, Request(batch.request_id, frames, answered, None, None, patience_ns), now)

    def _answered(self, topic: str, route: Route, outbox: Outbox, batch: OutBatch, command: Command) -> None:
        now = self._client.now
        if batch not in outbox.under_way:
            return  # It was given up.
        if command.type == Type.PRODUCED:
            outbox.under_way.remove(batch)
            route.under_way -= 1
            outbox.retry_pause_ns = 0
            outbox.note_stored(batch)
            batch.acknowledge(command.body)
            self._finish(batch, None)
            self._advance(topic, route, outbox, now)
            sticky = route.outboxes[route.sticky]
            if sticky is not outbox and not route.under_way and sticky.open is not None:
                self._advance(topic, route, sticky, now)
            return
        if command.type == Type.ERROR:
            error = errors.from_wire(command.body.code, command.body.values)
        else:
            error = errors.ProtocolViolation(problem=f"answer {command.type} to PRODUCE", allowed="PRODUCED or ERROR")
        self._rejected(topic, route, outbox, batch, error, now)

    def _rejected(
        self, topic: str, route: Route, outbox: Outbox, batch: OutBatch, error: errors.ZFabricError, now: int
    ) -> None:
        if isinstance(error, errors.ProducerFenced):
            self._fence(error)
            return
        out_of_place = isinstance(error, errors.UnknownProducer | errors.OutOfOrderSequence)
        if error.retriable or out_of_place:
            batch.rejected = True
            batch.refusal = error
            if isinstance(error, errors.NotLeader):
                self._client.refresh(topic, now)
            if out_of_place and batch.sent_first:
                # The leader lost what it had acknowledged (an "os" or "memory" topic after a crash, a producer that
                # was idle for a week): nothing before this batch is in doubt, so a new epoch cannot repeat anything.
                # Of a batch that was sent behind others the answer may be older than theirs: it is sent again first.
                self._new_epoch(outbox)
            self._postpone(topic, outbox, now)
            return
        outbox.under_way.remove(batch)
        route.under_way -= 1
        self._finish(batch, error)
        if batch.sparse:
            self._give_up_behind(outbox, error)
        outbox.recount()
        self._new_epoch(outbox)
        self._postpone(topic, outbox, now)

    def _postpone(self, topic: str, outbox: Outbox, now: int) -> None:
        if outbox.retry_at_ns is None:
            outbox.retry_pause_ns = min(max(outbox.retry_pause_ns * 2, RETRY_NS), RETRY_MAX_NS)
            outbox.retry_at_ns = now + outbox.retry_pause_ns

    def _new_epoch(self, outbox: Outbox) -> None:
        """The next time that nothing is in doubt, begin a new epoch with what is left (-1 marks it)."""
        outbox.next_sequence = -1

    def _resend(self, topic: str, route: Route, outbox: Outbox, now: int) -> None:
        """Every answer is there: send the rejected ones again, in order."""
        outbox.retry_at_ns = None
        for batch in list(outbox.under_way):
            self._transmit(topic, route, outbox, batch, now)
            if outbox.postponed:
                break

    def _fence(self, error: errors.ProducerFenced) -> None:
        self.refuse(error)
        for batch in list(self._live):
            self._finish(batch, error)
        for route in self._routes.values():
            for outbox in route.outboxes:
                self._empty(route, outbox)

    def _expire(self, now: int) -> None:
        """Tell the deliveries of batches that are over; forget those that nothing waits behind."""
        limit = now - self.settings.delivery_timeout_ns
        for batch in [batch for batch in self._live if batch.created_ns <= limit and not batch.expired]:
            error = errors.DeliveryTimeout(
                records=batch.count,
                topic=batch.topic,
                partition=batch.partition,
                seconds=self.settings.delivery_timeout_ns / 1e9,
                **({"reason": f"last refused: {batch.refusal}"} if batch.refusal is not None else {}),
            )
            self._report(batch, error)
            batch.expired = True
        for route in self._routes.values():
            for outbox in route.outboxes:
                self._forget_expired(route, outbox)
        oldest = min((batch.created_ns for batch in self._live if not batch.expired), default=None)
        self._expiry_ns = None if oldest is None else oldest + self.settings.delivery_timeout_ns

    def _give_up_behind(self, outbox: Outbox, error: Exception | None) -> None:
        """A batch with the application's sequences was given up: those behind it would jump over it."""
        behind = [batch for batch in outbox.sealed if batch.sparse]
        for batch in behind:
            outbox.sealed.remove(batch)
        if outbox.open is not None and outbox.open.sparse:
            behind.append(outbox.open)
            outbox.open = None
        for batch in behind:
            self._finish(batch, error)

    def _forget_expired(self, route: Route, outbox: Outbox) -> None:
        over: list[OutBatch] = []
        if outbox.open is not None and outbox.open.expired:
            over.append(outbox.open)
            self._settle(outbox.open)
            outbox.open = None
        for batch in [batch for batch in outbox.sealed if batch.expired]:
            over.append(batch)
            outbox.sealed.remove(batch)
            self._settle(batch)
        if outbox.under_way and all(batch.expired for batch in outbox.under_way):
            for batch in outbox.under_way:
                self._client.requests.withdraw(batch.request_id)
                self._settle(batch)
            over += outbox.under_way
            route.under_way -= len(outbox.under_way)
            outbox.under_way.clear()
            # Fences what may still be on its way: the leader refuses an older epoch once it has seen this one.
            outbox.renew()
            outbox.retry_at_ns = None
        sparse = next((batch for batch in over if batch.sparse), None)
        if sparse is not None:
            self._give_up_behind(outbox, sparse.error)
        outbox.recount()

    def _finish(self, batch: OutBatch, error: Exception | None) -> None:
        """A batch is acknowledged or given up."""
        if not batch.expired:
            self._report(batch, error)
        self._settle(batch)

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
                batch.told.update(delivery.index for _, delivery in batch.callbacks)
            self._client.later(batch.callbacks, error)
            batch.callbacks = None
        for live, pending in self._flushes:
            live.discard(batch)
            if not live:
                pending.resolve(None)
        if self._flushes:
            self._flushes = [entry for entry in self._flushes if not entry[1].done]

    def _settle(self, batch: OutBatch) -> None:
        """Nothing of the batch is under way any more: give its room back."""
        if batch not in self._live:
            return
        del self._live[batch]
        batch.done = True
        batch.payload = b""
        batch.values = []
        self.used -= batch.size
        if self._room is not None and self.used < self.settings.buffer_bytes:
            room, self._room = self._room, None
            room.resolve(None)

    def _begin(self, topic: str, route: Route, outbox: Outbox, now: int) -> Pending[None]:
        """Ask a leader for the epoch of this named producer."""
        if outbox.beginning is not None:
            return outbox.beginning
        pending = outbox.beginning = Pending()
        asked = self._client.call_partition(
            outbox.leader,
            Type.INIT_PRODUCER,
            messages.InitProducer(outbox.partition_id, self.identity, self._instance, outbox.attempt),
            now,
            now + self.settings.delivery_timeout_ns,
            "producer identity",
            topic,
        )

        def answered() -> None:
            if outbox.beginning is not pending:
                return  # It was for a partition that is no more.
            outbox.beginning = None
            error = asked.error
            if error is None:
                body: messages.ProducerIs = asked.result().body
                outbox.epoch = body.epoch
                outbox.stored = max(outbox.stored, body.last_sequence)
                outbox.recount()
                outbox.begun = True
                pending.resolve(None)
                self._advance(topic, route, outbox, self._client.now)
                return
            if isinstance(error, errors.ProducerFenced):
                self._fence(error)
            elif not outbox.idle:
                outbox.retry_at_ns = None
                self._postpone(topic, outbox, self._client.now)
            pending.fail(error)

        asked.on_done(answered)
        return pending
