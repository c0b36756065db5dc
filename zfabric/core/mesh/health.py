"""How healthy this member finds itself: Lifeguard's local health multiplier (section III.A of the paper).

A member that is slow (a starved process, a full queue, a bad link) sees others fail. It cannot tell whether they or
itself are slow from one probe, but from all of them: a score counts what speaks against itself, and stretches its own
timeouts. The table:

========================================================  =====
what happened                                             score
========================================================  =====
a probe was answered                                      - 1
a probe failed, and nobody could be asked for help        + 1
a probe failed; for each helper that did not even say no  + 1
it had to refute that it is suspected                     + 1
it woke up too late                                       + 1
========================================================  =====

The score stays within 0 and S; intervals and timeouts are multiplied by score + 1.
"""

from __future__ import annotations

from typing import Final

SECOND: Final = 1_000_000_000


class Awareness:
    """The score.

    Attributes:
        score: 0 (healthy) to ``most``.
    """

    def __init__(self, most: int) -> None:
        self.score = 0
        self._most = most

    def add(self, points: int) -> None:
        """Let something speak against this member, or for it with a negative number."""
        self.score = min(self._most, max(0, self.score + points))

    def stretch(self, span_ns: int) -> int:
        """Return an interval or a timeout as long as this member's health wants it."""
        return span_ns * (self.score + 1)


STRANGERS_MAX: Final = 100
"""Strangers that are answered in a second: each costs a connection to wherever it says that it is."""

STRANGERS_EACH_MAX: Final = 4
"""Of these over one connection."""

STATED_MAX: Final = 20_000
"""Members that are looked through and told in a tenth of a second for those who compare tables: a third of a core."""
STATED_NS: Final = SECOND // 10


class Allowance:
    """So many in each second, or another span (ns), and no more: what others can make this member do."""

    def __init__(self, most: int = STRANGERS_MAX, span_ns: int = SECOND) -> None:
        self._most = most
        self._span_ns = span_ns
        self._began = 0
        self._done = 0

    def allow(self, now: int, cost: int = 1) -> bool:
        """Tell whether one more may be done at ``now`` (monotonic ns), and count it for ``cost``."""
        if now - self._began >= self._span_ns:
            self._began, self._done = now, 0
        allowed = self._done < self._most
        self._done += cost
        return allowed


class Strangers:
    """Whom of those that are no members to answer: so many a second, and few of one connection.

    So one that speaks without end takes no answer from those that speak once, over connections of their own.
    """

    def __init__(self) -> None:
        self._all = Allowance()
        self._began = 0
        self._answered: dict[str, int] = {}

    def allow(self, connection: str, now: int) -> bool:
        """Tell whether one more may be answered at ``now`` (monotonic ns), and count it."""
        if now - self._began >= SECOND:
            self._began = now
            self._answered.clear()
        before = self._answered.get(connection, 0)
        if before >= STRANGERS_EACH_MAX or not self._all.allow(now):
            return False
        self._answered[connection] = before + 1
        return True
