"""News that travel with other messages, each so often that everybody hears of it, and no oftener (SWIM, section 4.1).

Each news is sent ``ceil(lambda * ln(n + 1))`` times by each member that has it. A random message misses a given member
with 1 - 1/n, so after that many rounds the chance that somebody has not heard is about n**(1 - lambda); anti-entropy
finds those. What was sent least goes first, and of these the newest: a flood of news delays old ones, not new ones.
There is one news about each member, the latest; and the one about this member itself always goes first, so that it can
refute even in a flood.

The queue is bounded: when it is full the news that were sent most often are dropped, and counted.
"""

from __future__ import annotations

import math
from collections import deque

QUEUE_MAX = 4_096
_SKIP_MAX = 8


def transmit_limit(factor: int, members: int) -> int:
    """Return how often each news is sent in a mesh of so many members, this one included."""
    return max(1, math.ceil(factor * math.log(members + 1)))


class Queue:
    """News to pass on, in levels: the news of level k were sent k times.

    Attributes:
        dropped: how many were dropped because it was full.
    """

    def __init__(self, most: int = QUEUE_MAX) -> None:
        self.dropped = 0
        self._most = most
        self._levels: deque[dict[bytes, bytes]] = deque([{}])
        self._level: dict[bytes, dict[bytes, bytes]] = {}
        self._bytes = 0
        self._own = b""
        self._own_sent = 0

    def __len__(self) -> int:
        return len(self._level) + bool(self._own)

    def __contains__(self, member: bytes) -> bool:
        return member in self._level

    @property
    def own_waits(self) -> bool:
        """Whether the news about this member itself is still to be sent."""
        return bool(self._own)

    def put(self, member: bytes, update: bytes) -> None:
        """Queue news about a member in place of older ones."""
        self.forget(member)
        if len(self._level) >= self._most:
            fullest = next(level for level in reversed(self._levels) if level)
            self.forget(next(iter(fullest)))
            self.dropped += 1
        self._levels[0][member] = update
        self._level[member] = self._levels[0]
        self._bytes += len(update)

    def put_own(self, update: bytes) -> None:
        """Queue news about this member itself."""
        self._own, self._own_sent = update, 0

    def forget(self, member: bytes) -> None:
        """Drop news about a member."""
        level = self._level.pop(member, None)
        if level is not None:
            self._bytes -= len(level.pop(member))

    def fits(self, room: int, most: int) -> bool:
        """Tell whether all that waits has room in one message."""
        return self._bytes + len(self._own) <= room and len(self) <= most

    def take(self, room: int, limit: int, most: int) -> list[bytes]:
        """Return up to ``most`` news that fit ``room`` bytes; each counts as sent and goes after ``limit`` times."""
        if self.fits(room, most):
            return self.take_all(limit)
        taken: list[bytes] = []
        if self._own and len(self._own) <= room:
            room -= len(self._own)
            taken += self._take_own(1, limit)
        chosen: list[tuple[int, bytes, bytes]] = []
        skipped = 0
        for number, level in enumerate(self._levels):
            for member, update in reversed(level.items()) if level else ():
                if len(chosen) + len(taken) >= most or skipped >= _SKIP_MAX:
                    break
                if len(update) <= room:
                    chosen.append((number, member, update))
                    room -= len(update)
                else:
                    skipped += 1
            else:
                continue
            break
        for number, member, update in chosen:
            self._sent(number, member, update, limit)
            taken.append(update)
        return taken

    def take_all(self, limit: int, times: int = 1) -> list[bytes]:
        """Return all that waits, to be sent ``times`` times; the levels move as they are."""
        taken = self._take_own(times, limit)
        if not self._level:
            return taken
        for level in self._levels:
            if level:
                taken += reversed(level.values())
        self._levels.extendleft({} for _ in range(times))
        while len(self._levels) > limit:
            for member, update in self._levels.pop().items():
                del self._level[member]
                self._bytes -= len(update)
        return taken

    def _take_own(self, times: int, limit: int) -> list[bytes]:
        taken = [self._own] if self._own else []
        self._own_sent += times
        if self._own_sent >= limit:
            self._own = b""
        return taken

    def _sent(self, number: int, member: bytes, update: bytes, limit: int) -> None:
        if number + 1 >= limit:
            self.forget(member)
            return
        del self._levels[number][member]
        if number + 1 == len(self._levels):
            self._levels.append({})
        self._levels[number + 1][member] = update
        self._level[member] = self._levels[number + 1]


def sync_interval(base_ns: int, members: int) -> int:
    """Return the time between two exchanges of a member: the load of the mesh grows more slowly than the mesh.

    As memberlist does: the base up to 32 members, then ceil(log2(n / 32)) + 1 times as long.
    """
    return base_ns * (1 if members <= 32 else math.ceil(math.log2(members / 32)) + 1)
