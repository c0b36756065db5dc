"""Which requests an instance refuses, and why: all that is refused was not executed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from zfabric import errors
from zfabric.core.client import circles
from zfabric.settings import ERROR_TEXT_MAX
from zfabric.wire import calls

if TYPE_CHECKING:
    from zfabric.core.client.job import Method
    from zfabric.core.client.responder import Responder

QUEUED_BYTES_MAX: Final = 64 << 20
"""Bodies of requests that wait for a worker."""
_STREAM: Final = "for requests that want one reply (it gives a stream: use stream(), or 'zfabric request --stream')"


def refusal(
    service: Responder, peer: bytes, asked: calls.Asked, method: Method | None, name: str
) -> errors.ZFabricError | None:
    """Return why an instance does not take what a caller asks of its method ``name``; None if it does."""
    card = service.card
    if asked.instance not in (0, card.instance):
        return errors.WrongInstance(instance=asked.instance)
    if method is not None and method.own is not None:
        return _overloaded(service, service.limit // 2) if peer in service.unread.full else None
    if service.draining and asked.type == calls.REQUEST:
        return errors.ServiceDraining(service=card.name)
    if method is None or (method.stream and not asked.flags):
        kind = "for requests" if method is None else _STREAM
        known = ", ".join(sorted(service.methods))[:ERROR_TEXT_MAX]
        return errors.UnknownMethod(service=card.name, method=name[:100], kind=kind, known=known)
    held = bool(asked.flags) and service.backlog.streams.holds(peer)
    full = _held(service, peer, asked, name) if held else _room(service, peer, asked)
    if full is not None:
        return full
    if service.running >= service.concurrency and asked.type == calls.REQUEST:
        methods, jobs = service.methods.values(), service.jobs.values()
        if circles.closed(asked.headers, methods, jobs, service.running):
            return errors.WouldDeadlock(service=card.name, method=name, concurrency=service.concurrency)
    return None


def _held(service: Responder, peer: bytes, asked: calls.Asked, name: str) -> errors.ZFabricError | None:
    """Return why an instance does not hold a stream that is asked for until others have ended."""
    streams = service.backlog.streams
    if streams.held >= service.limit // 2 or streams.bytes + len(asked.body) > QUEUED_BYTES_MAX // 2:
        return _overloaded(service, service.limit // 2)
    jobs = [
        job
        for job in service.jobs.values()
        if not job.started_ns or (job.streaming and (streams.full or job.peer == peer))
    ]
    running = sum(bool(job.started_ns) for job in jobs)
    if running and circles.closed(asked.headers, service.methods.values(), jobs, running):
        return errors.WouldDeadlock(service=service.card.name, method=name, concurrency=running)
    return None


def _room(service: Responder, peer: bytes, asked: calls.Asked) -> errors.ZFabricError | None:
    """Return why there is no room for what a caller asks; None: there is, or one that waits has made some."""
    backlog = service.backlog
    limit = service.limit // 2 if peer in service.unread.full else service.limit
    while True:
        waiting = len(backlog) - max(service.concurrency - service.running, 0)
        for_bytes = backlog.bytes + len(asked.body) > QUEUED_BYTES_MAX
        if waiting < limit and not for_bytes:
            return None
        error = _overloaded(service, limit)
        giving = backlog.yielding(peer, len(asked.body), for_bytes=for_bytes)
        if giving is None or peer in service.unread.full:
            return error
        service.yield_place(giving, error)


def _overloaded(service: Responder, limit: int) -> errors.Overloaded:
    service.counts["overloaded"] += 1
    waiting = len(service.backlog)
    return errors.Overloaded(
        service=service.card.name,
        running=min(service.running + waiting, service.concurrency),
        concurrency=service.concurrency,
        queued=max(waiting - max(service.concurrency - service.running, 0), 0),
        limit=limit,
    )
