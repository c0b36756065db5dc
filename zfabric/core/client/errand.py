"""One request of a user until it is answered, the tries that it takes, and the stream that may come of it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from zfabric import errors
from zfabric.core.client.pending import Pending
from zfabric.settings import STREAM_BYTES, STREAM_WINDOW
from zfabric.wire import calls

if TYPE_CHECKING:
    from zfabric.core.client.pool import Channel
    from zfabric.model import Buffer

HEDGE_AUTO: Final = -1
NOBODY: Final = 1 << 63
"""A bit that no instance's number has."""
HUNGER_NS: Final = 1_000_000_000
"""How long an errand waits at least for an instance that could take it."""
_CREDIT_AT: Final = STREAM_WINDOW // 2
_CREDIT_AT_BYTES: Final = STREAM_BYTES // 2
_CREDIT_NS: Final = 250_000_000


class Attempt(msgspec.Struct, eq=False, frozen=True):
    """One try of an errand at one instance, sent there; a struct, which is made without a step of Python's."""

    number: int
    errand: Errand
    channel: Channel
    sent_ns: int


class Errand(Pending["Buffer"]):
    """What a user asked for: the result to come.

    Attributes:
        plain: it is a request for one reply, of any instance, asked once at a time.
        kind: REQUEST or NOTIFY. service, method: ``users`` and ``users.get``. body, headers: as they are sent.
        version: exact, or its first numbers; "" for any. instance: 0 for any.
        idempotent: may be executed twice; None: if the method was known to be.
        deadline_ns: monotonic. seconds: what errors call that time.
        silence_ns: when a fabric that has told nothing is waited for no longer; silence_s: that as seconds.
        hedge_ns: when a second instance is asked, after the first one was; 0: never, ``HEDGE_AUTO``: as observed.
        inflow: of a stream.
        attempts: under way. tried: instances that refused it or were lost with it.
        was_sent: some instance may have it, or have had it.
        lost: endpoint of the last that was lost with it. losses, refusals: so far. hedge_at_ns: when that is due.
        since_ns: it was lost then, and goes only to whom was heard since; 0: it was not.
        doubtful: it was lost, and whether it may be executed twice is to be asked first.
    """

    # Of the class as long as an errand has no other: most need none of them.
    plain = True
    kind: int = calls.REQUEST
    version = lost = ""
    instance = hedge_ns = hungry_ns = losses = refusals = since_ns = 0
    idempotent: bool | None = None
    hedge_at_ns: int | None = None
    inflow: Inflow | None = None
    tried: tuple[int, ...] = ()
    silence_ns, silence_s = 1 << 63, 0.0
    was_sent = doubtful = False
    refused: errors.ZFabricError | None = None
    attempts: tuple[Attempt, ...] = ()

    def __init__(self, method: str, body: Buffer, headers: bytes, deadline_ns: int, seconds: float) -> None:
        self.method = method
        self.body = body
        self.headers = headers
        self.deadline_ns = deadline_ns
        self.seconds = seconds

    def choose(
        self, *, version: str = "", instance: int = 0, idempotent: bool | None = None, hedge_ns: int = 0
    ) -> None:
        """Not any instance, and not in any way, will do."""
        self.plain = False
        self.version, self.instance, self.idempotent, self.hedge_ns = version, instance, idempotent, hedge_ns

    def vary(self, kind: int, *, stream: bool) -> None:
        """It is a notification, or wants a stream."""
        self.plain = False
        self.kind, self.inflow = kind, Inflow() if stream else None

    def bear(self, silence_s: float, now: int) -> None:
        """A fabric that has told nothing is waited for so long, however far away the deadline is."""
        self.silence_ns, self.silence_s = now + int(silence_s * 1e9), silence_s

    def waited_s(self, now: int) -> float:
        """Return for how many seconds no instance could take it, as errors tell it."""
        if self.silence_ns <= now:
            return self.silence_s
        return max(round(self.seconds - (self.deadline_ns - now) / 1e9, 1), HUNGER_NS / 1e9)

    def frames(self, number: int, instance: int, now: int) -> calls.Frames:
        """Return what is sent to an instance.

        Every instance refuses what is meant for another one, says so, and whether the method is idempotent: a doubtful
        errand is meant for one that there is not, so it is answered and not executed.
        """
        streams = self.inflow is not None
        return calls.request(
            self.kind,
            number,
            instance ^ NOBODY if self.doubtful else instance,
            max((self.deadline_ns - now) // 1_000, 1),
            self.method.encode(),
            self.headers,
            b"" if self.doubtful else self.body,
            flags=calls.FLAG_STREAM if streams else 0,
            window=STREAM_WINDOW if streams else 0,
        )

    @property
    def choosy(self) -> bool:
        """Whether not any instance will do."""
        return bool(self.version or self.instance or self.since_ns)

    @property
    def service(self) -> str:
        """The service that its method is of."""
        return self.method.rpartition(".")[0]

    @property
    def what(self) -> str:
        """What errors call it."""
        return f"request {self.method!r}"

    def fail(self, error: Exception) -> None:
        """End it with an error."""
        if self.inflow is not None:
            self.inflow.fail(error)
        super().fail(error)


class Inflow:
    """The chunks of a stream at its caller.

    Attributes:
        begun: a chunk has come, so the request cannot be repeated any more. ended: nothing comes any more.
    """

    __slots__ = (
        "_bytes",
        "_chunks",
        "_credited_ns",
        "_error",
        "_expected",
        "_taken",
        "_taken_bytes",
        "_waiting",
        "begun",
        "ended",
    )

    def __init__(self) -> None:
        self.begun = self.ended = False
        self._chunks: deque[Buffer] = deque()
        self._error: Exception | None = None
        self._expected = 0
        self._taken = 0
        self._bytes = self._taken_bytes = self._credited_ns = 0
        self._waiting: Pending[None] | None = None

    def add(self, place: int, body: Buffer, *, end: bool) -> bool:
        """Take a chunk; tells whether it is the one that was expected, and may come."""
        if place != self._expected or len(self._chunks) > STREAM_WINDOW or (body and self._bytes >= STREAM_BYTES):
            return False
        self._expected += 1
        self.begun = True
        self.ended = end
        if body or not end:
            self._chunks.append(body)
            self._bytes += len(body)
        self._wake()
        return True

    def fail(self, error: Exception) -> None:
        """End it; what has come before can still be taken."""
        if not self.ended:
            self.ended = True
            self._error = error
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.resolve(None)

    def take(self) -> Buffer | None:
        """Return the next chunk; None if there is none now.

        Raises:
            the error that the stream ended with, after its last chunk.
        """
        if self._chunks:
            chunk = self._chunks.popleft()
            self._taken += 1
            self._taken_bytes += len(chunk)
            self._bytes -= len(chunk)
            return chunk
        if self._error is not None:
            raise self._error
        return None

    def credit(self, now: int) -> int:
        """Return how many chunks more the instance may be told to send.

        It is told of half of what it may be ahead, or four times a second, lest a slow reader seem to be none.
        """
        if not self._credited_ns:
            self._credited_ns = now
        few = self._taken < _CREDIT_AT and self._taken_bytes < _CREDIT_AT_BYTES
        if self.ended or (few and now - self._credited_ns < _CREDIT_NS):
            return 0
        taken, self._taken, self._taken_bytes = self._taken, 0, 0
        self._credited_ns = now
        return taken

    def wait(self) -> Pending[None]:
        """Return what is done when :meth:`take` has something to say."""
        if self._waiting is None:
            self._waiting = Pending()
            if self._chunks or self.ended:
                self._waiting.resolve(None)
        return self._waiting
