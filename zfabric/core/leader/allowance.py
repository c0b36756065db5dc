"""How much of their time callers may spend on turns of a leader in their process, without waiting for the outcome.

A third of it, and ``AHEAD_NS`` more. So one that sends without a pause soon fills batches, as it would with a leader
elsewhere, and one that pauses between its records does not wait for another thread. A turn counts for ``TURN_NS`` at
most: one that takes longer was mostly interrupted, and nobody's next record is to be delayed by that.
"""

from __future__ import annotations

from typing import Final

AHEAD_NS: Final = 1_000_000
TURN_NS: Final = AHEAD_NS // 4
SHARE: Final = 2
"""Of the time between turns a turn may take one part of so many."""


class Allowance:
    """What callers have left, all together."""

    def __init__(self) -> None:
        self._ended_ns = 0
        self._ahead_ns = 0

    def allows(self, now: int) -> bool:
        """Tell whether a turn may be taken; to ask changes nothing."""
        return self._ahead_ns - (now - self._ended_ns) // SHARE < AHEAD_NS

    def spent(self, began: int, ended: int) -> None:
        """A turn was taken."""
        self._ahead_ns = max(0, self._ahead_ns - (began - self._ended_ns) // SHARE) + min(ended - began, TURN_NS)
        self._ended_ns = ended
