"""When to say in the log that requests are refused: once in ten seconds, and only if many are.

A refusal is an answer: whoever asked is told, and that is the end of it. A hundred within ten seconds are an attack, a
client gone wrong, or a fabric that cannot do what it should, and somebody should look. A line for each would fill the
disk instead.
"""

from __future__ import annotations

from typing import Final

MANY: Final = 100
WINDOW_NS: Final = 10_000_000_000


class Refusals:
    """Looks at a counter now and then. ``now`` is monotonic ns."""

    def __init__(self, now: int) -> None:
        self._since = now
        self._counted = 0
        self._quiet_until = now

    def look(self, total: int, now: int) -> tuple[int, float] | None:
        """Return (how many, within how many seconds) if that is to be said now.

        Args:
            total: refusals since the start.
        """
        count, seconds = total - self._counted, (now - self._since) / 1e9
        if count >= MANY and now >= self._quiet_until:
            self._counted, self._since, self._quiet_until = total, now, now + WINDOW_NS
            return count, seconds
        if count < MANY and now - self._since >= WINDOW_NS:
            self._counted, self._since = total, now
        return None
