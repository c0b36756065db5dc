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


def refusal(
    service: Responder, peer: bytes, asked: calls.Asked, method: Method | None, name: str
) -> errors.ZFabricError | None:
    """Return why an instance does not take what a caller asks of its method ``name``; None if it does."""
    card = service.card
    if asked.instance not in (0, card.instance):
        return errors.WrongInstance(instance=asked.instance)
    if service.draining and asked.type == calls.REQUEST:
        return errors.ServiceDraining(service=card.name)
    if method is None or (method.stream and not asked.flags):
        kind = "for requests that want one reply" if method is not None else "for requests"
        known = ", ".join(sorted(service.methods))[:ERROR_TEXT_MAX]
        return errors.UnknownMethod(service=card.name, method=name[:100], kind=kind, known=known)
    full = _room(service, peer, asked)
    if full is not None:
        return full
    if service.running >= service.concurrency and asked.type == calls.REQUEST:
        methods, jobs = service.methods.values(), service.jobs.values()
        if circles.closed(asked.headers, methods, jobs, service.running):
            return errors.WouldDeadlock(service=card.name, method=name, concurrency=service.concurrency)
    return None


def _room(service: Responder, peer: bytes, asked: calls.Asked) -> errors.ZFabricError | None:
    """Return why there is no room for what a caller asks; None: there is, or one that waits has made some."""
    card, backlog = service.card, service.backlog
    limit = service.limit // 2 if peer in service.unread.full else service.limit
    while True:
        waiting = len(backlog) - max(service.concurrency - service.running, 0)
        for_bytes = backlog.bytes + len(asked.body) > QUEUED_BYTES_MAX
        if waiting < limit and not for_bytes:
            return None
        service.counts["overloaded"] += 1
        error = errors.Overloaded(
            service=card.name,
            running=min(service.running + len(backlog), service.concurrency),
            concurrency=service.concurrency,
            queued=max(waiting, 0),
            limit=limit,
        )
        giving = backlog.yielding(peer, len(asked.body), for_bytes=for_bytes)
        if giving is None or peer in service.unread.full:
            return error
        service.yield_place(giving, error)
