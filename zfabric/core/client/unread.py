"""What the callers of an instance were sent and are not known to have read, in bytes: bounded for each and for all.

What is sent waits in libzmq, which tells nobody how much that is, and a caller may be frozen, slow, or mean it. So an
instance asks: a PONG whose number nobody can guess, behind what was sent, is answered by PING with that number
(:mod:`zfabric.wire.calls`), and then all before it has been read. It asks a caller again when ``ASK_BYTES`` more were
sent, and whoever has not answered every ten seconds: so whoever has gone is noticed.

A caller with ``CALLER_BYTES`` unread is *full*: its requests wait aside until it has read, and take no worker; they may
fill half of the queue. While all callers together have ``ALL_BYTES`` unread, whoever has more than its share of that is
full. What is running goes on: its reply is sent if it is the only one, or does not make that ``EXCESS`` times as much;
else the caller is told LimitExceeded instead. A caller that stays full for the service's patience has its requests
cancelled.

Replies of ``SMALL_BYTES`` do not count: libzmq's own limit of 10,000 messages for a caller is enough for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from zfabric import errors
from zfabric.wire.calls import QUESTION

SMALL_BYTES: Final = 1_024
ASK_BYTES: Final = 1 << 20
CALLER_BYTES: Final = 16 << 20
ALL_BYTES: Final = 64 << 20
EXCESS: Final = 8


class _Reader(msgspec.Struct, eq=False):
    unread: int = 0
    question: int = 0
    asked: int = 0
    full_since_ns: int = 0


class Unread:
    """Of one instance.

    Args:
        random: draws so many bits.

    Attributes:
        full: callers for which nothing more is begun. asking: those that are to be asked, by :meth:`questions`.
    """

    def __init__(self, random: Callable[[int], int]) -> None:
        self.full: dict[bytes, None] = {}
        self.asking: list[bytes] = []
        self._random = random
        self._readers: dict[bytes, _Reader] = {}
        self._all = 0

    def sent(self, peer: bytes, size: int, now: int) -> None:
        """So many bytes, more than ``SMALL_BYTES``, are sent to a caller.

        Raises:
            LimitExceeded: they must not be.
        """
        reader = self._readers.get(peer) or _Reader()
        limit = self._limit(reader) * EXCESS
        if reader.unread and reader.unread + size > limit:
            what, instead = "bytes sent to a caller that has not read them", "ask for less at once, or for a stream"
            raise errors.LimitExceeded(what=what, value=reader.unread + size, limit=limit, instead=instead)
        self._readers[peer] = reader
        reader.unread += size
        self._all += size
        self._look(peer, reader, now)

    def _limit(self, reader: _Reader) -> int:
        if self._all < ALL_BYTES:
            return CALLER_BYTES
        return min(CALLER_BYTES, ALL_BYTES // (len(self._readers) or 1))

    def _look(self, peer: bytes, reader: _Reader, now: int) -> None:
        full = reader.unread >= self._limit(reader)
        if full and peer not in self.full:
            self.full[peer] = None
            reader.full_since_ns = now
        elif not full:
            self.full.pop(peer, None)
        if not reader.question and (full or reader.unread >= ASK_BYTES):
            self._ask(peer, reader)

    def _ask(self, peer: bytes, reader: _Reader) -> None:
        reader.question = self._random(62) | QUESTION
        reader.asked = reader.unread
        self.asking.append(peer)

    def questions(self) -> list[tuple[bytes, int]]:
        """Return whom to ask now, and by which number of a PONG."""
        asking, self.asking = self.asking, []
        return [(peer, self._readers[peer].question) for peer in asking if peer in self._readers]

    def answered(self, peer: bytes, number: int, now: int) -> None:
        """A caller answers a question."""
        reader = self._readers.get(peer)
        if reader is None or reader.question != number:
            return
        self._all -= reader.asked
        reader.unread -= reader.asked
        reader.question = reader.asked = 0
        self._look(peer, reader, now)
        if not reader.unread:
            del self._readers[peer]
        for other in list(self.full):
            self._look(other, self._readers[other], now)

    def left(self, peer: bytes) -> None:
        """A caller has gone, and its requests were withdrawn."""
        reader = self._readers.pop(peer, None)
        if reader is not None:
            self._all -= reader.unread
            self.full.pop(peer, None)

    def tick(self, now: int, patience_ns: int) -> list[bytes]:
        """Ask everybody who has not read all, again too; returns those that have been full for too long."""
        for peer, reader in self._readers.items():
            if reader.question:
                self.asking.append(peer)
            else:
                self._ask(peer, reader)
        return [peer for peer in self.full if now - self._readers[peer].full_since_ns >= patience_ns]
