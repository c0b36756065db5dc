"""The methods of a service, and one request at its instance: a job, from its arrival until it is answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from zfabric.core.client import tracing
from zfabric.settings import STREAM_BYTES
from zfabric.wire import calls

ASKING_MAX: Final = 100

if TYPE_CHECKING:
    from zfabric.core.client.pending import Pending
    from zfabric.core.client.responder import Responder
    from zfabric.model import Buffer


class Method:
    """A method as its service offers it, and what became of its requests.

    Attributes:
        handler: of the shell's. idempotent: may be executed twice. stream: it answers in chunks.
        calls, failed: how many were executed, and failed. busy_ns: time in handlers.
        asked: headers of requests that its handlers have made and may wait for.
        own: the instance answers it by itself, with what this gives, and there is no handler.
    """

    __slots__ = ("asked", "busy_ns", "calls", "failed", "handler", "idempotent", "name", "own", "stream")

    def __init__(
        self,
        name: str,
        handler: object,
        *,
        idempotent: bool,
        stream: bool,
        own: Callable[[Responder], bytes] | None = None,
    ) -> None:
        self.name = name
        self.handler = handler
        self.own = own
        self.idempotent = idempotent
        self.stream = stream
        self.calls = self.failed = self.busy_ns = 0
        self.asked: dict[bytes, None] = {}


class Job(msgspec.Struct, eq=False):
    """One request at its instance; a struct, which is made without a step of Python's.

    Attributes:
        peer, number: whom to answer. method, body, headers: what is asked. deadline_ns: monotonic, or None.
        streaming: chunks are wanted, of which ``window`` may be sent now. oneway: no answer is.
        ahead: sizes of the chunks that its caller has not said to have taken. ahead_bytes: their sum.
        credit: what the stream waits for. asking: headers of the latest requests that its handler has made.
        cancelled: its caller does not want it any more. cancel: what the shell has called then.
        held: others come first (:mod:`zfabric.core.client.streams`).
        seen: it was there at the last round (:mod:`zfabric.core.client.rounds`).
    """

    peer: bytes
    number: int
    method: Method
    body: Buffer
    headers: bytes
    deadline_ns: int | None
    started_ns: int = 0
    streaming: bool = False
    oneway: bool = False
    cancelled: bool = False
    over: bool = False
    held: bool = False
    seen: bool = False
    window: int = 0
    place: int = 0
    cancel: Callable[[], None] | None = None
    credit: Pending[None] | None = None
    ahead: deque[int] | None = None
    ahead_bytes: int = 0
    asking: list[bytes] | tuple[()] = ()

    def asks(self, headers: bytes) -> None:
        """Its handler makes a request. May be called by any thread: each step is atomic."""
        if self.over:
            return
        if not self.asking:
            self.asking = []
        asking = self.asking
        assert isinstance(asking, list)
        if len(asking) >= ASKING_MAX:
            self.method.asked.pop(asking.pop(0), None)
        asking.append(headers)
        self.method.asked[headers] = None

    def asks_no_more(self) -> None:
        """It is over."""
        for headers in self.asking:
            self.method.asked.pop(headers, None)

    def sent(self, size: int) -> bool:
        """A chunk was sent; tells whether another one may be."""
        if self.ahead is None:
            self.ahead = deque()
        self.place += 1
        self.window -= 1
        self.ahead.append(size)
        self.ahead_bytes += size
        return self.able

    def taken(self, chunks: int) -> None:
        """Its caller has taken so many chunks, or would."""
        self.window = min(self.window + chunks, 0xFFFF)
        ahead = self.ahead
        while ahead and chunks:
            chunks -= 1
            self.ahead_bytes -= ahead.popleft()

    @property
    def able(self) -> bool:
        """Whether a chunk may be sent now."""
        return self.window > 0 and self.ahead_bytes < STREAM_BYTES

    @property
    def traceparent(self) -> bytes:
        """The trace that it belongs to, as it came, valid or not; none is no bytes."""
        alone = tracing.alone(self.headers)
        return calls.read_headers(self.headers).get(tracing.HEADER, b"") if alone is None else alone
