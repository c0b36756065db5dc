"""How much of their time callers may spend on turns of a leader in their process, without waiting for the outcome.

A third of it, and ``AHEAD_NS`` more. So one that sends without a pause soon fills batches, as it would with a leader
elsewhere, and one that pauses between its records does not wait for another thread. A turn counts for ``TURN_NS`` at
most: one that takes longer was mostly interrupted, and nobody's next record is to be delayed by that.

Whoever has published a record is to *let go* of its core once before it does the rest: libzmq's thread, which sends the
record, often waits for that very core (measured at 2,000 records a second: a p50 of 1.5 rather than 2.0 times that of
a bare hop). Where nobody waits for it, that takes 1 us. Where others do who want all they can get, they take a slice of
milliseconds: after a turn that was interrupted nobody lets go for ``APART`` times as long, a twentieth of the time at
most.
"""

from __future__ import annotations

from typing import Final

AHEAD_NS: Final = 1_000_000
TURN_NS: Final = AHEAD_NS // 4
SHARE: Final = 2
"""Of the time between turns a turn may take one part of so many."""
APART: Final = 20
"""Times as long as an interrupted turn took nobody lets go after it."""


class Allowance:
    """What callers have left, all together."""

    def __init__(self) -> None:
        self._ended_ns = 0
        self._ahead_ns = 0
        self._holds_until_ns = 0

    def allows(self, now: int) -> bool:
        """Tell whether a turn may be taken; to ask changes nothing."""
        return self._ahead_ns - (now - self._ended_ns) // SHARE < AHEAD_NS

    def lets_go(self, now: int) -> bool:
        """Tell whether a turn that begins now is to let go of its core once it has published."""
        return now >= self._holds_until_ns

    def spent(self, began: int, ended: int) -> None:
        """A turn was taken."""
        taken = ended - began
        if taken > TURN_NS:
            self._holds_until_ns = ended + taken * APART
            taken = TURN_NS
        self._ahead_ns = max(0, self._ahead_ns - (began - self._ended_ns) // SHARE) + taken
        self._ended_ns = ended
