"""What is to happen when, for one machine."""

from __future__ import annotations

import heapq
from collections.abc import Callable

Action = Callable[[int, bytes], None]
"""Called with the time (monotonic ns) and the key that it was noted with."""


class Timers:
    """Actions in order of their time; of the same time, in the order in which they were added.

    None is ever taken back: an action looks whether there is still something to do.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Action, bytes]] = []
        self._count = 0

    @property
    def first(self) -> int | None:
        """When (monotonic ns) the next action is due; None if there is none."""
        return self._heap[0][0] if self._heap else None

    def add(self, when: int, action: Action, key: bytes = b"") -> None:
        """Note an action."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, action, key))

    def run(self, now: int) -> None:
        """Do what is due."""
        while self._heap and self._heap[0][0] <= now:
            _, _, action, key = heapq.heappop(self._heap)
            action(now, key)
