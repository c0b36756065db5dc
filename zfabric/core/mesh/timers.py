"""What is to happen when, for one machine."""

from __future__ import annotations

import heapq
from collections.abc import Callable

Action = Callable[[int, bytes], None]
"""Called with the time (monotonic ns) and the key that it was noted with."""
_SPARE = 64


class Timers:
    """Actions in order of their time; of the same time, in the order in which they were added.

    There is one time for each action and key: a later ``add`` replaces it. So the bound of what has timers is a bound
    of the timers as well.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Action, bytes]] = []
        self._due: dict[tuple[Action, bytes], int] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def first(self) -> int | None:
        """When (monotonic ns) the next action is due, or was before it was put off; None if there is none."""
        return self._heap[0][0] if self._heap else None

    def add(self, when: int, action: Action, key: bytes = b"") -> None:
        """Note an action, in place of the same one with the same key."""
        self._count += 1
        self._due[action, key] = self._count
        heapq.heappush(self._heap, (when, self._count, action, key))
        if len(self._heap) > 2 * len(self._due) + _SPARE:
            self._heap = [entry for entry in self._heap if self._due.get((entry[2], entry[3])) == entry[1]]
            heapq.heapify(self._heap)

    def cancel(self, action: Action, key: bytes = b"") -> None:
        """Drop an action, if it was noted."""
        self._due.pop((action, key), None)

    def run(self, now: int) -> None:
        """Do what is due."""
        while self._heap and self._heap[0][0] <= now:
            _, number, action, key = heapq.heappop(self._heap)
            if self._due.get((action, key)) == number:
                del self._due[action, key]
                action(now, key)
