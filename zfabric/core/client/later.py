"""What is to be done once, at some moment."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from zfabric.core.client.agenda import Chore


class Later(Chore):
    """Actions, in the order of their moments, and of those with the same one in the order in which they came."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._entries)

    def add(self, at_ns: int, action: Callable[[], None]) -> None:
        """Call ``action`` in the tick at or after ``at_ns``."""
        self._count += 1
        heappush(self._entries, (at_ns, self._count, action))

    def next_deadline(self) -> int | None:
        """When :meth:`tick` is wanted next (monotonic ns)."""
        return self._entries[0][0] if self._entries else None

    def tick(self, now: int) -> None:
        """Call those whose moment has come."""
        due = []
        while self._entries and self._entries[0][0] <= now:
            due.append(heappop(self._entries)[2])
        for action in due:  # One that they add is for the next time, or they would go on without end.
            action()
