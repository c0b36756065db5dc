"""``health`` and ``stats``: what every instance answers by itself, at once, whatever its workers do.

Who asks whether an instance lives, or what it is busy with, wants to know most when all workers are busy. So these two
take no worker and no place in the queue, pass no middleware and no serializer, and are answered while it drains.
Only a caller that reads nothing of what it is sent is refused. A service that offers a method of its own of such a name
answers it as any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from zfabric.core.client.job import Job, Method
from zfabric.wire import calls

if TYPE_CHECKING:
    from zfabric.core.client.responder import Responder
    from zfabric.core.effects import Send


def methods() -> list[Method]:
    """Return them, as every service has them in the beginning."""
    return [
        Method("health", None, idempotent=True, stream=False, own=lambda _: b"ok"),
        Method("stats", None, idempotent=True, stream=False, own=lambda service: msgspec.json.encode(stats(service))),
    ]


def replies(service: Responder, peer: bytes, asked: calls.Asked, method: Method) -> list[Send]:
    """Return what is to be sent to a caller that asks for one of them: nothing if it wants no answer."""
    assert method.own is not None
    method.calls += 1
    job = Job(peer, asked.number, method, b"", b"", None)
    job.streaming, job.oneway = bool(asked.flags), asked.type == calls.NOTIFY
    reply = service.answer(job, method.own(service))
    return [] if reply is None else [reply]


def stats(service: Responder) -> dict[str, Any]:
    """Return what an instance has done since its start, what it does now, and its methods."""
    return {
        "service": service.card.name,
        "version": service.card.version,
        "instance": service.card.instance,
        "draining": service.draining,
        **service.counts,
        "stalled": service.outflows.stalled,
        "running": service.running,
        "waiting": len(service.backlog),
        "callers": len(service.peers),
        "methods": {
            method.name: {
                "calls": method.calls,
                "failed": method.failed,
                "mean_us": method.busy_ns // max(method.calls, 1) // 1_000,
                "idempotent": method.idempotent,
                "stream": method.stream,
            }
            for method in service.methods.values()
        },
    }
