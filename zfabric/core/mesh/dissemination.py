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

QUEUE_MAX = 4_096
_SKIP_MAX = 8


def transmit_limit(factor: int, members: int) -> int:
    """Return how often each news is sent in a mesh of so many members, this one included."""
    return max(1, math.ceil(factor * math.log(members + 1)))


class Queue:
    """News to pass on.

    Attributes:
        dropped: how many were dropped because it was full.
    """

    def __init__(self, most: int = QUEUE_MAX) -> None:
        self.dropped = 0
        self._most = most
        self._levels: list[dict[bytes, bytes]] = [{}]
        self._level: dict[bytes, int] = {}
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
            oldest = next(iter(fullest))
            self.forget(oldest)
            self.dropped += 1
        self._levels[0][member] = update
        self._level[member] = 0

    def put_own(self, update: bytes) -> None:
        """Queue news about this member itself."""
        self._own, self._own_sent = update, 0

    def forget(self, member: bytes) -> None:
        """Drop news about a member."""
        level = self._level.pop(member, None)
        if level is not None:
            del self._levels[level][member]

    def take(self, room: int, limit: int, most: int) -> list[bytes]:
        """Return up to ``most`` news that fit ``room`` bytes; each counts as sent and goes after ``limit`` times."""
        taken: list[bytes] = []
        if self._own and len(self._own) <= room:
            taken.append(self._own)
            room -= len(self._own)
            self._own_sent += 1
            if self._own_sent >= limit:
                self._own = b""
        if not self._level:
            return taken
        chosen: list[tuple[int, bytes, bytes]] = []
        skipped = 0
        for number, level in enumerate(self._levels):
            for member, update in reversed(level.items()):
                if len(chosen) + len(taken) >= most or skipped >= _SKIP_MAX:
                    break
                if len(update) <= room:
                    chosen.append((number, member, update))
                    room -= len(update)
                else:
                    skipped += 1
        for number, member, update in chosen:
            self._sent(number, member, update, limit)
            taken.append(update)
        return taken

    def _sent(self, number: int, member: bytes, update: bytes, limit: int) -> None:
        del self._levels[number][member]
        if number + 1 >= limit:
            del self._level[member]
            return
        if number + 1 == len(self._levels):
            self._levels.append({})
        self._levels[number + 1][member] = update
        self._level[member] = number + 1


def sync_interval(base_ns: int, members: int) -> int:
    """Return the time between two exchanges of a member: the load of the mesh grows more slowly than the mesh.

    As memberlist does: the base up to 32 members, then ceil(log2(n / 32)) + 1 times as long.
    """
    return base_ns * (1 if members <= 32 else math.ceil(math.log2(members / 32)) + 1)
