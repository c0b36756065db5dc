"""What becomes of a producer's batches: sent in order, sent again, each stored once.

Exactly once, per partition (see ``core/leader/producers.py`` for the leader's half). Up to five batches are under
way, each with its sequences. A new session repeats them in order. A batch that is rejected for a passing reason makes
the later ones arrive out of order; all of them are rejected, and sent again in order once every answer is there. A
batch that is rejected for good takes its sequences with it: once nothing is in doubt, the rest begins a new epoch.
When time is up the outcome of a batch is unknown, and its deliveries say so; it is repeated nevertheless while later
ones wait behind it, since without it they could not be placed. Only when all of them are over does the partition
begin a new epoch, which fences what may still be in the network.

A named producer asks each partition's leader for its epoch first, which fences its earlier instances, and learns the
last of the application's own sequences that was stored; what the application sends again is dropped by the producer.
It asks for every later epoch as well: counting on by itself, it could arrive at the epoch of the instance that has
fenced it.

The application's own sequences leave gaps, so a leader cannot see that a batch is missing: it would take the next one,
and the missing one's retry for a repeat. So one batch of them is under way per partition, and with one that is given
up all behind it are: the application sends them again, in order, and nothing was jumped over. What was read in
another log says which sequence comes before it: a leader that has another one was set back, which is told at once.

A plain record that finds nothing else open or under way to its topic is a batch of its own, and sealed as such in one
step (``wire/lone.py``). A leader in this very process may give an *express way* to a partition, by which it is stored
and published when the call returns (``core/leader/express.py``). It has its sequence before that, as any other; where
an exception of a signal handler's leaves open whether it was taken, it is a batch under way as any other, and is sent
as such. So is one that the way refuses, which is forgotten then; the next answer that comes by the usual way is the
occasion to ask for another.

With ``acks="none"`` a batch carries no producer id: nobody repeats what was lost, and to a leader that expects dense
sequences all that follows would be out of order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zfabric import errors
from zfabric.core.client.connection import Request
from zfabric.core.client.ledger import Ledger
from zfabric.core.client.outbox import OutBatch, Outbox, codec_number
from zfabric.core.client.pending import Pending
from zfabric.core.client.requests import PATIENCE_NS
from zfabric.core.client.route import Route
from zfabric.settings import ProducerSettings
from zfabric.wire import lone, messages
from zfabric.wire.batch import NOT_SAID
from zfabric.wire.messages import Command, Produced, Type

if TYPE_CHECKING:
    from zfabric.core.client.client import Client

RETRY_NS = 20_000_000
RETRY_MAX_NS = 400_000_000
FULL_RETRY_MAX_NS = 5_000_000_000
"""Of a leader whose disk is full: nobody makes room in a second, and each attempt costs a slow link the whole batch."""
KEEPERS_PATIENCE_NS = 10_000_000_000
"""Patience with a leader that waits for keepers: its silence does not mean that it has lost the batch."""
IN_USE_NS = 60_000_000_000
"""Who has sent nothing for so long does not use its topics."""
_FLAGS = {"all": 0, "leader": messages.FLAG_LEADER_ONLY, "none": messages.FLAG_NO_ANSWER}


class Sender:
    """The batches of one producer on their way to the leaders.

    Args:
        identity: 64-bit producer id. named: ask leaders for the epoch.

    Attributes:
        routes: topics by name. busy: of all partitions those that hold anything, and some that did a moment ago.
        sent_ns: when something was sent last; before the first time, ``never_ns``.
        sent_bytes: handed to sessions so far, repeats included.
    """

    def __init__(
        self, client: Client, settings: ProducerSettings, ledger: Ledger, identity: int, never_ns: int, *, named: bool
    ) -> None:
        self.identity = identity
        self.named = named
        self.routes: dict[str, Route] = {}
        self.busy: dict[Outbox, Route] = {}
        self.sent_ns = never_ns
        self.sent_bytes = 0
        self._client = client
        self._settings = settings
        self._ledger = ledger
        self._instance = client.random.getrandbits(62) + 1 if named else 0
        self._codec = codec_number(settings.codec)
        self._flags = _FLAGS[settings.acks]
        self._plain = not (named or self._codec or settings.linger_ns or self._flags & messages.FLAG_NO_ANSWER)

    # For the producer.

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns), for what was refused or lingers."""
        deadlines, idle = [], []
        linger = self._settings.linger_ns
        for outbox in self.busy:
            if outbox.idle:
                idle.append(outbox)
            elif outbox.retry_at_ns is not None:
                if outbox.beginning is None and all(batch.rejected for batch in outbox.under_way):
                    deadlines.append(outbox.retry_at_ns)
            elif (
                linger
                and outbox.open is not None
                and (outbox.begun or not self.named)
                and not outbox.sealed
                and len(outbox.under_way) < self._settings.in_flight_max
            ):
                deadlines.append(outbox.open.created_ns + linger)
        for outbox in idle:
            del self.busy[outbox]
        return min(deadlines, default=None)

    def tick(self, now: int) -> None:
        """Send what has lingered, may be tried again, or had waited for what expired."""
        for outbox, route in list(self.busy.items()):
            if not outbox.idle:
                self.advance(route, outbox, now)

    def flush(self, now: int) -> None:
        """Send what is open."""
        for outbox, route in list(self.busy.items()):
            if outbox.open is not None:
                self.close(route, outbox)
            self.advance(route, outbox, now)

    def close(self, route: Route, outbox: Outbox) -> None:
        """Close the open batch; keyless records go to the next partition from here on."""
        batch = outbox.open
        assert batch is not None
        self._ledger.close_lane(route.topic)
        outbox.open = None
        if not batch.deltas:
            batch.deltas = [0] * batch.count
        repeats = batch.sequences is not None or not self._flags & messages.FLAG_NO_ANSWER
        batch.seal(self._codec, self.identity if repeats else 0)
        outbox.sealed.append(batch)
        self._turn_to_next(route, outbox)

    def _turn_to_next(self, route: Route, outbox: Outbox) -> None:
        """Let keyless records fill another partition's batch than this one, which is closed."""
        if outbox.number == route.sticky:
            route.sticky = (route.sticky + 1) % route.count

    def advance(self, route: Route, outbox: Outbox, now: int) -> None:
        """Send what may be sent now."""
        if outbox.retry_at_ns is not None:
            if now < outbox.retry_at_ns or any(not batch.rejected for batch in outbox.under_way):
                return
            if outbox.next_sequence < 0:
                outbox.renew()
            if self.named and not outbox.begun:
                self.begin(route, outbox, now)
                return
            self._resend(route, outbox, now)
        if self.named and not outbox.begun:
            self.begin(route, outbox, now)
            return
        while len(outbox.under_way) < self._settings.in_flight_max:
            if not outbox.sealed:
                if not self._ripe(route, outbox, now):
                    return
                self.close(route, outbox)
            if outbox.under_way and outbox.sealed[0].sparse:
                return
            batch = outbox.sealed.popleft()
            outbox.assign(batch)
            outbox.under_way.append(batch)
            route.under_way += 1
            self._transmit(route, outbox, batch, now)
            if not outbox.sealed and outbox.open is None:
                return  # As nearly always.

    def give_up(self, route: Route, outbox: Outbox, error: errors.ZFabricError) -> None:
        """Give up all that an outbox holds."""
        waiting = [*outbox.under_way, *outbox.sealed]
        if outbox.open is not None:
            waiting.append(outbox.open)
        self._empty(route, outbox)
        for batch in waiting:
            self._ledger.finish(batch, error)
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

    def empty_all(self) -> None:
        """Send nothing of what there is any more."""
        for route in self.routes.values():
            for outbox in route.outboxes:
                self._empty(route, outbox)

    def forget_expired(self) -> None:
        """Settle the batches whose time is up and that nothing waits behind."""
        for outbox, route in list(self.busy.items()):
            self._forget_expired(route, outbox)

    def _give_up_behind(self, outbox: Outbox, error: Exception | None) -> None:
        """A batch with the application's sequences was given up: those behind it would jump over it."""
        behind = [batch for batch in outbox.sealed if batch.sparse]
        for batch in behind:
            outbox.sealed.remove(batch)
        if outbox.open is not None and outbox.open.sparse:
            behind.append(outbox.open)
            outbox.open = None
        for batch in behind:
            self._ledger.finish(batch, error)

    def _forget_expired(self, route: Route, outbox: Outbox) -> None:
        over: list[OutBatch] = []
        if outbox.open is not None and outbox.open.expired:
            over.append(outbox.open)
            self._ledger.settle(outbox.open)
            outbox.open = None
        for batch in [batch for batch in outbox.sealed if batch.expired]:
            over.append(batch)
            outbox.sealed.remove(batch)
            self._ledger.settle(batch)
        if outbox.under_way and all(batch.expired for batch in outbox.under_way):
            for batch in outbox.under_way:
                self._client.requests.withdraw(batch.request_id)
                self._ledger.settle(batch)
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

    # Lone records.

    def lone(self, topic: str, value: bytes, now: int) -> OutBatch | None:
        """Send a plain record as a batch of its own, if nothing else is there; None if it is not as simple as that.

        The batch is what it would be otherwise; it is acknowledged if it went by express.
        """
        route = self.routes.get(topic)
        if route is None:
            return None
        outbox = route.outboxes[route.sticky]
        take, ledger, sequence = outbox.express, self._ledger, outbox.next_sequence
        if (
            sequence < 0
            or outbox.retry_at_ns is not None
            or (self.busy and (route.under_way or outbox.open is not None or outbox.sealed))
            or len(value) > route.lone_max
            or ledger.used >= ledger.check_from
            or not (take or (self._plain and not route.compacted))
        ):
            return None
        wall = now // 1_000_000 + self._client.wall_offset_ms
        outbox.next_sequence = sequence + 1
        answer: Produced | None = None
        if take is not None:
            try:
                answer = take(value, wall, self.identity, outbox.epoch, sequence, now)
            except BaseException:
                self._send_lone(route, outbox, topic, value, sequence, now, wall)
                raise
        if answer is None:
            return self._send_lone(route, outbox, topic, value, sequence, now, wall)
        if now - self.sent_ns >= IN_USE_NS:
            self._client.restless = True  # Its topics are to be looked after again.
        self.sent_ns = now
        batch = OutBatch(topic, outbox.shown, now, wall)
        batch.hold(len(value), sequence, b"", b"")
        self.sent_bytes += lone.sealed_bytes(len(value))
        self._turn_to_next(route, outbox)
        outbox.retry_pause_ns = 0
        batch.acknowledge(answer)
        ledger.skip(batch)
        return batch

    def _send_lone(
        self, route: Route, outbox: Outbox, topic: str, value: bytes, sequence: int, now: int, wall: int
    ) -> OutBatch:
        """Send a record the usual way. If it was taken by express, which nobody may know, its leader knows it again."""
        header, payload = lone.seal(value, wall, self.identity, outbox.epoch, sequence, outbox.partition_id)
        batch = OutBatch(topic, outbox.shown, now, wall)
        batch.hold(len(value), sequence, header, payload)
        outbox.express = None
        self.busy[outbox] = route
        outbox.under_way.append(batch)
        route.under_way += 1
        self._turn_to_next(route, outbox)
        self._ledger.add(batch, now)
        self._ledger.used += batch.size
        self._transmit(route, outbox, batch, now)
        return batch

    def _ask_for_express(self, route: Route, outbox: Outbox) -> None:
        requests = self._client.requests
        if requests.express is None or not self._plain or route.compacted or not outbox.idle:
            return
        endpoint = self._client.endpoint(outbox.leader)
        session = None if endpoint is None else requests.ready(endpoint)
        if session is not None:
            outbox.express = requests.express(session, outbox.partition_id)

    # Under way.

    def _ripe(self, route: Route, outbox: Outbox, now: int) -> bool:
        batch = outbox.open
        if batch is None:
            return False
        if self._settings.linger_ns:
            return now >= batch.created_ns + self._settings.linger_ns
        return not outbox.under_way and (batch.eager or not route.under_way)

    def _transmit(self, route: Route, outbox: Outbox, batch: OutBatch, now: int) -> None:
        requests = self._client.requests
        batch.request_id = requests.next_id()
        batch.rejected = False
        self.sent_ns = now
        batch.sent_first = outbox.under_way[0] is batch
        header = batch.encoded(outbox.epoch, outbox.partition_id)
        frames = messages.produce(batch.request_id, self._flags, header, batch.payload)
        if len(batch.payload) > requests.frame_bytes_max:
            limit = requests.frame_bytes_max
            error = errors.RecordTooLarge(size=len(batch.payload), topic=route.topic, limit=limit)
            self._rejected(route, outbox, batch, error, now)
            return
        endpoint = self._client.endpoint(outbox.leader)
        if endpoint is None:  # That leader was not back when we asked.
            batch.rejected = True
            self._client.refresh(route.topic, now)
            self._postpone(outbox, now)
            return
        self.sent_bytes += len(header) + len(batch.payload)
        if self._flags & messages.FLAG_NO_ANSWER:
            requests.send_once(endpoint, frames, now)
            outbox.under_way.remove(batch)
            route.under_way -= 1
            self._ledger.finish(batch, None)
            return

        def answered(command: Command) -> None:
            self._answered(route, outbox, batch, command)

        patience_ns = PATIENCE_NS + route.config.commit_interval_ms * 1_000_000
        if route.config.replicas > 1 and not self._flags:
            patience_ns = KEEPERS_PATIENCE_NS
        size = len(batch.payload)
        requests.send(endpoint, Request(batch.request_id, frames, answered, None, None, patience_ns, size), now)

    def _answered(self, route: Route, outbox: Outbox, batch: OutBatch, command: Command) -> None:
        now = self._client.now
        if batch not in outbox.under_way:
            return  # It was given up.
        if command.type == Type.PRODUCED:
            outbox.under_way.remove(batch)
            route.under_way -= 1
            outbox.retry_pause_ns = 0
            outbox.note_stored(batch)
            batch.acknowledge(command.body)
            self._ledger.finish(batch, None)
            self.advance(route, outbox, now)
            sticky = route.outboxes[route.sticky]
            if sticky is not outbox and not route.under_way and sticky.open is not None:
                self.advance(route, sticky, now)
            if outbox.express is None:
                self._ask_for_express(route, outbox)
            return
        if command.type == Type.ERROR:
            error = errors.from_wire(command.body.code, command.body.values)
        else:
            error = errors.ProtocolViolation(problem=f"answer {command.type} to PRODUCE", allowed="PRODUCED or ERROR")
        self._rejected(route, outbox, batch, error, now)

    def _rejected(self, route: Route, outbox: Outbox, batch: OutBatch, error: errors.ZFabricError, now: int) -> None:
        if isinstance(error, errors.ProducerFenced):
            self._fence(error)
            return
        out_of_place = isinstance(error, errors.UnknownProducer | errors.OutOfOrderSequence)
        astray = batch.after != NOT_SAID and isinstance(error, errors.OutOfOrderSequence)
        if (error.retriable or out_of_place) and not astray:
            batch.rejected = True
            batch.refusal = error
            if isinstance(error, errors.NotLeader):
                self._client.refresh(route.topic, now)
            if out_of_place and batch.sent_first:
                # The leader lost what it had acknowledged (an "os" or "memory" topic after a crash, a producer that
                # was idle for a week): nothing before this batch is in doubt, so a new epoch cannot repeat anything.
                # Of a batch that was sent behind others the answer may be older than theirs: it is sent again first.
                self._new_epoch(outbox)
            self._postpone(outbox, now, FULL_RETRY_MAX_NS if isinstance(error, errors.StorageFull) else RETRY_MAX_NS)
            return
        outbox.under_way.remove(batch)
        route.under_way -= 1
        self._ledger.finish(batch, error)
        if batch.sparse:
            self._give_up_behind(outbox, error)
        outbox.recount()
        self._new_epoch(outbox)
        self._postpone(outbox, now)

    def _postpone(self, outbox: Outbox, now: int, longest_ns: int = RETRY_MAX_NS) -> None:
        if outbox.retry_at_ns is None:
            outbox.retry_pause_ns = min(max(outbox.retry_pause_ns * 2, RETRY_NS), longest_ns)
            outbox.retry_at_ns = now + outbox.retry_pause_ns

    def _new_epoch(self, outbox: Outbox) -> None:
        """The next time that nothing is in doubt, begin a new epoch with what is left (-1 marks it)."""
        outbox.next_sequence = -1

    def _resend(self, route: Route, outbox: Outbox, now: int) -> None:
        """Every answer is there: send the rejected ones again, in order."""
        outbox.retry_at_ns = None
        for batch in list(outbox.under_way):
            self._transmit(route, outbox, batch, now)
            if outbox.postponed:
                break

    def _fence(self, error: errors.ProducerFenced) -> None:
        self._ledger.refuse(error)
        self._ledger.finish_all(error)
        self.empty_all()

    def begin(self, route: Route, outbox: Outbox, now: int) -> Pending[None]:
        """Ask a leader for the epoch of this named producer."""
        if outbox.beginning is not None:
            return outbox.beginning
        pending = outbox.beginning = Pending()
        asked = self._client.call_partition(
            outbox.leader,
            Type.INIT_PRODUCER,
            messages.InitProducer(outbox.partition_id, self.identity, self._instance, outbox.attempt),
            now,
            now + self._settings.delivery_timeout_ns,
            "producer identity",
            route.topic,
        )

        def answered() -> None:
            if outbox.beginning is not pending:
                return  # It was for a partition that is no more.
            outbox.beginning = None
            error = asked.error
            if error is None:
                body: messages.ProducerIs = asked.result().body
                outbox.epoch = body.epoch
                if body.last_sequence > outbox.stored:
                    outbox.stored, outbox.read = body.last_sequence, body.read
                outbox.recount()
                outbox.begun = True
                pending.resolve(None)
                self.advance(route, outbox, self._client.now)
                return
            if isinstance(error, errors.ProducerFenced):
                self._fence(error)
            elif not outbox.idle:
                outbox.retry_at_ns = None
                self._postpone(outbox, self._client.now)
            pending.fail(error)

        asked.on_done(answered)
        return pending
