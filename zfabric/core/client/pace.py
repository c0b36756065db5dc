"""How fast a connection carries, and hence how long its leader may be silent.

An answer shows that all which was sent before it has arrived, so a request's patience begins anew with each of those.
To it comes the time that the bytes take which are not answered, up to the request's own: four times what the last
large ones took, and at most as long as on a link of 256 kbit/s, which is what a new connection is taken for. So on a
fast link a silent leader is noticed after the bare patience, and on a slow one nobody takes a large batch for a lost
one and sends it again, behind itself. What is sent without wanting an answer (``acks="none"``) counts until something
behind it is answered. A link that has become much slower costs one session: once silence has ended one, the slowest is
assumed again.

Heartbeats wait behind what the kernel has taken, too. A session that is lost with much on its way was perhaps lost for
that; unless the link has shown to be fast, the next one bears a longer wait. One that was fast is taken for slow when
it is lost again before it has carried anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from zfabric.core.client.connection import Request

SLOWEST_KIB_NS: Final = 48_000_000
"""Time of 1,024 bytes on the slowest link: 32 ms at 256 kbit/s, and half as much for headers and what TCP repeats (with
32 ms one record of 900 KB was sent twice)."""
BULK_BYTES: Final = 16_384
"""Less than this tells of latency, not of bandwidth."""
MARGIN: Final = 4
SLOW_KIB_NS: Final = 16_000_000
"""Borne on a link of 2 Mbit/s."""


class Pace:
    """What one connection has carried lately.

    Attributes:
        kib_ns: borne for 1,024 bytes, in ns. slow: heartbeats may take longer on the next session.
        loose: bytes that were ever sent without wanting an answer.
        losses: sessions lost with something on their way, or for their silence, since the last answer.
    """

    __slots__ = ("_answered_ns", "_arrived", "_sent_ns", "kib_ns", "loose", "losses", "slow")

    def __init__(self) -> None:
        self.kib_ns = SLOWEST_KIB_NS
        self.slow = False
        self.loose = self.losses = 0
        self._arrived = 0
        self._sent_ns = 0
        self._answered_ns = 0

    def begin(self) -> None:
        """A session begins: nothing is on its way there."""
        self._arrived = self.loose

    def answered(self, sent_ns: int, size: int, now: int, behind: int = 0) -> None:
        """Note the answer to what was sent at ``sent_ns``; both together had ``size`` bytes that count.

        Args:
            behind: what :attr:`loose` was then.
        """
        self._arrived = max(self._arrived, behind)
        self.losses = 0
        if size >= BULK_BYTES:
            took_ns = now - (max(sent_ns, self._answered_ns) if self._sent_ns <= sent_ns else sent_ns)
            self.kib_ns = min(MARGIN * took_ns * 1_024 // size, SLOWEST_KIB_NS)
        self._sent_ns, self._answered_ns = sent_ns, now

    def silent(self, waiting: Iterable[Request], now: int) -> bool:
        """Tell whether one of these requests, in the order in which they were sent, should have its answer by now.

        If so the session is lost.
        """
        ahead = 0
        for request in waiting:
            ahead += request.weight()
            since_ns = request.sent_ns
            if since_ns >= self._sent_ns:
                since_ns = max(since_ns, self._answered_ns)
            loose = max(request.behind - self._arrived, 0)
            if now - since_ns > request.patience() + (ahead + loose) * self.kib_ns // 1_024:
                self.kib_ns = SLOWEST_KIB_NS
                self.losses += 1
                return True
        return False

    def lost(self, waiting: Iterable[Request]) -> None:
        """A session that was ready has ended, with these requests on their way."""
        waiting = list(waiting)
        self.losses += bool(waiting)
        much = sum(request.weight() for request in waiting) + self.loose - self._arrived >= BULK_BYTES
        self.slow = much and self.kib_ns >= SLOW_KIB_NS
        if much:
            self.kib_ns = SLOWEST_KIB_NS
