"""Calls services: finds their instances, sends each request to one of them, and again to another where that is safe.

**Instances** (:mod:`zfabric.core.client.instances`) come from what gossip says. It is a hint. Whether an instance is
there is seen on the connection itself, whose loss is noticed within a second (``alert`` sessions), however it died.
An instance is asked only over a connection that is there, and on which it has said who it is and that it does not
drain; a request without one waits here, where it is certainly not sent.

**Which instance**: :mod:`zfabric.core.client.pool`. **Which repeats** (a request that a notification is, none at all):

=====================  ============================================================================================
not sent               placed as soon as some instance can take it, by its deadline; within 1 s if none is known
REFUSED, draining or   not executed: to another instance at once, for nothing
another instance
REFUSED, overloaded    not executed: to another instance, for nothing to one that has refused none lately
or no such method      (:mod:`zfabric.core.client.refusals`), to an overloaded one for one of the budget; else the error
lost with connection   may have been executed: to another instance if idempotent and nothing of a stream has come, once,
                       for nothing (each connection is lost once); else CalleeLost. Whether it is idempotent is asked
                       there if nobody knows and somebody is there
FAILED                 executed: never
no answer              RequestTimeout at the deadline, CANCEL to whoever has it
=====================  ============================================================================================

A hedged request is sent to a second instance, for one of the budget, when the first has not answered in the given time
or that which :mod:`zfabric.core.client.hedging` observed; the first answer counts, the other instance gets CANCEL.

**What kills whoever executes it.** A request may be what its instance died of. So one that was lost with ``LOSSES_MAX``
of them, repeated or hedged, goes to no other. Lest that befall it because instances die together, of a power cut or a
broken switch, it is repeated at one that was heard after the loss: all are asked, the first to answer may have it.

Invariant: a request that is not idempotent is sent a second time only after an instance has said that it did not
execute it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from zfabric import errors
from zfabric.core.client import instances
from zfabric.core.client.errand import HEDGE_AUTO, HUNGER_NS, Attempt, Errand
from zfabric.core.client.hedging import Hedging
from zfabric.core.client.instances import Instances
from zfabric.core.client.pool import CONNECT_NS, Channel, Pool
from zfabric.core.effects import Send
from zfabric.settings import CALLS_PER_INSTANCE_MAX
from zfabric.wire import calls

if TYPE_CHECKING:
    from zfabric.core.client.client import Client

FEED_NS: Final = 100_000_000
LOSSES_MAX: Final = 2
REFUSALS_MAX: Final = 40
REMEMBERED_MAX: Final = 10_000
_NEVER: Final = 1 << 63
_USUAL: Final = (errors.Overloaded, errors.WouldDeadlock, errors.UnknownMethod)
_FREE: Final = (errors.ServiceDraining, errors.WrongInstance)


class Caller:
    """All calls of one client.

    Args:
        host, zone: where this client is.
    """

    def __init__(self, client: Client, host: str = "", zone: str = "") -> None:
        self._client = client
        self.instances = Instances(client, self, host, zone, self._want, self._feed)
        self._by_method = self.instances.by_method
        self._by_session = self.instances.by_session
        self._next_id = client.requests.next_id
        self._errands: dict[Errand, None] = {}
        self._idempotent: dict[str, bool] = {}
        self._hedging = Hedging(client)
        self._due_ns = _NEVER
        # Threads add to it without a lock, whenever an object is collected: single operations of a deque are atomic.
        self._left: deque[Errand] = deque()
        client.machines.append(self)

    # For facades.

    def call(self, errand: Errand, now: int) -> None:
        """Do an errand: it is done, in the end."""
        send = self.begin(errand, now)
        if send is not None:
            self._client.requests.effect(send)

    def begin(self, errand: Errand, now: int) -> Send | None:
        """As :meth:`call`; returns what is to be sent at once, if that is all there is."""
        deadline_ns, method = errand.deadline_ns, errand.method
        if deadline_ns <= now:  # That of a handler's own request was over before it made this one.
            errand.fail(errors.RequestTimeout(what=errand.what, seconds=errand.seconds))
            return None
        if deadline_ns < self._due_ns:
            self._want(deadline_ns)
        self._errands[errand] = None
        pool = self._by_method.get(method) or self.instances.pool_of(errand, now)
        pool.used_ns = now
        pool.budget.earned += 1
        channel = pool.only
        if channel is None or not errand.plain or len(channel.attempts) >= CALLS_PER_INSTANCE_MAX:
            self._client.now = now
            self._client.restless = True
            self._place(pool, errand, now)
            return None
        # As there and in _attempt, for nearly all requests of a service that has one instance.
        session, number = channel.session, self._next_id()
        assert session is not None
        left_us = (deadline_ns - now) // 1_000 or 1
        frames = calls.plain_request(number, channel.instance, left_us, method.encode(), errand.headers, errand.body)
        errand.was_sent = True
        attempt = channel.attempts[number] = Attempt(number, errand, channel, now)
        errand.attempts = (attempt,)
        return Send(session, frames)

    def give_up(self, errand: Errand, error: errors.ZFabricError, now: int) -> None:
        """Its user does not want it any more: whoever has it is told, and its result is ``error``."""
        self._finish(errand, now)
        errand.fail(error)

    def abandon(self, errand: Errand, now: int) -> None:
        """Its user waits no more: interrupted, cancelled, or tired of it."""
        self.give_up(errand, errors.RequestTimeout(what=errand.what, seconds=errand.seconds), now)

    def leave(self, errand: Errand) -> None:
        """Its user has forgotten it: give it up at the next tick. May be called anywhere, without the pump's lock."""
        self._left.append(errand)
        self._client.restless = True

    def close(self, now: int) -> None:
        """Fail what is under way: the fabric is closed."""
        for errand in list(self._errands):
            self.give_up(errand, errors.Closed(what="fabric"), now)

    def grant(self, errand: Errand, now: int) -> None:
        """A chunk of its stream was taken: let the instance send more."""
        assert errand.inflow is not None
        if errand.attempts:
            attempt = errand.attempts[0]
            chunks = errand.inflow.credit(now)
            if chunks and attempt.channel.session is not None:
                self._send(attempt.channel, calls.credit(attempt.number, chunks))

    def idempotent(self, errand: Errand) -> bool:
        """Tell whether it may be executed twice: as its user says, or as the method was known to be."""
        return self._idempotent.get(errand.method, False) if errand.idempotent is None else errand.idempotent

    # Placing.

    def _place(self, pool: Pool, errand: Errand, now: int) -> None:
        channel = pool.choose(errand, now)
        if channel is not None:
            self._attempt(channel, errand, now)
            return
        if not errand.hungry_ns:
            errand.hungry_ns = now + HUNGER_NS
            self._want(now + FEED_NS)
        errand.tried = ()  # Next time any of them will do.
        pool.add_hungry(errand)
        self._client.members.doubt(now)
        self.instances.warm(pool, now)

    def _attempt(self, channel: Channel, errand: Errand, now: int) -> None:
        number = self._client.requests.next_id()
        self._send(channel, errand.frames(number, channel.instance, now))
        errand.was_sent = True
        errand.hungry_ns = 0
        if errand.kind == calls.NOTIFY:
            self._finish(errand, now)
            errand.resolve(b"")
            return
        attempt = channel.attempts[number] = Attempt(number, errand, channel, now)
        errand.attempts += (attempt,)
        if errand.hedge_ns and len(errand.attempts) == 1 and errand.hedge_at_ns is None:
            after_ns = self._hedging.after(errand, now) if errand.hedge_ns == HEDGE_AUTO else errand.hedge_ns
            errand.hedge_at_ns = None if after_ns is None else now + after_ns
            self._want(errand.hedge_at_ns or errand.deadline_ns)

    def _send(self, channel: Channel, frames: calls.Frames) -> None:
        assert channel.session is not None
        self._client.requests.effect(Send(channel.session, frames))

    def _feed(self, pool: Pool, now: int) -> None:
        """Place those that could not be, as far as they can be now."""
        for _ in range(len(pool.hungry)):
            errand = pool.next_hungry()
            channel = pool.choose(errand, now)
            if channel is not None:
                self._attempt(channel, errand, now)
            elif not pool.still_hungry(errand):
                return

    # Ends.

    def _finish(self, errand: Errand, now: int) -> None:
        """The errand is over: forget it, and cancel what is still under way for it."""
        self._errands.pop(errand, None)
        if errand.hungry_ns:
            self.instances.pools[errand.service].forget(errand)
        for attempt in errand.attempts:
            if attempt.number in attempt.channel.attempts:
                self._release(attempt)
                if errand.inflow is None:
                    attempt.channel.observe_more(now - attempt.sent_ns)
                if attempt.channel.session is not None:
                    self._send(attempt.channel, calls.bare(calls.CANCEL, attempt.number))
        errand.attempts = ()

    def _release(self, attempt: Attempt) -> None:
        """One request fewer is under way at its instance."""
        channel = attempt.channel
        channel.attempts.pop(attempt.number, None)
        if channel.draining and not channel.attempts and channel.session is not None:
            self._send(channel, calls.bare(calls.FAREWELL, 0))

    def _end(self, attempt: Attempt) -> Errand:
        """An attempt is over, one way or another."""
        self._release(attempt)
        errand = attempt.errand
        errand.attempts = tuple(other for other in errand.attempts if other is not attempt)
        return errand

    # For the pump, through the client.

    def connected(self, session: int, now: int) -> None:
        """An instance's connection is there: ask it who it is before anything else."""
        self.instances.greet_at(session)

    def lost(self, session: int, now: int) -> None:
        """An instance's connection has ended, and nobody knows what became of what it had."""
        known = self.instances.by_session.get(session)
        if known is None:
            return
        pool, channel = known
        self.instances.broken(pool, channel, now)
        lost = list(channel.attempts.values())
        if lost and not channel.draining:
            self._failed(pool, channel, now, own=True)
        for attempt in lost:
            errand = self._end(attempt)
            errand.lost = channel.card.endpoint
            errand.losses += 1
            errand.tried += (channel.card.instance,)
            if not errand.attempts:  # Else the other one of two may still answer.
                self._repeat_lost(pool, errand, channel, now)
        if channel.gone:
            self.instances.drop(pool, channel)
        self.instances.warm(pool, now)
        if lost and pool.hungry:
            self.instances.greet(pool)

    def _repeat_lost(self, pool: Pool, errand: Errand, channel: Channel, now: int) -> None:
        again = errand.losses < LOSSES_MAX and not (errand.inflow is not None and errand.inflow.begun)
        unknown = again and errand.idempotent is None and errand.method not in self._idempotent
        errand.doubtful = unknown and pool.choose(errand, now) is not None  # Else it is told at once that it is lost.
        if again and (self.idempotent(errand) or errand.doubtful):
            errand.since_ns = now
            self._place(pool, errand, now)
        else:
            self._finish(errand, now)
            errand.fail(errors.CalleeLost(what=errand.what, endpoint=channel.card.endpoint))

    def received(self, session: int, frames: Sequence[Any], now: int) -> bool:
        """Take what an instance says; an instance that talks nonsense is left, as if its connection were lost."""
        known = self._by_session.get(session)
        if known is None:
            return False
        pool, channel = known
        reply = calls.read_reply(frames)
        if reply is not None:
            flags, number, body = reply
            attempt = channel.attempts.get(number)
            if attempt is not None and not (pool.hungry or channel.draining or channel.breaker.wary):
                errand = attempt.errand
                if errand.plain and self._idempotent.get(errand.method) == flags:
                    # As below, for nearly all replies: to the only attempt, with nobody who waits for its place.
                    channel.observe(now - attempt.sent_ns)
                    channel.breaker.samples += 1
                    del channel.attempts[number], self._errands[errand]
                    errand.attempts = ()
                    errand.resolve(body)
                    return True
        self._receive(pool, channel, session, frames, now)
        return False

    def _receive(self, pool: Pool, channel: Channel, session: int, frames: Sequence[Any], now: int) -> None:
        try:
            answer = calls.read_answered(frames)
        except (errors.ProtocolViolation, errors.UnsupportedVersion):
            self._shun(channel, session, now)
            return
        kind = answer.type
        if kind == calls.PONG:
            self._identify(pool, channel, answer, session, now)
            return
        if kind == calls.GOODBYE:
            self._retire(pool, channel)
            return
        attempt = channel.attempts.get(answer.number)
        if attempt is None:
            return
        self._remember(attempt.errand.method, idempotent=bool(answer.flags & calls.FLAG_IDEMPOTENT))
        if kind == calls.REPLY and attempt.errand.inflow is None:
            channel.observe(now - attempt.sent_ns)
            self._succeeded(pool, attempt)
            errand = self._end(attempt)
            self._finish(errand, now)
            errand.resolve(answer.body)
        elif kind == calls.CHUNK and attempt.errand.inflow is not None:
            self._chunk(pool, attempt, answer, now)
        elif kind in (calls.FAILED, calls.REFUSED):
            assert answer.failure is not None
            error = errors.from_wire(answer.failure.code, answer.failure.values)
            if kind == calls.REFUSED:
                self._refused(pool, attempt, error, now)
            else:
                channel.observe(now - attempt.sent_ns)
                if isinstance(error, errors.RemoteError):
                    self._failed(pool, channel, now, own=False)
                else:
                    self._succeeded(pool, attempt)
                errand = self._end(attempt)
                self._finish(errand, now)
                errand.fail(error)
        else:
            self._shun(channel, session, now)
            return
        if pool.hungry:
            self._feed(pool, now)

    def _identify(self, pool: Pool, channel: Channel, answer: calls.Answered, session: int, now: int) -> None:
        channel.pause_ns, channel.heard_ns, channel.patience_ns = 0, now, CONNECT_NS
        if answer.value != channel.card.instance:
            self._shun(channel, session, now)
        elif answer.number & calls.QUESTION:
            self._send(channel, calls.bare(calls.PING, answer.number))
        elif answer.draining:
            self._retire(pool, channel)
        elif not channel.draining:
            if not channel.ready:
                channel.ready = True
                pool.changed()
            self._feed(pool, now)

    def _shun(self, channel: Channel, session: int, now: int) -> None:
        """It is not whom we want, or talks nonsense: as if it were lost, but not tried again so soon."""
        self.lost(session, now)
        channel.open_at_ns = now + instances.PAUSE_MAX_NS

    def _retire(self, pool: Pool, channel: Channel) -> None:
        """The instance drains: nothing new goes there, and it is told so once it has answered what it has."""
        channel.draining = True
        pool.changed()
        if not channel.attempts and channel.session is not None:
            self._send(channel, calls.bare(calls.FAREWELL, 0))

    def _chunk(self, pool: Pool, attempt: Attempt, answer: calls.Answered, now: int) -> None:
        errand, channel = attempt.errand, attempt.channel
        inflow = errand.inflow
        assert inflow is not None
        end = bool(answer.flags & calls.FLAG_END)
        if not inflow.begun:
            channel.observe(now - attempt.sent_ns)
        if not inflow.add(answer.value, answer.body, end=end):
            problem = f"chunk {answer.value} of a stream, which is not the next one"
            self.give_up(errand, errors.ProtocolViolation(problem=problem, allowed="each chunk once, in order"), now)
        elif end:
            self._succeeded(pool, attempt)
            self._end(attempt)
            self._finish(errand, now)
            errand.resolve(b"")

    def _refused(self, pool: Pool, attempt: Attempt, error: errors.ZFabricError, now: int) -> None:
        channel = attempt.channel
        errand = self._end(attempt)
        errand.refusals += 1
        if errand.doubtful:
            errand.doubtful = False
            if self.idempotent(errand):
                self._place(pool, errand, now)
            else:
                self._not_done(errand, error, now)
            return
        errand.tried += (channel.card.instance,)
        free = isinstance(error, _FREE)
        if isinstance(error, errors.ServiceDraining) and not channel.draining:
            self._retire(pool, channel)
        elsewhere = not free and not isinstance(error, errors.DeadlineExceeded)
        if elsewhere:
            errand.refused = error
            channel.breaker.wary = True
            pool.refusals.note(channel.instance, errand.method, error, now)
            if not isinstance(error, _USUAL):
                self._failed(pool, channel, now, own=True)
        if errand.attempts:
            return  # The other one of two goes on.
        possible = errand.refusals <= REFUSALS_MAX and not errand.instance
        if possible and (free or (elsewhere and pool.takes_over(errand, error, now))):
            self._place(pool, errand, now)
        else:
            self._not_done(errand, error, now)

    def _not_done(self, errand: Errand, error: errors.ZFabricError, now: int) -> None:
        """End it with an error that says it was not executed, which nobody knows if it was lost with an instance."""
        self._finish(errand, now)
        errand.fail(errors.CalleeLost(what=errand.what, endpoint=errand.lost) if errand.lost else error)

    def _succeeded(self, pool: Pool, attempt: Attempt) -> None:
        channel = attempt.channel
        if channel.breaker.trial:
            pool.changed()
        channel.breaker.success()
        if pool.refusals.any and pool.refusals.answered(channel.instance, attempt.sent_ns):
            channel.breaker.wary = True

    def _failed(self, pool: Pool, channel: Channel, now: int, *, own: bool) -> None:
        if channel.breaker.failure(now, pool.best_share(channel), own=own):
            pool.changed()
            self._want(channel.breaker.until_ns)

    def _remember(self, method: str, *, idempotent: bool) -> None:
        known = self._idempotent.get(method)
        if known is not idempotent and (known is not None or len(self._idempotent) < REMEMBERED_MAX):
            self._idempotent[method] = idempotent

    def reconnected(self, now: int) -> None:
        """Nothing: instances are asked as long as their own connections are there."""

    # Time.

    def _want(self, at_ns: int) -> None:
        if at_ns < self._due_ns:
            self._due_ns = at_ns
            self._client.restless = True

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        return 0 if self._left else None if self._due_ns == _NEVER else self._due_ns

    def busy(self) -> bool:
        """Tell whether anything is under way or connected."""
        return bool(self._errands or self.instances.by_session)

    def tick(self, now: int) -> None:
        """Expire, hedge, connect again, readmit; one pass over what is under way."""
        while self._left:
            errand = self._left.popleft()
            if errand in self._errands:
                self.give_up(errand, errors.Closed(what=errand.what), now)
        if self._due_ns > now:
            return
        self._due_ns = _NEVER
        for errand in list(self._errands):
            self._tick_errand(errand, now)
        for pool in list(self.instances.pools.values()):
            for session in self.instances.tick(pool, now):
                self.lost(session, now)
            if pool.hungry:
                self._feed(pool, now)
            if pool.hungry:
                self._client.members.doubt(now)

    def _tick_errand(self, errand: Errand, now: int) -> None:
        if errand not in self._errands:
            return
        pool = self.instances.pools[errand.service]
        if errand.deadline_ns <= now:
            self._expire(pool, errand, now)
            return
        self._want(errand.deadline_ns)
        if errand.hungry_ns:
            known = errand.silence_ns <= now or self._client.members.settled(now)
            if errand.hungry_ns <= now and known and not pool.awaits(errand, now):
                self._not_done(errand, errand.refused or pool.unavailable(errand, errand.waited_s(now)), now)
                return
            if errand.hungry_ns <= now:
                errand.hungry_ns = now + HUNGER_NS
            self._want(min(errand.hungry_ns, now + FEED_NS))
        if errand.hedge_at_ns is not None:
            if errand.hedge_at_ns > now:
                self._want(errand.hedge_at_ns)
            elif errand.attempts:
                errand.hedge_at_ns = None
                self._hedge(pool, errand, now)

    def _hedge(self, pool: Pool, errand: Errand, now: int) -> None:
        errand.tried += (errand.attempts[0].channel.card.instance,)
        channel = pool.choose(errand, now)
        if channel is not None and self.idempotent(errand) and pool.budget.spend():
            self._attempt(channel, errand, now)

    def _expire(self, pool: Pool, errand: Errand, now: int) -> None:
        for attempt in errand.attempts:
            self._failed(pool, attempt.channel, now, own=True)
        self._finish(errand, now)
        timeout = errors.RequestTimeout(what=errand.what, seconds=errand.seconds)
        errand.fail(timeout if errand.was_sent else pool.unavailable(errand, errand.seconds))
