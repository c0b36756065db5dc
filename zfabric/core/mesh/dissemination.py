"""News that travel with other messages, each so often that everybody hears of it, and no oftener (SWIM, section 4.1).

Each news is sent ``ceil(lambda * ln(n + 1))`` times by each member that has it. A random message misses a given member
with 1 - 1/n, so after that many rounds the chance that somebody has not heard is about n**(1 - lambda); anti-entropy
finds those. What was sent least goes first, and of these the newest: a flood of news delays old ones, not new ones.
There is one news about each member, the latest; and the one about this member itself always goes first, so that it can
refute even in a flood.

The queue is bounded: when it is full the news that were sent most often are dropped, and counted.

In a large mesh that loses many frames each member has hundreds of news at any time, and each passes through this queue
some twenty times. So news are kept in the groups in which they were sent, and a whole group moves at once; what was
replaced meanwhile stays in its group until it is met there, or until there is more of it than of all else.
"""

from __future__ import annotations

import math
from collections import deque

QUEUE_MAX = 4_096
_SKIP_MAX = 8
_GROUP_MAX = 64
_SPARE = 64
_News = tuple[bytes, bytes]
"""A member's id, and the news about it as they travel."""


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
        # Of each level groups, of each group news, the newest last. They count while they are those in ``_news``.
        self._levels: deque[list[list[_News]]] = deque([[]])
        self._news: dict[bytes, _News] = {}
        self._entries = 0
        self._bytes = 0
        self._own = b""
        self._own_sent = 0

    def __len__(self) -> int:
        return len(self._news) + bool(self._own)

    def __contains__(self, member: bytes) -> bool:
        return member in self._news

    @property
    def own_waits(self) -> bool:
        """Whether the news about this member itself is still to be sent."""
        return bool(self._own)

    def put(self, member: bytes, update: bytes) -> None:
        """Queue news about a member in place of older ones."""
        self.forget(member)
        if len(self._news) >= self._most:
            self._drop()
        news = self._news[member] = member, update
        self._bytes += len(update)
        first = self._levels[0]
        if not first or len(first[-1]) >= _GROUP_MAX:
            first.append([])
        first[-1].append(news)
        self._entries += 1
        if self._entries > 2 * len(self._news) + _SPARE:
            self._tidy()

    def put_own(self, update: bytes) -> None:
        """Queue news about this member itself."""
        self._own, self._own_sent = update, 0

    def forget(self, member: bytes) -> None:
        """Drop news about a member."""
        news = self._news.pop(member, None)
        if news is not None:
            self._bytes -= len(news[1])

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
        chosen: list[tuple[int, list[_News]]] = []
        count, skipped = most - len(taken), 0
        for number, level in enumerate(self._levels):
            picked: list[_News] = []
            kept: list[list[_News]] = []
            while level and count and skipped < _SKIP_MAX:
                group, left = level.pop(), []
                while group and count and skipped < _SKIP_MAX:
                    news = group.pop()
                    if self._news.get(news[0]) is not news:
                        self._entries -= 1
                    elif len(news[1]) <= room:
                        room -= len(news[1])
                        count -= 1
                        picked.append(news)
                    else:
                        skipped += 1
                        left.append(news)
                if group or left:
                    left.reverse()
                    kept.append(group + left)
            level.extend(reversed(kept))
            if picked:
                chosen.append((number, picked))
            if not count or skipped >= _SKIP_MAX:
                break
        for number, picked in chosen:
            taken += [update for _, update in picked]
            self._sent(number + 1, picked, limit)
        return taken

    def take_all(self, limit: int, times: int = 1) -> list[bytes]:
        """Return all that waits, to be sent ``times`` times; the levels move as they are."""
        taken = self._take_own(times, limit)
        if not self._news:
            return taken
        alive = self._news.get
        for level in self._levels:
            for group in reversed(level):
                taken += [news[1] for news in reversed(group) if alive(news[0]) is news]
        self._levels.extendleft([] for _ in range(times))
        while len(self._levels) > limit:
            for group in self._levels.pop():
                self._end(group)
        return taken

    def _take_own(self, times: int, limit: int) -> list[bytes]:
        taken = [self._own] if self._own else []
        self._own_sent += times
        if self._own_sent >= limit:
            self._own = b""
        return taken

    def _sent(self, level: int, group: list[_News], limit: int) -> None:
        """A group, the newest first, was sent ``level`` times by now."""
        if level >= limit:
            self._end(group)
            return
        group.reverse()
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(group)

    def _end(self, group: list[_News]) -> None:
        """A group was sent often enough."""
        self._entries -= len(group)
        for news in group:
            if self._news.get(news[0]) is news:
                self.forget(news[0])

    def _drop(self) -> None:
        """Drop the oldest of the news that were sent most often."""
        for level in reversed(self._levels):
            while level:
                group = level[0]
                while group:
                    news = group.pop(0)
                    self._entries -= 1
                    if self._news.get(news[0]) is news:
                        self.forget(news[0])
                        self.dropped += 1
                        return
                del level[0]

    def _tidy(self) -> None:
        """Forget what was replaced."""
        alive = self._news.get
        for level in self._levels:
            groups = [[news for news in group if alive(news[0]) is news] for group in level]
            level[:] = [group for group in groups if group]
        self._entries = len(self._news)


def sync_interval(base_ns: int, members: int) -> int:
    """Return the time between two exchanges of a member: the load of the mesh grows more slowly than the mesh.

    As memberlist does: the base up to 32 members, then ceil(log2(n / 32)) + 1 times as long.
    """
    return base_ns * (1 if members <= 32 else math.ceil(math.log2(members / 32)) + 1)
