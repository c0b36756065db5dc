"""One instance of a service: takes requests, hands them to workers in order, answers, refuses, drains.

**A request** is refused, that is answered without being executed, when it cannot be read, is for another instance or
for a method that there is not, when the instance drains, when its time is over before a worker takes it, and when
``concurrency`` are running and ``queue`` wait (or their bodies exceed ``QUEUED_BYTES_MAX``; see
:mod:`zfabric.core.client.backlog` for whose is), and when it would wait for
its own maker (:mod:`zfabric.core.client.circles`). Otherwise it waits for a worker; what the handler returns or raises
is the answer. CANCEL takes a waiting request away, and tells a running one; so does the end of its time, and of its
caller (:mod:`zfabric.core.client.rounds`). Who talks nonsense again and again is not listened to any more
(:mod:`zfabric.core.client.nonsense`); who does not read what it is sent gets nothing more
(:mod:`zfabric.core.client.unread`).

**A stream** may be as many chunks ahead of its reader as the window and CREDIT say, and ``STREAM_BYTES`` with all but
the last of them. Its deadline is looked at with each chunk; one that waits for CREDIT for ``patience`` is given up.

**Draining.** The card says so, and every peer is sent GOODBYE. Requests that come all the same are refused, and
repeated by their callers elsewhere. Each caller answers FAREWELL once it sends nothing more: what it sent before has
arrived then, since a connection keeps its order. A caller that connects now is told so by PONG, which it waits for
before its first request. So when all have said FAREWELL, or have gone, and everything is answered, the socket can be
closed without a request in it. Whoever says nothing is waited for until the drain's deadline. (libzmq's own ``unbind``
is of no use here: it closes the connections that there are.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from zfabric import errors
from zfabric.core.client import admission, vitals
from zfabric.core.client.announcing import ANNOUNCE_PATIENCE_NS, Announcement
from zfabric.core.client.backlog import Backlog
from zfabric.core.client.job import Job, Method
from zfabric.core.client.nonsense import Nonsense
from zfabric.core.client.outflow import Outflows
from zfabric.core.client.pending import Pending
from zfabric.core.client.rounds import Rounds
from zfabric.core.client.unread import SMALL_BYTES, Unread
from zfabric.core.effects import CloseSession, Listen, Send
from zfabric.wire import calls, messages
from zfabric.wire.card import DRAINING, ServiceCard

if TYPE_CHECKING:
    from zfabric.core.client.client import Client
    from zfabric.model import Buffer

PEERS_MAX: Final = 100_000


class Responder:
    """One instance.

    Args:
        card: what it announces; its endpoint is where to listen, ``*`` for a free port.
        concurrency, queue: requests that may run, and wait. streams: of one caller that may run.
        wake: called by the pump, outside its lock, when there is something for :meth:`take` and nobody attends.
        patience_ns: how long a stream waits for its reader. advertise: the endpoint that is announced, if not the one
            that it listens on; its port may be ``*``.

    Attributes:
        listening: done when it listens, with its endpoint. drained: done when it has ended.
        ended: nothing comes any more. handed: a request for the worker that attends; it counts as running.
        jobs: requests that wait or run, by caller and number. backlog: those that wait. methods: by name within the
            service. concurrency, limit: as given, and queue. peers: callers. unread: what they have not read; outflows:
            streams that wait for that.
        prompt: the pump calls workers itself after each step, so ``wake`` is not called. attended: a worker looks for
            requests by itself, so neither is. running: requests at workers. counts: of what became of requests.
    """

    def __init__(
        self,
        client: Client,
        card: ServiceCard,
        *,
        concurrency: int,
        queue: int,
        streams: int,
        wake: Callable[[], None],
        patience_ns: int,
        advertise: str = "",
    ) -> None:
        self.card = card
        self.listening: Pending[str] = Pending()
        self.drained: Pending[None] = Pending()
        self.handed: Job | None = None
        self.attended = self.prompt = False
        self.running = 0
        self.counts = dict.fromkeys(
            ("requests", "replies", "failures", "chunks", "refused", "overloaded", "expired", "cancelled", "garbage"), 0
        )
        self._client = client
        self.methods = {method.name: method for method in vitals.methods()}
        self.concurrency = concurrency
        self.limit = queue
        self._wake = wake
        self._advertise = advertise
        self.outflows = Outflows(card.name, patience_ns)
        self.unread = Unread(client.random.getrandbits)
        self.backlog = Backlog(self.unread.full, streams, concurrency)
        self.jobs: dict[tuple[bytes, int], Job] = {}
        self.peers: dict[bytes, None] = {}
        self._nonsense = Nonsense()
        # By service and name, as they were asked for; none while it drains, or a caller is full.
        self._plain: dict[bytes, Method] = {}
        self._instance = card.instance
        self._session: int | None = None
        self._announcement = Announcement(client)
        self._rounds = Rounds()
        self._drain_until_ns: int | None = None
        self._draining = self._calling = False
        self.ended = False

    # Life.

    def offer(self, method: Method) -> None:
        """Offer a method, in place of another one of its name."""
        self.methods[method.name] = method
        self._plain.clear()

    def start(self, now: int, patience_ns: int = ANNOUNCE_PATIENCE_NS) -> None:
        """Listen, :attr:`listening` tells when that is so, and announce it within ``patience_ns``."""
        self._client.now, self._announcement.patience_ns = now, patience_ns
        self._session = self._client.requests.new_session()
        self._client.hold(self, self._session)
        self._client.machines.append(self)
        self._client.requests.effect(Listen(self._session, self.card.endpoint))

    def listens(self, session: int, endpoint: str, now: int) -> None:
        """The socket is bound."""
        told = self._advertise.replace(":*", endpoint[endpoint.rindex(":") :]) or endpoint
        self.card = msgspec.structs.replace(self.card, endpoint=told)
        self._rounds.begin(now)
        self._announcement.make(self.card, now)
        self.listening.resolve(endpoint)

    @property
    def draining(self) -> bool:
        """Whether it takes nothing new."""
        return self._draining

    def drain(self, now: int, deadline_ns: int) -> None:
        """Begin to end; :attr:`drained` tells when that is done, by ``deadline_ns`` in any case."""
        self._client.now = now
        if self._session is None:
            self.ended = True
            self.drained.resolve(None)
        elif not self.listening.done:  # Nobody knows of it yet.
            self._leave(now)
        elif not self._draining:
            self._draining = True
            self._plain.clear()
            self._drain_until_ns = deadline_ns
            self.card = msgspec.structs.replace(self.card, flags=self.card.flags | DRAINING)
            self._announcement.make(self.card, now)
            self._rounds.hurry(now)
            for peer in self.peers:
                self._send(peer, calls.bare(calls.GOODBYE, 0))

    def close(self, now: int) -> None:
        """End at once: what waits is dropped, what runs is not answered."""
        self._client.now = now
        self._leave(now)

    def _leave(self, now: int) -> None:
        if self._session is None:
            return
        self.ended, session, self._session = True, self._session, None
        for job in list(self.jobs.values()):
            self._abandon(job)
        self._client.shut(session)
        self._client.requests.effect(CloseSession(session))
        if self.listening.done and self.listening.error is None:
            self._announcement.end(self.card, now)
        if self in self._client.machines:
            self._client.machines.remove(self)
        self.listening.fail(errors.Closed(what=f"service {self.card.name!r}"))
        self.drained.resolve(None)

    @property
    def announced(self) -> Pending[Any] | None:
        """The last announcement."""
        return self._announcement.last

    # For the pump, through the client.

    def connected(self, session: int, now: int) -> None:
        """Nothing: a listening socket has no connection of its own."""

    def lost(self, session: int, now: int) -> None:
        """The socket could not be bound."""
        self.listening.fail(errors.PortInUse(endpoint=self.card.endpoint, problem="it cannot be listened on"))
        self._leave(now)

    def reconnected(self, now: int) -> None:
        """Announce it again."""
        self._announcement.repeat(self.card, now)

    def left(self, peer: bytes, now: int) -> None:
        """A peer has gone, or takes nothing: whatever it asked for is not wanted any more."""
        self.peers.pop(peer, None)
        self._drop(peer)
        self.unread.left(peer)

    def _drop(self, peer: bytes) -> None:
        for job in [job for key, job in self.jobs.items() if key[0] == peer]:
            self._cancel(job)

    def _has_read(self, peer: bytes, number: int, now: int) -> None:
        """A caller has read all before a question."""
        self.unread.answered(peer, number, now)
        self.backlog.free()
        if self.ready and not self.attended:
            self._call()
        self._ask()

    def _count(self, job: Job, size: int, now: int) -> None:
        self.unread.sent(job.peer, size, now)
        if self.unread.full:
            self._plain.clear()  # So that each request is looked at.

    def _ask(self) -> None:
        for peer, number in self.unread.questions():
            self._send(peer, calls.pong(number, self.card.instance, draining=self._draining))

    def received(self, session: int, frames: Sequence[Any], now: int) -> bool:
        """Take what a caller says."""
        plain = calls.read_plain(frames)
        if plain is not None:
            number, instance, remaining_us, asked, headers, body = plain
            method = self._plain.get(asked)
            if method is not None and instance == self._instance:
                deadline_ns = now + remaining_us * 1_000 if remaining_us else None
                if self._begin(Job(frames[0], number, method, body, headers, deadline_ns), now):
                    return True
        self._receive(frames, now)
        return False

    def _receive(self, frames: Sequence[Any], now: int) -> None:
        peer = bytes(frames[0])
        if self._nonsense.enough(peer):
            self.counts["garbage"] += 1
            return
        try:
            asked = calls.read_asked(frames[1:])
        except (errors.ProtocolViolation, errors.UnsupportedVersion) as error:
            self.counts["garbage"] += 1
            self._nonsense.heard(peer)
            number = messages.request_id(frames[1]) if len(frames) > 1 else 0
            if number and frames[1][3] == calls.REQUEST:
                self._send(peer, calls.failure(calls.REFUSED, number, error))
            return
        kind = asked.type
        if kind == calls.FAREWELL:
            self.peers.pop(peer, None)
            return
        if kind == calls.PING and asked.number & calls.QUESTION:
            self._has_read(peer, asked.number, now)
            return
        if peer not in self.peers and kind == calls.PING and len(self.peers) < PEERS_MAX:
            self.peers[peer] = None
        if kind in (calls.REQUEST, calls.NOTIFY):
            self._take(peer, asked, now)
        elif kind == calls.PING:
            self._send(peer, calls.pong(asked.number, self.card.instance, draining=self._draining))
        else:
            job = self.jobs.get((peer, asked.number))
            if job is not None and kind == calls.CANCEL:
                self._cancel(job)
            elif job is not None:
                self.outflows.credited(job, asked.value, now)

    def _begin(self, job: Job, now: int) -> bool:
        """Take a request that a worker is free for; False: nothing is done, it needs a closer look."""
        key = job.peer, job.number
        jobs, backlog, running = self.jobs, self.backlog, self.running
        if key in jobs or backlog.waiting + running >= self.concurrency:
            return False
        if self.attended and self.handed is None and not backlog.waiting:
            self.running = running + 1
            job.started_ns = now
            self.handed = job
        elif backlog.bytes + len(job.body) > admission.QUEUED_BYTES_MAX:
            return False
        else:
            backlog.add(job)
            if not self.attended:
                self._call()
        self.counts["requests"] += 1
        jobs[key] = job
        return True

    def _take(self, peer: bytes, asked: calls.Asked, now: int) -> None:
        self.counts["requests"] += 1
        service, _, name = asked.method.rpartition(".")
        method = self.methods.get(name) if service == self.card.name else None
        refusal = admission.refusal(self, peer, asked, method, name)
        if refusal is not None:
            self.counts["refused"] += 1
            if asked.type == calls.REQUEST:
                idempotent = method is not None and method.idempotent
                self._send(peer, calls.failure(calls.REFUSED, asked.number, refusal, idempotent))
            return
        assert method is not None
        if method.own is not None:
            self._client.requests.effects.extend(vitals.replies(self, peer, asked, method))
            self._ask()
            return
        if not (method.stream or self._draining or self.unread.full):
            self._plain[asked.method.encode()] = method
        key = peer, asked.number
        if key in self.jobs:
            return  # Said twice: it is under way.
        deadline_ns = now + asked.remaining_us * 1_000 if asked.remaining_us else None
        job = self.jobs[key] = Job(peer, asked.number, method, asked.body, asked.headers, deadline_ns)
        job.streaming, job.window, job.oneway = bool(asked.flags), asked.window, asked.type == calls.NOTIFY
        self.backlog.add(job)
        if not self.attended and self.running < self.concurrency:
            self._call()

    # For workers.

    @property
    def ready(self) -> bool:
        """Whether :meth:`take` has a request for a worker, or there will never be one again."""
        if self.handed is not None:
            return True
        return self.ended or (self.backlog.waiting > 0 and self.running < self.concurrency)

    def take(self, now: int) -> Job | None:
        """Return the next request for a worker; it must come back by :meth:`end`."""
        job, self.handed = self.handed, None
        if job is not None:
            return job
        while self.running < self.concurrency and (job := self.backlog.take()) is not None:
            if job.deadline_ns is not None and job.deadline_ns <= now:
                self.counts["expired"] += 1
                what = f"request '{self.card.name}.{job.method.name}'"
                if job.streaming:
                    self.backlog.left(job)
                self._refuse(job, errors.DeadlineExceeded(what=what, state="before it was begun"))
                continue
            self.running += 1
            job.started_ns = now
            return job
        return None

    def yield_place(self, job: Job, error: errors.ZFabricError) -> None:
        """Refuse one that waits, for another caller's that comes."""
        self.backlog.withdraw(job)
        self._refuse(job, error)

    def _refuse(self, job: Job, error: errors.ZFabricError) -> None:
        self.counts["refused"] += 1
        del self.jobs[job.peer, job.number]
        job.over = True
        self._client.restless = True
        if not job.oneway:
            self._send(job.peer, calls.failure(calls.REFUSED, job.number, error, job.method.idempotent))

    def answer(self, job: Job, body: Buffer) -> Send | None:
        """The handler has returned; returns what is to be sent, :meth:`end` must follow."""
        session = self._session
        if job.cancelled or job.oneway or session is None:
            return None
        flags = job.method.idempotent
        if len(body) > SMALL_BYTES:
            try:
                self._count(job, len(body), self._client.now)
            except errors.LimitExceeded as error:
                job.method.failed += 1
                self.counts["failures"] += 1
                return Send(session, [job.peer, *calls.failure(calls.FAILED, job.number, error, flags)])
        self.counts["replies"] += 1
        if job.streaming:
            return Send(session, [job.peer, *calls.chunk(job.number, job.place, body, flags | calls.FLAG_END)])
        return Send(session, calls.reply_to(job.peer, job.number, body, flags))

    def fail(self, job: Job, error: errors.ZFabricError) -> None:
        """The handler has raised, the error is what its caller gets; :meth:`end` must follow."""
        job.method.failed += 1
        if not (job.cancelled or job.oneway):
            self.counts["failures"] += 1
            self._send(job.peer, calls.failure(calls.FAILED, job.number, error, job.method.idempotent))

    def chunk(self, job: Job, body: Buffer, now: int) -> Pending[None] | None:
        """Send a part of a stream; returns what to wait for before the next one, or None.

        Raises:
            DeadlineExceeded: its time is over. Closed: its caller does not want it any more. What is waited for may
                fail: StreamStalled, its caller takes nothing.
        """
        what = f"stream '{self.card.name}.{job.method.name}'"
        if job.over or job.cancelled:
            raise errors.Closed(what=what)
        if job.credit is not None or (job.deadline_ns is not None and job.deadline_ns <= now):
            raise errors.DeadlineExceeded(what=what, state=f"after {job.place} chunks")
        self._client.now = now
        if len(body) > SMALL_BYTES:
            self._count(job, len(body), now)
        self.counts["chunks"] += 1
        self._send(job.peer, calls.chunk(job.number, job.place, body, job.method.idempotent))
        if self.unread.asking:
            self._ask()
        return self.outflows.sent(job, len(body), now)

    def end(self, job: Job, now: int) -> None:
        """A worker is free again."""
        self._client.now = now
        assert not job.over, "a job ends once"
        self.running -= 1
        method = job.method
        method.calls += 1
        method.busy_ns += now - job.started_ns
        job.over = True
        if job.asking:
            job.asks_no_more()
        if job.streaming:
            self.backlog.left(job)
        del self.jobs[job.peer, job.number]
        if self._draining:
            self._client.restless = True
        if self.unread.asking:
            self._ask()
        if self.backlog.waiting and not self.attended:
            self._call()

    def _call(self) -> None:
        """Have the pump call the workers, once for all that has come by then."""
        if self.prompt:
            self._client.handing = True
        elif not self._calling:
            self._calling = True
            self._client.later([(self._called, None)], None)

    def _called(self, _delivery: object, _error: Exception | None) -> None:
        self._calling = False
        self._wake()

    def _cancel(self, job: Job) -> None:
        if not job.cancelled:
            self.counts["cancelled"] += 1
            self._abandon(job)

    def _abandon(self, job: Job) -> None:
        job.cancelled = True
        if not job.started_ns:
            self.jobs.pop((job.peer, job.number), None)
            self.backlog.withdraw(job)
        elif job.cancel is not None:
            cancel = job.cancel
            self._client.later([(lambda _delivery, _error: cancel(), None)], None)
        self.outflows.go_on(job)

    def _send(self, peer: bytes, frames: calls.Frames) -> None:
        if self._session is not None:
            self._client.requests.effect(Send(self._session, [peer, *frames]))

    # Time.

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        if self._session is None or self._announcement.due_ns is None:
            return None
        due = min(self._announcement.due_ns, self._rounds.due_ns)
        if self.outflows.waits:
            due = min(due, self.outflows.next_deadline())
        if self._drain_until_ns is None:
            return due
        return 0 if self._at_rest() else min(due, self._drain_until_ns)

    def _at_rest(self) -> bool:
        return not self.jobs and not self.peers

    def busy(self) -> bool:
        """Tell whether a pump has to attend to it: always, until it has ended."""
        return self._session is not None

    def tick(self, now: int) -> None:
        """Announce, probe, and end when everybody knows."""
        if self._session is None or self._announcement.due_ns is None:
            return
        if self._drain_until_ns is not None and (self._at_rest() or self._drain_until_ns <= now):
            self._leave(now)
            return
        self.outflows.tick(now)
        if self._announcement.due_ns <= now:
            self._announcement.make(self.card, now)
        if self._rounds.due_ns <= now:
            late, callers, everybody = self._rounds.make(self.jobs.values(), now)
            for job in late:
                self.counts["expired"] += 1
                self._abandon(job)
            for peer in self.peers if everybody else callers:
                self._send(peer, calls.pong(0, self.card.instance, draining=self._draining))
            if everybody:
                for peer in self.unread.tick(now, self.outflows.patience_ns):
                    self._drop(peer)
                self._ask()
