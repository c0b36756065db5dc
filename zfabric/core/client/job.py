"""The methods of a service, and one request at its instance: a job, from its arrival until it is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zfabric.core.client.pending import Pending
    from zfabric.model import Buffer


class Method:
    """A method as its service offers it, and what became of its requests.

    Attributes:
        handler: of the shell's. idempotent: may be executed twice. stream: it answers in chunks.
        calls, failed: how many were executed, and failed. busy_ns: time in handlers.
    """

    __slots__ = ("busy_ns", "calls", "failed", "handler", "idempotent", "name", "stream")

    def __init__(self, name: str, handler: object, *, idempotent: bool, stream: bool) -> None:
        self.name = name
        self.handler = handler
        self.idempotent = idempotent
        self.stream = stream
        self.calls = self.failed = self.busy_ns = 0


class Job:
    """One request at its instance.

    Attributes:
        peer, number: whom to answer. method, body, headers: what is asked. deadline_ns: monotonic, or None.
        streaming: chunks are wanted, of which ``window`` may be sent now. oneway: no answer is.
        cancelled: its caller does not want it any more. cancel: what the shell has called then.
    """

    # Of the class as long as an instance has no other: most requests need none of them.
    streaming = oneway = cancelled = over = False
    window = place = started_ns = 0
    cancel: Callable[[], None] | None = None
    credit: Pending[None] | None = None

    def __init__(
        self, peer: bytes, number: int, method: Method, body: Buffer, headers: bytes, deadline_ns: int | None
    ) -> None:
        self.peer = peer
        self.number = number
        self.method = method
        self.body = body
        self.headers = headers
        self.deadline_ns = deadline_ns
